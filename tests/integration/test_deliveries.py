"""The one writer and the readers of the shared table, on a real PostgreSQL."""

import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain
from random import Random
from threading import Barrier

import pytest
from database_fixtures import add_account
from quiet_cluster import wait_for_the_feed
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from stored_rows import stored_rows

from ulak.models.changes import ChangeCursor, read_changes
from ulak.models.database import retry_transaction, transaction
from ulak.models.deliveries import UpsertResult, upsert
from ulak.models.erasure import Erased, NoPersonError, erase
from ulak.models.ledger.hashing import params_hash
from ulak.models.lookups import explain, find_by_any, find_delivery, history
from ulak.models.merge import Row, fold, observe
from ulak.models.quarantine import list_quarantine, new_key, seal
from ulak.models.rebuild import RebuildResult, rebuild
from ulak.models.report import DeliveryReport, Unreadable
from ulak.models.searches import find_deliveries, open_tracked
from ulak.models.vocabulary import Granularity, Reason, Source, Status

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MESSAGE = Granularity.MESSAGE


def said(status: Status, key: str = "k", **fields: object) -> DeliveryReport:
    """A statement about one message."""
    values = {"granularity": MESSAGE, "provider_key": key, "status": status, "provider_status": status.value}
    return DeliveryReport(**{**values, **fields})  # type: ignore[arg-type]


def tell(engine: Engine, account: str, *reports: DeliveryReport, hours: float = 0) -> UpsertResult:
    """Upsert in a transaction of its own; the answer was asked for some hours after noon."""
    with transaction(engine) as connection:
        return upsert(connection, account, "vairo", reports, asked_at=NOON + timedelta(hours=hours))


@pytest.fixture
def account(migrated_database: Engine) -> str:
    """An account of the test's own database."""
    with transaction(migrated_database) as connection:
        return add_account(connection, "marka-sms")


def only_row(engine: Engine, account: str) -> Row:
    """The row of the account's only delivery."""
    with engine.connect() as connection:
        (row,) = stored_rows(connection, account).values()
    return row


def test_a_batch_counts_new_advanced_and_unchanged_deliveries(migrated_database: Engine, account: str) -> None:
    """Each delivery counts once, however many statements about it the batch holds."""
    first = tell(
        migrated_database, account, said(Status.ENROUTE, "a"), said(Status.SCHEDULED, "a"), said(Status.SENT, "b")
    )
    again = tell(
        migrated_database, account, said(Status.DELIVERED, "a"), said(Status.SENT, "b"), said(Status.SENT, "c"), hours=1
    )
    a, b, c = ((MESSAGE, key) for key in "abc")
    assert first == UpsertResult(new=2, changed=frozenset({a, b}))
    assert again == UpsertResult(new=1, advanced=1, unchanged=1, changed=frozenset({a, c}))


def test_an_observation_that_changes_no_column_does_not_touch_the_row(migrated_database: Engine, account: str) -> None:
    """The weaker statement is kept as history; the row keeps its place on disk, `changed_at` and turn in the feed."""
    tell(migrated_database, account, said(Status.DELIVERED), hours=2)
    query = text("SELECT ctid::text, xmin::text, changed_at, changed_in FROM delivery_status")
    with migrated_database.connect() as connection:
        before = connection.execute(query).one()
    result = tell(migrated_database, account, said(Status.ENROUTE), hours=1)
    with migrated_database.connect() as connection:
        after = connection.execute(query).one()
        kept = connection.execute(text("SELECT count(*) FROM observations")).scalar_one()
    assert (result, after, kept) == (UpsertResult(unchanged=1), before, 2)


def test_changed_at_moves_only_with_a_column(migrated_database: Engine, account: str) -> None:
    """`first_seen_at` stays; `changed_at` is PostgreSQL's clock at the last real change."""
    query = text("SELECT first_seen_at, changed_at FROM delivery_status")
    times = []
    for status in (Status.ENROUTE, Status.ENROUTE, Status.DELIVERED):
        tell(migrated_database, account, said(status))
        with migrated_database.connect() as connection:
            times.append(connection.execute(query).one())
    assert times[0] == times[1]
    assert times[2].first_seen_at == times[0].first_seen_at
    assert times[2].changed_at > times[0].changed_at


