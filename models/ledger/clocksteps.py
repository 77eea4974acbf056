"""What is done about a step of the database's clock: the stored times are moved with it.

A time that was stored before a step belongs to another time frame. Compared with the new clock, a call looks older or
younger than it is, and whatever waits would wait too long. So whoever notices a step writes a row of `clock_steps` and
moves the times of the ledger by as much as the clock was moved, each so that its slot is held at least as long as
before: where it is not certain to which frame a time belongs, the call counts as the younger one.

A step forward. Every call of before looks older by the step. Under the locks of all accounts, in the transaction that
notes the step, each recent call is moved forward, and so is what keeps an account silent: a provider that asked for an
hour of silence gets it. No call can be allowed in between. Whatever else waits comes due early, which costs a look and
loses nothing.

A step back. Whatever was stored just before lies ahead of the clock. That keeps slots busy and work waiting, so nothing
goes wrong while it is moved bit by bit, and any process can go on with what another has begun (`moved_at`). Waits keep
their length, an id that was looked at or registered before the step is due as if the clock had gone on, and one that
rests longer than the account's longest wait is due now.

The past that others read (deliveries, observations, an operator's pause) is never moved. But an `unreported` of ours
whose end of validity lies ahead after a step back was untrue, and is withdrawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import Connection, Engine, Row, TextClause, text

from ulak.core import clock
from ulak.models.database import retry_transaction
from ulak.models.ledger.clockwatch import TOLERATED_SECONDS, ClockWatch, Movement, Reading
from ulak.models.ledger.slots import busy_sql
from ulak.models.permit import MAX_PAUSE_SECONDS
from ulak.models.pseudonyms import HAS_PSEUDONYM
from ulak.models.withdrawals import withdraw_unreported

_LOCK: Final = 0x756C6164  # one advisory lock for all who note a step
RECENT_SECONDS: Final = 600.0
"""A call that ended so long (and the account's window) before a step is over, whatever its account's limit was."""
ROWS_AT_ONCE: Final = 5000
REPORTED_SECONDS: Final = 86400.0
"""How long readiness and `ulak check` report a step."""

Evidence = Literal["boot_clock", "stored_times"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the database's clock."""

    seconds: float
    """Forward; back where negative."""
    evidence: Evidence
    """`stored_times`: nobody saw it, but stored times lay so far ahead; the step was at least as large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """How a look under the locks ended."""

    reading: Reading
    step_id: int
    """The newest noted step."""
    step: Step | None
    """The step that this look noted; None where there was none, or another process had noted it."""
    behind: timedelta
    """By how much the steps of the last day have set the clock back in all."""


_READ = text("""
    WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now)
    SELECT t.now, coalesce((SELECT max(id) FROM clock_steps), 0) AS step_id,
        EXISTS (SELECT FROM clock_steps WHERE moved_at IS NULL) AS is_unfinished,
        extract(epoch FROM (SELECT max(greatest(a.last_asked_at, a.planned_at, a.closed_swept_at)) FROM accounts a)
            - t.now)::double precision AS ahead
    FROM t
""")
_NOTED = text("""
    SELECT coalesce(sum(seconds), 0)::double precision AS seconds,
        coalesce(bool_or(evidence = 'stored_times'), false) AS is_estimate
    FROM clock_steps WHERE id > :known
""")
_LOCK_NOTES = text("SELECT pg_advisory_xact_lock(:lock)")
_LOCK_ACCOUNTS = text("SELECT id FROM accounts ORDER BY id FOR NO KEY UPDATE")
_NOTE = text("""
    INSERT INTO clock_steps (noticed_at, seconds, evidence, noticed_by, moved_at)
    VALUES (:now, :seconds, :evidence, :noticed_by, CASE WHEN :seconds > 0 THEN CAST(:now AS timestamptz) END)
    RETURNING id
