"""The status page: who gets in, what it says is wrong, what its buttons do, and what stands nowhere."""

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from database_fixtures import add_account
from log_lines import lines
from markupsafe import escape
from pydantic import SecretStr
from sqlalchemy import Engine, text
from task_api import running, runtime_on

from ulak.api.app import make_api
from ulak.api.pages.routes import add_pages
from ulak.api.pages.tooltips import TURKISH
from ulak.core import clock
from ulak.core.credentials import CredentialError
from ulak.core.settings import load_settings
from ulak.models.database import make_engine, transaction
from ulak.models.deliveries import upsert
from ulak.models.meanings import COLUMNS, REASONS, STATUSES
from ulak.models.report import DeliveryReport
from ulak.models.tokens import create_token, revoke_token
from ulak.models.vocabulary import Granularity, Reason, Status
from ulak.tasks.messages import Message
from ulak.workers.auth_attempts import MAX_FAILURES

__all__ = ["lines"]

TOKEN = "canary-token-of-the-page"
NUMBER = "+905301234567"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Browser:
    """What a person does with a page, over a client that keeps cookies."""

    def __init__(self, client: httpx.Client, sent: list[Message]) -> None:
        self.client, self.sent = client, sent
        self.page: httpx.Response

    def get(self, path: str, **headers: str) -> str:
        """The page as text without tags, blanks collapsed."""
        self.page = self.client.get(path, headers=headers)
        return self.words()

    def words(self) -> str:
        """What the last page says."""
        body = re.sub(r"<(script|head|select).*?</\1>", " ", self.page.text, flags=re.DOTALL)
        body = re.sub(r"</?(?:a|code|span|strong|time)\b[^>]*>", "", body)
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())

    def mark(self) -> str:
        """The mark in the forms of the last page."""
        found = re.search(r'name="form_mark" value="([^"]+)"', self.page.text)
        assert found is not None
        return found[1]

    def post(self, path: str, **fields: str) -> httpx.Response:
        """Send a form of the last page, without following where it leads."""
        return self.client.post(path, data={"form_mark": self.mark(), **fields})

    def press(self, path: str, **fields: str) -> str:
        """Send a form, and read where it leads."""
        answer = self.post(path, **fields)
        assert answer.status_code == 303, answer.text
        return self.get(answer.headers["location"])

    def log_in(self, token: str = TOKEN) -> "Browser":
        """Through the form."""
        self.get("/")
        assert self.post("/login", token=token, next="/").status_code == 303
        return self


Start = Callable[[], Browser]


