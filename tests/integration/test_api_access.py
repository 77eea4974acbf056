"""Who gets in, how any request fails, and what nobody may read in an error or a log line."""

import io
import json
from collections.abc import Iterator

import httpx
import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from fastapi.routing import APIRoute
from log_lines import lines
from sqlalchemy import Engine, text
from task_api import TOKEN, Api, api, running, runtime_on

from ulak.api.app import make_api
from ulak.api.request_log import request_id_of
from ulak.core import clock
from ulak.models.database import make_engine, transaction
from ulak.models.tokens import create_token, revoke_token

__all__ = ["api", "lines", "ulak"]

NUMBER = "905301234567"
PROBLEM = "application/problem+json"


def guarded_routes(api: Api) -> list[tuple[str, str]]:
    """Method and path of every operation under /v1, as the OpenAPI document has them."""
    paths = api.app.openapi()["paths"]
    return [(method.upper(), path) for path, each in paths.items() if path.startswith("/v1") for method in each]


def test_every_route_refuses_without_a_valid_token(api: Api) -> None:
    """The routes are read from the application, so a new one cannot be forgotten."""
    known = guarded_routes(api)
    assert len(known) >= 12
    api.app.state.deps.failed.most = 100_000
    wrong = ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ulak_" + "a" * 43]
    for method, path in [*known, ("GET", "/v1"), ("GET", "/v1/"), ("PUT", "/v1/nothing")]:
        place = path.format(poll_id=1, delivery_id=1, account="marka-sms")
        for header in wrong:
            answer = api.client.request(method, place, headers={"Authorization": header}, content=b"{")
            assert (answer.status_code, answer.headers["content-type"]) == (401, PROBLEM), (method, path, header)
            assert answer.headers["www-authenticate"] == 'Bearer realm="ulak"'


def test_whatever_is_not_public_stands_under_the_guard(api: Api) -> None:
    """The public addresses are these and no others."""
    public = {
        "/docs",
        "/docs/oauth2-redirect",
        "/openapi.json",
        "/healthz",
        "/readyz",
        "/callbacks/{provider}/{account}",
        "/callbacks/{provider}/{account}/{tail}",
    }
    mayalso = {"/", "/metrics"}
    documented = {path for path in api.app.openapi()["paths"] if not path.startswith("/v1")}
    plain = {getattr(route, "path", "") for route in api.app.routes if not isinstance(route, APIRoute)}
    assert documented <= public | mayalso
    assert {path for path in plain if path} <= public | mayalso


def test_named_tokens_open_the_api_until_they_are_revoked(api: Api) -> None:
    """Several at once; only a hash is stored, and the use is known to the hour."""
    with transaction(api.engine) as connection:
        tokens = [create_token(connection, name) for name in ("crm", "support")]

    def statuses() -> list[int]:
        headers = [{"Authorization": f"Bearer {token}"} for token in tokens]
        return [api.client.get("/v1/accounts", headers=each).status_code for each in headers]

    assert statuses() == [200, 200]
    with transaction(api.engine) as connection:
        rows = connection.execute(text("SELECT api_tokens.*, date_trunc('hour', now()) AS hour FROM api_tokens")).all()
        assert all(row.last_used_at == row.hour for row in rows)
        assert not any(token[5:] in repr(row) for row in rows for token in tokens)
        assert [revoke_token(connection, "crm"), revoke_token(connection, "crm")] == [True, False]
    assert statuses() == [401, 200]


def test_the_log_names_who_asked(api: Api, lines: io.StringIO) -> None:
    """The holder's name, never the token; the scheme's name is written in any case, as HTTP allows."""
    with transaction(api.engine) as connection:
        token = create_token(connection, "crm")
    for given in (f"Bearer {TOKEN}", f"bearer {token}", "BEARER nobody-knows-this"):
        api.client.get("/v1/accounts", headers={"Authorization": given})
    deadline = clock.boot() + 40
    while lines.getvalue().count("api.answered") < 3:  # a request's line is written after its answer
        assert clock.boot() < deadline, "a request left no line in the log"
        clock.sleep(0.01)
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    answered = [(each["status"], each["caller"]) for each in told if each["event"] == "api.answered"]
    assert answered == [(200, "configured"), (200, "crm"), (401, None)]
    assert not any(secret in lines.getvalue() for secret in (TOKEN, token))


