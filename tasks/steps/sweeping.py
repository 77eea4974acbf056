"""Judging a list window: is a round over its pages whole, did it see all, or must it be walked again."""

from dataclasses import replace
from datetime import date

import msgspec
from sqlalchemy import Connection

from core.logging import get_logger
from models.ledger import planning
from models.ledger.walks import WalkedPage, walked_pages
from providers.adapter import SweepPage
from schedules.windows import round_complete
from tasks.steps.asking import Asked
from tasks.steps.planning import new_fetch

log = get_logger(__name__)

MOST_ROUNDS = 3


def judge_window(connection: Connection, asked: Asked) -> tuple[int, bool]:
    """Under the poll's lock: is the window's round whole and complete? (further fetches inserted, drifting)."""
    window = asked.taken.params.get("window")
    if window is None:
        return 0, False
    pages, is_open_still = walked_pages(connection, asked.taken.poll_id, msgspec.json.encode(window).decode())
    latest = max((page.round for page in pages), default=0)
    if is_open_still or latest != asked.taken.round:
        return 0, False
    if _is_complete(pages, latest, is_today=_reaches_today(asked, window)):
        return 0, False
    if latest >= MOST_ROUNDS:
        log.warning("sweep.drifting", window=window, rounds=latest)
        return 0, True
    start, end = (date.fromisoformat(day) for day in window)
    specs = asked.prepared.adapter.plan_window(asked.prepared.account, start, end)
    again = [
        new_fetch(replace(spec, round=latest + 1), priority=asked.taken.priority, walk=asked.taken.poll_id)
        for spec in specs
    ]
    return planning.insert_fetches(connection, asked.taken.poll_id, asked.taken.account_id, again), False


def _reaches_today(asked: Asked, window: list[str]) -> bool:
    """Whether the window still grew when it was asked for."""
    return date.fromisoformat(window[1]) >= asked.taken.asked_at.astimezone(asked.prepared.account.timezone).date()


def _is_complete(pages: list[WalkedPage], latest: int, *, is_today: bool) -> bool:
    """Whether the latest round, with the rounds before it for today's window, has seen all."""
    counted = pages if is_today else [page for page in pages if page.round == latest]
    distinct = {key for page in counted for key in page.seen}
    of_round = [
        SweepPage(number=page.number, count=page.count, last=page.last) for page in pages if page.round == latest
    ]
    return round_complete(of_round, len(distinct), today=is_today)
