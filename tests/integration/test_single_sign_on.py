"""Single sign-on: who is let in by an OpenID provider, with which role, and every answer that must let nobody in."""

import hmac
import io
import json
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from log_lines import lines
from oidc_provider import CLIENT_ID, CLIENT_SECRET, Provider
from pydantic import SecretStr
from sqlalchemy import Engine, text
from task_api import running, runtime_on

from ulak.api.app import make_api
from ulak.api.pages.routes import add_pages
from ulak.api.pages.sign_on import grants_by_group, sign_on_for
from ulak.core.settings import SettingsError, load_settings
from ulak.models.access import Grant, Role
from ulak.models.database import transaction

__all__ = ["lines", "ulak"]

PUBLIC = "http://127.0.0.1:8000"
ROLES = "destek=support@kampanya; yöneticiler=admin; izleyen=read; CN=Nöbet,OU=Ulak=operate"


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider that does everything right."""
    with Provider() as running_provider:
        yield running_provider


@pytest.fixture
def settings_of(provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`settings_of(ULAK_OIDC_ROLES=…)` sets the environment of the processes that are started afterwards."""

    def configure(**more: str) -> None:
        values = {
            "ULAK_HOME": str(tmp_path / "home"),
            "ULAK_PUBLIC_URL": PUBLIC,
            "ULAK_OIDC_ISSUER": provider.issuer,
            "ULAK_OIDC_CLIENT_ID": CLIENT_ID,
            "ULAK_OIDC_CLIENT_SECRET": CLIENT_SECRET,
            "ULAK_OIDC_ROLES": ROLES,
        }
        for name, value in (values | more).items():
            monkeypatch.setenv(name, value)

    return configure


class Browser:
    """A person's browser in front of one API process; it follows where a person would be led."""

    def __init__(self, client: httpx.Client, app: FastAPI) -> None:
        self.client, self.app = client, app

    def begin(self, target: str = "/") -> str:
        """Press the button; the provider's address with the request."""
        answer = self.client.get("/login/sso", params={"next": target})
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    def answer_of(self, address: str) -> str:
        """Log in at the provider; where it sends the browser back to."""
        answer = httpx.get(address)
        assert answer.status_code == 302
        return answer.headers["location"]

    def come_back(self, location: str) -> httpx.Response:
        """Follow the provider's redirect."""
        assert location.startswith(f"{PUBLIC}/login/sso/callback?"), location
        parts = urlsplit(location)
        return self.client.get(f"{parts.path}?{parts.query}")

    def log_in(self, target: str = "/") -> httpx.Response:
        """The whole way."""
        return self.come_back(self.answer_of(self.begin(target)))

    def is_in(self) -> bool:
        """Whether the pages are shown."""
        return self.client.get("/?fragment=1").status_code == 200


@pytest.fixture
def start(migrated_database: Engine, settings_of: Callable[..., None]) -> Iterator[Callable[..., Browser]]:
    """`start(**environment)` starts a process with these settings and gives a new browser in front of it."""
    settings_of()
    with transaction(migrated_database) as connection:
        for account in ("kampanya", "otp"):
            add_account(connection, account)
    closers: list[Any] = []

    def browser(**environment: str) -> Browser:
        settings_of(**environment)
        settings = load_settings().model_copy(update={"api_token": SecretStr("canary-token-of-the-page")})
        runtime = runtime_on(migrated_database)
        app = make_api(runtime, token="canary-token-of-the-page", settings=settings)
        add_pages(app, runtime, settings)
        app.state.deps.failed.most = 1000
        context = running(app)
        client = httpx.Client(base_url=context.__enter__(), timeout=60)
        closers.extend([client.close, lambda: context.__exit__(None, None, None), runtime.door.close])
        return Browser(client, app)

    yield browser
    for close in closers:
        close()


Start = Callable[..., Browser]

# ------------------------------------------------------------------------------------------------- the way in


