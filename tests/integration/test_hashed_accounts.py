"""Accounts with `recipients = "hashed"`: made once, searched by number, erased, and closed to older versions."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from task_api import TOKEN, running, runtime_on

from ulak.api.app import make_api
from ulak.api.pages.delivery_search import Finder
from ulak.api.pages.language import choose
from ulak.api.pages.rendering import Show
from ulak.api.pages.search_form import Search
from ulak.core.settings import load_settings
from ulak.models.access import EVERYTHING
from ulak.models.account import load
from ulak.models.accounts import AccountsRefusedError, apply
from ulak.models.database import LENT, make_engine, transaction
from ulak.models.deliveries import upsert
from ulak.models.pseudonyms import WrongPersonKeyError, key_check, pseudonym
from ulak.models.quarantine import open_sealed, seal
from ulak.models.report import DeliveryReport, Unreadable
from ulak.models.suppression import OtherPersonKeyError, suppress
from ulak.models.tracked import TrackedId, known_ids
from ulak.models.vocabulary import Granularity, Status
from ulak.providers.accounts import parse_accounts
from ulak.tasks.runtime import Runtime, person_key
from ulak.tasks.steps.quarantine_retry import reread
from ulak.tasks.steps.tracking import due_id, track
from ulak.workers.audit_recording import Recorder

__all__ = ["ulak"]

NUMBER, OTHER, ABROAD = "+905321234567", "+905309999999", "+491701234567"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
FILE = """
[[account]]
id = "gizli"
provider = "vairo"
base_url = "http://127.0.0.1:9402"
recipients = "{recipients}"
[account.credentials]
api_key = "env:VAIRO_KEY"
"""


def applied(engine: Engine, recipients: str, **options: Any) -> None:
    """The file with this form of recipients."""
    with transaction(engine) as connection:
        apply(connection, parse_accounts(FILE.format(recipients=recipients)), prune=False, **options)


def said(key: str, recipient: str | None, **fields: Any) -> DeliveryReport:
    """A statement about one message, or what `fields` say."""
    values = {"granularity": Granularity.MESSAGE, "status": Status.DELIVERED, "provider_status": "1"}
    return DeliveryReport(**{**values, "provider_key": key, "recipient": recipient, **fields})


@pytest.fixture
def key(ulak: Ulak) -> bytes:
    """The person key that the commands use."""
    del ulak
    return person_key(load_settings())


@pytest.fixture
def runtime(migrated_database: Engine, ulak: Ulak, key: bytes, tmp_path: Path) -> Iterator[Runtime]:
    """A process with a hashed account, in which three people have got something, and a clear one with the same."""
    (tmp_path / "accounts.toml").write_text(FILE.format(recipients="hashed"))
    assert ulak("accounts", "apply", "accounts.toml").code == 0
    runtime = runtime_on(migrated_database)
    runtime.suppressions.key = lambda: key
    reports = [
        said("m-1", NUMBER, client_ref="ref-1", provider_error=f"no {NUMBER[1:]}", statement={"numara": NUMBER[3:]}),
        said(f"o:{NUMBER}:1", NUMBER, parent_key="o"),
        said("m-2", OTHER),
        said("m-3", ABROAD),
        said("7:8:0:2026-05-01", "8", granularity=Granularity.CONVERSATION, status=Status.SENT, parent_key="7"),
    ]
    with transaction(migrated_database) as connection:
        add_account(connection, "acik")
        hidden = runtime.pseudonymiser_of(load(connection, "gizli"))
        assert hidden is not None
        upsert(connection, "gizli", "vairo", hidden.reports(reports), asked_at=NOON)
        upsert(connection, "acik", "vairo", reports, asked_at=NOON)
    yield runtime
    runtime.door.close()


def one(engine: Engine, query: str, **values: Any) -> Any:
    """One value."""
    with engine.connect() as connection:
        return connection.execute(text(query), values).scalar_one()


def clear_rows(engine: Engine, number: str) -> list[str]:
    """Rows of the hashed account, in any table, that hold these digits."""
    found: list[str] = []
    with engine.connect() as connection:
        for table in ("delivery_status", "tracked_ids", "quarantine", "polls", "fetches"):
            query = text(f"SELECT t::text FROM {table} t WHERE account_id = 'gizli' AND t::text LIKE :digits")
            found += connection.execute(query, {"digits": f"%{number[-10:]}%"}).scalars().all()
        query = text(
            "SELECT o::text FROM observations o JOIN delivery_status d ON d.id = o.delivery_id"
            " WHERE d.account_id = 'gizli' AND o::text LIKE :digits"
        )
        return [*found, *connection.execute(query, {"digits": f"%{number[-10:]}%"}).scalars()]


# ---------------------------------------------------------------------------------------------------------- the setting


def test_the_form_of_recipients_is_fixed_when_the_account_is_created(migrated_database: Engine) -> None:
    """Either way a change is refused with the reason, and nothing is changed; the same form again is fine."""
    applied(migrated_database, "hashed", person_key=lambda: b"k" * 32)
    applied(migrated_database, "hashed")
    with pytest.raises(
        AccountsRefusedError, match=r'gizli was created with recipients = "hashed".*no number can be made'
    ):
        applied(migrated_database, "clear")
    assert one(migrated_database, "SELECT recipients FROM accounts") == "hashed"
    assert bytes(one(migrated_database, "SELECT recipients_key FROM accounts")) == key_check(b"k" * 32)
    with transaction(migrated_database) as connection:
        connection.execute(text("UPDATE accounts SET recipients = 'clear', recipients_key = NULL"))
    with pytest.raises(
        AccountsRefusedError, match=r'created with recipients = "clear".*named by clear numbers already'
    ):
        applied(migrated_database, "hashed", person_key=lambda: b"k" * 32)


def test_without_a_person_key_no_hashed_account_is_made(migrated_database: Engine) -> None:
    """Its pseudonyms could not be made."""
    with pytest.raises(AccountsRefusedError, match="no person key"):
        applied(migrated_database, "hashed")
    assert one(migrated_database, "SELECT count(*) FROM accounts") == 0


def test_a_second_hashed_account_needs_the_key_of_the_first_and_of_the_erased(migrated_database: Engine) -> None:
    """A process without the right key would generate one, and nobody else could use the account."""
    with transaction(migrated_database) as connection:
        suppress(connection, b"k" * 32, [NUMBER])
    with pytest.raises(OtherPersonKeyError):
        applied(migrated_database, "hashed", person_key=lambda: b"l" * 32)
    applied(migrated_database, "hashed", person_key=lambda: b"k" * 32)
    second = parse_accounts(FILE.format(recipients="hashed").replace("gizli", "ikinci").replace("VAIRO", "SECOND"))
    with transaction(migrated_database) as connection:
        connection.execute(text("DELETE FROM suppressions"))
    with pytest.raises(WrongPersonKeyError), transaction(migrated_database) as connection:
        apply(connection, second, prune=False, person_key=lambda: b"l" * 32)
    with transaction(migrated_database) as connection:
        assert apply(connection, second, prune=False, person_key=lambda: b"k" * 32).created == ["ikinci"]


def test_the_command_says_why_the_form_cannot_be_changed(runtime: Runtime, ulak: Ulak, tmp_path: Path) -> None:
    """In one sentence, with exit code 1."""
    (tmp_path / "accounts.toml").write_text(FILE.format(recipients="clear"))
    ran = ulak("accounts", "apply", "accounts.toml")
    assert ran.code == 1
    assert "no number can be made again" in ran.err
    (tmp_path / "accounts.toml").write_text(FILE.format(recipients="masked"))
    checked = ulak("accounts", "check", "accounts.toml")
    assert checked.code == 1
    assert "recipients" in checked.err


def test_a_process_with_another_person_key_stores_nothing(runtime: Runtime) -> None:
    """Nor does it ask: the account's credentials are not even resolved."""
    runtime.suppressions.key = lambda: b"another person key of these tests"
    with runtime.engine.connect() as connection:
        row = load(connection, "gizli")
    with pytest.raises(WrongPersonKeyError):
        runtime.account(row)
    with pytest.raises(WrongPersonKeyError):
        track(runtime, "gizli", [{"kind": "number", "value": f"9:{NUMBER}"}])


