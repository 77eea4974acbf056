"""What the pages of one poll have seen: the facts by which a window or a chain is judged complete."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, text

from ulak.models.report import WalkedPage


def ended_state_sql(dead: str = "dead", drifting: str = "drifting") -> str:
    """SQL for the state in which a poll ends once nothing is open."""
    return f"(CASE WHEN {dead} > 0 OR {drifting} THEN 'complete_with_errors' ELSE 'complete' END)"


_IS_WALKED = "params ?| array['window', 'chain', 'range']"
EMPTIED = f"""params = CASE WHEN {_IS_WALKED} THEN params ELSE '{{}}' END,
        params_hash = CASE WHEN {_IS_WALKED} THEN params_hash ELSE '' END"""
"""SQL: what an ended fetch that nobody repeats forgets: whom it asked about, and the hash of that. Pages of a walk name
days, orders or customers and are looked for by them."""

_CHAIN = text("""
    SELECT key, count(*) AS times
    FROM fetches f, jsonb_array_elements_text(f.seen) AS key
    WHERE f.poll_id = :poll_id AND f.state = 'done' AND f.round = :round AND f.params ->> 'chain' = :chain
    GROUP BY key
""")


def seen_in_chain(connection: Connection, poll_id: int, params: Mapping[str, Any], round_: int) -> dict[str, int]:
    """How often each key stood on the finished earlier pages of the chain named by `params["chain"]`."""
    chain = params.get("chain")
    if chain is None:
        return {}
    rows = connection.execute(_CHAIN, {"poll_id": poll_id, "round": round_, "chain": str(chain)})
    return dict(Counter({row.key: row.times for row in rows}))


_FORGET_CHAIN = text("""
    UPDATE fetches SET seen = NULL
    WHERE poll_id = :poll_id AND state = 'done' AND params ->> 'chain' = :chain AND seen IS NOT NULL
""")


def forget_chain(connection: Connection, poll_id: int, chain: str) -> None:
    """A chain was read to its end: the keys seen on its pages, which may be people's numbers, are needed no more."""
    connection.execute(_FORGET_CHAIN, {"poll_id": poll_id, "chain": chain})


_FORGET_SWEEPS = text("""
    UPDATE fetches f SET params = '{}', params_hash = '', seen = NULL
    FROM polls p JOIN accounts a ON a.id = p.account_id
    WHERE f.poll_id = p.id AND f.state IN ('done', 'cancelled') AND f.params ?| array['chain', 'range']
      AND p.state <> 'running' AND a.recipients = 'hashed'
      AND (CAST(:poll_id AS bigint) IS NULL OR p.id = :poll_id)
""")
_FORGET_IDS = text("""
    UPDATE polls p SET ids = NULL FROM accounts a
    WHERE a.id = p.account_id AND a.recipients = 'hashed' AND p.ids IS NOT NULL AND p.planned_at IS NULL
      AND p.state <> 'running'
""")


def forget_sweeps(connection: Connection, poll_id: int | None = None) -> None:
    """Let ended polls of accounts with hashed recipients forget whom they asked about; one poll, or all of them.

    Pages of a walk are looked for by their customer or order only while their poll runs.
    """
    connection.execute(_FORGET_SWEEPS, {"poll_id": poll_id})
    if poll_id is None:
        connection.execute(_FORGET_IDS)


_OPEN = text("""
    SELECT EXISTS (SELECT 1 FROM fetches f
      WHERE f.poll_id = :poll_id AND f.params -> 'window' = CAST(:window AS jsonb)
        AND f.state IN ('ready', 'sending', 'dead'))
""")
_WINDOW = text("""
    SELECT f.round, f.page, f.seen
    FROM fetches f
    WHERE f.poll_id = :poll_id AND f.params -> 'window' = CAST(:window AS jsonb) AND f.state = 'done'
      AND f.page IS NOT NULL
    ORDER BY f.finished_at, f.id
""")


def swept_pages(connection: Connection, poll_id: int, window_json: str) -> tuple[list[WalkedPage], bool]:
    """The pages of one window that a poll has read, in that order; or ([], True) while one is open, or is dead.

    To be asked under the poll's lock: of all finishers of a round exactly one then sees the round whole. What the pages
    have seen is read only then: read at each of n pages, it would cost n² pages.
    """
    parameters = {"poll_id": poll_id, "window": window_json}
    if connection.execute(_OPEN, parameters).scalar_one():
        return [], True
    rows = connection.execute(_WINDOW, parameters).all()
    pages = [
        WalkedPage(
            round=row.round,
            number=row.page["number"],
            count=row.page["count"],
            last=row.page["last"],
            seen=tuple(row.seen or ()),
            # Pages that the previous version stored lack both.
            size=row.page.get("size"),
            newest_first=row.page.get("newest_first"),
        )
        for row in rows
    ]
    return pages, False


_OTHERS = text("""
    SELECT EXISTS (SELECT 1 FROM fetches f
      WHERE f.poll_id = :poll_id AND f.params -> 'window' = CAST(:window AS jsonb) AND f.id <> :fetch_id)
""")


def is_read_again(connection: Connection, poll_id: int, window_json: str, fetch_id: int) -> bool:
    """Whether the poll has other pages of this window: then its page one was read before and calls for no others."""
    parameters = {"poll_id": poll_id, "window": window_json, "fetch_id": fetch_id}
    again: bool = connection.execute(_OTHERS, parameters).scalar_one()
    return again