def test_two_finals_are_a_conflict_that_stays(migrated_database: Engine, account: str) -> None:
    """The later statement wins, and nobody is kept from seeing that the provider contradicts itself."""
    tell(migrated_database, account, said(Status.DELIVERED))
    tell(migrated_database, account, said(Status.UNDELIVERABLE, reason=Reason.ABSENT), hours=1)
    tell(migrated_database, account, said(Status.DELIVERED), hours=2)
    assert only_row(migrated_database, account) == Row(
        status="undeliverable", is_final=True, reason="absent", provider_status="undeliverable", conflict=True
    )


def test_a_late_final_reopens_unreported(migrated_database: Engine, account: str) -> None:
    """`unreported` is ours; whatever final the provider still says wins, even without a time of its own."""
    ours = said(Status.UNREPORTED, source=Source.OURS, as_of=NOON + timedelta(hours=48))
    tell(migrated_database, account, said(Status.ENROUTE))
    tell(migrated_database, account, ours)
    assert only_row(migrated_database, account).status == "unreported"
    tell(migrated_database, account, said(Status.ENROUTE), hours=72)
    assert only_row(migrated_database, account).status == "unreported"
    tell(migrated_database, account, said(Status.DELIVERED, source=Source.CALLBACK))
    assert only_row(migrated_database, account) == Row(status="delivered", is_final=True, provider_status="delivered")


def test_a_notice_before_its_report_is_filled_in_later(migrated_database: Engine, account: str) -> None:
    """A read notice without a recipient makes the row; the send report that comes after it adds what it knows."""
    tell(migrated_database, account, said(Status.READ, source=Source.CALLBACK, extra={"msgid": 7}))
    tell(
        migrated_database,
        account,
        said(Status.ENROUTE, source=Source.SEND_REPLY, recipient="+905301234567", client_ref="t-1", extra={"n": 1}),
    )
    assert only_row(migrated_database, account) == Row(
        status="read",
        is_final=True,
        provider_status="read",
        recipient="+905301234567",
        client_ref="t-1",
        extra={"msgid": 7, "n": 1},
    )


def test_nul_and_surrogates_of_a_provider_are_stored_harmlessly(migrated_database: Engine, account: str) -> None:
    """One odd report does not keep its whole answer from being stored."""
    odd = said(Status.UNKNOWN, "a\0b\ud800", provider_status="\0?", extra={"\0": ["\ud800"]}, statement={"raw": "\0"})
    result = tell(
        migrated_database, account, odd, said(Status.SENT, "fine"), said(Status.SENT, "k" * 9999, total=10**12)
    )
    assert result.new == 3
    with migrated_database.connect() as connection:
        rows = stored_rows(connection, account)
    assert rows[MESSAGE, "a\ufffdb?"] == Row(
        status="unknown", is_final=False, provider_status="\ufffd?", extra={"\ufffd": ["?"]}
    )


THREADS = 8


def _told_by(thread: int) -> list[DeliveryReport]:
    """What one thread, and no other, says about forty deliveries, in an order of its own."""
    random = Random(thread)
    statuses = [Status.SCHEDULED, Status.ENROUTE, Status.SENT, Status.DELIVERED, Status.EXPIRED]
    told = [
        said(
            random.choice(statuses),
            f"key-{number}",
            provider_status=f"{thread}",
            as_of=NOON + timedelta(minutes=random.randrange(5)),
        )
        for number in range(40)
        for _ in range(3)
    ]
    random.shuffle(told)
    return told


