"""Which ready fetches get a hint now, and when the account is to be looked at again.

Work waits as rows, never in a worker's slot and never as a long countdown. A hint is only a message "this fetch may be
made about now"; losing it costs time, repeating it costs a look.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, RowMapping, text

from models.ledger.planning import PRIORITY_ON_DEMAND
from models.ledger.sharing import (
    CROWDED_LASTS_SECONDS,
    PRESSURE_COLUMNS,
    PRESSURE_PARAMETERS,
    SLOW_LOOK_SECONDS,
    threads_left,
)

HORIZON_SECONDS = 1.0
"""How far ahead calls are hinted: about one second."""
HINT_LASTS_SECONDS = 10.0
"""After this a hint that nobody took counts as lost."""
TIMER_CAP_SECONDS = 5.0
"""The longest countdown of a timer; what is due later is found by `upkeep.reconcile`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A message to publish: fetch `fetch_id` may be made in `delay_seconds`."""

    fetch_id: int
    kind: str
    label: str
    delay_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """What to publish after the commit."""

    account_id: str
    hints: tuple[Hint, ...] = ()
    wake_in_seconds: float | None = None


_ACCOUNT = text("""
    SELECT a.*, clock_timestamp() AS now FROM accounts a WHERE a.id = :account_id FOR NO KEY UPDATE
""")

_LOOK = text(f"""
    WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now)
    SELECT t.now, {PRESSURE_COLUMNS},
           (SELECT count(*) FROM calls c
             WHERE c.account_id = :account_id AND c.answered_at IS NULL AND c.gives_up_at > t.now) AS unanswered,
           hints.hinted,
           -- By how many calls on-demand work is ahead: its hints on the way less the others', and the last call.
           2 * (2 * hints.on_demand - hints.hinted)
             + CASE WHEN (SELECT f.priority <= :on_demand FROM calls c LEFT JOIN fetches f ON f.id = c.fetch_id
                 WHERE c.account_id = :account_id ORDER BY c.asked_at DESC LIMIT 1) THEN 1 ELSE -1 END AS ahead,
           ARRAY(SELECT c.released_at FROM calls c
             WHERE c.account_id = :account_id AND c.released_at > t.now - make_interval(secs => :per_seconds)
             ORDER BY c.released_at DESC LIMIT :requests) AS releases,
           EXISTS (SELECT 1 FROM fetches f
             WHERE f.account_id = :account_id AND f.state = 'ready'
               AND (f.hinted_at IS NULL OR f.hinted_at <= t.now - make_interval(secs => :hint_lasts))) AS is_waiting
    FROM t CROSS JOIN LATERAL (
        SELECT count(*) AS hinted, count(*) FILTER (WHERE f.priority <= :on_demand) AS on_demand
        FROM fetches f WHERE f.account_id = :account_id AND f.state = 'ready'
          AND f.hinted_at > t.now - make_interval(secs => :hint_lasts)) hints
""")

_WAITS = """
    account_id = :account_id AND state = 'ready' AND available_at <= :now
    AND (hinted_at IS NULL OR hinted_at <= :now - make_interval(secs => :hint_lasts))
