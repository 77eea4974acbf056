"""How the threads of all workers are shared out: the trouble of one account takes no threads from the others.

A call holds a thread until it is answered or given up, so an account that hangs would hold as many as its concurrency
allows. Three rules, applied at each take (`ulak.models.ledger.taking`) once half of all threads are taken:

1. The first call of an account is always allowed, unless the account is slow (rule 3) and the slow have taken all.
2. Further ones leave a quarter of the threads free; while other accounts wait, none has more than its even part.
3. Slow accounts, those whose answers take longer than `PATIENCE_SECONDS`, have half of the threads, all together. One
   that was answered a moment ago leaves its thread to those that wait and have none.

The counts are read without a lock on other accounts, so calls that are made in the same instant may exceed a part by
a few; the provider's limit, which is exact, is none of this. Where no worker has announced itself, nothing is shared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

ANNOUNCE_SECONDS = 5.0
ANNOUNCED_TTL_SECONDS = 16.0
"""A worker that was killed counts so long: three announcements missed."""
PATIENCE_SECONDS = 2.0
CROWDED_TTL_SECONDS = 60.0
"""An account that was told to wait counts as waiting so long, if nothing is heard of it."""
SLOW_RECHECK_SECONDS = 0.5
"""When an account looks again that may not even make its first call: no answer of its own would wake it."""
YIELD_SECONDS = 2 * SLOW_RECHECK_SECONDS
"""So long after its answer a slow account gives way: the answer wakes it, so it would come before all who wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The threads of all workers, as one account finds them."""

    threads: int
    others: int
    """Threads that calls of other accounts hold."""
    slow_others: int
    """Those of them that belong to slow accounts."""
    rivals: int
    """Other accounts that hold threads or wait for some."""
    is_crowded: bool
    """Whether other accounts wait for threads."""
    is_slow: bool
    """Whether this account is."""
    gives_way: bool
    """Whether this one was answered a moment ago, while an account waits that has no thread."""


def share(pool: Pool) -> int:
    """How many calls the account may have in the air."""
    open_to_all = pool.threads - pool.threads // 4
    many = max(1, open_to_all - pool.others)
    if pool.is_crowded:
        many = min(many, -(-open_to_all // (pool.rivals + 1)))
    if not pool.is_slow:
        return many
    first = int(pool.slow_others + pool.gives_way < open_to_all)
    return min(many, max(first, pool.threads // 2 - pool.slow_others))


_PRESSURE = """
    SELECT (SELECT coalesce(sum(w.threads), 0)::int FROM workers w
             WHERE w.seen_at > clock_timestamp() - make_interval(secs => %(announced_lasts)s)) AS threads,
           (SELECT count(*) FROM calls c
             WHERE c.answered_at IS NULL AND c.gives_up_at > clock_timestamp()) AS in_the_air
"""
_POOL = """
    WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now), in_air AS MATERIALIZED (
        SELECT c.account_id AS holder, count(*) AS many,
               bool_or(c.asked_at < t.now - make_interval(secs => %(patience)s)) AS is_slow
        FROM calls c, t WHERE c.answered_at IS NULL AND c.gives_up_at > t.now GROUP BY 1
    ), crowd AS MATERIALIZED (
        SELECT a.id AS waiter FROM accounts a, t
        WHERE a.enabled AND a.crowded_at > t.now - make_interval(secs => %(crowded_lasts)s) AND a.id <> %(account_id)s
    ), answered AS MATERIALIZED (
        SELECT c.released_at - c.asked_at > make_interval(secs => %(patience)s) AS was_slow,
               c.released_at > t.now - make_interval(secs => %(gives_way)s) AS is_fresh
        FROM calls c, t WHERE c.account_id = %(account_id)s AND c.released_at <= t.now
        ORDER BY c.released_at DESC LIMIT 1
    )
    SELECT (SELECT coalesce(sum(many), 0)::int FROM in_air WHERE holder <> %(account_id)s) AS others,
           (SELECT coalesce(sum(many), 0)::int FROM in_air WHERE holder <> %(account_id)s AND is_slow) AS slow_others,
           (SELECT count(*)::int FROM (SELECT holder FROM in_air WHERE holder <> %(account_id)s
             UNION SELECT waiter FROM crowd) each_once) AS rivals,
           EXISTS (SELECT 1 FROM crowd) AS is_crowded,
           coalesce((SELECT is_slow FROM in_air WHERE holder = %(account_id)s), false)
           OR coalesce((SELECT was_slow FROM answered), false) AS is_slow,
           coalesce((SELECT is_fresh FROM answered), false)
           AND EXISTS (SELECT 1 FROM crowd WHERE waiter NOT IN (SELECT holder FROM in_air)) AS gives_way
"""


PRESSURE = f"""(
    SELECT p.threads, p.in_the_air, CASE WHEN p.threads > 0 AND p.in_the_air + 2 > p.threads / 2
        THEN (SELECT row_to_json(pool) FROM ({_POOL}) AS pool) END AS pool
    FROM ({_PRESSURE}) AS p)
"""
"""SQL, as a row with `sharing_parameters`: what `threads_left` has to know. The pool is looked at where it matters."""


def sharing_parameters() -> dict[str, float]:
    """Of `PRESSURE`, beside `account_id`."""
    return {
        "announced_lasts": ANNOUNCED_TTL_SECONDS,
        "patience": PATIENCE_SECONDS,
        "crowded_lasts": CROWDED_TTL_SECONDS,
        "gives_way": YIELD_SECONDS,
    }


def threads_left(threads: int, in_the_air: int, pool: Mapping[str, Any] | None, *, mine: int, wanted: int) -> int:
    """How many of the `wanted` (one or two) further calls the account may make, where `mine` are unanswered.

    The columns of `PRESSURE`, and which of them are the account's own.
    """
    if pool is None or in_the_air + wanted <= threads // 2:
        return wanted
    return max(0, min(wanted, share(Pool(threads=threads, **pool)) - mine))


_THREAD_TOTALS = f"""
    SELECT p.threads, (SELECT count(*) FROM accounts a
        WHERE a.enabled AND a.crowded_at > clock_timestamp() - make_interval(secs => %(crowded_lasts)s)) AS crowded
    FROM ({_PRESSURE}) AS p
"""


def thread_totals(connection: Connection) -> tuple[int, int]:
    """(threads of all workers, accounts that wait for some), for people to watch."""
    row = connection.exec_driver_sql(_THREAD_TOTALS, sharing_parameters()).one()
    return row.threads, row.crowded


_ANNOUNCE = text("""
    INSERT INTO workers AS w (name, threads, seen_at) VALUES (:name, :threads, clock_timestamp())
    ON CONFLICT (name) DO UPDATE SET threads = excluded.threads, seen_at = excluded.seen_at
""")
_FORGET = text("DELETE FROM workers WHERE seen_at < clock_timestamp() - interval '1 hour'")
_WITHDRAW = text("DELETE FROM workers WHERE name = :name")


def announce(connection: Connection, name: str, threads: int) -> None:
    """Say that the worker process `name` makes fetches with so many threads; holds for `ANNOUNCED_TTL_SECONDS`."""
    connection.execute(_FORGET)
    connection.execute(_ANNOUNCE, {"name": name, "threads": threads})


def withdraw(connection: Connection, name: str) -> None:
    """Say that the worker process `name` takes no more fetches."""
    connection.execute(_WITHDRAW, {"name": name})