@pytest.mark.parametrize("run", range(3))
def test_many_writers_of_the_same_keys_end_in_the_fold(migrated_database: Engine, account: str, run: int) -> None:
    """Eight threads speak of the same deliveries at once: no deadlock, and the table is the fold."""
    start = Barrier(THREADS)
    told = [_told_by(run * THREADS + thread) for thread in range(THREADS)]

    def write(mine: list[DeliveryReport]) -> int:
        start.wait()
        new = 0
        for first in range(0, len(mine), 25):
            # A plain transaction: a deadlock would raise here instead of being repeated.
            with transaction(migrated_database) as connection:
                new += upsert(connection, account, "vairo", mine[first : first + 25], asked_at=NOON).new
        return new

    with ThreadPoolExecutor(THREADS) as pool:
        new = sum(pool.map(write, told))
    seen = defaultdict(list)
    for report in chain(*told):
        seen[MESSAGE, report.provider_key].append(observe(report, asked_at=NOON))
    with migrated_database.connect() as connection:
        assert stored_rows(connection, account) == {key: fold(MESSAGE, made) for key, made in seen.items()}
        assert rebuild(connection, account) == RebuildResult(deliveries=40, differed=0)
    assert new == 40


def test_a_deadlock_of_the_caller_is_repeated(migrated_database: Engine) -> None:
    """Two transactions that lock two accounts crosswise both succeed under retry_transaction."""
    with transaction(migrated_database) as connection:
        names = [add_account(connection), add_account(connection)]
    both_hold_one = Barrier(2)
    runs: list[int] = []

    def lock_in(order: list[str], mine: int) -> None:
        def run(connection: Connection) -> None:
            runs.append(mine)
            for place, name in enumerate(order):
                connection.execute(text("UPDATE accounts SET throttles = throttles + 1 WHERE id = :id"), {"id": name})
                if place == 0 and runs.count(mine) == 1:
                    both_hold_one.wait()

        retry_transaction(migrated_database, run)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lock_in, [names, names[::-1]], [0, 1]))
    with migrated_database.connect() as connection:
        assert connection.execute(text("SELECT throttles FROM accounts")).scalars().all() == [2, 2]
    assert len(runs) > len(names)


def test_an_error_shows_no_value_of_a_row(migrated_database: Engine, account: str) -> None:
    """PostgreSQL's detail quotes the failing row; what reaches a log does not."""
    tell(migrated_database, account, said(Status.SENT, recipient="+905301234567"))
    with pytest.raises(DBAPIError) as caught, transaction(migrated_database) as connection:
        connection.execute(
            text("UPDATE delivery_status SET status = :word, client_ref = :ref"),
            {"word": "nonsense", "ref": "secret-ref"},
        )
    shown = f"{caught.value} {caught.value!r} {caught.value.orig} {caught.value.orig!r}"
    assert "delivery_status_status_known" in shown
    assert not any(word in shown for word in ("+905301234567", "nonsense", "secret-ref"))


def test_the_feed_of_changes_passes_nothing_over(migrated_database: Engine, account: str) -> None:
    """What commits late is fed late, in order; nothing that is written beside it overtakes it for good."""
    late = migrated_database.connect()
    late.begin()
    upsert(late, account, "vairo", [said(Status.SENT, "late")], asked_at=NOON)
    tell(migrated_database, account, said(Status.SENT, "early"))

    def fed(after: ChangeCursor | None = None) -> tuple[list[str], ChangeCursor]:
        with migrated_database.connect() as connection:
            told, cursor = read_changes(connection, after)
        return [each.delivery["provider_key"] for each in told if each.delivery], cursor

    nothing, begun = fed()
    assert (nothing, begun.changed_in) == ([], 0)
    late.commit()
    late.close()
    wait_for_the_feed(migrated_database)
    keys, cursor = fed(begun)
    assert keys == ["late", "early"]
    tell(migrated_database, account, said(Status.DELIVERED, "late"), said(Status.SENT, "early"), hours=1)
    wait_for_the_feed(migrated_database)
    assert fed(cursor)[0] == ["late"]


