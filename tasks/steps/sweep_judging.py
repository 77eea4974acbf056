"""Judging a list window under the poll's lock: was it read whole, or which pages must be read (again)."""

from dataclasses import replace
from datetime import date

import msgspec
from sqlalchemy import Connection

from ulak.models.ledger import opening
from ulak.models.ledger.deadletters import clear_dead, subjects_of_window
from ulak.models.ledger.sweep_pages import is_read_again, swept_pages
from ulak.providers.adapter import FetchSpec, Parsed
from ulak.schedules.windows import is_read_downwards, judge_reading
from ulak.tasks.steps.attempt_records import Asked
from ulak.tasks.steps.fetch_rows import new_fetch


def further_pages(connection: Connection, asked: Asked, parsed: Parsed) -> tuple[FetchSpec, ...]:
    """The children of an answer; those of a list window in the order of reading, and none where page one is read again.

    Which pages are read then is for `judge_window` to say.
    """
    if parsed.page is None or not parsed.children:
        return parsed.children
    window = msgspec.json.encode(asked.taken.params["window"]).decode()
    if is_read_again(connection, asked.taken.poll_id, window, asked.taken.fetch_id):
        return ()
    is_downwards = is_read_downwards(newest_first=parsed.page.newest_first)
    return tuple(sorted(parsed.children, key=lambda spec: spec.params["page"], reverse=is_downwards))


def judge_window(connection: Connection, asked: Asked) -> tuple[int, bool]:
    """Once no page of the window is open: (further fetches inserted, drifting)."""
    window = asked.taken.params.get("window")
    if window is None:
        return 0, False
    reads, is_open_still = swept_pages(connection, asked.taken.poll_id, msgspec.json.encode(window).decode())
    if is_open_still:
        return 0, False
    verdict = judge_reading(reads)
    first, last = (date.fromisoformat(day) for day in window)
    if verdict.is_complete:
        if asked.taken.has_dead:
            clear_dead(connection, asked.taken.account_id, subjects_of_window(first, last), asked.taken.asked_at)
        return 0, False
    if not verdict.pages:
        return 0, True
    attempt = max(read.round for read in reads) + verdict.is_new_attempt
    further = [
        new_fetch(
            replace(spec, params={**spec.params, "page": page}, round=attempt, label=f"{first}..{last} page {page}"),
            priority=opening.rank_of_next_page(asked.taken.priority),
            walk=asked.taken.poll_id,
        )
        for page in verdict.pages
        for spec in asked.prepared.adapter.plan_window(asked.prepared.account, first, last)
    ]
    return opening.insert_fetches(connection, asked.taken.poll_id, asked.taken.account_id, further), False