def test_a_person_gets_in_with_the_role_of_a_group_and_sees_only_its_accounts(start: Start, provider: Provider) -> None:
    """PKCE, state and nonce go to the provider; the code comes back with the verifier; the page leads on by itself."""
    page = start()
    address = page.begin("/accounts/kampanya")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    assert address.startswith(f"{provider.issuer}/authorize?")
    assert {name: asked[name] for name in ("response_type", "client_id", "redirect_uri", "code_challenge_method")} == {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": f"{PUBLIC}/login/sso/callback",
        "code_challenge_method": "S256",
    }
    assert "openid" in asked["scope"].split()
    assert all(len(asked[name]) >= 32 for name in ("state", "nonce", "code_challenge"))
    assert (page.is_in(), CLIENT_SECRET in address) == (False, False)
    said = page.come_back(page.answer_of(address))
    # A redirect that begins at another site would not bring the Strict cookie along.
    assert (said.status_code, 'http-equiv="refresh" content="0; url=/accounts/kampanya"' in said.text) == (200, True)
    cookies = {each.partition("=")[0]: each for each in said.headers.get_list("set-cookie")}
    assert "HttpOnly; Max-Age=43200; Path=/; SameSite=strict" in cookies["ulak_session"]
    assert "Max-Age=0" in cookies["ulak_sign_on"]
    overview = page.client.get("/").text
    assert ("kampanya" in overview, "otp" in overview, "ayse" in overview) == (True, False, True)
    assert [page.client.get(f"/accounts/{name}").status_code for name in ("kampanya", "otp")] == [200, 404]
    assert provider.forms[0]["code_verifier"] not in address


def test_the_cookie_of_a_begun_log_in_is_lax_sealed_and_short_lived(start: Start) -> None:
    """Lax, or the browser would not send it when the provider leads back; nothing of it can be read."""
    page = start()
    answer = page.client.get("/login/sso")
    [cookie] = [each for each in answer.headers.get_list("set-cookie") if each.startswith("ulak_sign_on=")]
    assert cookie.partition("; ")[2] == "HttpOnly; Max-Age=600; Path=/; SameSite=lax"
    state = parse_qs(urlsplit(answer.headers["location"]).query)["state"][0]
    assert state not in cookie


@pytest.mark.parametrize(
    ("groups", "shown"),
    [
        (["izleyen"], {"kampanya": "read", "otp": "read"}),
        (["destek"], {"kampanya": "support", "otp": None}),
        (["destek", "izleyen", "başka"], {"kampanya": "support", "otp": "read"}),
        (["yöneticiler", "destek"], {"kampanya": "admin", "otp": "admin"}),
        (["CN=Nöbet,OU=Ulak"], {"kampanya": "operate", "otp": "operate"}),
        ("izleyen", {"kampanya": "read", "otp": "read"}),
    ],
)  # fmt: skip
def test_several_groups_give_together_what_each_gives(
    start: Start, provider: Provider, groups: Any, shown: dict[str, str | None]
) -> None:
    """Each account by the greatest role that any group has for it."""
    provider.person["groups"] = groups
    page = start()
    assert page.log_in().status_code == 200
    for account, role in shown.items():
        answer = page.client.get(f"/accounts/{account}")
        assert (answer.status_code == 200) == (role is not None)
        assert ('id="pause"' in answer.text) == (role in {"operate", "admin"})


def test_groups_may_stand_within_another_claim(start: Start, provider: Provider) -> None:
    """As Keycloak has them."""
    provider.person["groups"] = None
    provider.claims = {"realm_access": {"roles": ["izleyen"]}}
    assert start(ULAK_OIDC_CLAIM="realm_access.roles").log_in().status_code == 200


def test_a_changed_role_holds_for_sessions_that_stand(start: Start, provider: Provider) -> None:
    """The cookie keeps the groups, never what they give: a process with other settings gives what these say."""
    first = start()
    first.log_in()
    less = start(ULAK_OIDC_ROLES="destek=read")
    less.client.cookies = first.client.cookies
    assert (less.is_in(), "otp" in less.client.get("/").text) == (True, True)
    gone = start(ULAK_OIDC_ROLES="yöneticiler=admin")
    gone.client.cookies = first.client.cookies
    other = start(ULAK_OIDC_ROLES=ROLES, ULAK_OIDC_CLIENT_ID="another-client")
    other.client.cookies = first.client.cookies
    assert (first.is_in(), gone.is_in(), other.is_in()) == (True, False, False)