def test_look_ups_find_a_delivery_by_whatever_is_known(migrated_database: Engine, account: str) -> None:
    """Row id, provider key, client reference and number all lead to the row."""
    tell(
        migrated_database,
        account,
        said(Status.SENT, "m-1", recipient="+905301234567", client_ref="ref-1"),
        said(Status.DELIVERED, "m-2", recipient="+905309999999", client_ref="ref-2"),
        said(Status.SENT, "m-3"),
    )
    with migrated_database.connect() as connection:
        every = find_deliveries(connection).rows
        assert [row["provider_key"] for row in every] == ["m-1", "m-2", "m-3"]
        wanted = every[0]
        for ident in ("m-1", "ref-1", "+905301234567", str(wanted["id"])):
            assert find_by_any(connection, ident) == [wanted]
        assert find_by_any(connection, "0530 123 45 67", people=["+905301234567"]) == [wanted]
        assert [find_by_any(connection, "9" * digits) for digits in (19, 30)] == [[], []]
        assert find_deliveries(connection, account=account, status="delivered").rows == [every[1]]
        assert find_deliveries(connection, recipient="+905301234567", client_ref="ref-2").rows == []
        assert find_deliveries(connection, limit=1, after_id=every[0]["id"]).rows == [every[1]]
        assert find_deliveries(connection, since=datetime(2100, 1, 1, tzinfo=UTC)).rows == []
        assert every[-1] in find_deliveries(connection, since=every[-1]["changed_at"]).rows
        assert find_delivery(connection, wanted["id"]) == wanted
        assert find_delivery(connection, -1) is None


def test_an_explanation_tells_what_won_and_why(migrated_database: Engine, account: str) -> None:
    """Each statement shows its place, the part of the key that decided, and the fields that come from it."""
    tell(migrated_database, account, said(Status.ENROUTE, recipient="+905301234567", extra={"a": 1, "b": 1}))
    tell(migrated_database, account, said(Status.DELIVERED, extra={"b": 2}), hours=1)
    tell(migrated_database, account, said(Status.EXPIRED, reason=Reason.EXPIRED), hours=2)
    with migrated_database.connect() as connection:
        (row,) = find_deliveries(connection).rows
        told = explain(connection, row["id"])
        assert explain(connection, -1) is None
        assert len(history(connection, row["id"])) == 3
    assert told is not None
    assert [(one.observation.facts["status"], one.lost_by, one.gave) for one in told.statements] == [
        ("expired", None, ("status", "reason", "provider_status")),
        ("delivered", "as_of", ("extra.b",)),
        ("enroute", "class", ("recipient", "extra.a")),
    ]
    assert told.conflicting == ("delivered", "expired")


def track(engine: Engine, account: str, value: str, **columns: object) -> None:
    """Register an id, as a sender does."""
    values = {"account": account, "value": value, "recipient": None, "client_ref": None, **columns}
    with transaction(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until, next_check_at,"
                " recipient, client_ref) VALUES (:account, 'number', :value, 'sender', now(), now(), now(),"
                " :recipient, :client_ref)"
            ),
            values,
        )


def test_a_tracked_number_that_was_never_answered_shows_as_open(migrated_database: Engine, account: str) -> None:
    """It is listed until a delivery of its reference and number exists."""
    track(migrated_database, account, "77:5301234567", recipient="+905301234567", client_ref="ref-1")
    track(migrated_database, account, "77:5309999999", recipient="+905309999999", client_ref="ref-1")
    tell(migrated_database, account, said(Status.SENT, recipient="+905301234567", client_ref="ref-1"))
    with migrated_database.connect() as connection:
        assert [row["value"] for row in open_tracked(connection, client_ref="ref-1")] == ["77:5309999999"]
        assert open_tracked(connection, recipient="+905301234567") == []


def test_only_what_a_sender_waits_for_without_any_answer_shows_as_open(migrated_database: Engine, account: str) -> None:
    """Neither what an answer was about, nor what a list has shown; another account's equal reference hides nothing."""
    for value in ("waited for", "answered", "discovered"):
        track(migrated_database, account, value)
    track(migrated_database, account, "same reference", client_ref="ref-1")
    with transaction(migrated_database) as connection:
        connection.execute(text("UPDATE tracked_ids SET last_found_at = now() WHERE value = 'answered'"))
        connection.execute(text("UPDATE tracked_ids SET origin = 'discovered' WHERE value = 'discovered'"))
        other = add_account(connection, "marka-other")
    tell(migrated_database, other, said(Status.SENT, client_ref="ref-1"))
    with migrated_database.connect() as connection:
        shown = open_tracked(connection)
        assert [row["value"] for row in shown] == ["waited for", "same reference"]
        assert open_tracked(connection, after_id=shown[0]["id"]) == shown[1:]
        assert open_tracked(connection, account=other) == []


