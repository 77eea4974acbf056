"""`ulak rebuild --reread`: facts are derived again from stored raw items, so that rows heal after an update."""

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command_line import Ulak, ulak
from demo_accounts import apply_accounts, register_sends
from driving import Driver, make_runtime, scalar
from ledger_acts import add_account, add_ids, execute
from made_accounts import made_account
from quiet_cluster import wait_for_the_feed
from sqlalchemy import Engine, text
from stored_rows import stored_rows

from ulak.core.settings import load_settings
from ulak.models.account import load
from ulak.models.changes import read_changes
from ulak.models.database import transaction
from ulak.models.deliveries import load_histories, upsert
from ulak.models.facts import Facts, content_hash
from ulak.models.rebuild import rebuild
from ulak.models.report import DeliveryReport, Report
from ulak.models.suppression import Suppressions
from ulak.models.vocabulary import Granularity, Source, Status
from ulak.providers.adapter import Answer, Callback, Fetch
from ulak.providers.organik import ADAPTER as ORGANIK
from ulak.providers.organik_requests import batch_of
from ulak.providers.vairo import ADAPTER as VAIRO
from ulak.providers.vairo import _spec, split_value
from ulak.sandbox.server import Sandbox
from ulak.tasks.runtime import account_without_credentials, seal_key
from ulak.tasks.steps.callbacks import ingest
from ulak.tasks.steps.finishing import unreported
from ulak.tasks.steps.rereading import RereadResult, reread_statements

__all__ = ["ulak"]

pytestmark = pytest.mark.timeout(200)

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Five small stand-ins, every life at its end within some seconds."""
    with Sandbox(seed=5, speed=120, scale="small") as running:
        yield running


def organik_rows(**varied: Any) -> list[Report]:
    """The reports of the documented sample, read by today's adapter; `varied`: fields of every row."""
    reply = json.loads((FIXTURES / "organik" / "reply.json").read_bytes())
    for row in reply["response"]["data"]:
        row.update(varied)
    account = account_without_credentials(made_account("organik", timezone="UTC"))
    ids = sorted({str(row["transaction_id"]) for row in reply["response"]["data"]})
    body = msgspec.json.encode(reply)
    return list(ORGANIK.parse(account, Fetch(spec=batch_of("transaction", ids)), Answer(status=200, body=body)).reports)


def age(engine: Engine, changes: Mapping[str, Any], *, but: tuple[str, ...] = ()) -> None:
    """Give every stored statement the facts that an earlier version derived, and the rows what follows from them."""
    with engine.begin() as connection:
        ids = connection.execute(text("SELECT id FROM delivery_status")).scalars().all()
        for place, history in load_histories(connection, ids).items():
            for seen in history.values():
                if seen.source is Source.OURS:
                    continue
                said = {**msgspec.to_builtins(seen.facts), **changes}
                facts = {name: value for name, value in said.items() if name not in but}
                connection.execute(
                    text(
                        "UPDATE observations SET facts = CAST(:facts AS jsonb), content_hash = :new"
                        " WHERE delivery_id = :id AND content_hash = :old"
                    ),
                    {
                        "id": place,
                        "old": seen.content_hash,
                        "new": content_hash(msgspec.convert(facts, Facts)),
                        "facts": json.dumps(facts),
                    },
                )


def test_rereading_what_was_just_stored_changes_nothing(
    ulak: Ulak, migrated_database: Engine, sandbox: Sandbox
) -> None:
    """The law of every adapter: of each stored statement it makes the facts that it made when the response came."""
    engine = migrated_database
    accounts = sandbox.control("GET", "/accounts")
    for account in accounts:
        account["poll"] = {**account["poll"], "every_seconds": 0.5, "time_factor": 0.01, "max_check_seconds": 5}
    apply_accounts(engine, accounts, Path.cwd())
    runtime = replace(make_runtime(engine), seal_key=seal_key(load_settings()))
    register_sends(runtime, sandbox.control("GET", "/sends"))
    with engine.connect() as connection:
        [bip] = [load(connection, account["id"]) for account in accounts if account["provider"] == "bip"]
    for name, tail in (("send_reply", "send_reply"), ("report", "report"), ("notice", "")):
        ingest(runtime, bip, Callback(tail=tail, body=(FIXTURES / "bip" / f"{name}.json").read_bytes()))
    seen = "SELECT count(DISTINCT d.provider) FROM delivery_status d JOIN observations o ON o.delivery_id = d.id"
    final = "SELECT count(*) FROM delivery_status WHERE is_final"
    with Driver(runtime).running() as driver:
        assert driver.until(
            lambda: scalar(engine, seen) == len(accounts) and int(str(scalar(engine, final))) > 50, seconds=100
        )
    result = ulak("rebuild", "--reread")
    assert result.code == 0, result
    assert "the facts of 0 differed, 0 rows changed" in result.out
    assert "0 of them differed" in result.out