def test_all_sessions_of_a_person_can_be_ended_at_every_process(
    start: Start, provider: Provider, ulak: Ulak, migrated_database: Engine
) -> None:
    """By the name that people know; who logs in afterwards is let in, and another person stays."""
    provider.person["groups"] = ["yöneticiler"]
    pages = [start(), start()]
    for page in pages:
        page.log_in()
    provider.person |= {"sub": "u-18", "preferred_username": "mehmet"}
    other = start()
    other.log_in()
    assert [page.is_in() for page in [*pages, other]] == [True] * 3
    assert ulak("sessions", "end", "ayse").err == "Every log-in of u-17 until now is over.\n"
    assert ulak("sessions", "end", "nobody").code == 1
    assert [page.is_in() for page in [*pages, other]] == [False, False, True]
    provider.person |= {"sub": "u-17", "preferred_username": "ayse"}
    pages[0].log_in()
    assert [page.is_in() for page in pages] == [True, False]
    [ended] = json.loads(ulak("events", "--action", "sessions.ended", "--json").out)
    assert ended["details"] == {"whom": "u-17"}
    opened = json.loads(ulak("events", "--action", "session.opened", "--actor", "ayse", "--json").out)
    assert [(each["actor_kind"], each["actor"], each["via"]) for each in opened] == [("person", "u-17", "page")] * 3


def test_a_log_out_ends_the_session_of_a_person(start: Start) -> None:
    """At once, though somebody kept a copy of the cookie."""
    page = start()
    page.log_in()
    kept = dict(page.client.cookies)
    mark = re.search(r'name="form_mark" value="([^"]+)"', page.client.get("/").text)
    assert mark is not None
    assert page.client.post("/logout", data={"form_mark": mark[1]}).status_code == 303
    page.client.cookies.update(kept)
    assert not page.is_in()


# ------------------------------------------------------------------------------------------ who must not get in


def told(answer: httpx.Response) -> str:
    """The alert of the log-in form."""
    found = re.search(r'role="alert">([^<]+)<', answer.text)
    assert found is not None, answer.text
    return found[1]


OTHER_KEY = RSAKey.generate_key(2048, {"kid": "first", "use": "sig"})


def _hs256_with(secret: bytes) -> Callable[[Provider, dict[str, Any]], str]:
    """By hand: the library refuses to sign with a public key as it refuses to read with one."""

    def sign(_: Provider, claims: dict[str, Any]) -> str:
        parts = [json.dumps(each).encode() for each in ({"alg": "HS256", "kid": "first"}, claims)]
        signed = b".".join(urlsafe_b64encode(each).rstrip(b"=") for each in parts)
        return (signed + b"." + urlsafe_b64encode(hmac.digest(secret, signed, "sha256")).rstrip(b"=")).decode()

    return sign


def _hs256_with_the_public_key(provider: Provider, claims: dict[str, Any]) -> str:
    return _hs256_with(provider.key.as_pem(private=False))(provider, claims)


def _without_signature(_: Provider, claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "none"}, claims, OctKey.import_key(b"x" * 32), algorithms=["none"])


def _cut(provider: Provider, claims: dict[str, Any]) -> str:
    return provider.token(claims).rpartition(".")[0] + "."