def test_erasing_removes_a_number_wherever_it_stands(migrated_database: Engine, account: str) -> None:
    """Deliveries, history, tracked ids and parameters of the number go; those of others stay."""
    mine, other = "+905301234567", "+905309999999"
    tell(
        migrated_database,
        account,
        said(Status.ENROUTE, "7:%2B905301234567:1", recipient=mine),
        said(Status.SENT, "8:5301234567"),
        said(Status.SENT, "9", recipient=other),
    )
    tell(migrated_database, account, said(Status.DELIVERED, "7:%2B905301234567:1", recipient=mine), hours=1)
    track(migrated_database, account, "77:5301234567", recipient=mine)
    track(migrated_database, account, "77:5309999999", recipient=other)
    with transaction(migrated_database) as connection:
        poll = connection.execute(
            text("INSERT INTO polls (account_id, kind, trigger) VALUES (:account, 'plan', 'cli') RETURNING id"),
            {"account": account},
        ).scalar_one()
        for state, number in (("done", mine), ("ready", mine), ("done", other)):
            connection.execute(
                text(
                    "INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, state, finished_at)"
                    " VALUES (:poll, :account, 'batch', jsonb_build_object('number', :number ::text), 'hash', :state,"
                    " CASE WHEN :state = 'done' THEN now() END)"
                ),
                {"poll": poll, "account": account, "number": number[3:], "state": state},
            )
        assert erase(connection, mine) == Erased(
            deliveries=2, observations=3, tracked_ids=1, fetches=1, polls=0, quarantined=0, open_fetches=1
        )
        assert [row["provider_key"] for row in find_deliveries(connection).rows] == ["9"]
        assert connection.execute(text("SELECT value FROM tracked_ids")).scalars().all() == ["77:5309999999"]
        assert erase(connection, mine) == Erased(
            deliveries=0, observations=0, tracked_ids=0, fetches=0, polls=0, quarantined=0, open_fetches=1
        )


def test_no_table_holds_an_erased_number_or_a_hash_of_it(migrated_database: Engine, account: str) -> None:
    """Every column of every table is read: parameters, labels, errors, polls' ids and keys; hashes can be tried out."""
    mine, other = "+905301234567", "+905309999999"
    numbers = ({"number": mine}, {"number": other})
    ids = [{"kind": "number", "value": f"77:{each['number']}"} for each in numbers]
    hashes = [params_hash("batch", each) for each in numbers]
    insert_poll = text(
        "INSERT INTO polls (account_id, kind, trigger, planned_at, idempotency_key, ids) VALUES"
        " (:account, 'on_demand', 'api', now(), :key, CAST(:ids AS jsonb)) RETURNING id"
    )
    insert_fetch = text(
        "INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, label, last_error, state, finished_at)"
        " VALUES (:poll, :account, 'batch', CAST(:params AS jsonb), :hash, :label, :label, 'done', now())"
    )
    with transaction(migrated_database) as connection:
        values = {"account": account, "key": "resend 0530 0000000 05301234567", "ids": json.dumps(ids)}
        poll = connection.execute(insert_poll, values).scalar_one()
        for params, digest in zip(numbers, hashes, strict=True):
            values = {"account": account, "poll": poll, "params": json.dumps(params), "hash": digest}
            connection.execute(insert_fetch, {**values, "label": params["number"]})
        gone = erase(connection, mine)
        tables = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars()
        dump = " ".join(
            str(row)
            for table in tables.all()
            for row in connection.execute(text(f'SELECT t::text FROM "{table}" t')).scalars()
        )
        kept = connection.execute(text("SELECT ids, idempotency_key FROM polls")).one()
    assert (gone.fetches, gone.polls, gone.open_fetches) == (1, 1, 0)
    assert [word for word in ("5301234567", hashes[0]) if word in dump] == []
    assert (hashes[1] in dump, tuple(kept)) == (True, ([ids[1]], None))