# ------------------------------------------------------------------------------------------------ what is stored, found


def test_rows_hold_pseudonyms_and_statistics_the_operator_prefix(runtime: Runtime, key: bytes) -> None:
    """The same rows as in the clear account but for people; a pseudonym has the range of a Turkish number."""
    assert clear_rows(runtime.engine, NUMBER) == []
    with runtime.engine.connect() as connection:
        query = "SELECT account_id, number_range(recipient) AS prefix FROM delivery_status ORDER BY id"
        rows = connection.execute(text(query)).all()
        keys = connection.execute(
            text("SELECT provider_key FROM delivery_status WHERE account_id = 'gizli' ORDER BY id")
        ).scalars()
        assert sorted(keys) == sorted(
            [
                "m-1",
                "m-2",
                "m-3",
                f"o:{pseudonym(key, NUMBER)}:1",
                f"{pseudonym(key, '7')}:{pseudonym(key, '8')}:0:2026-05-01",
            ]
        )
    by_account = {name: sorted(str(row.prefix) for row in rows if row.account_id == name) for name in ("gizli", "acik")}
    assert by_account["gizli"] == ["+90530", "+90532", "+90532", "None", "None"]
    assert by_account["acik"] == ["+49", "+90530", "+90532", "+90532", "None"]


@pytest.mark.parametrize("spelling", [NUMBER, "0532 123 45 67", "5321234567", "00905321234567"])
def test_the_commands_find_a_number_in_both_accounts(
    runtime: Runtime, ulak: Ulak, spelling: str, tmp_path: Path
) -> None:
    """By recipient in any spelling, by file, by `explain`; and by the key that holds it."""

    def keys(*words: str) -> list[str]:
        found = ulak("deliveries", *words, "--format", "json")
        assert found.code == 0, found
        return sorted(row["account_id"] for row in json.loads(found.out))

    assert keys("--recipient", spelling) == ["acik", "acik", "gizli", "gizli"]
    assert keys("--provider-key", f"o:{NUMBER}:1") == ["acik", "gizli"]
    (tmp_path / "numbers.txt").write_text(spelling + "\n")
    assert keys("--file", "numbers.txt", "--by", "recipient") == ["acik", "acik", "gizli", "gizli"]
    explained = ulak("explain", spelling)
    assert explained.code == 0
    assert explained.out.count("gizli") >= 2
    assert NUMBER[-10:] not in ulak("deliveries", "--account", "gizli", "--format", "csv").out