def _with_another_key(_: Provider, claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256", "kid": "first"}, claims, OTHER_KEY, algorithms=["RS256"])


def _with_its_own_key(_: Provider, claims: dict[str, Any]) -> str:
    header = {"alg": "RS256", "kid": "first", "jwk": OTHER_KEY.as_dict(private=False)}
    return jwt.encode(header, claims, OTHER_KEY, algorithms=["RS256"])


@pytest.mark.parametrize(
    "sign",
    [
        _hs256_with_the_public_key,
        _hs256_with(CLIENT_SECRET.encode()),
        _hs256_with(b"secret"),
        _without_signature,
        _cut,
        _with_another_key,
        _with_its_own_key,
        lambda *_: "",
        lambda *_: "a.b.c",
        lambda provider, claims: provider.token(claims) + "x" * 70_000,
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_a_token_that_the_provider_did_not_sign_lets_nobody_in(
    start: Start, provider: Provider, sign: Callable[[Provider, dict[str, Any]], str]
) -> None:
    """No `none`, no HMAC with whatever is public, no key of the token's own."""
    provider.sign = sign
    page = start()
    answer = page.log_in()
    assert (answer.status_code, "could not be verified" in told(answer), page.is_in()) == (502, True, False)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"aud": "another-client"},
        {"aud": ["another-client"]},
        {"aud": "another-client", "azp": CLIENT_ID},
        {"aud": None},
        {"aud": ["another-client", CLIENT_ID]},
        {"aud": ["another-client", CLIENT_ID], "azp": "another-client"},
        {"azp": "another-client"},
        {"nonce": "of-another-log-in"},
        {"nonce": None},
        {"nonce": ["x"]},
        {"exp": int(time.time()) - 3600},
        {"exp": "tomorrow"},
        {"exp": None},
        {"iat": int(time.time()) + 3600},
        {"iat": None},
        {"nbf": int(time.time()) + 3600},
        {"sub": None},
        {"sub": ""},
        {"sub": 17},
        {"sub": "a\x00b"},
        {"sub": "x" * 300},
        {"at_hash": "AAAA"},
    ],
)  # fmt: skip
def test_a_token_that_is_not_for_this_log_in_lets_nobody_in(
    start: Start, provider: Provider, claims: dict[str, Any]
) -> None:
    """Rightly signed, but of another issuer, for another client or log-in, too old, too early, or about nobody."""
    provider.claims = claims
    page = start()
    answer = page.log_in()
    assert (answer.status_code, page.is_in()) == (502, False)


@pytest.mark.parametrize(
    "claims",
    [{"groups": None}, {"groups": []}, {"groups": ["başka"]}, {"groups": {"destek": True}}, {"groups": [["destek"]]}],
)
def test_somebody_without_a_role_is_told_so(start: Start, provider: Provider, claims: dict[str, Any]) -> None:
    """Known to the provider and nothing more."""
    provider.claims = claims
    page = start()
    answer = page.log_in()
    assert (answer.status_code, "has a role here" in told(answer), page.is_in()) == (403, True, False)


def test_an_answer_to_another_browsers_log_in_is_refused(start: Start) -> None:
    """Whoever leads a victim to an answer of their own (log-in CSRF), or steals one, gains nothing."""
    page, attacker = start(), start()
    stolen = attacker.answer_of(attacker.begin())
    assert page.come_back(stolen).status_code == 400
    page.begin()
    assert (page.come_back(stolen).status_code, page.is_in()) == (400, False)
    own = page.answer_of(page.begin())
    for forged in (
        re.sub("state=[^&]+", "state=x", own),
        re.sub("state=[^&]+&?", "", own),
        re.sub("code=[^&]+&?", "", own),
    ):
        assert (page.come_back(forged).status_code, page.is_in()) == (400, False)
        own = page.answer_of(page.begin())


def test_an_answer_is_good_once_at_whichever_process(start: Start, provider: Provider) -> None:
    """Also for somebody who kept the cookie, and where the provider would take the code again."""
    page, replica = start(), start()
    location = page.answer_of(page.begin())
    replica.client.cookies.update(page.client.cookies)
    kept = dict(page.client.cookies)
    assert page.come_back(location).status_code == 200
    page.client.cookies.clear()
    page.client.cookies.update(kept)
    asked = len(provider.forms)
    assert [page.come_back(location).status_code, replica.come_back(location).status_code] == [400, 400]
    assert (page.is_in(), replica.is_in(), len(provider.forms)) == (False, False, asked)


