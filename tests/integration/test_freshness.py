"""How fresh final reports were, counted from real rows: each delivery once, by the moment that is known of it."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from driving import scalar
from sqlalchemy import Engine, text
from task_api import Api, api

from ulak.core import clock
from ulak.models import freshness
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.freshness import KEPT_DAYS, WINDOW_SECONDS, catch_up, count, objective_statuses, prune, totals
from ulak.models.objectives import BOUNDS
from ulak.models.rebuild import reread_chunk
from ulak.models.report import DeliveryReport, KeptStatement
from ulak.models.suppression import Suppressions
from ulak.models.vocabulary import Granularity, Source, Status

__all__ = ["api", "ulak"]  # fixtures

KINDS = ("order", "number")
Count = Callable[..., Mapping[str, Any]]


def ago(seconds: float) -> datetime:
    """So long before now."""
    return clock.now() - timedelta(seconds=seconds)


def report(key: str, status: Status, **more: Any) -> DeliveryReport:
    """A statement about one message."""
    values: dict[str, Any] = {"granularity": Granularity.MESSAGE, "provider_status": "x", "source": Source.POLL} | more
    return DeliveryReport(provider_key=key, status=status, **values)


class Counted:
    """An account of whose deliveries upkeep counts how fresh they are; time passes by moving what is stored."""

    def __init__(self, engine: Engine, objective: str | None = "95 % within 60 s") -> None:
        self.engine = engine
        with transaction(engine) as connection:
            self.account = add_account(connection)
        self.run(
            "UPDATE accounts SET objective = :objective, created_at = now() - interval '9 days'", objective=objective
        )
        self.look()

    def run(self, statement: str, **values: Any) -> None:
        """Change the world behind the program's back."""
        with transaction(self.engine) as connection:
            connection.execute(text(statement), values)

    def tell(self, *reports: DeliveryReport, asked: datetime | None = None) -> None:
        """What a provider said, in one transaction."""
        with transaction(self.engine) as connection:
            upsert(connection, self.account, "vairo", reports, asked_at=asked or clock.now())

    def pass_time(self, after: float) -> None:
        """Let so many seconds pass."""
        self.run(
            f"UPDATE freshness_read SET through = through - interval '{after} s';"
            f"UPDATE observations SET first_seen_at = first_seen_at - interval '{after} s',"
            f" as_of = as_of - interval '{after} s',"
            f" facts = CASE WHEN facts ->> 'done_at' IS NULL THEN facts ELSE jsonb_set(facts, '{{done_at}}',"
            f" to_jsonb(CAST(facts ->> 'done_at' AS timestamptz) - interval '{after} s')) END;"
            f"UPDATE delivery_status SET done_at = done_at - interval '{after} s',"
            f" sent_at = sent_at - interval '{after} s', message_time = message_time - interval '{after} s',"
            f" first_seen_at = first_seen_at - interval '{after} s', changed_at = changed_at - interval '{after} s';"
            f"UPDATE tracked_ids SET checked_before_at = checked_before_at - interval '{after} s',"
            f" last_checked_at = last_checked_at - interval '{after} s';"
            f"UPDATE freshness SET at = at - interval '{after} s'"
        )

    def look(self, after: float = 60.0) -> bool:
        """Upkeep, so much later."""
        self.pass_time(after)
        read = "SELECT max(through) FROM freshness_read"
        before = scalar(self.engine, read)
        catch_up(self.engine, KINDS)
        return before is not None and scalar(self.engine, read) != before

    @property
    def row(self) -> Mapping[str, Any]:
        """Everything that was counted."""
        with self.engine.connect() as connection:
            [found] = [each for each in totals(connection) if each.account == self.account]
        return found._asdict()

    def near(self, bound: float) -> float:
        """How many deliveries were known within this bound."""
        return round(float(self.row["buckets"][BOUNDS.index(bound)]), 2)


@pytest.fixture
def counted(migrated_database: Engine) -> Counted:
    """It counts from now on."""
    return Counted(migrated_database)


def test_a_provider_s_own_time_is_the_moment(counted: Counted) -> None:
    """Seconds after it the status was stored; a clock that is ahead counts as none."""
    counted.tell(
        report("a", Status.DELIVERED, done_at=ago(15)),
        report("b", Status.UNDELIVERABLE, done_at=ago(150)),
        report("c", Status.READ, done_at=ago(-30)),
    )
    assert counted.look()
    row = counted.row
    assert (row["total"], row["good"]) == (3, 2)
    assert [counted.near(bound) for bound in (1.0, 10.0, 20.0, 120.0, 300.0)] == [1, 1, 2, 2, 3]
    assert row["seconds"] == pytest.approx(165, abs=3)