def test_the_api_finds_a_number_in_both_accounts(runtime: Runtime) -> None:
    """By filter, by key, by look-up, of deliveries and of registered ids; the feed of the hashed one names nobody."""
    track(runtime, "gizli", [{"kind": "number", "value": "9:5321234567", "client_ref": "son"}])
    settings = load_settings().model_copy(update={"api_token": SecretStr(TOKEN)})
    app = make_api(runtime, token=TOKEN, settings=settings)
    headers = {"authorization": f"Bearer {TOKEN}"}
    with running(app) as url, httpx.Client(base_url=url, headers=headers) as client:

        def accounts(path: str, **query: str) -> list[str]:
            answer = client.get(path, params=query)
            assert answer.status_code == 200, answer.text
            document = answer.json()
            rows = document["deliveries"] if "deliveries" in document else document["tracked"]
            return sorted(row["account_id"] if "account_id" in row else row["account"] for row in rows)

        twice = ["acik", "acik", "gizli", "gizli"]
        assert accounts("/v1/deliveries", recipient="0532 123 45 67") == twice
        assert accounts("/v1/deliveries", provider_key=f"o:{NUMBER}:1") == ["acik", "gizli"]
        assert accounts("/v1/deliveries", parent_key="7", granularity="conversation") == ["acik", "gizli"]
        assert accounts("/v1/tracked", recipient=NUMBER) == ["gizli"]
        assert accounts("/v1/tracked", value="9:5321234567") == ["gizli"]
        [looked_up] = client.post("/v1/deliveries/lookup", json={"recipients": [NUMBER]}).json()["results"]
        # The feed waits for every transaction of the cluster that began before.
        end = time.monotonic() + 90
        while len(changes := client.get("/v1/changes").json()["changes"]) < 10 and time.monotonic() < end:
            time.sleep(0.2)
    assert (len(looked_up["deliveries"]), len(looked_up["unanswered"])) == (4, 1)
    assert len(changes) == 10
    assert [row for row in changes if "gizli" in str(row) and NUMBER[-10:] in str(row)] == []