def test_an_answer_of_another_issuer_is_refused(start: Start, provider: Provider) -> None:
    """RFC 9207: the parameter counts where it is given, and must be given where the provider promises it."""
    page = start()
    location = page.answer_of(page.begin())
    assert page.come_back(re.sub("iss=[^&]+", "iss=https%3A%2F%2Felsewhere.example", location)).status_code == 502
    assert page.come_back(re.sub("&iss=[^&]+", "", page.answer_of(page.begin()))).status_code == 200
    provider.metadata = {"authorization_response_iss_parameter_supported": True}
    strict = start()
    assert strict.come_back(re.sub("&iss=[^&]+", "", strict.answer_of(strict.begin()))).status_code == 502


def test_a_provider_that_refuses_is_said_to_have_refused(start: Start) -> None:
    """Its own words are not repeated: they may be a stranger's."""
    page = start()
    state = parse_qs(urlsplit(page.begin()).query)["state"][0]
    answer = page.client.get(f"/login/sso/callback?error=access_denied&error_description=<b>canary</b>&state={state}")
    assert (answer.status_code, "denied the log-in" in told(answer), "canary" in answer.text) == (403, True, False)


@pytest.mark.parametrize(
    "target",
    [
        "https://elsewhere.example/", "//elsewhere.example", "/\\elsewhere.example", "javascript:alert(1)", "\\\\x",
        "/\t/elsewhere.example", "http:elsewhere.example", "///elsewhere.example", "/a\r\nSet-Cookie: x=y", "",
    ],
)  # fmt: skip
def test_nobody_is_led_elsewhere_after_a_log_in(start: Start, target: str) -> None:
    """An address that somebody was given leads to these pages or to their beginning."""
    page = start()
    answer = page.log_in(target)
    assert answer.status_code == 200
    assert re.findall(r'content="0; url=([^"]*)"', answer.text) == ["/"]
    assert "elsewhere" not in answer.text


def test_a_new_key_of_the_provider_is_taken_at_once_and_an_old_one_no_more(start: Start, provider: Provider) -> None:
    """Keys are looked up anew when a signature does not fit: under a new name, and under the same."""
    page = start()
    assert page.log_in().status_code == 200
    old = provider.key
    provider.rotate()
    assert page.log_in().status_code == 200
    provider.rotate()
    assert page.log_in().status_code == 200
    provider.sign = lambda _, claims: jwt.encode({"alg": "RS256", "kid": old.kid}, claims, old, algorithms=["RS256"])
    assert page.log_in().status_code == 502
    provider.sign = None
    keys = provider.log.count("/realm/keys")
    assert page.log_in().status_code == 200
    assert provider.log.count("/realm/keys") - keys <= 1


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        ("/.well-known/openid-configuration", (503, {}, b"")),
        ("/.well-known/openid-configuration", (200, JSON, b"[]")),
        ("/.well-known/openid-configuration", (200, JSON, b"{")),
        ("/.well-known/openid-configuration", (200, JSON, b'{"issuer": "https://elsewhere.example"}')),
        ("/.well-known/openid-configuration", (302, {"Location": "http://127.0.0.1:1/"}, b"")),
        ("/.well-known/openid-configuration", (200, JSON, b'{"a": "' + b"x" * 300_000 + b'"}')),
        ("/.well-known/openid-configuration", (200, JSON | {"Content-Encoding": "gzip"}, b"{}")),
        ("/keys", (500, {}, b"")),
        ("/keys", (200, JSON, b'{"keys": []}')),
        ("/keys", (200, JSON, b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "first"}]}')),
        ("/keys", (200, JSON, b'{"keys": "none"}')),
        ("/token", (503, {}, b"busy")),
        ("/token", (302, {"Location": "http://127.0.0.1:1/"}, b"")),
    ],
)  # fmt: skip
def test_a_provider_that_is_away_or_talks_nonsense_is_named_as_the_cause(
    start: Start, provider: Provider, path: str, reply: tuple[int, dict[str, str], bytes]
) -> None:
    """503 and a sentence; as soon as it is back, people get in, and tokens work all the while."""
    page = start()
    provider.replies = {path: reply}
    answer = page.client.get("/login/sso")
    if answer.status_code == 303:
        answer = page.come_back(page.answer_of(answer.headers["location"]))
    assert (answer.status_code, "is unreachable" in told(answer), page.is_in()) == (503, True, False)
    mark = re.search(r'name="form_mark" value="([^"]+)"', page.client.get("/").text)
    assert mark is not None
    with_token = {"form_mark": mark[1], "token": "canary-token-of-the-page"}
    assert page.client.post("/login", data=with_token).status_code == 303
    page.client.cookies.clear()
    provider.replies = {}
    assert page.log_in().status_code == 200