def test_a_number_goes_from_every_column_of_an_ended_fetch(migrated_database: Engine, account: str) -> None:
    """However the fetch ended, and wherever it names the number; what is about another stays as it is."""
    mine, other = "+905301234567", "+905309999999"
    columns = ("params", "seen", "page", "label", "last_error")
    empty = {"params": "{}", "seen": None, "page": None, "label": "", "last_error": None}
    places = [(state, column) for state in ("done", "dead", "cancelled") for column in columns]
    with transaction(migrated_database) as connection:
        poll = connection.execute(
            text("INSERT INTO polls (account_id, kind, trigger) VALUES (:account, 'plan', 'cli') RETURNING id"),
            {"account": account},
        ).scalar_one()
        for number in (mine, other):
            for state, column in places:
                named = number if column in ("label", "last_error") else json.dumps({"of": number})
                values = {**empty, "account": account, "poll": poll, "state": state, column: named}
                connection.execute(
                    text(
                        "INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, seen, page, label,"
                        " last_error, state, finished_at) VALUES (:poll, :account, 'batch', CAST(:params AS jsonb),"
                        " 'hash', CAST(:seen AS jsonb), CAST(:page AS jsonb), :label, :last_error, :state, now())"
                    ),
                    values,
                )
        gone = erase(connection, mine)
        rows = connection.execute(text("SELECT t::text FROM fetches t ORDER BY id")).scalars().all()
    assert (gone.fetches, gone.open_fetches) == (len(places), 0)
    assert ["5301234567" in row for row in rows] == [False] * len(rows)
    assert ["5309999999" in row for row in rows] == [False] * len(places) + [True] * len(places)


def test_an_entry_of_quarantine_goes_by_its_delivery_its_key_or_its_question(
    migrated_database: Engine, account: str
) -> None:
    """Its bytes cannot be searched, so whatever stands beside them decides."""
    mine, other = "+905301234567", "+905309999999"
    tell(migrated_database, account, said(Status.SENT, "9", recipient=mine), said(Status.SENT, "8", recipient=other))
    entries = [
        ("its delivery", "9", {}),
        ("its key", "7:%2B905301234567:1", {}),
        ("its question", None, {"params": {"numbers": ["5301234567"]}}),
        ("another's delivery", "8", {}),
        ("another's question", None, {"params": {"numbers": ["5309999999"]}}),
    ]
    with transaction(migrated_database) as connection:
        key = new_key()
        for reason, about, context in entries:
            item = Unreadable(reason=reason, raw=reason.encode(), provider_key=about)
            seal(connection, key, account_id=account, origin="poll:batch", unreadable=[item], context=context)
        gone = erase(connection, mine)
        kept = [row["reason"] for row in list_quarantine(connection)]
    assert (gone.quarantined, kept) == (3, ["another's delivery", "another's question"])


def test_a_number_is_erased_in_every_spelling_whoever_it_was_registered_for(
    migrated_database: Engine, account: str
) -> None:
    """A sender may have named another recipient beside an id that holds the number; longer numbers are others."""
    spellings = ("5301234567", "05301234567", "905301234567", "00905301234567", "+905301234567")
    others = ("15301234567", "53012345670", "0015301234567")
    for spelling in (*spellings, *others):
        track(migrated_database, account, f"77:{spelling}")
        track(migrated_database, account, f"78:{spelling}", recipient="+905309999999")
    with transaction(migrated_database) as connection:
        gone = erase(connection, "+905301234567")
        kept = connection.execute(text("SELECT value FROM tracked_ids ORDER BY id")).scalars().all()
    assert gone.tracked_ids == 2 * len(spellings)
    assert kept == [f"{send}:{other}" for other in others for send in (77, 78)]


def test_a_poll_that_is_yet_to_be_planned_keeps_what_it_is_to_ask_and_that_is_told(
    migrated_database: Engine, account: str
) -> None:
    """It would register the number again, so whoever erases has to come back."""
    ids = json.dumps([{"kind": "number", "value": "77:+905301234567"}])
    with transaction(migrated_database) as connection:
        connection.execute(
            text("INSERT INTO polls (account_id, kind, trigger, ids) VALUES (:account, 'on_demand', 'api', :ids)"),
            {"account": account, "ids": ids},
        )
        first = erase(connection, "+905301234567")
        connection.execute(text("UPDATE polls SET planned_at = now()"))
        again = erase(connection, "+905301234567")
    assert [(each.polls, each.open_fetches) for each in (first, again)] == [(0, 1), (1, 0)]