@pytest.mark.parametrize(
    ("search", "found"),
    [
        (Search(recipient="0532 123 45 67"), ["acik", "acik", "gizli", "gizli"]),
        (Search(recipient=NUMBER, account="gizli"), ["gizli", "gizli"]),
        (Search(id=NUMBER), ["acik", "acik", "gizli", "gizli"]),
        (Search(id=f"o:{NUMBER}:1"), ["acik", "gizli"]),
        (Search(id=f"o:{NUMBER}:1", recipient=OTHER), []),
    ],
)
def test_the_status_page_finds_a_number_in_both_accounts(
    runtime: Runtime, key: bytes, search: Search, found: list[str]
) -> None:
    """By recipient, and by an id that is a number or a key that holds one."""
    recorder = Recorder(runtime.engine, lambda: key)
    with runtime.engine.connect() as connection:
        rows = Finder(connection, EVERYTHING, Show(choose("en", None)), recorder).find(search).rows
    assert sorted(row["account_id"] for row in rows) == found


def test_the_record_answers_who_searched_for_a_hashed_number(runtime: Runtime, ulak: Ulak) -> None:
    """By the number: what was done to its rows under their pseudonym is found, too, after its erasure as well."""
    row = one(runtime.engine, "SELECT id FROM delivery_status WHERE account_id = 'gizli' AND provider_key = 'm-1'")
    assert ulak("explain", str(row)).code == 0
    assert ulak("erase", NUMBER, "--yes").code == 0
    found = json.loads(ulak("events", "--recipient", NUMBER, "--json").out)
    assert {each["action"] for each in found} == {"delivery.viewed", "person.erased"}


def test_an_erasure_finds_hashed_rows_and_holds_for_them(runtime: Runtime, ulak: Ulak, key: bytes) -> None:
    """Deliveries, keys that hold the pseudonym and open ids go; reports of before the erasure are not stored again."""
    track(runtime, "gizli", [{"kind": "number", "value": f"9:{NUMBER}"}])
    ran = ulak("erase", "0532 123 45 67", "--yes")
    assert ran.code == 0, ran
    assert ran.out.startswith("4 deliveries, 4 statements, 1 registered ids")
    assert pseudonym(key, NUMBER) not in str(ulak("deliveries", "--format", "json").out)
    with transaction(runtime.engine) as connection:
        hidden = runtime.pseudonymiser_of(load(connection, "gizli"))
        assert hidden is not None
        reports = hidden.reports(
            [said("m-1", NUMBER, sent_at=NOON), said("m-9", NUMBER, sent_at=NOON + timedelta(days=9999))]
        )
        result = upsert(connection, "gizli", "vairo", reports, asked_at=NOON, suppressions=runtime.suppressions)
    assert (result.new, result.unchanged) == (1, 1)


# ---------------------------------------------------------------------------------------------------------- tracked ids


def tracked_row(engine: Engine) -> Any:
    """The only tracked id."""
    with engine.connect() as connection:
        return connection.execute(text("SELECT * FROM tracked_ids")).mappings().one()


def asked_id(engine: Engine) -> TrackedId:
    """The only tracked id, as planning reads it."""
    with engine.connect() as connection:
        [found] = known_ids(connection, "gizli", 2)
    return found


def test_an_id_keeps_its_number_only_while_it_is_open(runtime: Runtime, ulak: Ulak, key: bytes) -> None:
    """Registered again in any state it is the same id; opened again it can be asked for, closed it is a pseudonym."""
    value, hashed = "9:5321234567", f"9:{pseudonym(key, '5321234567')}"
    given = [{"kind": "number", "value": value}]
    assert track(runtime, "gizli", given) == 1
    row = tracked_row(runtime.engine)
    assert (row["value"], row["recipient"]) == (hashed, pseudonym(key, NUMBER))
    asked = asked_id(runtime.engine)
    assert (due_id(asked).key.value, due_id(asked).recipient) == (value, NUMBER)
    assert track(runtime, "gizli", given) == 0
    assert ulak("explain", value, "--next").code == 0
    assert ulak("untrack", "gizli", f"number={value}").code == 0
    closed = tracked_row(runtime.engine)
    assert (closed["value"], closed["clear"], closed["close_reason"]) == (hashed, None, "untracked")
    assert clear_rows(runtime.engine, NUMBER) == []
    assert track(runtime, "gizli", given) == 0
    opened = tracked_row(runtime.engine)
    assert (opened["closed_at"], due_id(asked_id(runtime.engine)).key.value) == (None, value)


def test_a_reference_by_a_key_that_holds_a_number_is_hashed_at_once(runtime: Runtime) -> None:
    """It is never asked for; its delivery gets the reference."""
    assert track(runtime, "gizli", [{"kind": "message", "value": f"o:{NUMBER}:1", "client_ref": "mine"}]) == 1
    assert clear_rows(runtime.engine, NUMBER) == []
    reference = "SELECT client_ref FROM delivery_status WHERE account_id = 'gizli' AND provider_key LIKE 'o:%'"
    assert one(runtime.engine, reference) == "mine"