def test_a_code_that_is_not_taken_lets_nobody_in(start: Start, provider: Provider) -> None:
    """Errors of the token endpoint, in every form that they come in."""
    for reply in [
        (400, JSON, b'{"error": "invalid_grant"}'),
        (200, JSON, b'{"error": "invalid_grant"}'),
        (200, JSON, b'{"access_token": "at", "token_type": "Bearer"}'),
        (200, JSON, b'{"id_token": 17, "access_token": "at"}'),
    ]:
        provider.replies = {"/token": reply}
        page = start()
        assert (page.log_in().status_code, page.is_in()) == (502, False)


def test_a_provider_that_is_gone_is_said_to_be_away(start: Start, settings_of: Callable[..., None]) -> None:
    """Nobody listens at its port."""
    page = start(ULAK_OIDC_ISSUER="http://127.0.0.1:1/realm")
    assert page.client.get("/login/sso").status_code == 503


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("token_endpoint", "http://elsewhere.example/token"),
        ("token_endpoint", "ftp://127.0.0.1/token"),
        ("jwks_uri", None),
        ("authorization_endpoint", "javascript:alert(1)"),
        ("authorization_endpoint", ["x"]),
    ],
)
def test_codes_and_keys_travel_encrypted_or_stay_on_this_host(
    start: Start, provider: Provider, name: str, url: Any
) -> None:
    """A document that names a plain address elsewhere is of no use."""
    provider.metadata = {name: url}
    assert start().client.get("/login/sso").status_code == 503


def test_whoever_tries_answers_by_the_dozen_is_slowed_down(start: Start) -> None:
    """By address, as with wrong tokens; who is right is let in all the same."""
    page = start()
    page.app.state.deps.failed.most = 3
    statuses = [page.client.get(f"/login/sso/callback?code=x&state={n}").status_code for n in range(5)]
    assert statuses == [400, 400, 400, 429, 429]
    assert page.log_in().status_code == 200


def test_nothing_of_a_log_in_stands_in_the_log(start: Start, provider: Provider, lines: io.StringIO) -> None:
    """Neither code, state, nonce, verifier and tokens, nor the client's secret, whether it went well or not."""
    page = start()
    location = page.answer_of(page.begin())
    page.come_back(location)
    provider.claims = {"aud": "another-client"}
    page.log_in()
    query = parse_qs(urlsplit(location).query)
    said = lines.getvalue()
    assert ("page.logged_in" in said, "page.sign_on_refused" in said) == (True, True)
    for secret in (query["code"][0], query["state"][0], CLIENT_SECRET, provider.forms[0]["code_verifier"], "eyJ"):
        assert secret not in said


# ---------------------------------------------------------------------------------------------------- settings