""")


def look(connection: Connection, watch: ClockWatch) -> tuple[bool, bool]:
    """Read the clock and keep the reading: (was it stepped, is a step of before not finished). Locks nothing."""
    watch.begin(connection)
    reading, row = _read(connection)
    is_step = watch.has_stepped(reading) or (row.ahead or 0.0) > TOLERATED_SECONDS
    if not is_step:
        watch.know(row.step_id)
        watch.behind = behind(connection)
        watch.keep(connection)
    return is_step, row.is_unfinished


def _read(connection: Connection) -> tuple[Reading, Row[Any]]:
    before = clock.boot()
    row = connection.execute(_READ).one()
    return Reading.between(before, row.now, clock.boot()), row


def settle(connection: Connection, watch: ClockWatch, *, noticed_by: str) -> Settled:
    """Note the step that a look has found, unless another process has noted it, and move what must be moved at once.

    One at a time, under the locks of all accounts: no call is allowed meanwhile, and every call that was allowed before
    is seen. The caller lets the watch adopt the reading once this is committed.
    """
    connection.execute(_LOCK_NOTES, {"lock": _LOCK})
    connection.execute(_LOCK_ACCOUNTS).all()
    watch.begin(connection)
    reading, row = _read(connection)
    noted = connection.execute(_NOTED, {"known": watch.step_id}).one()
    movement = watch.movement(reading)
    evidence: Evidence = "boot_clock"
    left = movement.without(noted.seconds)
    is_known = abs(left.seconds) <= TOLERATED_SECONDS or (noted.is_estimate and noted.seconds * left.seconds > 0)
    ahead: float = row.ahead or 0.0
    if not movement.is_step or is_known:
        if ahead <= TOLERATED_SECONDS:
            return Settled(reading=reading, step_id=row.step_id, step=None, behind=behind(connection))
        left, evidence = Movement(least=-ahead, most=-ahead), "stored_times"
    parameters = {"now": row.now, "seconds": left.seconds, "evidence": evidence, "noticed_by": noticed_by}
    step_id: int = connection.execute(_NOTE, parameters).scalar_one()
    if left.seconds > 0:
        _move_forward(connection, row.now, left)
    else:
        _move_accounts_back(connection, row.now, left)
    step = Step(seconds=left.seconds, evidence=evidence)
    return Settled(reading=reading, step_id=step_id, step=step, behind=behind(connection))


# ------------------------------------------------------------------------------------------------------ forward

# The frame of a call is that of its question: whoever asks has looked at the clock. A call of before the step was asked
# at least the step ago by the new clock; one of after it was not, unless it is that old already. The answer may have
# been written in either frame, or between two steps; it came no earlier than the request's own time after the question.
_CALLS_FORWARD = text(f"""
    WITH old AS (
        SELECT c.id, (c.answered_at IS NULL OR c.released_at = c.gives_up_at) AS is_open,
            least(c.asked_at + make_interval(secs => :s), :now) AS asked_at
        FROM calls c JOIN accounts a ON a.id = c.account_id
        WHERE c.asked_at <= :cutoff
          AND {busy_sql("CAST(:cutoff AS timestamptz)", "a.limit_per_seconds + :recent")}
    ), moved AS (
        SELECT c.id, old.asked_at, CASE WHEN old.is_open THEN c.released_at + make_interval(secs => :s)
            ELSE least(:now, greatest(
                c.released_at + CASE WHEN c.released_at <= :cutoff THEN make_interval(secs => :s) ELSE '0' END,
                old.asked_at + make_interval(secs => c.duration_seconds))) END AS released_at
        FROM old JOIN calls c USING (id)
    )
    UPDATE calls c SET asked_at = m.asked_at, released_at = greatest(m.asked_at, m.released_at),
        gives_up_at = greatest(c.gives_up_at + make_interval(secs => :s), m.asked_at),
        answered_at = CASE WHEN c.answered_at IS NOT NULL THEN greatest(m.asked_at, m.released_at) END
    FROM moved m WHERE c.id = m.id
