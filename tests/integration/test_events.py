"""The record of who did, saw or erased what: nothing is missing, nothing can be changed, no number stands in it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from task_api import TOKEN, running, runtime_on
from test_roles import House, form_mark

from ulak.api.app import make_api
from ulak.api.pages.routes import add_pages
from ulak.core.credentials import CredentialError
from ulak.core.environment import invoking_user
from ulak.core.settings import load_settings
from ulak.models.access import Role
from ulak.models.database import retry_transaction, transaction
from ulak.models.deliveries import upsert
from ulak.models.events import Action, Actor, Event, Kind, Via, list_events, person_mark, record
from ulak.models.report import DeliveryReport
from ulak.models.tokens import create_token
from ulak.models.vocabulary import Granularity, Status
from ulak.tasks.runtime import person_key
from ulak.workers.audit_recording import Recorder

__all__ = ["ulak"]

NUMBER, NATIONAL, OTHER = "+905301234567", "5301234567", "+905301234568"
ASKED = datetime(2026, 5, 1, 12, tzinfo=UTC)
SOMEBODY = Actor(kind=Kind.TOKEN, name="crm")
FILE = """
[[account]]
id = "yeni"
provider = "vairo"
base_url = "http://127.0.0.1:9402"
[account.credentials]
api_key = "env:VAIRO_KEY"
"""


def message(key: str, number: str | None) -> DeliveryReport:
    """A delivered message to a number."""
    return DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=key,
        status=Status.DELIVERED,
        provider_status="1",
        recipient=number,
        client_ref=f"ref-{key}",
    )


@pytest.fixture
def house(migrated_database: Engine, ulak: Ulak) -> Iterator[House]:
    """API and pages over the database and the home that the command line uses; a token for each role."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
        upsert(connection, "kampanya", "vairo", [message("m-1", NUMBER), message("m-2", OTHER)], asked_at=ASKED)
        rows = connection.execute(text("SELECT provider_key, id FROM delivery_status"))
        deliveries = {row.provider_key: row.id for row in rows}
        tokens = {role.value: create_token(connection, role.value, role=role) for role in Role}
    settings = load_settings().model_copy(update={"api_token": SecretStr(TOKEN)})
    runtime = runtime_on(migrated_database)
    app = make_api(runtime, token=TOKEN, settings=settings)
    add_pages(app, runtime, settings)
    with running(app) as url:
        yield House(url, migrated_database, tokens, deliveries, 0, app)
    runtime.door.close()


def events(ulak: Ulak, *words: str) -> list[tuple[str, str, str, str]]:
    """(action, via, kind, actor) of the events that match, the oldest first."""
    found = ulak("events", *words, "--json")
    assert found.code == 0, found
    return [
        (each["action"], each["via"], each["actor_kind"], each["actor"]) for each in reversed(json.loads(found.out))
    ]


def stored(engine: Engine) -> str:
    """The whole table as text."""
    with engine.connect() as connection:
        return "\n".join(str(row) for row in connection.execute(text("SELECT e::text FROM events e")).scalars())


# ---------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET actor = 'x'",
        "DELETE FROM events",
        "TRUNCATE events",
        "UPDATE events SET actor = 'x' WHERE id = 0",
    ],
)
def test_no_event_can_be_changed_or_deleted(migrated_database: Engine, statement: str) -> None:
    """PostgreSQL refuses it, whoever asks with our role."""
    with transaction(migrated_database) as connection:
        record(connection, Event(action=Action.POLL_OPENED, actor=SOMEBODY, via=Via.API, account="a"))
    with pytest.raises(DBAPIError, match="only appended"), transaction(migrated_database) as connection:
        connection.execute(text(statement))
    with migrated_database.connect() as connection:
        [event] = list_events(connection)
    assert (event.action, event.actor, event.account_id) == ("poll.opened", "crm", "a")


def test_an_event_stands_or_falls_with_what_it_records(migrated_database: Engine) -> None:
    """In the same transaction: nothing is done unrecorded, and nothing recorded that was not done."""

    def fail(connection: Connection) -> None:
        record(connection, Event(action=Action.ACCOUNT_PAUSED, actor=SOMEBODY, via=Via.API))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        retry_transaction(migrated_database, fail)
    with migrated_database.connect() as connection:
        assert list_events(connection) == []