def test_a_poll_that_names_a_number_in_its_key_alone_is_told_of_and_keeps_having_no_ids(
    migrated_database: Engine, account: str
) -> None:
    """A poll of a window has no ids, before as after."""
    with transaction(migrated_database) as connection:
        connection.execute(
            text(
                "INSERT INTO polls (account_id, kind, trigger, idempotency_key) VALUES (:account, 'plan', 'api', :key)"
            ),
            {"account": account, "key": "resend 05301234567"},
        )
        first = erase(connection, "+905301234567")
        connection.execute(text("UPDATE polls SET planned_at = now()"))
        again = erase(connection, "+905301234567")
        kept = connection.execute(text("SELECT ids, idempotency_key FROM polls")).one()
    assert [(each.polls, each.open_fetches) for each in (first, again)] == [(0, 1), (1, 0)]
    assert tuple(kept) == (None, None)


def test_erasing_a_short_id_takes_whole_parts_of_keys_only(migrated_database: Engine, account: str) -> None:
    """An id stands by chance inside of numbers, sends and other ids; only what it names goes."""
    day = Granularity.CONVERSATION
    tell(
        migrated_database,
        account,
        said(Status.DELIVERED, "312459", recipient="+905301245999"),
        said(Status.DELIVERED, "124:+905301234567:1", recipient="+905301234567"),
        said(Status.SENT, "124:99:0:2026-03-01", granularity=day, recipient="99"),
        said(Status.SENT, "9124:99:0:2026-03-01", granularity=day, recipient="99"),
    )
    for value, recipient in (("124:5301234567", "+905301234567"), ("124:45186", None), ("31245", None)):
        track(migrated_database, account, value, recipient=recipient)
    with transaction(migrated_database) as connection:
        gone = erase(connection, "124")
        assert (gone.deliveries, gone.tracked_ids) == (1, 1)
        kept = sorted(row["provider_key"] for row in find_deliveries(connection).rows)
        assert kept == ["124:+905301234567:1", "312459", "9124:99:0:2026-03-01"]
        ids = connection.execute(text("SELECT value FROM tracked_ids ORDER BY value")).scalars().all()
        assert ids == ["124:5301234567", "31245"]


@pytest.mark.parametrize("person", ["113377", "+905301234567"])
def test_a_conversation_goes_by_its_sender_or_its_receiver_alone(
    migrated_database: Engine, account: str, person: str
) -> None:
    """Its key also holds a group and a day, which name nobody; an order of the same id names nobody either."""
    part = person.removeprefix("+")
    keys = (f"{part}:45186:0:2026-03-01", f"45186:{part}:0:2026-03-01", f"45186:45188:{part}:2026-03-01")
    reports = [
        said(Status.SENT, key, granularity=Granularity.CONVERSATION, recipient=key.split(":")[1]) for key in keys
    ]
    order = said(Status.SENT, "113377", granularity=Granularity.ORDER)
    tell(migrated_database, account, *reports, order)
    with transaction(migrated_database) as connection:
        gone = erase(connection, person)
        kept = [row["provider_key"] for row in find_deliveries(connection).rows]
    assert (gone.deliveries, kept) == (2, [keys[2], "113377"])


def test_a_number_goes_as_its_provider_wrote_it(migrated_database: Engine, account: str) -> None:
    """A land line that the fixed rules do not know is stored as it came; a foreign number that ends so is another."""
    mine = ("+902121234567", "902121234567", "2121234567", "02121234567", "00902121234567")
    for place, recipient in enumerate((*mine, "+12121234567")):
        tell(migrated_database, account, said(Status.SENT, f"key-{place}", recipient=recipient))
    with transaction(migrated_database) as connection:
        gone = erase(connection, "+902121234567")
        kept = [row["recipient"] for row in find_deliveries(connection).rows]
    assert (gone.deliveries, kept) == (len(mine), ["+12121234567"])