""")
# Otherwise what is on its way would count as lost, and be asked a second time. What was lost before stays so.
_LEASES_FORWARD = text("""
    UPDATE fetches f SET lease_until = f.lease_until + make_interval(secs => :s)
    WHERE f.state = 'sending' AND f.lease_until > CAST(:cutoff AS timestamptz) - interval '5 seconds'
      AND EXISTS (SELECT FROM calls c WHERE c.account_id = f.account_id AND c.fetch_id = f.id
            AND c.answered_at IS NULL AND c.asked_at <= :cutoff)
""")
# What was stored before the step, and had not ended by the clock of before.
_SILENCE_FORWARD = text("""
    UPDATE accounts SET
        not_before = CASE WHEN not_before > :cutoff AND last_trouble_at <= :cutoff
            THEN not_before + make_interval(secs => :s) ELSE not_before END,
        breaker_until = CASE WHEN breaker_until > :cutoff AND last_trouble_at <= :cutoff
            THEN breaker_until + make_interval(secs => :s) ELSE breaker_until END,
        paused_until = CASE WHEN paused_by = 'automatic' AND paused_until > :cutoff AND pause_changed_at <= :cutoff
            THEN paused_until + make_interval(secs => :s) ELSE paused_until END
    WHERE greatest(not_before, breaker_until, paused_until) > :cutoff
""")


def _move_forward(connection: Connection, now: datetime, step: Movement) -> None:
    """Move what keeps accounts silent, the calls that may still count for a limit, and their leases, by the step."""
    cutoff = now - timedelta(seconds=max(0.0, step.least))
    connection.execute(_SILENCE_FORWARD, {"s": step.most, "cutoff": cutoff})
    connection.execute(_LEASES_FORWARD, {"s": step.most, "cutoff": cutoff})
    parameters = {"now": now, "s": step.most, "cutoff": cutoff, "recent": RECENT_SECONDS}
    connection.execute(_CALLS_FORWARD, parameters)


# --------------------------------------------------------------------------------------------------------- back


def _past(column: str, now: str = ":now") -> str:
    """SQL: a moment that has passed lies by the step earlier, and never ahead of the clock."""
    return f"CASE WHEN {column} > {now} THEN least({column} - make_interval(secs => :s), {now}) ELSE {column} END"


def _capped(column: str, now: str = "m.now") -> str:
    """SQL: a moment, at most now; NULL stays NULL, which `least` would turn into now."""
    return f"CASE WHEN {column} > {now} THEN {now} ELSE {column} END"


def _wait(column: str, now: str = ":now") -> str:
    """SQL: what waits for a moment waits as long as it would have waited."""
    return f"CASE WHEN {column} > {now} THEN greatest({column} - make_interval(secs => :s), {now}) ELSE {column} END"


# No day is left swept that has not begun yet (in UTC; a zone may be a day on). Only automatic pauses are moved: an
# operator's ends at the moment that was named. Whose a pause of the previous version is, only its length shows.
_ACCOUNTS_BACK = text(f"""
    UPDATE accounts SET last_as_of = greatest(last_as_of, last_asked_at),
        last_asked_at = {_past("last_asked_at")}, planned_at = {_past("planned_at")},
        closed_swept_at = {_past("closed_swept_at")}, last_trouble_at = {_past("last_trouble_at")},
        pause_changed_at = {_past("pause_changed_at")},
        not_before = {_wait("not_before")}, breaker_until = {_wait("breaker_until")},
        paused_until = CASE WHEN paused_by = 'automatic' OR (paused_by IS NULL
                                AND paused_until <= CAST(:now AS timestamptz) + make_interval(secs => :s + :longest))
                            THEN {_wait("paused_until")} ELSE paused_until END,
        wake_at = NULL, crowded_at = NULL,
        swept_through = least(swept_through, CASE WHEN swept_through > CAST(:now AS timestamptz)::date
                                                  THEN CAST(:now AS timestamptz)::date - 2 END)