@pytest.fixture
def start(migrated_database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """`start()` gives a new browser in front of the running API."""
    monkeypatch.setenv("ULAK_HOME", str(tmp_path / "home"))
    settings = load_settings().model_copy(update={"api_token": SecretStr(TOKEN)})
    runtime = runtime_on(migrated_database)
    sent: list[Message] = []
    app = make_api(runtime, token=TOKEN, publish=sent.append)
    add_pages(app, runtime, settings)
    clients: list[httpx.Client] = []
    with running(app) as url:

        def browser() -> Browser:
            clients.append(httpx.Client(base_url=url, timeout=30))
            return Browser(clients[-1], sent)

        yield browser
        for client in clients:
            client.close()
    runtime.door.close()


@contextmanager
def one_more(engine: Engine) -> Iterator[Browser]:
    """A browser in front of a process of its own, with the settings of this moment."""
    settings = load_settings().model_copy(update={"api_token": SecretStr(TOKEN)})
    runtime = runtime_on(engine)
    app = make_api(runtime, token=TOKEN)
    try:
        add_pages(app, runtime, settings)
        with running(app) as url, httpx.Client(base_url=url, timeout=30) as client:
            yield Browser(client, [])
    finally:
        runtime.door.close()


def change(engine: Engine, statement: str, **values: Any) -> Any:
    """One statement in a transaction; the first value it gives."""
    with transaction(engine) as connection:
        result = connection.execute(text(statement), values)
        return result.scalar() if result.returns_rows else None


def report(key: str, status: Status, **fields: object) -> DeliveryReport:
    """One statement about a message."""
    values = {"provider_status": status.value, "recipient": NUMBER, "client_ref": "siparis-1"} | fields
    return DeliveryReport(granularity=Granularity.MESSAGE, provider_key=key, status=status, **values)  # type: ignore[arg-type]


@pytest.fixture
def deliveries(migrated_database: Engine) -> dict[str, int]:
    """Four deliveries of one account; the row ids by provider key."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
        first = [report("m-1", Status.ENROUTE), report("m-4", Status.DELIVERED, client_ref="x")]
        upsert(connection, "kampanya", "vairo", first, asked_at=NOON)
        later = [
            report("m-1", Status.DELIVERED, done_at=NOON, statement={"durum": "İLETİLDİ", "gsm": NUMBER}),
            report("m-2", Status.UNDELIVERABLE, reason=Reason.ABSENT, client_ref="05301234567"),
            report("m-3", Status.ENROUTE, recipient="+905301234568"),
            report("m-4", Status.REJECTED, provider_error="23", client_ref="x"),
        ]
        upsert(connection, "kampanya", "vairo", later, asked_at=NOON + timedelta(minutes=1))
        rows = connection.execute(text("SELECT provider_key, id FROM delivery_status"))
        return {row.provider_key: row.id for row in rows}


# ------------------------------------------------------------------------------------------------ who gets in


@pytest.mark.parametrize("path", ["/", "/polls", "/deliveries", "/deliveries/1", "/accounts/kampanya", "/?fragment=1"])
def test_without_a_log_in_there_is_only_the_form(start: Start, deliveries: dict[str, int], path: str) -> None:
    """No account, no number, no status: the form to log in, and for the script nothing at all."""
    page = start()
    words = page.get(path)
    assert (page.page.status_code, "Token" in words) == ((401, False) if "fragment" in path else (200, True))
    assert not re.search("kampanya|905301234567|siparis", page.page.text.replace(f'value="{path}"', ""))


def test_the_session_is_in_a_cookie_that_no_script_and_no_other_site_can_use(start: Start) -> None:
    """HttpOnly and SameSite=Strict, twelve hours; Secure where the page is read over https."""
    page = start()
    page.get("/")
    said = page.post("/login", token=TOKEN, next="/deliveries").headers
    assert said["location"] == "/deliveries"
    cookie = next(each for each in said.get_list("set-cookie") if each.startswith("ulak_session="))
    assert cookie.partition("; ")[2] == "HttpOnly; Max-Age=43200; Path=/; SameSite=strict"
    page = start()
    page.client.headers["x-forwarded-proto"] = "https"
    page.get("/")
    mark, (visit,) = page.mark(), page.page.headers.get_list("set-cookie")
    assert visit.endswith("; Secure")
    said = page.client.post(
        "/login", data={"form_mark": mark, "token": TOKEN}, headers={"cookie": visit.partition(";")[0]}
    ).headers
    assert all("; Secure" in each for each in said.get_list("set-cookie"))


def test_every_page_forbids_whatever_comes_from_elsewhere(start: Start, deliveries: dict[str, int]) -> None:
    """The policy and its companions stand on pages, forms, redirects and errors alike; pages hold nothing foreign."""
    page = start().log_in()
    paths = ["/", "/polls", "/deliveries", f"/deliveries/{deliveries['m-1']}", "/accounts/kampanya", "/accounts/none"]
    answers = [page.client.get(path) for path in paths]
    answers += [start().client.get("/"), page.client.post("/logout")]
    for answer in answers:
        kept = {name: answer.headers.get(name) for name in ("cache-control", "x-frame-options", "referrer-policy")}
        assert kept == {"cache-control": "no-store", "x-frame-options": "DENY", "referrer-policy": "no-referrer"}
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; base-uri 'none'; form-action")
        assert not re.search(
            r'style=|<style|onclick|<script>|(?:src|href)="(?:https?:)?//(?!127\.0\.0\.1)', answer.text
        )


def test_wrong_tokens_are_refused_and_never_keep_a_right_one_out(start: Start, lines: io.StringIO) -> None:
    """After ten in a minute a wrong one is told to wait, a right one lets in; what was typed stands nowhere."""
    page = start()
    page.get("/")
    for _ in range(MAX_FAILURES):
        answer = page.post("/login", token="wrong-canary-token")
        assert (answer.status_code, "unknown" in answer.text) == (401, True)
        assert "wrong-canary" not in answer.text
    assert page.post("/login", token="wrong-canary-token").status_code == 429
    assert page.post("/login", token=TOKEN).status_code == 303
    assert "wrong-canary" not in lines.getvalue()
    assert TOKEN not in lines.getvalue()


@pytest.mark.parametrize("path", ["poll", "pause", "resume", "retry"])
def test_a_form_without_its_mark_changes_nothing(start: Start, migrated_database: Engine, path: str) -> None:
    """Another site can make a browser send a form, but not with the mark of this visitor's pages."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
    page, other = start().log_in(), start().log_in()
    page.get("/")
    other.get("/")
    for mark in ({}, {"form_mark": ""}, {"form_mark": "ğ"}, {"form_mark": other.mark()}):
        answer = page.client.post(f"/accounts/kampanya/{path}", data={**mark, "reason": "x"})
        assert (answer.status_code, "rejected" in answer.text) == (403, True)
    assert start().client.post(f"/accounts/kampanya/{path}", data={"form_mark": page.mark()}).status_code == 401
    count = "SELECT (SELECT count(*) FROM polls) + (SELECT count(*) FROM accounts WHERE paused_until IS NOT NULL)"
    assert change(migrated_database, count) == 0
    assert page.client.get(f"/accounts/kampanya/{path}").status_code == 405
    assert page.client.post("/login", data={"token": TOKEN}).status_code == 403


def test_a_session_ends_with_its_token_and_at_log_out(start: Start, migrated_database: Engine) -> None:
    """A revoked token ends the sessions it opened; after log-out a copied cookie is worth nothing."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
        token = create_token(connection, "destek")
    page = start().log_in(token)
    assert "kampanya" in page.get("/")
    with transaction(migrated_database) as connection:
        revoke_token(connection, "destek")
    assert "kampanya" not in page.get("/")
    page = start().log_in()
    copied = page.client.cookies["ulak_session"]
    assert "kampanya" in page.get("/")
    assert "Token" in page.press("/logout")
    thief = start()
    thief.client.cookies.set("ulak_session", copied)
    assert "kampanya" not in thief.get("/")
    for forged in (copied[:-2], "x." + copied.partition(".")[2], ".", "ğ".encode().hex(), "a" * 5000):
        thief.client.cookies.set("ulak_session", forged)
        assert "Token" in thief.get("/")


def test_a_form_that_is_too_large_is_not_read(start: Start) -> None:
    """Forms here are small; what is not gets a page that says so."""
    page = start().log_in()
    page.get("/deliveries")
    assert page.post("/deliveries", recipient="5" * 20_000).status_code == 413


# ------------------------------------------------------------------------------------------------ what is wrong

WELL = "Everything is working."
BROKEN = [
    ("UPDATE accounts SET paused_until = '9999-12-31T00:00:00Z', pause_reason = 'bakım'",
     "On hold kampanya is paused until it is resumed manually: bakım", "Press Resume once the reason"),
    (("UPDATE accounts SET paused_until = now() + interval '21 minutes', pause_reason = 'bad key [3001]',"
      " last_trouble = 'PauseAccount: bad key', last_trouble_at = now() - interval '9 minutes 5 seconds'"),
     "kampanya cannot be polled and is paused (detected 9 min ago); next attempt in 20 min: bad key [3001]",
     "Correct what the reason names"),
    (("UPDATE accounts SET breaker_state = 'open', breaker_until = now() + interval '100 seconds',"
      " last_trouble = 'TryAgainSoon: no answer', last_trouble_at = now() - interval '185 seconds'"),
     "Circuit breaker open for kampanya: requests keep failing (last failure 3 min ago); next probe in 1 min",
     "It is probed automatically and nothing is lost"),
    ("UPDATE accounts SET not_before = now() + interval '10 minutes', last_trouble = 'SlowDown: 429'",
     "On hold kampanya was throttled by the provider", "something else is using the same credentials"),
    (("WITH asked AS (INSERT INTO calls (account_id, asked_at, gives_up_at, answered_at, released_at, outcome)"
      " SELECT 'kampanya', t, t, t, t, 'bug' FROM (SELECT now() - interval '90 seconds' AS t) AS at)"
      " UPDATE accounts SET last_trouble = 'OurBug: x', last_trouble_at = now()"),
     "kampanya is polled, but has never returned a usable response: x", "This is a defect of Ulak"),
    ("UPDATE accounts SET last_trouble = 'TryAgainSoon: +905301234567', last_trouble_at = now()",
     WELL, "every thing"),
    ("UPDATE fetches SET state = 'dead', finished_at = now(), last_error = 'RequestIsWrong: no such list'",
     "One request of kampanya failed permanently.", "press “Retry” there"),
    ("INSERT INTO quarantine (account_id, reason, origin, fingerprint) VALUES ('kampanya', 'odd', 'poll', 'x')",
     "One report of kampanya could not be parsed.", "ulak quarantine retry"),
    (("UPDATE tracked_ids SET valid_until = now() - interval '1 hour', sent_at = now() - interval '5 hours',"
      " last_checked_at = now()"),
     "One message of kampanya received no report within its validity; it was sent 5 h ago",
     "never receives a report"),
    ("UPDATE tracked_ids SET next_check_at = now() - interval '5 minutes'",
     "Polling has stalled: requests of kampanya were due 5 min ago, and none is being made.",
     "Check that a worker and beat are running and can reach Redis and PostgreSQL"),
    ("UPDATE fetches SET state = 'ready', finished_at = NULL, available_at = now() - interval '2 minutes'",
     "Polling has stalled: requests of kampanya were due 2 min ago", "ulak check"),
    (("UPDATE polls SET state = 'running', planned_at = NULL, finished_at = NULL,"
      " started_at = now() - interval '3 minutes'"),
     "Polling has stalled: requests of kampanya were due 3 min ago", "nothing is lost"),
    (("WITH wanted AS (UPDATE accounts SET objective = '95 % within 60 s')"
      " INSERT INTO freshness (account_id, at, total, good, seconds, buckets) SELECT 'kampanya',"
      " now() - (70 - n) * interval '1 minute', 30 * n, n, 0, '{}' FROM generate_series(0, 70) n"),
     "Broken kampanya is missing its objective (95 % within 60 s) fast: 96.7 % of its final reports in the last 1 h",
     "the rate limit is too low for the objective"),
    (("WITH set AS (UPDATE accounts SET keep_days = 30, removal_days = 30,"
      " removal_starts_at = now() + interval '5 hours 1 minute')"
      " INSERT INTO delivery_status (account_id, provider, granularity, provider_key, status, is_final,"
      " provider_status, message_time) VALUES ('kampanya', 'vairo', 'message', 'm', 'delivered', true, 'D',"
      " now() - interval '40 days')"),
     "kampanya will remove about one row that was sent before 20", "Export what you need"),
    ("UPDATE accounts SET enabled = false", "No account is configured, so nothing is polled.", "ulak accounts apply"),
]  # fmt: skip


@pytest.fixture
def quiet_account(migrated_database: Engine) -> None:
    """An account that is well: a poll that is done, and an id that is asked for in an hour."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
        poll = connection.execute(
            text(
                "INSERT INTO polls (account_id, kind, trigger, state, planned_at, finished_at)"
                " VALUES ('kampanya', 'plan', 'schedule', 'complete', now(), now()) RETURNING id"
            )
        ).scalar_one()
        connection.execute(
            text(
                "INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, state, finished_at, label)"
                " VALUES (:poll, 'kampanya', 'batch', '{}', 'x', 'done', now(), 'batch')"
            ),
            {"poll": poll},
        )
        connection.execute(
            text(
                "INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until, next_check_at)"
                " VALUES ('kampanya', 'number', '1:2', 'sender', now(), now() + interval '1 day',"
                " now() + interval '1 hour')"
            )
        )


@pytest.mark.usefixtures("quiet_account")
@pytest.mark.parametrize(("statement", "told", "advice"), BROKEN)
def test_what_is_broken_is_said_first_with_what_to_do(
    start: Start, migrated_database: Engine, statement: str, told: str, advice: str
) -> None:
    """Each trouble makes a sentence, above all accounts; the well account of the fixture makes none."""
    page = start().log_in()
    change(migrated_database, statement)
    words = page.get("/")
    if told == WELL:
        # A single trouble is shown at its account and is no alarm; a number in it is masked.
        assert told in words
        assert "+90*******67" in words
        assert "TryAgainSoon" not in words
        return
    assert told in words
    assert advice in words
    assert WELL not in words
    assert words.index(told) < words.find("Accounts") or "Accounts" not in words
    assert told.removeprefix("On hold ") in page.get("/?fragment=1")


def test_an_objective_is_shown_with_what_was_reached(
    start: Start, quiet_account: None, migrated_database: Engine
) -> None:
    """Of the last three days."""
    change(migrated_database, "UPDATE accounts SET objective = '95 % within 60 s'")
    change(migrated_database, "INSERT INTO freshness VALUES ('kampanya', now(), 200, 197, 0, '{}')")
    assert "Objective 98.5 % in three days (95 % within 60 s)" in start().log_in().get("/accounts/kampanya")


def test_an_account_that_is_well_says_so(start: Start, quiet_account: None) -> None:
    """Green means that somebody looked: nothing late, nothing given up, and the time of the look."""
    words = start().log_in().get("/")
    assert WELL in words
    assert re.search(r"Limit in use 0 of 1 in 1 s", words)
    assert "As of" in words


def test_a_database_that_is_away_is_said_in_words(
    migrated_database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page stays a page: 503 and what to do about it."""
    monkeypatch.setenv("ULAK_HOME", str(tmp_path))
    settings = load_settings().model_copy(update={"api_token": SecretStr(TOKEN)})
    runtime = runtime_on(make_engine("postgresql://127.0.0.1:1/nothing", pool_size=1))
    app = make_api(runtime, token=TOKEN)
    add_pages(app, runtime, settings)
    with running(app) as url, httpx.Client(base_url=url) as client:
        page = Browser(client, []).log_in()
        assert "The database is not responding" in page.get("/")
        assert page.page.status_code == 503
    runtime.door.close()


# ------------------------------------------------------------------------------------------------ what buttons do


def test_a_pause_says_who_why_and_when_and_a_resume_ends_it(
    start: Start, migrated_database: Engine, quiet_account: None
) -> None:
    """The reason is what colleagues read; without one nothing is paused; what follows a resume is published."""
    page = start().log_in()
    page.get("/accounts/kampanya")
    assert "Enter a reason" in page.press("/accounts/kampanya/pause", reason="  ", next="/accounts/kampanya")
    words = page.press("/accounts/kampanya/pause", reason="numara\nlistesi", hours="", next="/accounts/kampanya")
    assert "The account is paused" in words
    reason = change(migrated_database, "SELECT pause_reason FROM accounts WHERE paused_until > '9999-01-01'")
    assert re.fullmatch(r"numara listesi \(configured, \d{4}-\d\d-\d\d \d\d:\d\d UTC\)", reason)
    assert reason in words
    change(migrated_database, "UPDATE tracked_ids SET next_check_at = now() - interval '5 minutes'")
    assert "for longer" in page.press("/accounts/kampanya/pause", reason="kısa", hours="4", next="/")
    words = page.press("/accounts/kampanya/resume", next="/")
    assert "The account is resumed" in words
    assert WELL in words
    assert change(migrated_database, "SELECT paused_until FROM accounts") is None
    assert [(each.task, dict(each.kwargs)) for each in page.sent] == [("dispatch.account", {"account_id": "kampanya"})]


def test_a_poll_that_is_pressed_twice_is_one_poll(start: Start, migrated_database: Engine, quiet_account: None) -> None:
    """The form carries its own key; an account that nobody knows, or that is off, is said to be so."""
    page = start().log_in()
    page.get("/")
    once = re.search(r'name="once" value="([^"]+)"', page.page.text)
    assert once is not None
    for _ in range(2):
        assert "A poll was opened" in page.press("/accounts/kampanya/poll", once=once[1], next="/")
    opened = change(migrated_database, "SELECT count(*) FROM polls WHERE trigger = 'page'")
    assert opened == 1
    assert "this page" in page.get("/polls")
    assert {each.task for each in page.sent} == {"poll.account"}
    assert page.post("/accounts/nobody/poll").status_code == 404
    change(migrated_database, "UPDATE accounts SET enabled = false")
    assert "disabled" in page.press("/accounts/kampanya/poll", once="another", next="/")


def test_what_was_given_up_is_shown_and_asked_again(
    start: Start, migrated_database: Engine, quiet_account: None
) -> None:
    """With its error on the account's page; the button takes it off the list by a new poll."""
    page = start().log_in()
    params = json.dumps({"window": ["2026-05-01", "2026-05-01"]})
    dead = "UPDATE fetches SET state = 'dead', last_error = 'RequestIsWrong: +905301234567', params = cast(:p AS jsonb)"
    change(migrated_database, dead, p=params)
    words = page.get("/accounts/kampanya")
    assert "+90*******67" in words
    assert "RequestIsWrong" not in words
    change(migrated_database, "UPDATE fetches SET times = 29")
    assert "29 times" in page.get("/accounts/kampanya")
    words = page.press("/accounts/kampanya/retry", next="/accounts/kampanya")
    assert "are being retried" in words
    assert change(migrated_database, "SELECT count(*) FROM fetches WHERE state = 'dead'") == 0
    assert change(migrated_database, "SELECT count(*) FROM polls WHERE kind = 'on_demand'") == 1


# ------------------------------------------------------------------------------------------------ deliveries


def found(page: Browser) -> list[int]:
    """The rows on a page of results."""
    return [int(each) for each in re.findall(r'<a href="/deliveries/(\d+)"', page.page.text)]


@pytest.mark.parametrize(
    ("fields", "keys"),
    [
        ({"recipient": "0530 123 45 67"}, ["m-1", "m-2", "m-4"]),
        ({"recipient": "00905301234568"}, ["m-3"]),
        ({"recipient": "\u202a+90\u2011530\u00a0123 45 67\u202c"}, ["m-1", "m-2", "m-4"]),
        ({"recipient": "\u0660\u0665\u0663\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0668"}, ["m-3"]),
        ({"client_ref": "siparis-1"}, ["m-1", "m-3"]),
        ({"id": "m-2"}, ["m-2"]),
        ({"id": "m-2", "status": "delivered"}, []),
        ({"id": "5301234567", "status": "rejected", "account": "kampanya"}, ["m-4"]),
        ({"status": "enroute"}, ["m-3"]),
        ({"account": "kampanya", "status": "nonsense"}, ["m-1", "m-2", "m-3", "m-4"]),
        ({"account": "nobody\x00"}, []),
        ({"id": "9" * 30}, []),
    ],
)
def test_a_search_matches_everything_given(
    start: Start, deliveries: dict[str, int], fields: dict[str, str], keys: list[str]
) -> None:
    """By number in any usual spelling, reference, id, status and account; numbers are masked in the list."""
    page = start().log_in()
    page.get("/deliveries")
    words = page.press("/deliveries", **fields)
    assert sorted(found(page)) == sorted(deliveries[key] for key in keys)
    assert ("Nothing matches." in words) == (not keys)
    table = page.page.text.partition("<table")[2]
    assert "530123456" not in table
    assert not keys or "+90•••••••6" in table


def test_a_number_stands_in_no_title_address_header_or_log(
    start: Start, deliveries: dict[str, int], lines: io.StringIO
) -> None:
    """Searching and reading a delivery leaves it in the bodies alone, where it was asked for."""
    page = start().log_in()
    page.get("/deliveries")
    answer = page.post("/deliveries", recipient="0530 123 45 67")
    page.get(answer.headers["location"])
    page.get(f"/deliveries/{deliveries['m-1']}")
    assert NUMBER not in page.page.text
    page.page = page.post(f"/deliveries/{deliveries['m-1']}/reveal")
    assert page.page.text.count(NUMBER) >= 2
    # The line of a request is written after its answer has gone out.
    end = clock.boot() + 5
    while '"route": "/deliveries/{delivery_id:int}"' not in lines.getvalue() and clock.boot() < end:
        clock.sleep(0.02)
    kept = [*answer.headers.values(), *page.page.headers.values(), str(page.page.url), lines.getvalue()]
    kept += re.findall(r"<title>.*?</title>", page.page.text)
    assert not [each for each in kept if "530123456" in each or "530%20123" in each or "530+123" in each]
    assert '"route": "/deliveries/{delivery_id:int}"' in lines.getvalue()
    assert '"caller": "configured"' in lines.getvalue()


def test_results_go_on_page_by_page(start: Start, migrated_database: Engine, deliveries: dict[str, int]) -> None:
    """The cursor is a row id; together the pages show every row once."""
    with transaction(migrated_database) as connection:
        many = [report(f"n-{place:03}", Status.SENT, recipient=None, client_ref=None) for place in range(60)]
        upsert(connection, "kampanya", "vairo", many, asked_at=NOON)
    page = start().log_in()
    page.get("/deliveries")
    page.press("/deliveries", account="kampanya")
    rows = found(page)
    assert len(rows) == 50
    following = re.search(r'rel="next" href="([^"]+)"', page.page.text)
    assert following is not None
    page.get(unescape(following[1]))
    rows += found(page)
    assert (len(rows), len(set(rows)), 'rel="next"' in page.page.text) == (64, 64, False)
    assert "too old" in page.get("/deliveries?q=forged")


def test_the_history_says_what_won_and_why(start: Start, deliveries: dict[str, int]) -> None:
    """In the order of arrival; each statement with its source, its fate and what it gave."""
    page = start().log_in()
    words = page.get(f"/deliveries/{deliveries['m-1']}")
    assert f"Delivery {deliveries['m-1']} delivered final" in words
    line = words.partition("History")[2]
    assert line.index("on its way") < line.index("delivered poll response")
    assert "Superseded: the deciding report is of a stronger class" in line
    assert "This report decides the status" in line
    assert '"durum": "İLETİLDİ"' in line
    assert "conflict" not in words
    for unknown in ("/deliveries/999999", f"/deliveries/{2**70}", "/accounts/nobody"):
        page.get(unknown)
        assert page.page.status_code == 404


def test_codes_and_words_are_explained(start: Start, migrated_database: Engine, deliveries: dict[str, int]) -> None:
    """The provider's codes beside their meaning, in the facts and in the history; words of ours in tooltips."""
    assert deliveries
    with transaction(migrated_database) as connection:
        add_account(connection, "marka", provider="organik")
        fields = {"provider_status": "3", "provider_error": "23", "reason": Reason.OPTED_OUT}
        upsert(connection, "marka", "organik", [report("o-1", Status.REJECTED, **fields)], asked_at=NOON)
    row = change(migrated_database, "SELECT id FROM delivery_status WHERE provider_key = 'o-1'")
    page = start().log_in()
    words = page.get(f"/deliveries/{row}")
    assert "3: wrong number" in words.partition("History")[0]
    assert "3: wrong number, error 23: the number has refused consent (İYS)" in words.partition("History")[2]
    assert STATUSES[Status.REJECTED] in words
    for meaning in (STATUSES[Status.REJECTED], REASONS[Reason.OPTED_OUT], COLUMNS["message_time"]):
        assert f'title="{escape(meaning)}"' in page.page.text
    page.get(f"/deliveries/{row}", **{"accept-language": "tr"})
    for key in ("status.rejected", "reason.opted_out", "field.message_time", "message_time_source.first_seen"):
        assert f'title="{escape(TURKISH[f"means.{key}"])}"' in page.page.text


def test_a_conflict_is_marked(start: Start, deliveries: dict[str, int]) -> None:
    """In the list, on the delivery with what was said, and at the statements that contradict each other."""
    page = start().log_in()
    words = page.get(f"/deliveries/{deliveries['m-4']}")
    assert "The provider has reported delivered, rejected for this one message" in words
    assert words.count("contradicts another report") == 2
    page.get("/deliveries")
    assert "rejected conflict" in page.press("/deliveries", id="m-4")


def test_a_registered_id_without_an_answer_is_found(
    start: Start, migrated_database: Engine, quiet_account: None
) -> None:
    """Support must not say that nothing is known of a message that was sent a minute ago."""
    change(migrated_database, "UPDATE tracked_ids SET recipient = :number, client_ref = 'son'", number=NUMBER)
    page = start().log_in()
    page.get("/deliveries")
    words = page.press("/deliveries", recipient="0530 123 45 67")
    assert "Registered ids without a report kampanya · +90•••••••67 · son" in words
    assert "Nothing matches." not in words


def test_polls_are_shown_with_their_progress(start: Start, quiet_account: None) -> None:
    """All of them where all are wanted; of an account that the visitor may not know there are none."""
    page = start().log_in()
    assert "1 kampanya schedule complete 0 of 0 0" in page.get("/polls?show=all")
    assert "One poll without changes" in page.get("/polls")
    assert "There are no polls yet." in page.get("/polls?account=nobody&before=-5&show=all")


def test_scheduled_polls_do_not_push_a_running_poll_of_an_operator_off_the_page(
    start: Start, migrated_database: Engine, quiet_account: None
) -> None:
    """It comes first on both pages until it has ended; then it takes its place among the others."""
    page = start().log_in()
    page.get("/")
    assert "A poll was opened" in page.press("/accounts/kampanya/poll", once="a", next="/")
    many = (
        "INSERT INTO polls (account_id, kind, trigger, state, planned_at, finished_at) SELECT 'kampanya', 'plan',"
        " 'schedule', 'complete', now(), now() FROM generate_series(1, 60)"
    )
    change(migrated_database, many)
    for path in ("/polls", "/polls?account=kampanya", "/accounts/kampanya"):
        words = page.get(path)
        assert words.count("this page") == 1, path
        assert words.index("this page") < words.index("polls without changes"), path
    assert "this page" not in page.get("/polls?account=another")
    assert 'href="/polls?before=13&amp;show=all"' in (page.get("/polls?show=all") and page.page.text)
    assert "this page" in page.get("/polls?before=13&show=all")
    change(migrated_database, "UPDATE polls SET state = 'complete', finished_at = now() WHERE trigger = 'page'")
    assert "this page" not in page.get("/polls?show=all")


# ------------------------------------------------------------------------------------------------ languages


def test_the_page_speaks_the_readers_language(start: Start, quiet_account: None) -> None:
    """By the browser's wish, and by the switch for as long as it stands."""
    page = start()
    assert "Anahtar" in page.get("/", **{"accept-language": "de, tr-TR;q=0.8, en;q=0.2"})
    assert "Token" in page.get("/", **{"accept-language": "de;q=x, *"})
    page.log_in()
    assert "Her şey yolunda." in page.get("/", **{"accept-language": "tr"})
    assert WELL in page.get("/")
    assert "Her şey yolunda." in page.press("/language", language="tr", next="/")
    assert '<html lang="tr">' in page.page.text
    assert WELL in page.press("/language", language="en", next="/")


def test_flower_is_named_at_this_pages_host_or_where_it_is_set_to_be(
    start: Start, migrated_database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link at the foot of the page: this host at Flower's port, or `ULAK_FLOWER_URL`."""
    browser = start().log_in()
    browser.get("/")
    assert re.findall(r'href="([^"]+)">Flower', browser.page.text) == ["http://127.0.0.1:5555/"]
    monkeypatch.setenv("ULAK_FLOWER_URL", "https://flower.example/ulak/")
    with one_more(migrated_database) as other:
        other.log_in().get("/")
        assert re.findall(r'href="([^"]+)">Flower', other.page.text) == ["https://flower.example/ulak/"]


def test_a_log_in_holds_at_every_process_that_has_the_same_page_secret(
    migrated_database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes with homes of their own share `ULAK_PAGE_SECRET_FILE`; without it each knows only its own log-ins."""
    home = iter("abcd")

    def asked_elsewhere() -> int:
        """What a second process answers to the cookies of a log-in at a first one."""
        monkeypatch.setenv("ULAK_HOME", str(tmp_path / next(home)))
        with one_more(migrated_database) as first:
            cookies = first.log_in().client.cookies
            monkeypatch.setenv("ULAK_HOME", str(tmp_path / next(home)))
            with one_more(migrated_database) as second:
                cookie = f"ulak_session={cookies['ulak_session']}"
                return second.client.get("/?fragment", headers={"Cookie": cookie}).status_code

    assert asked_elsewhere() == 401
    (tmp_path / "page_secret").write_text("k" * 32 + "\n")
    monkeypatch.setenv("ULAK_PAGE_SECRET_FILE", str(tmp_path / "page_secret"))
    assert asked_elsewhere() == 200


@pytest.mark.parametrize(
    ("secret", "sentence"),
    [
        ("k" * 31, "is too short: give at least 32"),
        ("change-me-" * 5, "is an example: give at least 32"),
        (None, "cannot be read"),
    ],
)
def test_a_page_secret_that_is_none_is_refused(
    migrated_database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str | None, sentence: str
) -> None:
    """The process does not start with a secret that could be guessed, or with another one than it was told."""
    if secret is not None:
        (tmp_path / "page_secret").write_text(secret)
    monkeypatch.setenv("ULAK_PAGE_SECRET_FILE", str(tmp_path / "page_secret"))
    with pytest.raises(CredentialError, match=sentence), one_more(migrated_database):
        pass