def test_the_log_names_who_paused_and_who_resumed(api: Api, lines: io.StringIO) -> None:
    """One event each with account, caller and reason; a pause that changes nothing is none."""
    with transaction(api.engine) as connection:
        account = add_account(connection, "duraklayan")
        token = create_token(connection, "crm")
    headers = {"Authorization": f"Bearer {token}"}
    for verb in ("pause", "pause", "resume"):
        body = {"reason": "maintenance"} if verb == "pause" else None
        assert api.client.post(f"/v1/accounts/{account}/{verb}", headers=headers, json=body).status_code == 200
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    events = [each for each in told if each["event"].startswith("account.")]
    assert [(each["event"], each["account"], each["caller"], each.get("reason")) for each in events] == [
        ("account.paused", "duraklayan", "crm", "maintenance"),
        ("account.resumed", "duraklayan", "crm", None),
    ]


def test_tokens_are_made_listed_and_revoked_by_command(ulak: Ulak) -> None:
    """The token stands alone on stdout, once; a name is given once."""
    made = ulak("tokens", "create", "crm")
    assert (made.code, made.out.startswith("ulak_"), made.out.count("\n")) == (0, True, 1)
    assert [ulak("tokens", "create", name).code for name in ("crm", "Ünlü", "-a")] == [2, 2, 2]
    assert ulak("tokens", "revoke", "crm").err == "crm is revoked.\n"
    assert ulak("tokens", "revoke", "nobody").code == 1
    (listed,) = json.loads(ulak("tokens", "list", "--json").out)
    assert (listed["name"], listed["last_used_at"], listed["revoked_at"] is not None) == ("crm", None, True)
    assert made.out.strip() not in ulak("tokens", "list").out


def test_every_kind_of_failure_is_a_problem_document(api: Api) -> None:
    """404, 405, 400, 413 and 422, each with its status, a sentence and a request id."""
    client = api.client
    answers = {
        (404, "GET"): client.get("/nothing"),
        (404, "v1"): client.get("/v1/nothing"),
        (404, "slash"): client.get("/v1/polls/"),
        (405, "PUT"): client.put("/v1/polls"),
        (400, "JSON"): client.post("/v1/polls", content=b'{"account": '),
        (422, "field"): client.post("/v1/polls", json={"account": 5, "colour": "red"}),
        (422, "query"): client.get("/v1/deliveries", params={"stauts": "delivered"}),
        (422, "NUL"): client.get("/v1/deliveries", params={"client_ref": "a\0b"}),
        (422, "path"): client.get(f"/v1/polls/{2**63}"),
        (413, "body"): client.post("/v1/polls", content=b" " * (1024 * 1024 + 1)),
    }
    for (status, what), answer in answers.items():
        body = answer.json()
        assert (answer.status_code, answer.headers["content-type"], body["status"]) == (status, PROBLEM, status), what
        assert body["detail"], what
        assert answer.headers["x-request-id"], what
    assert answers[405, "PUT"].headers["allow"]
    fields = {each["field"] for each in answers[422, "field"].json()["errors"]}
    assert fields == {"body.account", "body.colour"}
    assert answers[422, "query"].json()["errors"][0]["field"] == "query.stauts"


def test_a_body_is_refused_while_it_comes(api: Api) -> None:
    """Whatever the length says, or without one: a stream that does not end is cut off at the cap."""

    def flood() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 1024 * 1024

    try:
        answer = api.client.post("/v1/polls", content=flood())
    except httpx.TransportError:
        return  # The connection was closed on the flood before the answer was read.
    assert answer.status_code == 413