""")
# Rows that are written anew every few seconds.
_HEARTBEATS_BACK = text(f"UPDATE heartbeats SET at = {_past('at')} WHERE at > :now")
_WORKERS_BACK = text(f"UPDATE workers SET seen_at = {_past('seen_at')} WHERE seen_at > :now")


def _move_accounts_back(connection: Connection, now: datetime, step: Movement) -> None:
    """Move the times of accounts and of who is at work; the rest follows bit by bit (`move_rest_back`)."""
    parameters = {"now": now, "s": max(0.0, -step.most)}
    connection.execute(_ACCOUNTS_BACK, parameters | {"longest": MAX_PAUSE_SECONDS})
    connection.execute(_HEARTBEATS_BACK, parameters)
    connection.execute(_WORKERS_BACK, parameters)


# Read within each statement, after its snapshot: no row that it sees was stored later under the new clock.
_NOW_T = "t AS MATERIALIZED (SELECT clock_timestamp() AS now)"
# A lease belongs to the old clock where the question of its call does.
_FETCHES_BACK = text(f"""
    WITH {_NOW_T}
    UPDATE fetches f SET available_at = {_wait("f.available_at", "t.now")},
        created_at = least(f.created_at, t.now),
        lease_until = CASE WHEN EXISTS (SELECT FROM calls c
                WHERE c.account_id = f.account_id AND c.fetch_id = f.id AND c.answered_at IS NULL
                  AND c.asked_at > t.now)
            THEN {_wait("f.lease_until", "t.now")} ELSE f.lease_until END
    FROM t WHERE f.state IN ('ready', 'sending')
      AND greatest(f.available_at, f.lease_until, f.created_at) > t.now
""")
# A tick that was planned under the old clock is planned again under the new one.
_POLLS_BACK = text(f"""
    WITH {_NOW_T}
    UPDATE polls p SET scheduled_for = CASE WHEN p.scheduled_for <= t.now THEN p.scheduled_for END,
        started_at = least(p.started_at, t.now),
        sweep_through = CASE WHEN p.sweep_through <= t.now::date THEN p.sweep_through END
    FROM t WHERE p.scheduled_for > t.now OR (p.state = 'running' AND p.started_at > t.now)
       OR p.sweep_through > t.now::date
""")
# What was asked before the step lies ahead of the clock; an open call's deadline and release do so by right.
_CALLS_BACK = text(f"""
    WITH {_NOW_T}, old AS (
        SELECT x.id, x.is_open, t.now, {_past("x.asked_at", "t.now")} AS asked_at
        FROM t, accounts a CROSS JOIN LATERAL (
            SELECT c.*, (c.answered_at IS NULL OR c.released_at = c.gives_up_at) AS is_open FROM calls c
            WHERE c.account_id = a.id AND c.released_at > (SELECT now FROM t)) x
        WHERE x.asked_at > t.now OR NOT x.is_open
        LIMIT :many
    )
    UPDATE calls c SET asked_at = old.asked_at, answered_at = {_past("c.answered_at", "old.now")},
        gives_up_at = greatest(c.gives_up_at - make_interval(secs => :s), old.asked_at),
        released_at = greatest(old.asked_at, CASE
            WHEN c.answered_at IS NULL OR c.released_at = c.gives_up_at THEN c.released_at - make_interval(secs => :s)
            ELSE least(old.now, greatest({_past("c.released_at", "old.now")},
                                         old.asked_at + make_interval(secs => c.duration_seconds))) END)
    FROM old WHERE c.id = old.id