def test_a_mark_of_a_person_needs_the_key() -> None:
    """Numbers are few enough to try all of them: without the key nobody can."""
    assert person_mark(b"k" * 32, NUMBER) == person_mark(b"k" * 32, NUMBER)
    assert len({person_mark(key, who) for key in (b"k" * 32, b"l" * 32) for who in (NUMBER, OTHER)}) == 4
    assert NATIONAL.encode() not in person_mark(b"k" * 32, NUMBER)


# --------------------------------------------------------------------------------------------- what it answers


def test_it_answers_who_viewed_a_number(house: House, ulak: Ulak) -> None:
    """Through page, API and command line; searches too, found or not; in any spelling; nothing of another number."""
    one, two = house.deliveries["m-1"], house.deliveries["m-2"]
    with house.browser("support") as client:
        mark = form_mark(client.get("/deliveries").text)
        place = client.post("/deliveries", data={"form_mark": mark, "recipient": "0530 123 45 67"}).headers["location"]
        client.get(place)
        client.post(f"/deliveries/{one}/reveal", data={"form_mark": mark})
    house.api("support", "POST", f"/v1/deliveries/{one}/reveal")
    house.api("support", "POST", f"/v1/deliveries/{two}/reveal")
    house.api("operate", "GET", f"/v1/deliveries/{one}")
    house.api("operate", "GET", "/v1/deliveries", params={"recipient": NUMBER})
    # Nobody's number was shown by these.
    house.api("read", "GET", f"/v1/deliveries/{one}")
    house.api("support", "GET", f"/v1/deliveries/{one}")
    me = invoking_user()
    ulak("explain", str(one))
    ulak("deliveries", "--recipient", "0090 530 123 45 67")
    assert events(ulak, "--recipient", "530 123 45 67") == [
        ("person.searched", "page", "token", "support"),
        ("number.revealed", "page", "token", "support"),
        ("number.revealed", "api", "token", "support"),
        ("delivery.viewed", "api", "token", "operate"),
        ("person.searched", "api", "token", "operate"),
        ("delivery.viewed", "cli", "cli", me),
        ("person.searched", "cli", "cli", me),
    ]
    assert events(ulak, "--recipient", OTHER) == [("number.revealed", "api", "token", "support")]
    by_api = house.api("admin", "GET", "/v1/events", params={"recipient": NUMBER, "action": "number.revealed"}).json()
    assert [(each["actor"], each["via"], each["delivery_id"]) for each in by_api["events"]] == [
        ("support", "api", one),
        ("support", "page", one),
    ]
    assert "in bulk" in ulak("events", "--recipient", NUMBER).err