def test_a_bug_is_told_as_500_without_its_text(api: Api, lines: io.StringIO) -> None:
    """The caller gets a request id, the log the place; the exception's text, which may quote anything, nobody."""

    def broken() -> None:
        raise RuntimeError(f"about {NUMBER} and hunter2secret")

    api.app.add_api_route("/broken", broken)
    answer = api.client.get("/broken", headers={"X-Request-Id": "my-request-1"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM)
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "my-request-1"
    assert "my-request-1" in lines.getvalue()
    for word in (NUMBER, "hunter2secret"):
        assert word not in answer.text + lines.getvalue()


def test_a_request_id_is_taken_when_it_is_well_formed() -> None:
    """Anything else, and whatever looks like a number of a person, is replaced."""
    taken = ["abc-123.X_y", "0123456789abcdef0123456789abcdef"]
    assert [request_id_of(each) for each in taken] == taken
    for bad in (None, "", "short", "a" * 65, "with space", NUMBER, "line\nbreak", "ünicode-id"):
        assert request_id_of(bad) not in {bad, ""}


def test_a_database_that_is_away_is_503(fresh_database: str) -> None:
    """With the configured token even then; a named one cannot be checked. The probe of life still answers."""
    engine = make_engine("postgresql://nobody@127.0.0.1:1/nothing", pool_size=1)
    runtime = runtime_on(engine)
    with running(make_api(runtime, token=TOKEN)) as url, httpx.Client(base_url=url) as client:
        for token in (TOKEN, "ulak_" + "a" * 43):
            answer = client.get("/v1/accounts", headers={"Authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
            assert answer.headers.get("retry-after") == "2"
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
    runtime.door.close()


def test_no_number_and_no_secret_stands_in_an_error_or_a_log_line(
    api: Api, lines: io.StringIO, migrated_database: Engine
) -> None:
    """A canary in every place where a caller can put one comes back nowhere."""
    with transaction(migrated_database) as connection:
        add_account(connection, "marka-sms")
        add_account(connection, "bildirim", provider="bip")
    secret = "canary-secret-0451"
    answers = [
        api.client.get("/v1/deliveries", params={"recipient": NUMBER, "status": NUMBER}),
        api.client.get("/v1/deliveries", params={NUMBER: "x"}),
        api.client.get("/v1/deliveries", params={"cursor": NUMBER}),
        api.client.get("/v1/deliveries", params={"account": f"+{NUMBER}"}),
        api.client.get(f"/v1/deliveries/x{NUMBER}"),
        api.client.get(f"/v1/nothing/{NUMBER}"),
        api.client.post("/v1/polls", json={"account": f"a{NUMBER}", NUMBER: 1}),
        api.client.post("/v1/polls", json={"account": "marka-sms", "ids": [{"kind": NUMBER, "value": NUMBER}]}),
        api.client.post("/v1/tracked", json={"account": NUMBER, "ids": []}),
        api.client.post("/v1/tracked", json={"account": "marka-sms", NUMBER: 1}),
        api.client.post(
            "/v1/tracked",
            json={
                "account": "marka-sms",
                "ids": [
                    {"kind": "number", "value": f"x:{NUMBER}"},
                    {"kind": NUMBER, "value": NUMBER},
                    {"kind": "number", "value": "1:2", "sent_at": NUMBER},
                    {"kind": "number", NUMBER: 1},
                    NUMBER,
                ],
            },
        ),
        api.client.post("/v1/reports/bildirim", content=f"<html>{NUMBER}".encode()),
        api.client.post(f"/v1/accounts/{NUMBER}x/pause", json={"reason": NUMBER, "until": NUMBER}),
        api.client.get("/v1/accounts", headers={"Authorization": f"Bearer {secret}"}),
        api.client.post(f"/callbacks/bip/{NUMBER}", content=NUMBER, headers={"Authorization": f"Basic {secret}"}),
    ]
    # A request's line is written after its answer.
    deadline = clock.boot() + 40
    while lines.getvalue().count("api.answered") < len(answers):
        assert clock.boot() < deadline, "a request left no line in the log"
        clock.sleep(0.01)
    told = "".join(answer.text for answer in answers) + lines.getvalue()
    for canary in (NUMBER, NUMBER[2:], secret, TOKEN):
        assert canary not in told


@pytest.mark.parametrize(
    "name",
    [
        None,
        "application/x-www-form-urlencoded",
        "text/plain",
        "application/json; charset=utf-8",
        "multipart/form-data",
        "?",
    ],
)
def test_a_body_is_json_whatever_the_content_type_says(api: Api, name: str | None) -> None:
    """`curl -d` calls it a form; what is no JSON is a clear 400 under any name."""
    with transaction(api.engine) as connection:
        add_account(connection, "marka-sms")
    headers = {} if name is None else {"Content-Type": name}

    def post(path: str, body: bytes) -> int:
        return api.client.post(path, content=body, headers=headers).status_code

    assert post("/v1/polls", b'{"account": "marka-sms"}') == 202
    assert post("/v1/accounts/marka-sms/pause", b'{"reason": "maintenance"}') == 200
    assert [post("/v1/polls", body) for body in (b"account=marka-sms", b"{")] == [400, 400]
    assert api.get("/v1/accounts")["accounts"][0]["reason"] == "maintenance"