""")
# When an id was last looked at, or registered, tells by how much it belongs to the old clock. One whose sending was
# then in the past, or now, was sent as long before; one that is to be sent some day keeps its day. One that the wrong
# clock let be forgotten is asked for again.
_IDS_BACK = text(f"""
    WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now), old AS (
        SELECT i.id, greatest(i.registered_at, i.last_checked_at) AS stamp, t.now,
            greatest(i.registered_at, i.last_checked_at) - t.now AS ahead,
            greatest(coalesce(i.last_checked_at, i.registered_at) - t.now, interval '0') AS due_ahead
        FROM tracked_ids i, t
        WHERE i.id > :after AND greatest(i.registered_at, i.last_checked_at) > t.now + make_interval(secs => :tolerated)
        ORDER BY i.id LIMIT :many FOR NO KEY UPDATE OF i
    ), moved AS (
        SELECT old.*, i.close_reason IS NOT DISTINCT FROM 'forgotten' AND i.closed_at > old.now
              -- What requests for it need is gone.
              AND i.value !~ :hidden AS is_wrongly_closed,
            CASE WHEN i.sent_at > old.now AND i.sent_at <= old.stamp + interval '1 minute'
                 THEN i.sent_at - least(i.sent_at - old.ahead, old.now) ELSE interval '0' END AS late
        FROM old JOIN tracked_ids i USING (id)
    )
    UPDATE tracked_ids i SET registered_at = {_capped("i.registered_at")},
        last_checked_at = {_capped("i.last_checked_at")}, last_found_at = {_capped("i.last_found_at")},
        announced_at = {_capped("i.announced_at")},
        sent_at = i.sent_at - m.late, valid_until = i.valid_until - m.late,
        next_check_at = CASE WHEN m.is_wrongly_closed THEN m.now ELSE i.next_check_at - m.due_ahead END,
        closed_at = CASE WHEN m.is_wrongly_closed THEN NULL ELSE i.closed_at END,
        close_reason = CASE WHEN m.is_wrongly_closed THEN NULL ELSE i.close_reason END
    FROM moved m WHERE i.id = m.id
    RETURNING i.id
""")
_RESTS_BACK = text("""
    UPDATE tracked_ids SET next_check_at = clock_timestamp()
    WHERE id IN (SELECT i.id
        FROM unnest(CAST(:accounts AS text[]), CAST(:longest AS double precision[])) AS a(id, longest)
        CROSS JOIN LATERAL (SELECT id FROM tracked_ids
            WHERE account_id = a.id AND closed_at IS NULL AND fetch_id IS NULL
              AND next_check_at > statement_timestamp() + make_interval(secs => a.longest)
              AND valid_until > statement_timestamp() AND sent_at <= statement_timestamp()) i
        ORDER BY i.id LIMIT :many)
""")
# Registered between the step and its notice: nobody could know yet that a time of sending ahead of the clock is none
# that is still to come (see `ulak.tasks.steps.tracking.sent_late`).
_SENT_LATE_BACK = text("""
    WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now, make_interval(secs => :behind) AS behind)
    UPDATE tracked_ids i SET sent_at = i.sent_at - t.behind, valid_until = i.valid_until - t.behind,
        next_check_at = t.now
    FROM t WHERE i.closed_at IS NULL AND i.registered_at > t.now - interval '1 minute'
      AND i.sent_at > t.now AND i.sent_at <= t.now + t.behind