def test_without_one_a_delivery_counts_by_the_part_of_its_interval(counted: Counted) -> None:
    """Between the last statement that said otherwise and the request; without either bound it is not counted."""
    counted.tell(report("a", Status.ENROUTE), report("b", Status.ENROUTE), asked=ago(200))
    counted.tell(report("a", Status.DELIVERED), report("c", Status.DELIVERED, sent_at=ago(30)), asked=ago(0))
    counted.tell(report("unbound", Status.DELIVERED))
    assert counted.look()
    assert counted.row["total"] == 2
    assert counted.row["good"] == pytest.approx(1 + 60 / 200, abs=0.02)


def test_the_check_before_the_request_bounds_the_moment_closer(counted: Counted) -> None:
    """Of the id, or of the order that the message belongs to; a check after that request says nothing about it."""
    counted.run(
        "INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until, closed_at, close_reason,"
        " checked_before_at) SELECT :account, 'order', value, 'sender', now(), now(), now(), 'final', now() - age"
        " FROM (VALUES ('o-1', interval '40 s'), ('o-2', interval '-9 s')) AS g(value, age)",
        account=counted.account,
    )
    for key, parent in (("a", "o-1"), ("b", "o-2"), ("o-1", None)):
        counted.tell(report(key, Status.DELIVERED, parent_key=parent, sent_at=ago(4000)))
    assert counted.look()
    row = counted.row
    assert row["total"] == 3
    assert row["good"] == pytest.approx(1 + 1 + 60 / 4000, abs=0.02)


def test_a_statement_of_unknown_time_is_bounded_by_the_last_check_alone(counted: Counted) -> None:
    """It may be as fresh as it was stored; where somebody has asked since, the check before says nothing."""
    counted.run(
        "INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until, closed_at, close_reason,"
        " checked_before_at, last_checked_at) SELECT :account, 'order', value, 'sender', now(), now(), now(), 'final',"
        " now() - interval '120 s', now() + since"
        " FROM (VALUES ('o-1', interval '-1 s'), ('o-2', interval '9 s')) AS g(value, since)",
        account=counted.account,
    )
    pushed = {"source": Source.CALLBACK, "sent_at": ago(240)}
    for key, parent in (("a", "o-1"), ("b", "o-2")):
        with transaction(counted.engine) as connection:
            said = [report(key, Status.DELIVERED, parent_key=parent, **pushed)]
            upsert(connection, counted.account, "vairo", said, asked_at=None)
    assert counted.look()
    assert counted.row["total"] == 2
    assert counted.row["good"] == pytest.approx(60 / 120 + 60 / 240, abs=0.03)


def test_each_delivery_is_counted_once_however_often_it_changes(counted: Counted) -> None:
    """A later statement, a contradiction or a reference is no further final."""
    counted.tell(report("a", Status.DELIVERED, done_at=ago(5)), report("b", Status.ENROUTE))
    counted.look()
    assert counted.row["total"] == 1
    counted.tell(report("a", Status.UNDELIVERABLE, done_at=ago(1)), report("b", Status.DELIVERED, done_at=ago(1)))
    counted.tell(report("a", Status.DELIVERED, done_at=ago(5), client_ref="r"))
    counted.look()
    counted.tell(report("a", Status.READ, done_at=ago(1)))
    for _ in range(3):
        counted.look()
    assert counted.row["total"] == 2


def test_reading_statements_again_makes_nothing_final_anew(counted: Counted) -> None:
    """An update that reads them better finds no late finals, however long ago they were stored."""
    counted.tell(report("a", Status.DELIVERED, done_at=ago(5), statement={"a": 1}))
    counted.look()
    counted.look(after=3600)

    def restate(kept: KeptStatement) -> DeliveryReport:
        read = report(kept.provider_key, Status.DELIVERED, statement=kept.statement, done_at=ago(3665))
        return msgspec.structs.replace(read, provider_status="better")

    with transaction(counted.engine) as connection:
        assert reread_chunk(connection, counted.account, restate, Suppressions()).written == 1
    counted.look()
    assert (counted.row["total"], counted.row["good"]) == (1, 1)