"""
# The one place that decides which fetch is next: scheduled work by its rank, and every other call for on-demand work.
# Where one of the two has nothing ready, the other one has all. The last call and the hints on their way say whose turn
# it is, so whoever had all the calls for a while owes none.
_HINT = text(f"""
    WITH on_demand AS (
        SELECT id, 2 * row_number() OVER (ORDER BY priority, available_at, id) + :ahead AS place FROM fetches
        WHERE {_WAITS} AND priority <= :on_demand ORDER BY priority, available_at, id LIMIT :many
    ), scheduled AS (
        SELECT id, 2 * row_number() OVER (ORDER BY priority, available_at, id) AS place FROM fetches
        WHERE {_WAITS} AND priority > :on_demand ORDER BY priority, available_at, id LIMIT :many
    ), next AS (
        SELECT id, place FROM (SELECT * FROM on_demand UNION ALL SELECT * FROM scheduled) both_kinds
        ORDER BY place LIMIT :many
    ), chosen AS (
        SELECT f.id FROM fetches f WHERE f.id IN (SELECT id FROM next) AND {_WAITS} ORDER BY f.id
        FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE fetches f SET hinted_at = :now FROM chosen JOIN next USING (id) WHERE f.id = chosen.id
    RETURNING f.id, f.kind, f.label, next.place
""")

_MORE = text("""
    SELECT EXISTS (SELECT 1 FROM fetches
             WHERE account_id = :account_id AND state = 'ready' AND available_at <= :now
               AND (hinted_at IS NULL OR hinted_at <= :now - make_interval(secs => :hint_lasts))) AS now,
           (SELECT min(available_at) FROM fetches
             WHERE account_id = :account_id AND state = 'ready' AND available_at > :now) AS later
""")

_SET_CROWDED = text("UPDATE accounts SET crowded_at = :at WHERE id = :account_id")
_SET_WAKE = text("UPDATE accounts SET wake_at = :wake_at WHERE id = :account_id")


def dispatch(connection: Connection, account_id: str) -> Dispatch:
    """Mark as many ready fetches as the account may make within about a second, and plan the next look.

    Under the account's row lock, so that two at once do not hint twice. The caller commits, then publishes.
    """
    account = connection.execute(_ACCOUNT, {"account_id": account_id}).mappings().one_or_none()
    if account is None or not account["enabled"]:
        return Dispatch(account_id=account_id)
    look = (
        connection.execute(
            _LOOK,
            {
                "account_id": account_id,
                "per_seconds": account["limit_per_seconds"],
                "requests": account["limit_requests"],
                "hint_lasts": HINT_LASTS_SECONDS,
                "on_demand": PRIORITY_ON_DEMAND,
            }
            | PRESSURE_PARAMETERS,
        )
        .mappings()
        .one()
    )
    now: datetime = look["now"]
    blocked_until = _blocked_until(account, now)
    if blocked_until is not None or not look["is_waiting"]:
        _tell_crowded(connection, account, now, is_crowded=False)
        at = blocked_until if look["is_waiting"] else None
        return _with_timer(connection, account, now, at, ())
    moments, next_slot = free_moments(account, look)
    mine = look["unanswered"] + look["hinted"]
    threads = threads_left(connection, account_id, look, mine=mine, wanted=len(moments))
    hints = _hint(connection, account_id, now, moments[:threads], ahead=look["ahead"]) if threads else ()
    more = _more(connection, account_id, now)
    is_crowded = more.now and threads < len(moments)
    _tell_crowded(connection, account, now, is_crowded=is_crowded)
    if is_crowded:
        # The answer of a call of its own brings the next look; without one, only time does.
        next_slot = now + timedelta(seconds=SLOW_LOOK_SECONDS) if threads + mine == 0 else None
    at = min((moment for moment in (next_slot if more.now else None, more.later) if moment), default=None)
    return _with_timer(connection, account, now, at, hints)


def free_moments(
    account: RowMapping | dict[str, Any], look: RowMapping | dict[str, Any]
) -> tuple[list[datetime], datetime | None]:
    """The moments within the horizon at which a further call may be made, and the first slot's moment beyond it.

    Hints that are still on their way hold the earliest slots. The second value is None where a free slot is not what
    is missing: the answer of an unanswered call will bring the next look.
    """
    now: datetime = look["now"]
    window = timedelta(seconds=account["limit_per_seconds"])
    releases = sorted(look["releases"])
    moments = [now] * (account["limit_requests"] - len(releases))
    moments += [released + window for released in releases]
    in_reach = [moment for moment in moments if moment <= now + timedelta(seconds=HORIZON_SECONDS)]
    beyond = moments[len(in_reach)] if len(in_reach) < len(moments) else None
    concurrency = account["limit_concurrency"] if account["breaker_state"] == "closed" else 1
    room = max(0, concurrency - look["unanswered"] - look["hinted"])
    usable = in_reach[look["hinted"] :]
    if room < len(usable) or room == 0:
        return usable[:room], None
    return usable, beyond


def _tell_crowded(connection: Connection, account: RowMapping, now: datetime, *, is_crowded: bool) -> None:
    """Let the other accounts know whether this one waits for threads; written where it changes, and now and then."""
    told: datetime | None = account["crowded_at"]
    is_told = told is not None and told > now - timedelta(seconds=CROWDED_LASTS_SECONDS / 2)
    if is_crowded != is_told or (told is not None and not is_crowded):
        at = now if is_crowded else None
        connection.execute(_SET_CROWDED, {"account_id": account["id"], "at": at})


def _blocked_until(account: RowMapping, now: datetime) -> datetime | None:
    """Until when the account may not be asked at all; None when it may."""
    columns = ["paused_until", "not_before"] + (["breaker_until"] if account["breaker_state"] != "closed" else [])
    moments = [account[column] for column in columns if account[column] is not None and account[column] > now]
    return max(moments, default=None)


def _hint(
    connection: Connection, account_id: str, now: datetime, moments: list[datetime], *, ahead: int
) -> tuple[Hint, ...]:
    """Mark one ready fetch for each moment, the most valuable first, on-demand and scheduled work by turns."""
    rows = connection.execute(
        _HINT,
        {
            "account_id": account_id,
            "now": now,
            "many": len(moments),
            "hint_lasts": HINT_LASTS_SECONDS,
            "on_demand": PRIORITY_ON_DEMAND,
            "ahead": ahead,
        },
    ).all()
    ordered = sorted(rows, key=lambda row: row.place)
    return tuple(
        Hint(
            fetch_id=row.id,
            kind=row.kind,
            label=row.label,
            delay_seconds=max(0.0, (moment - now).total_seconds()),
        )
        for row, moment in zip(ordered, moments, strict=False)
    )


def _more(connection: Connection, account_id: str, now: datetime) -> Row[Any]:
    """What is left: whether a fetch could go `now`, and when the wait of one for its retry ends `later`."""
    parameters = {"account_id": account_id, "now": now, "hint_lasts": HINT_LASTS_SECONDS}
    return connection.execute(_MORE, parameters).one()


def _with_timer(
    connection: Connection, account: RowMapping, now: datetime, at: datetime | None, hints: tuple[Hint, ...]
) -> Dispatch:
    """Re-arm the account's one timer where it is missing, spent or later than `at` (compare-and-set on `wake_at`)."""
    account_id: str = account["id"]
    if at is None or at > now + timedelta(seconds=TIMER_CAP_SECONDS):
        return Dispatch(account_id=account_id, hints=hints)
    armed: datetime | None = account["wake_at"]
    if armed is not None and now < armed <= at + timedelta(milliseconds=20):
        return Dispatch(account_id=account_id, hints=hints)
    connection.execute(_SET_WAKE, {"account_id": account_id, "wake_at": at})
    return Dispatch(account_id=account_id, hints=hints, wake_in_seconds=max(0.0, (at - now).total_seconds()))