def test_facts_of_an_earlier_version_heal_and_the_feed_reports_it(migrated_database: Engine) -> None:
    """A fact that today's adapter does not derive goes, a missing one comes; reading again finds nothing more."""
    engine = migrated_database
    account = add_account(engine, provider="organik")
    with transaction(engine) as connection:
        upsert(connection, account, "organik", organik_rows(status=2, errorcode=0), asked_at=NOON)
        wanted = stored_rows(connection, account)
    age(engine, {"provider_error": "0"}, but=("segments",))
    with transaction(engine) as connection:
        rebuild(connection)
        spoiled = stored_rows(connection, account)
    wait_for_the_feed(engine)
    with engine.connect() as connection:
        _, cursor = read_changes(connection, None)
    assert {row.provider_error for row in spoiled.values()} == {"0"}
    first, again = reread_statements(engine, Suppressions()), reread_statements(engine, Suppressions())
    many = len(wanted)
    assert first == RereadResult(deliveries=many, differed=many, written=many)
    assert again == RereadResult(deliveries=many)
    wait_for_the_feed(engine)
    with engine.connect() as connection:
        assert stored_rows(connection, account) == wanted
        changes, _ = read_changes(connection, cursor)
        assert {change.id for change in changes} == set(
            connection.execute(text("SELECT id FROM delivery_status")).scalars()
        )


def test_statements_that_become_equal_are_one_with_the_earlier_time(migrated_database: Engine) -> None:
    """The old form of a statement and the new one, stored side by side after an update, are one again."""
    engine = migrated_database
    account = add_account(engine, provider="organik")
    reports = organik_rows(status=2, errorcode=0)
    with transaction(engine) as connection:
        upsert(connection, account, "organik", reports, asked_at=NOON)
    age(engine, {"provider_error": "0"})
    with transaction(engine) as connection:
        upsert(connection, account, "organik", reports, asked_at=NOON + timedelta(hours=1))
        assert scalar(engine, "SELECT count(*) FROM observations") == len(reports)
    assert scalar(engine, "SELECT count(*) FROM observations") == 2 * len(reports)
    reread_statements(engine, Suppressions(), account)
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT as_of, facts ? 'provider_error' AS is_old FROM observations")).all()
    assert [(row.as_of, row.is_old) for row in kept] == [(NOON, False)] * len(reports)


def test_reading_again_keeps_when_each_statement_came(migrated_database: Engine) -> None:
    """A statement that is read otherwise is no news; of several that become equal the first one counts."""
    engine = migrated_database
    account = add_account(engine, provider="organik")
    came = "SELECT as_of, first_seen_at FROM observations ORDER BY as_of, delivery_id"

    def times() -> list[Any]:
        with engine.connect() as connection:
            return list(connection.execute(text(came)).all())

    for turn, errorcode in enumerate((0, 7)):
        with transaction(engine) as connection:
            reports = organik_rows(status=2, errorcode=errorcode)
            upsert(connection, account, "organik", reports, asked_at=NOON + timedelta(hours=turn))
    execute(engine, "UPDATE observations SET first_seen_at = as_of + interval '1 s'")
    before = times()
    assert len(before) == 2 * len(reports)
    age(engine, {"segments": 9})
    assert reread_statements(engine, Suppressions()).differed == len(reports)
    assert times() == before
    age(engine, {"segments": 8})
    with transaction(engine) as connection:
        for turn, errorcode in enumerate((0, 7), start=5):
            reports = organik_rows(status=2, errorcode=errorcode)
            upsert(connection, account, "organik", reports, asked_at=NOON + timedelta(hours=turn))
    reread_statements(engine, Suppressions())
    assert times() == before


def test_the_senders_reference_and_our_own_statements_stay(migrated_database: Engine) -> None:
    """What a tracked id gave and what Ulak itself stated is in no raw item, and is not lost."""
    engine = migrated_database
    account = add_account(engine, provider="vairo")
    with engine.connect() as connection:
        row = load(connection, account)
    body = (FIXTURES / "vairo" / "report.json").read_bytes()
    stated = json.loads(body)["aciklama"]
    send = str(stated["sms_gonderim_id"])
    number = split_value(f"{send}:{stated['numara']}")[1]
    fetch = Fetch(spec=_spec("NumaraRaporu", send, number, ()))
    answer = Answer(status=200, body=body.replace(b"DELIVERED", b"WAITING"))
    [report] = VAIRO.parse(account_without_credentials(row), fetch, answer).reports
    with transaction(engine) as connection:
        reports = [msgspec.structs.replace(report, client_ref="order-7"), unreported(report, NOON)]
        upsert(connection, account, "vairo", reports, asked_at=NOON)
        before = stored_rows(connection, account)
    assert reread_statements(engine, Suppressions()) == RereadResult(deliveries=1)
    age(engine, {"segments": 9})
    reread_statements(engine, Suppressions())
    with engine.connect() as connection:
        after = stored_rows(connection, account)
    assert after == before
    [row_after] = after.values()
    assert (row_after.client_ref, row_after.status) == ("order-7", "unreported")