def test_what_says_nothing_about_freshness_is_not_counted(counted: Counted) -> None:
    """Our own word, conversation-days, and what a backfill finds; before the account there was nobody to know."""
    counted.tell(
        report("ours", Status.UNREPORTED, source=Source.OURS),
        report("day", Status.SENT, granularity=Granularity.CONVERSATION, done_at=ago(5)),
        report("old", Status.DELIVERED, done_at=ago(4 * 86_400)),
    )
    counted.look()
    uncounted = counted.row["total"]
    assert uncounted is None
    counted.run("UPDATE accounts SET created_at = now()")
    counted.tell(report("before", Status.DELIVERED, done_at=ago(86_400)))
    counted.run("UPDATE accounts SET created_at = created_at - interval '60 s'")
    counted.look()
    assert (counted.row["total"], counted.row["good"]) == (1, 1)


def test_nothing_is_lost_between_two_looks_and_nothing_is_counted_twice(counted: Counted) -> None:
    """What was committed a moment before a look is left to the next; so is what is still open during one."""

    def look_at_once() -> None:
        counted.run("UPDATE freshness_read SET through = through - interval '60 s'")
        with transaction(counted.engine) as connection:
            assert count(connection, KINDS)

    counted.tell(report("a", Status.DELIVERED, done_at=ago(1)))
    with counted.engine.connect() as writer, writer.begin() as held:
        upsert(writer, counted.account, "vairo", [report("b", Status.DELIVERED, done_at=ago(1))], asked_at=ago(0))
        counted.tell(report("c", Status.DELIVERED, done_at=ago(1)))
        look_at_once()
        assert counted.row["total"] is None
        held.commit()
    counted.tell(report("d", Status.DELIVERED, done_at=ago(1)))
    for _ in range(4):
        counted.look()
        assert counted.row["total"] == 4


def test_without_an_objective_everything_is_good(migrated_database: Engine) -> None:
    """One that is set later judges only what follows."""
    counted = Counted(migrated_database, objective=None)
    counted.tell(report("a", Status.DELIVERED, done_at=ago(500)))
    counted.look()
    counted.run("UPDATE accounts SET objective = '90 % within 10 min'")
    counted.tell(report("b", Status.DELIVERED, done_at=ago(900)), report("c", Status.DELIVERED, done_at=ago(500)))
    counted.look()
    assert (counted.row["total"], counted.row["good"], counted.near(300.0)) == (3, 2, 0)
    with migrated_database.connect() as connection:
        standing = objective_statuses(connection, [counted.account])[counted.account]
    assert (standing.text, standing.finals) == ("90 % within 10 min", 3)
    assert standing.good_percent == pytest.approx(100 * 2 / 3)


def test_a_window_is_the_difference_of_two_rows_and_old_rows_are_pruned(counted: Counted) -> None:
    """Except the one with which the longest window begins."""
    counted.tell(report("a", Status.DELIVERED, done_at=ago(100)))
    counted.look()
    counted.look(after=7200)
    counted.tell(*(report(f"b-{number}", Status.DELIVERED, done_at=ago(1)) for number in range(3)))
    counted.look()
    with counted.engine.connect() as connection:
        standing = objective_statuses(connection, [counted.account])[counted.account]
    assert (standing.finals, standing.burn_rates["1h"], standing.burn_rates["5m"]) == (4, 0, 0)
    assert standing.burn_rates["6h"] == pytest.approx((1 / 4) / 0.05)
    counted.pass_time(KEPT_DAYS * 86_400)
    # As if upkeep had counted all the while: a thousand windows of nothing take longer than one run has.
    counted.run("UPDATE freshness_read SET through = now() - interval '60 s'")
    counted.tell(report("c", Status.DELIVERED, done_at=ago(1)))
    counted.look()
    with transaction(counted.engine) as connection:
        assert prune(connection) == 1
        assert prune(connection) == 0
        assert objective_statuses(connection, [counted.account])[counted.account].finals == 1
    assert counted.row["total"] == 5