def test_without_an_issuer_there_is_no_way_in_but_tokens(
    migrated_database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No button, and its address leads nowhere."""
    monkeypatch.setenv("ULAK_HOME", str(tmp_path / "home"))
    runtime, settings = runtime_on(migrated_database), load_settings()
    app = make_api(runtime, token="t" * 30, settings=settings)
    add_pages(app, runtime, settings)
    with running(app) as url, httpx.Client(base_url=url) as client:
        assert "/login/sso" not in client.get("/").text
        assert [client.get(f"/login/sso{rest}").status_code for rest in ("", "/callback?code=x")] == [404, 404]
    runtime.door.close()


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"ULAK_OIDC_CLIENT_ID": ""}, "ULAK_OIDC_CLIENT_ID must be set"),
        ({"ULAK_OIDC_ROLES": ""}, "ULAK_OIDC_ROLES must be set"),
        ({"ULAK_PUBLIC_URL": ""}, "ULAK_PUBLIC_URL must be set"),
        ({"ULAK_PUBLIC_URL": "http://ulak.example.com"}, "ULAK_PUBLIC_URL must be https"),
        ({"ULAK_OIDC_ROLES": "destek=boss"}, "ULAK_OIDC_ROLES is wrong"),
        ({"ULAK_OIDC_ROLES": "=read"}, "ULAK_OIDC_ROLES is wrong"),
        ({"ULAK_OIDC_ROLES": "read"}, "ULAK_OIDC_ROLES is wrong"),
        ({"ULAK_OIDC_ROLES": "a=read@"}, "ULAK_OIDC_ROLES is wrong"),
        ({"ULAK_OIDC_ROLES": "a=read;a=admin"}, "ULAK_OIDC_ROLES is wrong"),
        ({"ULAK_OIDC_ISSUER": "http://login.example.com"}, "ULAK_OIDC_ISSUER is wrong"),
        ({"ULAK_OIDC_ISSUER": "https://login.example.com/?tenant=1"}, "ULAK_OIDC_ISSUER is wrong"),
        ({"ULAK_OIDC_SCOPES": "profile email"}, "ULAK_OIDC_SCOPES is wrong"),
        ({"ULAK_OIDC_CLIENT_SECRET": "change-me"}, "ULAK_OIDC_CLIENT_SECRET is wrong"),
    ],
)  # fmt: skip
def test_what_is_half_configured_stops_the_process(
    settings_of: Callable[..., None], environment: dict[str, str], sentence: str
) -> None:
    """A sentence that names the variable, never a sign-on that lets in the wrong people, or in plain text."""
    settings_of(**environment)
    with pytest.raises(SettingsError, match=sentence):
        sign_on_for(load_settings())


def test_roles_are_read_as_they_are_documented() -> None:
    """Blanks do not count; a group may hold `=`, `/` and `,`."""
    assert grants_by_group(" a=read ;/b/c = support@x, y;CN=d,OU=e=admin;") == {
        "a": Grant(role=Role.READ),
        "/b/c": Grant(role=Role.SUPPORT, accounts=frozenset({"x", "y"})),
        "CN=d,OU=e": Grant(role=Role.ADMIN),
    }


def test_what_ends_sessions_of_people_is_forgotten_in_time(ulak: Ulak, migrated_database: Engine) -> None:
    """The table stays as small as a day of it."""
    insert = "INSERT INTO ended_people (person, ended_at) VALUES ('old', now() - interval '2 days'), ('new', now())"
    with transaction(migrated_database) as connection:
        connection.execute(text(insert))
    from ulak.tasks.steps.upkeep import prune

    prune(runtime_on(migrated_database))
    with transaction(migrated_database) as connection:
        assert connection.execute(text("SELECT person FROM ended_people")).scalars().all() == ["new"]


def test_check_asks_the_provider_whether_people_could_log_in(
    ulak: Ulak, provider: Provider, settings_of: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line: ok with the issuer, or what is wrong."""

    def line() -> str:
        [found] = [each for each in ulak("check").out.splitlines() if each.startswith("single sign-on")]
        return found

    settings_of()
    assert line() == f"single sign-on: ok ({provider.issuer})"
    provider.replies = {"/keys": (200, JSON, b'{"keys": []}')}
    assert line() == "single sign-on: the provider shows no key that signs"
    monkeypatch.setenv("ULAK_OIDC_ROLES", "x")
    assert line().startswith("single sign-on: ULAK_OIDC_ROLES is wrong")
    monkeypatch.delenv("ULAK_OIDC_ISSUER")
    assert "single sign-on" not in ulak("check").out
