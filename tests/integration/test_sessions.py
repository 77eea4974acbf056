"""Sessions of the status page at several API processes, over https, and in the hands of others."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import Engine, text
from task_api import running, runtime_on

from ulak.api.app import make_api
from ulak.api.auth import CONFIGURED
from ulak.api.pages.routes import add_pages
from ulak.api.pages.sessions import SESSION_TTL, Keys, Session, Sessions
from ulak.core.settings import SettingsError, load_settings
from ulak.models.database import make_engine, transaction
from ulak.models.events import Kind
from ulak.models.tokens import create_token, revoke_token
from ulak.tasks.steps.upkeep import prune

TOKEN = "canary-token-of-the-page"
HSTS = "strict-transport-security"
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _one_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes of a test sign with one secret, as replicas do."""
    (tmp_path / "page_secret").write_text("k" * 40)
    monkeypatch.setenv("ULAK_PAGE_SECRET_FILE", str(tmp_path / "page_secret"))
    monkeypatch.setenv("ULAK_HOME", str(tmp_path / "home"))


@contextmanager
def api_process(engine: Engine) -> Iterator[httpx.Client]:
    """A client of one API process with the settings of this moment; it keeps no cookies."""
    settings = load_settings().model_copy(update={"api_token": SecretStr(TOKEN)})
    runtime = runtime_on(engine)
    app = make_api(runtime, token=TOKEN, settings=settings)
    add_pages(app, runtime, settings)
    try:
        with running(app) as url, httpx.Client(base_url=url, timeout=60) as client:
            yield client
    finally:
        runtime.door.close()


def cookies_of(answer: httpx.Response) -> dict[str, str]:
    """What the answer gives to a browser, Secure or not."""
    parts = [each.partition(";")[0].partition("=") for each in answer.headers.get_list("set-cookie")]
    return {name: value for name, _, value in parts}


def as_header(cookies: dict[str, str]) -> dict[str, str]:
    """The cookies as a browser sends them."""
    return {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}


def mark_in(page: httpx.Response) -> str:
    """The mark in the forms of a page."""
    found = re.search(r'name="form_mark" value="([^"]+)"', page.text)
    assert found is not None
    return found[1]


def log_in(client: httpx.Client, token: str = TOKEN) -> dict[str, str]:
    """The cookies of a session opened through the form."""
    page = client.get("/")
    client.cookies.clear()
    said = client.post("/login", data={"form_mark": mark_in(page), "token": token}, headers=as_header(cookies_of(page)))
    client.cookies.clear()
    assert said.status_code == 303, said.text
    return {name: value for name, value in cookies_of(said).items() if name.endswith("ulak_session")}


def is_in(client: httpx.Client, cookies: dict[str, str]) -> bool:
    """Whether these cookies open the pages."""
    status = client.get("/?fragment", headers=as_header(cookies)).status_code
    assert status in {200, 401}
    return status == 200


def log_out(client: httpx.Client, cookies: dict[str, str]) -> httpx.Response:
    """Press the button."""
    page = client.get("/", headers=as_header(cookies))
    return client.post("/logout", data={"form_mark": mark_in(page)}, headers=as_header(cookies))


def test_a_log_out_holds_at_every_process_and_after_a_restart(migrated_database: Engine) -> None:
    """Whoever kept a copy of the cookie gets in nowhere; other sessions of the same token go on."""
    with ExitStack() as stack:
        processes = [stack.enter_context(api_process(migrated_database)) for _ in range(3)]
        session, other = log_in(processes[0]), log_in(processes[1])
        assert [is_in(each, session) for each in processes] == [True] * 3
        assert log_out(processes[1], session).status_code == 303
        assert [is_in(each, session) for each in processes] == [False] * 3
        assert [is_in(each, other) for each in processes] == [True] * 3
    with api_process(migrated_database) as restarted:
        assert (is_in(restarted, session), is_in(restarted, other)) == (False, True)


def test_a_revoked_token_ends_its_sessions_at_every_process(migrated_database: Engine) -> None:
    """At once, and only its own."""
    with transaction(migrated_database) as connection:
        token = create_token(connection, "destek")
    with ExitStack() as stack:
        processes = [stack.enter_context(api_process(migrated_database)) for _ in range(2)]
        session, other = log_in(processes[0], token), log_in(processes[0])
        assert [is_in(each, session) for each in processes] == [True, True]
        with transaction(migrated_database) as connection:
            revoke_token(connection, "destek")
        assert [is_in(each, session) for each in processes] == [False, False]
        assert [is_in(each, other) for each in processes] == [True, True]


def test_a_log_out_that_cannot_be_stored_is_said_to_have_failed(migrated_database: Engine) -> None:
    """503 and a page: a person must not walk away in the belief that the session is over."""
    with api_process(migrated_database) as client:
        session = log_in(client)
        page = client.get("/", headers=as_header(session))
        with transaction(migrated_database) as connection:
            name = migrated_database.url.database
            connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
        migrated_database.dispose()
        answer = client.post("/logout", data={"form_mark": mark_in(page)}, headers=as_header(session))
        assert (answer.status_code, "location" in answer.headers) == (503, False)