def test_an_objective_is_shown_wherever_accounts_are(ulak: Ulak, api: Api, tmp_path: Path) -> None:
    """As it was applied; `ulak status` also says by how much it is missed."""
    path = tmp_path / "accounts.toml"
    path.write_text(
        '[[account]]\nid = "a"\nprovider = "vairo"\nobjective = "95 %  within 60 s"\n'
        '[account.credentials]\napi_key = "env:K"\n[[account]]\nid = "b"\nprovider = "vairo"\n'
        '[account.credentials]\napi_key = "env:L"\n',
        encoding="utf-8",
    )
    assert ulak("accounts", "apply", str(path)).code == 0
    listed = json.loads(ulak("accounts", "list", "--json").out)
    assert [row["objective"] for row in listed] == ["95 % within 60 s", None]
    assert "none yet (95 % within 60 s)" in ulak("status").out
    with transaction(api.engine) as connection:
        connection.execute(
            text(
                "INSERT INTO freshness (account_id, at, total, good, seconds, buckets) SELECT 'a',"
                " now() - (70 - n) * interval '1 minute', 40 * n, 10 * n, 0, '{}' FROM generate_series(0, 70) n"
            )
        )
    told = ulak("status")
    assert "25.0 % (95 % within 60 s)" in told.out
    assert "a misses its objective: 75.0 % late within 1h" in told.err
    shown = json.loads(ulak("status", "a", "--json").out)["accounts"][0]["objective"]
    [first, second] = api.get("/v1/accounts")["accounts"]
    assert (first["objective"], second["objective"]) == (shown, None)
    assert (shown["text"], shown["finals"], shown["good_percent"]) == ("95 % within 60 s", 2800, 25.0)
    assert [each["factor"] for each in shown["burning"]] == [14.4, 1.0]
    assert shown["burn_rates"]["1h"] == pytest.approx(15.0)


def test_two_looks_at_the_same_moment_are_one(counted: Counted) -> None:
    """Two beats may run."""
    counted.tell(report("a", Status.DELIVERED, done_at=ago(1)))
    assert (counted.look(), counted.look(after=0)) == (True, False)
    with counted.engine.connect() as other:
        assert freshness.count(other, KINDS) is False
        with transaction(counted.engine) as connection:
            connection.execute(text("UPDATE freshness_read SET through = through - interval '2 min'"))
            other.rollback()
            other.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": freshness._LOCK})
            assert count(connection, KINDS) is False


def test_after_a_pause_each_look_spans_a_bounded_window(counted: Counted) -> None:
    """Each delivery is counted once, wherever in the pause it became final, however long a transaction stays open."""
    counted.run("UPDATE freshness_read SET through = now() - interval '1 hour'")
    for minutes in range(58, -1, -2):
        key = f"m-{minutes}"
        counted.tell(report(key, Status.DELIVERED, sent_at=ago(3700)))
        counted.run(
            f"WITH moved AS (UPDATE delivery_status SET first_seen_at = first_seen_at - interval '{minutes} min',"
            f" changed_at = changed_at - interval '{minutes} min' WHERE provider_key = :key RETURNING id)"
            f" UPDATE observations SET first_seen_at = first_seen_at - interval '{minutes} min',"
            f" as_of = as_of - interval '{minutes} min' WHERE delivery_id = (SELECT id FROM moved)",
            key=key,
        )
    with counted.engine.connect() as writer:
        writer.execute(text("SELECT pg_current_xact_id()"))
        state = "SELECT through, from_transaction, next_transaction FROM freshness_read"
        with counted.engine.connect() as connection:
            looks = [connection.execute(text(state)).one()]
            while True:
                connection.rollback()
                with connection.begin():
                    if not count(connection, KINDS):
                        break
                    looks.append(connection.execute(text(state)).one())
    spans = [(one.through - before.through).total_seconds() for before, one in pairwise(looks)]
    assert len(spans) == pytest.approx(12, abs=1)
    assert all(0 < span <= WINDOW_SECONDS for span in spans)
    assert len({tuple(one)[1:] for one in looks[:-1]}) == 1
    # The newest one is not settled yet.
    assert counted.row["total"] == 29
    for _ in range(3):
        counted.look()
        assert counted.row["total"] == 30


def test_a_pause_is_made_up_for_within_one_task(counted: Counted) -> None:
    """The next minute goes on only after `CATCH_UP_SECONDS`."""
    counted.run("UPDATE freshness_read SET through = now() - interval '1 hour'")
    catch_up(counted.engine, KINDS)
    assert scalar(counted.engine, "SELECT through > now() - interval '1 minute' FROM freshness_read")


def test_totals_grow_after_a_step_back_of_the_clock(counted: Counted) -> None:
    """A row of the clock that was ahead stays the last one no longer than until the next is added."""
    counted.tell(report("a", Status.DELIVERED, done_at=ago(1)))
    counted.look()
    counted.run("UPDATE freshness SET at = at + interval '2 hours'")
    for number in range(3):
        counted.tell(report(f"b-{number}", Status.DELIVERED, done_at=ago(1)))
        counted.look()
        assert counted.row["total"] == 2 + number