def test_what_names_no_person_erases_nothing(migrated_database: Engine, account: str) -> None:
    """An unset variable, a slip or a word of our own would stand in keys and parameters of everybody."""
    words = ("number", "order", "message", "transaction", "send", "none", "ids", "customer", "NumaraRaporu")
    refused = {
        "Nobody is named": ("", "  ", ":"),
        "This is no number": ("+1", "+9", "+90 530 123 45 67", "+person"),
        "This is too short to name one person": ("0", "12", "by", "0000000"),
        "This is too short to be a number": ("0530", "530 12"),
        "This is a word and no person": words,
    }
    talk = said(Status.SENT, "1:12:0:2026-03-01", granularity=Granularity.CONVERSATION, recipient="12")
    tell(migrated_database, account, talk)
    for word in words:
        track(migrated_database, account, f"0530:{word}:0")
    with transaction(migrated_database) as connection:
        for why, texts in refused.items():
            for given in texts:
                with pytest.raises(NoPersonError, match=why):
                    erase(connection, given)
        left = connection.execute(
            text("SELECT (SELECT count(*) FROM delivery_status), (SELECT count(*) FROM tracked_ids)")
        ).one()
    assert tuple(left) == (1, len(words))


def test_an_id_without_a_digit_is_a_person_where_it_is_long(migrated_database: Engine, account: str) -> None:
    """A hash may hold letters alone; our words are shorter."""
    person = "aBcDeFgHiJkLmNoPqRsTuVwX"
    tell(migrated_database, account, said(Status.SENT, "r-1", recipient=person))
    with transaction(migrated_database) as connection:
        assert erase(connection, person).deliveries == 1


def test_an_earlier_restatement_moves_as_of_back(migrated_database: Engine, account: str) -> None:
    """The least time counts, so a late answer to an early question reorders what was said."""
    tell(migrated_database, account, said(Status.DELIVERED), hours=3)
    tell(migrated_database, account, said(Status.EXPIRED), hours=2)
    assert only_row(migrated_database, account).status == "delivered"
    early = said(
        Status.DELIVERED,
        statement={"form": "early"},
        provider_time=NOON,
        source=Source.CALLBACK,
        as_of=NOON + timedelta(hours=1),
    )
    result = tell(migrated_database, account, early)
    assert result == UpsertResult(advanced=1, changed=frozenset({(MESSAGE, "k")}))
    assert only_row(migrated_database, account).status == "expired"
    with migrated_database.connect() as connection:
        (row,) = find_deliveries(connection).rows
        names = ("source", "as_of", "provider_time", "statement")
        kept = [tuple(getattr(one, name) for name in names) for one in history(connection, row["id"])]
    assert kept == [
        ("callback", NOON + timedelta(hours=1), NOON, {"form": "early"}),
        ("poll", NOON + timedelta(hours=2), None, {}),
    ]
    # Said without its raw form at a still earlier moment: the form that is known stays.
    tell(migrated_database, account, said(Status.DELIVERED))
    with migrated_database.connect() as connection:
        first = history(connection, row["id"])[0]
    assert (first.as_of, first.provider_time, first.statement) == (NOON, None, {"form": "early"})


def test_a_day_that_is_read_again_becomes_final_though_nothing_changed(migrated_database: Engine, account: str) -> None:
    """The last time at which the same count was stated is kept, also in the database: two late reads end the day."""
    counted = DeliveryReport(
        granularity=Granularity.CONVERSATION,
        provider_key="1:2:0:2026-03-01",
        status=Status.SENT,
        provider_status="sendMessageCount",
        total=5,
        day=NOON.date(),
    )
    key = (Granularity.CONVERSATION, "1:2:0:2026-03-01")
    assert tell(migrated_database, account, counted) == UpsertResult(new=1, changed=frozenset({key}))
    assert tell(migrated_database, account, counted, hours=59) == UpsertResult(unchanged=1)
    assert only_row(migrated_database, account).is_final is False
    with migrated_database.connect() as connection:
        (row,) = find_deliveries(connection).rows
        (seen,) = history(connection, row["id"])
    assert (seen.as_of, seen.as_of_last) == (NOON, NOON + timedelta(hours=59))
    assert tell(migrated_database, account, counted, hours=60) == UpsertResult(advanced=1, changed=frozenset({key}))
    assert only_row(migrated_database, account).is_final is True