def test_ended_sessions_are_forgotten_once_their_cookie_has_expired(migrated_database: Engine) -> None:
    """The table stays as small as twelve hours of log-outs."""
    with api_process(migrated_database) as client:
        log_out(client, log_in(client))
        log_out(client, log_in(client))
    with transaction(migrated_database) as connection:
        lasts = connection.execute(text("SELECT max(expires_at) - now() FROM ended_sessions")).scalar_one()
        assert SESSION_TTL - timedelta(minutes=5) < lasts <= SESSION_TTL
        connection.execute(
            text(
                "UPDATE ended_sessions SET expires_at = now() - interval '1 s'"
                " WHERE id = (SELECT min(id) FROM ended_sessions)"
            )
        )
    [(_, event, counts)] = prune(runtime_on(migrated_database)).lines
    assert (event, counts["sessions"]) == ("upkeep.pruned", 1)
    with transaction(migrated_database) as connection:
        assert connection.execute(text("SELECT count(*) FROM ended_sessions")).scalar_one() == 1


def test_over_https_cookies_are_secure_and_of_this_host_alone(
    migrated_database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ULAK_PUBLIC_URL` decides, whatever the proxy in front says about itself: no container trusts its gateway."""
    monkeypatch.setenv("ULAK_PUBLIC_URL", "https://ulak.firma.example/")
    with api_process(migrated_database) as client:
        page = client.get("/", headers={"x-forwarded-proto": "http"})
        [visit] = page.headers.get_list("set-cookie")
        assert re.fullmatch(r"__Host-ulak_visit=\S+; HttpOnly; Max-Age=43200; Path=/; SameSite=strict; Secure", visit)
        client.cookies.clear()
        said = client.post(
            "/login", data={"form_mark": mark_in(page), "token": TOKEN}, headers=as_header(cookies_of(page))
        )
        assert sorted(each.partition("=")[0] for each in said.headers.get_list("set-cookie")) == [
            "__Host-ulak_session",
            "__Host-ulak_visit",
        ]
        assert all(
            "; Secure" in each and "Path=/" in each and "Domain" not in each
            for each in said.headers.get_list("set-cookie")
        )
        session = {"__Host-ulak_session": cookies_of(said)["__Host-ulak_session"]}
        assert is_in(client, session)
        # A neighbour on the same domain can set this name, and must gain nothing by it.
        assert not is_in(client, {"ulak_session": session["__Host-ulak_session"]})
        answers = [
            client.get(path) for path in ("/", "/v1/accounts", "/healthz", "/nothing", "/docs", "/static/page.css")
        ]
        assert {each.headers.get(HSTS) for each in answers} == {"max-age=31536000"}


@pytest.mark.parametrize(
    ("public_url", "proto", "is_secure"),
    [
        (None, "http", False),
        (None, "https", True),
        ("http://ulak.lab", "http", False),
        ("http://ulak.lab", "https", False),
    ],
)
def test_without_https_nothing_is_promised_to_browsers(
    migrated_database: Engine, monkeypatch: pytest.MonkeyPatch, public_url: str | None, proto: str, is_secure: bool
) -> None:
    """Unset: as the request came in, as it always was. No HSTS, which would lock a laptop's localhost into https."""
    if public_url is not None:
        monkeypatch.setenv("ULAK_PUBLIC_URL", public_url)
    with api_process(migrated_database) as client:
        answer = client.get("/", headers={"x-forwarded-proto": proto})
        [cookie] = answer.headers.get_list("set-cookie")
        assert (cookie.startswith("ulak_visit="), "; Secure" in cookie, HSTS in answer.headers) == (
            True,
            is_secure,
            False,
        )


@pytest.mark.parametrize(
    "url",
    [
        "ulak.example", "ftp://ulak.example", "https://", "https://u:p@ulak.example", "https://ulak.example/page",
        "https://ulak.example?x=1", "https://ulak.example/#x", "https://ulak .example", "https://ulak\t.example",
        "https://аpple.example",
    ],
)  # fmt: skip
def test_a_public_url_that_is_no_origin_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A typing slip here would silently take the protection away."""
    monkeypatch.setenv("ULAK_PUBLIC_URL", url)
    with pytest.raises(SettingsError, match="ULAK_PUBLIC_URL is wrong: write the address at which browsers reach"):
        load_settings()


def sessions_with(secret: str, token: str = TOKEN) -> Sessions:
    """The sessions of a process; its database must not be asked."""
    return Sessions(engine=make_engine("postgresql://127.0.0.1:1/nothing"), keys=Keys(secret), token=token)


def test_a_cookie_of_another_secret_token_time_or_purpose_opens_nothing() -> None:
    """Each is refused before the database is asked."""
    mine = sessions_with("k" * 40)
    session = mine.open(CONFIGURED.actor)
    cookie = mine.write(session, NOW)
    body = Session(holder="configured", kind=Kind.CONFIGURED, id="x", mark=Keys("k" * 40).mark_of("another token"))
    forged = [
        sessions_with("l" * 40).write(session, NOW),
        mine.write(body, NOW),
        mine.write(session, NOW - SESSION_TTL - timedelta(seconds=2)),
        mine.write(session, NOW + timedelta(minutes=5)),
        Keys("k" * 40).box("search").encrypt_at_time(b"{}", int(NOW.timestamp())).decode(),
        Keys("k" * 40).box("form").encrypt_at_time(session.id.encode(), int(NOW.timestamp())).decode(),
        Fernet(Fernet.generate_key()).encrypt(b"{}").decode(),
        cookie[:-2],
        cookie[:-4] + "AAA=",
        "A" + cookie[1:],
        cookie.upper(),
        "",
        ".",
        "a" * 5000,
        "ğ",
        "\udcff",
        "\x00",
    ]
    assert [each for each in forged if mine.read(each, NOW) is not None] == []
    assert sessions_with("k" * 40, token="a new token").read(cookie, NOW) is None