def test_it_answers_who_paused_an_account(
    house: House, ulak: Ulak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And who resumed, polled, cancelled and changed it, through whatever, with the reason."""
    with house.browser("operate") as client:
        mark = form_mark(client.get("/").text)
        for verb, more in (("pause", {"reason": "yeni anahtar"}), ("resume", {}), ("poll", {"once": "1"})):
            answer = client.post(f"/accounts/kampanya/{verb}", data={"form_mark": mark} | more)
            assert answer.status_code == 303
    house.api("admin", "POST", "/v1/accounts/kampanya/pause", json={"reason": f"call {NUMBER}"})
    house.api("admin", "POST", "/v1/accounts/kampanya/pause", json={"reason": "twice changes nothing"})
    house.api("admin", "POST", "/v1/accounts/kampanya/resume")
    poll = house.api(
        "admin", "POST", "/v1/polls", json={"account": "kampanya"}, headers={"Idempotency-Key": "k"}
    ).json()
    house.api("admin", "POST", "/v1/polls", json={"account": "kampanya"}, headers={"Idempotency-Key": "k"})
    house.api("admin", "DELETE", f"/v1/polls/{poll['id']}")
    assert ulak("accounts", "pause", "kampanya", "--why", "kural").err == "kampanya is paused.\n"
    assert ulak("accounts", "resume", "kampanya").err == "kampanya is resumed.\n"
    me = invoking_user()
    assert events(ulak, "--account", "kampanya") == [
        ("account.paused", "page", "token", "operate"),
        ("account.resumed", "page", "token", "operate"),
        ("poll.opened", "page", "token", "operate"),
        ("account.paused", "api", "token", "admin"),
        ("account.resumed", "api", "token", "admin"),
        ("poll.opened", "api", "token", "admin"),
        ("poll.cancelled", "api", "token", "admin"),
        ("account.paused", "cli", "cli", me),
        ("account.resumed", "cli", "cli", me),
    ]
    paused = json.loads(ulak("events", "--action", "account.paused", "--json").out)
    assert [each["details"]["reason"] for each in reversed(paused)][0::2] == ["yeni anahtar", "kural"]
    assert NATIONAL not in stored(house.engine)
    monkeypatch.setenv("VAIRO_KEY", "v" * 30)
    (tmp_path / "a.toml").write_text(FILE, encoding="utf-8")
    ulak("accounts", "apply", str(tmp_path / "a.toml"), "--prune")
    assert events(ulak, "--account", "yeni") == [("account.created", "cli", "cli", me)]
    assert events(ulak, "--action", "account.disabled") == [("account.disabled", "cli", "cli", me)]


def test_it_answers_who_erased_whom_and_survives_the_erasure(house: House, ulak: Ulak) -> None:
    """The events about the person stay; the number is in none of them, nor anywhere else in the table."""
    house.api("support", "POST", f"/v1/deliveries/{house.deliveries['m-1']}/reveal")
    assert ulak("erase", "0530 123 45 67", "--yes").code == 0
    me = invoking_user()
    assert events(ulak, "--recipient", NUMBER) == [
        ("number.revealed", "api", "token", "support"),
        ("person.erased", "cli", "cli", me),
    ]
    assert events(ulak, "--recipient", OTHER) == []
    found = stored(house.engine)
    assert ("person.erased" in found, NATIONAL in found, "number.revealed" in found) == (True, False, True)
    assert json.loads(ulak("events", "--action", "person.erased", "--json").out)[0]["details"]["deliveries"] == 1


def test_an_erasure_that_cannot_be_recorded_is_not_done(
    house: House, ulak: Ulak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key nobody could say later who erased whom."""
    (tmp_path / "short").write_text("short")
    monkeypatch.setenv("ULAK_PERSON_KEY_FILE", str(tmp_path / "short"))
    refused = ulak("erase", NUMBER, "--yes")
    assert (refused.code, "give at least 32 characters" in refused.err) == (1, True)
    monkeypatch.delenv("ULAK_PERSON_KEY_FILE")
    assert house.api("admin", "GET", "/v1/deliveries", params={"recipient": NUMBER}).json()["deliveries"] != []


def test_a_number_that_cannot_be_recorded_is_not_shown(house: House) -> None:
    """The record comes first: 503 and nothing of the delivery, on the page and in the API. Masked reading goes on."""
    path = f"/deliveries/{house.deliveries['m-1']}"
    with house.browser("support") as client:
        mark = form_mark(client.get("/").text)
        with transaction(house.engine) as connection:
            name = house.engine.url.database
            connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
        house.engine.dispose()
        for answer in (
            client.post(f"{path}/reveal", data={"form_mark": mark}),
            house.api("support", "POST", f"/v1{path}/reveal"),
        ):
            assert (answer.status_code, NATIONAL in answer.text) == (503, False)
        assert house.api("support", "GET", f"/v1{path}").status_code == 200
        # What programs read goes on, as it always did; the log has what the table lacks.
        assert NATIONAL in house.api("operate", "GET", "/v1/deliveries").text


def test_reading_in_bulk_is_recorded_once_an_hour_for_each_actor_and_account(house: House, ulak: Ulak) -> None:
    """A program that follows the feed would fill the table otherwise. Masked reading is no such event."""
    for who in ("operate", "admin", "read", "support"):
        for _ in range(3):
            house.api(who, "GET", "/v1/deliveries")
    assert events(ulak, "--action", "deliveries.read") == [
        ("deliveries.read", "api", "token", "operate"),
        ("deliveries.read", "api", "token", "admin"),
    ]


def test_what_senders_do_all_day_is_recorded_once_an_hour(house: House, ulak: Ulak) -> None:
    """Registering and handing over; what stands in the ids is not repeated."""
    body = {"account": "kampanya", "ids": [{"kind": "number", "value": f"9:{NATIONAL}"}]}
    for _ in range(3):
        assert house.api("operate", "POST", "/v1/tracked", json=body).status_code == 200
    assert events(ulak, "--account", "kampanya") == [("ids.registered", "api", "token", "operate")]
    assert NATIONAL not in stored(house.engine)


def test_an_hour_passes_for_each_kind_of_event_by_itself(
    migrated_database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By actor, action and account."""
    now = [1000.0]
    monkeypatch.setattr("ulak.workers.audit_recording.clock.boot", lambda: now[0])
    recorder = Recorder(migrated_database, lambda: b"k" * 32)

    def note(actor: str, account: str | None) -> None:
        who = Actor(kind=Kind.TOKEN, name=actor)
        recorder.add_hourly(Event(action=Action.DELIVERIES_READ, actor=who, via=Via.API, account=account))

    for moment, actor, account in (
        (0, "a", "x"),
        (0, "a", "x"),
        (0, "a", "y"),
        (0, "b", "x"),
        (3599, "a", "x"),
        (3600, "a", "x"),
    ):
        now[0] = 1000.0 + moment
        note(actor, account)
    with migrated_database.connect() as connection:
        rows = [(row.actor, row.account_id) for row in list_events(connection)]
    assert rows == [("a", "x"), ("b", "x"), ("a", "y"), ("a", "x")]


def test_tokens_and_secrets_leave_an_event(house: House, ulak: Ulak, redis_url: str) -> None:
    """Who made which token with which role, who revoked it, and who had the secrets shown; never a token itself."""
    made = ulak("tokens", "create", "santral", "--role", "support", "--account", "kampanya")
    assert (made.code, "only of kampanya" in made.err) == (0, True)
    ulak("tokens", "revoke", "santral")
    ulak("tokens", "revoke", "santral")
    ulak("secrets", "show")
    me = invoking_user()
    names = ("token.created", "token.revoked", "secrets.shown")
    assert [each for name in names for each in events(ulak, "--action", name)] == [
        (name, "cli", "cli", me) for name in names
    ]
    [created] = json.loads(ulak("events", "--action", "token.created", "--json").out)
    assert created["details"] == {"name": "santral", "role": "support", "accounts": ["kampanya"]}
    assert made.out.strip() not in stored(house.engine)


def test_tokens_are_listed_with_their_roles_and_least_is_the_default(house: House, ulak: Ulak) -> None:
    """A token without a role may only read; an account or role that is not there is refused, and so is our own name."""
    ulak("tokens", "create", "pano")
    rows = {row["name"]: (row["role"], row["accounts"]) for row in json.loads(ulak("tokens", "list", "--json").out)}
    assert (rows["pano"], rows["admin"]) == (("read", None), ("admin", None))
    for words in (("--account", "nobody"), ("--role", "owner")):
        assert ulak("tokens", "create", "biri", *words).code != 0
    assert ulak("tokens", "create", "configured").code == 2
    assert "biri" not in ulak("tokens", "list").out


# ------------------------------------------------------------------------------------------------ who may read it


@pytest.mark.parametrize("who", ["read", "support", "operate", "admin"])
def test_the_account_page_shows_what_was_done_and_to_administrators_who_looked(house: House, who: str) -> None:
    """Colleagues see who paused the account, and not whose number somebody looked at."""
    house.api("operate", "POST", "/v1/accounts/kampanya/pause", json={"reason": "Bakım"})
    house.api("support", "POST", f"/v1/deliveries/{house.deliveries['m-1']}/reveal")
    with house.browser(who) as client:
        page = client.get("/accounts/kampanya").text
    assert ("paused the account" in page, "Bakım" in page) == (True, True)
    assert ("revealed the number" in page) == (who == "admin")
    assert NATIONAL not in page


@pytest.mark.parametrize("limited", [False, True])
def test_the_account_page_shows_administrators_of_all_accounts_who_erased(
    house: House, ulak: Ulak, limited: bool
) -> None:
    """An erasure concerns every account and names none."""
    assert ulak("erase", NUMBER, "--yes").code == 0
    house.api("operate", "POST", "/v1/accounts/kampanya/pause")
    if limited:
        with transaction(house.engine) as connection:
            connection.execute(text("UPDATE api_tokens SET accounts = '{kampanya}' WHERE name = 'admin'"))
    with house.browser("admin") as client:
        page = client.get("/accounts/kampanya").text
    assert ("erased a person" in page) is not limited
    assert limited or page.index("paused the account") < page.index("erased a person")
    assert NATIONAL not in page


def test_a_limited_administrator_sees_the_events_of_those_accounts_alone(house: House, ulak: Ulak) -> None:
    """Nor does one learn by a number who looked at it elsewhere."""
    with transaction(house.engine) as connection:
        add_account(connection, "otp")
        connection.execute(text("UPDATE api_tokens SET accounts = '{otp}' WHERE name = 'admin'"))
    house.api("operate", "POST", "/v1/accounts/kampanya/pause")
    house.api("operate", "POST", "/v1/accounts/otp/pause")
    ulak("secrets", "show")
    found = house.api("admin", "GET", "/v1/events").json()["events"]
    assert [(each["action"], each["account"]) for each in found] == [("account.paused", "otp")]
    assert house.api("admin", "GET", "/v1/events", params={"account": "kampanya"}).status_code == 404
    assert house.api("admin", "GET", "/v1/events", params={"recipient": NUMBER}).status_code == 403


def test_events_are_read_page_by_page(house: House) -> None:
    """The newest first; the cursor is of this search alone."""
    for _ in range(3):
        house.api("operate", "POST", "/v1/accounts/kampanya/resume")
    query: dict[str, Any] = {"limit": 2, "account": "kampanya"}
    seen: list[int] = []
    while True:
        page = house.api("admin", "GET", "/v1/events", params=query).json()
        seen += [each["id"] for each in page["events"]]
        if page["cursor"] is None:
            break
        query["cursor"] = page["cursor"]
    assert (len(seen), seen) == (3, sorted(seen, reverse=True))
    other = {"limit": 2, "account": "kampanya", "actor": "x", "cursor": query["cursor"]}
    assert house.api("admin", "GET", "/v1/events", params=other).status_code == 400


def test_the_person_key_is_one_for_every_process_and_no_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made once in the home; a file that is named must hold a real secret."""
    monkeypatch.setenv("ULAK_HOME", str(tmp_path / "home"))
    settings = load_settings()
    assert person_key(settings) == person_key(settings)
    assert (tmp_path / "home" / "secrets" / "person_key").stat().st_mode & 0o777 == 0o600
    for content in ("short", "change-me" * 6):
        (tmp_path / "key").write_text(content)
        monkeypatch.setenv("ULAK_PERSON_KEY_FILE", str(tmp_path / "key"))
        with pytest.raises(CredentialError):
            person_key(load_settings())
    (tmp_path / "key").write_text("x" * 40)
    assert person_key(load_settings()) == b"x" * 40


def test_the_command_line_shows_events_for_people(house: House, ulak: Ulak) -> None:
    """A table with who, what and why; an unknown action or account is said so."""
    house.api("operate", "POST", "/v1/accounts/kampanya/pause", json={"reason": "Bakım"})
    lines = ulak("events").out.splitlines()
    assert lines[0].split() == ["id", "when", "who", "kind", "via", "action", "account", "delivery", "details"]
    assert [each for each in ("operate", "account.paused", "kampanya", "reason Bakım") if each not in lines[1]] == []
    assert ulak("events", "--action", "x").code == 2
    assert ulak("events", "--account", "nobody").code == 1
    assert ulak("events", "--since", "1h").out.count("account.paused") == 1
    with httpx.Client(base_url=house.url) as client:
        assert client.get("/v1/events").status_code == 401
