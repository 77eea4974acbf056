"""What the pages of one poll have seen: the facts by which a window or a chain is judged complete."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text


def ended_state_sql() -> str:
    """SQL for the state in which a poll ends once nothing is open."""
    return "(CASE WHEN dead > 0 OR drifting THEN 'complete_with_errors' ELSE 'complete' END)"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkedPage:
    """One finished page of a list window."""

    round: int
    number: int
    count: int | None
    last: bool
    seen: tuple[str, ...]


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
    ORDER BY f.id
""")


def walked_pages(connection: Connection, poll_id: int, window_json: str) -> tuple[list[WalkedPage], bool]:
    """The finished pages of one window of a poll; or ([], True) while another of its pages is still open, or is dead.

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
        )
        for row in rows
    ]
    return pages, False