# ----------------------------------------------------------------------------------------------------------- quarantine


def test_quarantine_seals_the_question_and_reads_it_again(runtime: Runtime, key: bytes) -> None:
    """Bytes and question are sealed, the stored row is under the pseudonym."""
    track(runtime, "gizli", [{"kind": "number", "value": f"9:{NUMBER}"}])
    item = {
        "id": "n-1", "sms_gonderim_id": "9", "numara": NUMBER[1:], "durum_gonderim": "DELIVERED", "mesaj_boy": 1,
    }  # fmt: skip
    raw = json.dumps({"durum": True, "aciklama": item}).encode()
    params = {"call": "NumaraRaporu", "send": "9", "number": NUMBER}
    with transaction(runtime.engine) as connection:
        seal(
            connection,
            runtime.seal_key,
            account_id="gizli",
            origin="poll:batch",
            unreadable=[Unreadable(reason="x", raw=raw)],
            context={"params": params, "as_of": NOON.isoformat()},
            seals_context=True,
        )
        entry = connection.execute(text("SELECT id FROM quarantine")).scalar_one()
        opened = open_sealed(connection, runtime.seal_key, entry)
    assert opened is not None
    assert opened.context["params"] == params
    assert [row for row in clear_rows(runtime.engine, NUMBER) if "NumaraRaporu" in row] == []
    done = reread(runtime, entry)
    assert done is not None
    assert (done.understood, done.new) == (True, 1)
    stored = "SELECT recipient FROM delivery_status WHERE account_id = 'gizli' AND provider_key = 'n-1'"
    assert one(runtime.engine, stored) == pseudonym(key, NUMBER)
    assert clear_rows(runtime.engine, NUMBER) == []


# ------------------------------------------------------------------------------------------------------- older versions

INSERTS = {
    "calls": "INSERT INTO calls (account_id, asked_at, gives_up_at, released_at) VALUES (:a, now(), now(), now())",
    "delivery_status": "INSERT INTO delivery_status (account_id, provider, granularity, provider_key, status, is_final,"
    " provider_status) VALUES (:a, 'vairo', 'message', 'k', 'sent', true, '1')",
    "polls": "INSERT INTO polls (account_id, trigger) VALUES (:a, 'api')",
    "quarantine": "INSERT INTO quarantine (account_id, reason, origin, fingerprint) VALUES (:a, 'x', 'x', '\\x00')",
    "tracked_ids": "INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until, next_check_at)"
    " VALUES (:a, 'number', 'v', 'sender', now(), now(), now())",
    "fetches": "INSERT INTO fetches (poll_id, account_id, kind, params, params_hash)"
    " SELECT id, :a, 'batch', '{}', 'h' FROM polls ORDER BY id LIMIT 1",
}


@pytest.mark.parametrize("table", sorted(INSERTS))
def test_a_session_that_does_not_hash_inserts_nothing_for_a_hashed_account(runtime: Runtime, table: str) -> None:
    """As sessions of older versions are. Accounts with clear recipients are not affected."""
    with transaction(runtime.engine) as connection:
        connection.execute(text(INSERTS["polls"]), {"a": "acik"})
    old = create_engine(runtime.engine.url)
    with old.begin() as connection:
        connection.execute(text(INSERTS[table]), {"a": "acik"})
    with pytest.raises(DBAPIError, match="gizli keeps no clear recipients"), old.begin() as connection:
        connection.execute(text(INSERTS[table]), {"a": "gizli"})
    old.dispose()
    with transaction(runtime.engine) as connection:
        connection.execute(text(INSERTS[table]), {"a": "gizli"})


def test_a_session_that_a_pooler_lends_says_in_each_transaction_that_it_hashes(runtime: Runtime) -> None:
    """A pooler may drop what a connection asked for when it began."""
    url = runtime.engine.url.render_as_string(hide_password=False)
    lent = make_engine(f"{url}?options=-c%20ulak.direct%3Doff%20-c%20ulak.hashes%3Doff")
    for _ in range(2):
        with lent.begin() as connection:
            assert connection.info[LENT]
            connection.execute(text(INSERTS["polls"]), {"a": "gizli"})
    lent.dispose()