def test_rereading_beside_writers_ends_in_what_the_history_gives(ulak: Ulak, migrated_database: Engine) -> None:
    """Workers go on writing while facts are derived again: nothing is lost, and a rebuild finds no difference."""
    engine = migrated_database
    account = add_account(engine, provider="organik")
    with transaction(engine) as connection:
        upsert(connection, account, "organik", organik_rows(status=0, errorcode=0), asked_at=NOON)
    age(engine, {"provider_error": "0"})
    ended = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for turn in range(60):
                reports = organik_rows(status=1 + turn % 4, sms_count=turn, errorcode=0)
                with transaction(engine) as connection:
                    upsert(connection, account, "organik", reports, asked_at=NOON + timedelta(minutes=turn))
        except BaseException as error:  # noqa: BLE001 - raised again by the test
            failures.append(error)
        finally:
            ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not ended.is_set():
        reread_statements(engine, Suppressions(), account)
    writer.join()
    assert not failures
    reread_statements(engine, Suppressions(), account)
    assert "0 of them differed" in ulak("rebuild").out
    assert scalar(engine, "SELECT count(*) FROM observations WHERE facts ? 'provider_error'") == 0
    each = scalar(engine, "SELECT min(n) FROM (SELECT count(*) AS n FROM observations GROUP BY delivery_id) counted")
    assert each == 61


def order(total: int) -> DeliveryReport:
    """An order of so many recipients, all delivered."""
    return DeliveryReport(
        granularity=Granularity.ORDER,
        provider_key="77",
        status=Status.DELIVERED,
        provider_status="114",
        total=total,
        delivered=total,
        undelivered=0,
        statement={"id": 77, "status": 114, "total": total, "delivered": total, "undelivered": 0},
    )


def recipient(number: str, ordinal: int) -> DeliveryReport:
    """A delivered recipient of that order."""
    return DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=f"77:{number}:{ordinal}",
        parent_key="77",
        recipient=number,
        status=Status.DELIVERED,
        provider_status="111",
        statement={"number": number, "status": 111},
    )


def test_phantoms_of_an_order_are_removed_and_the_order_is_polled_again(ulak: Ulak, migrated_database: Engine) -> None:
    """More messages than recipients: the repeated ones go, the feed says so, and the closed order becomes due."""
    engine = migrated_database
    account = add_account(engine, provider="iletimerkezi")
    add_ids(engine, account, ["77"], kind="order")
    execute(engine, "UPDATE tracked_ids SET closed_at = now(), close_reason = 'final', next_check_at = NULL")
    with transaction(engine) as connection:
        reports = [
            order(2),
            recipient("+905300000001", 1),
            recipient("+905300000001", 2),
            recipient("+905300000002", 1),
        ]
        upsert(connection, account, "iletimerkezi", reports, asked_at=NOON)
        phantom = connection.execute(
            text("SELECT id FROM delivery_status WHERE provider_key = '77:+905300000001:2'")
        ).scalar_one()
    wait_for_the_feed(engine)
    with engine.connect() as connection:
        _, cursor = read_changes(connection, None)
    result = ulak("rebuild", "--reread")
    assert "1 messages beyond the recipients of their order were removed" in result.out
    wait_for_the_feed(engine)
    with engine.connect() as connection:
        kept = set(connection.execute(text("SELECT provider_key FROM delivery_status")).scalars())
        changes, _ = read_changes(connection, cursor)
    assert kept == {"77", "77:+905300000001:1", "77:+905300000002:1"}
    assert [(change.id, change.delivery) for change in changes] == [(phantom, None)]
    due = "SELECT count(*) FROM tracked_ids WHERE closed_at IS NULL AND next_check_at <= clock_timestamp()"
    assert scalar(engine, due) == 1


def test_equal_numbers_that_the_order_has_room_for_stay(migrated_database: Engine) -> None:
    """Two messages to one number in an order of two recipients contradict nothing."""
    engine = migrated_database
    account = add_account(engine, provider="iletimerkezi")
    with transaction(engine) as connection:
        reports = [order(2), recipient("+905300000001", 1), recipient("+905300000001", 2)]
        upsert(connection, account, "iletimerkezi", reports, asked_at=NOON)
    assert reread_statements(engine, Suppressions()).removed == 0
    assert scalar(engine, "SELECT count(*) FROM delivery_status") == 3