""")
_UNFINISHED = text("SELECT id, seconds FROM clock_steps WHERE moved_at IS NULL ORDER BY id LIMIT 1")
_FINISHED = text("UPDATE clock_steps SET moved_at = clock_timestamp() WHERE id = :id")


def move_rest_back(engine: Engine, longest_waits: Mapping[str, float]) -> None:
    """Finish every step back that was noted: short transactions, each of which may be repeated or left to others.

    `longest_waits`: of each account, the longest own wait of an id before its validity ends, in seconds.
    """
    rests = {"accounts": list(longest_waits), "longest": list(longest_waits.values()), "many": ROWS_AT_ONCE}
    while True:
        with engine.connect() as connection:
            step = connection.execute(_UNFINISHED).one_or_none()
        if step is None:
            return
        times = {"s": max(0.0, -step.seconds), "many": ROWS_AT_ONCE}
        for statement in (_FETCHES_BACK, _POLLS_BACK):
            _run(engine, statement, times)
        _in_batches(engine, _CALLS_BACK, times)
        _move_ids_back(engine)
        with engine.connect() as connection:
            seconds = behind(connection).total_seconds()
        _run(engine, _SENT_LATE_BACK, {"behind": seconds})
        _in_batches(engine, _RESTS_BACK, rests)
        _withdraw_unreported(engine)
        _run(engine, _FINISHED, {"id": step.id})


def _run(engine: Engine, statement: TextClause, parameters: Mapping[str, Any]) -> int:
    """One statement in a transaction of its own; how many rows it moved."""
    return retry_transaction(engine, lambda connection: connection.execute(statement, parameters).rowcount)


def _in_batches(engine: Engine, statement: TextClause, parameters: Mapping[str, Any]) -> None:
    """Repeat a statement that moves at most `ROWS_AT_ONCE` rows until it has moved fewer."""
    while _run(engine, statement, parameters) >= ROWS_AT_ONCE:
        pass


def _move_ids_back(engine: Engine) -> None:
    """Walk once through all ids that were looked at or registered under the old clock."""
    after = 0

    def run(connection: Connection) -> list[int]:
        parameters = {"after": after, "many": ROWS_AT_ONCE, "tolerated": TOLERATED_SECONDS}
        return list(connection.execute(_IDS_BACK, parameters | {"hidden": HAS_PSEUDONYM}).scalars())

    while moved := retry_transaction(engine, run):
        after = max(moved)


def _withdraw_unreported(engine: Engine) -> None:
    """Walk once through all deliveries: validity that ended under the old clock may not have ended yet."""
    after: int | None = 0

    def run(connection: Connection) -> int | None:
        return withdraw_unreported(connection, after_id=after or 0)

    while after is not None:
        after = retry_transaction(engine, run)


# -------------------------------------------------------------------------------------------------------- reports


_LAST = text("""
    SELECT noticed_at, seconds, evidence, noticed_by, moved_at,
        extract(epoch FROM clock_timestamp() - noticed_at)::double precision AS ago
    FROM clock_steps ORDER BY id DESC LIMIT 1
""")


_BEHIND = text("""
    SELECT greatest(0, -coalesce(sum(seconds), 0))::double precision FROM clock_steps
    WHERE noticed_at > clock_timestamp() - make_interval(secs => :reported)
""")


_MANY = text("""
    SELECT count(*) FROM clock_steps WHERE noticed_at > clock_timestamp() - make_interval(secs => :reported)
""")


def steps_of_last_day(connection: Connection) -> int:
    """How many steps were noticed within a day."""
    many: int = connection.execute(_MANY, {"reported": REPORTED_SECONDS}).scalar_one()
    return many


def behind(connection: Connection) -> timedelta:
    """By how much the steps of the last day have set the clock back in all: it may be that much behind the truth."""
    return timedelta(seconds=connection.execute(_BEHIND, {"reported": REPORTED_SECONDS}).scalar_one())


def last_step(connection: Connection) -> str | None:
    """One sentence about the last step that was noticed within a day; None where there was none."""
    row = connection.execute(_LAST).one_or_none()
    if row is None or row.ago > REPORTED_SECONDS:
        return None
    size = f"{'at least ' if row.evidence == 'stored_times' else ''}{abs(row.seconds):.1f} s"
    done = "its stored times were moved with it" if row.moved_at is not None else "its stored times are being moved"
    return (
        f"The database's clock was set {'forward' if row.seconds > 0 else 'back'} by {size}"
        f" (noticed at {row.noticed_at:%Y-%m-%d %H:%M:%S} UTC by {row.noticed_by}); {done}."
    )
