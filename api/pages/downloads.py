"""Deliveries as a file: few at a time, each within bounds, so that no download takes what callbacks and pages need."""

from collections.abc import Callable, Iterator
from itertools import islice
from threading import BoundedSemaphore
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ulak.api.masking import masked_row
from ulak.api.pages.delivery_search import MAX_PARTS, Finder, Plan
from ulak.api.pages.search_form import Search
from ulak.api.pages.visits import HEADERS, Visit
from ulak.models.lookups import COLUMNS
from ulak.models.newest_deliveries import Place
from ulak.providers.codes import explain_codes
from ulak.workers.csv_rows import csv_lines

MAX_DOWNLOADED: Final = 100_000
MAX_SCANS: Final = 500
"""How many parts of the table, of up to `newest_deliveries.SCANNED_ROWS` rows each, are read for one file."""
ROWS_AT_ONCE: Final = 1_000
ROWS_AT_FIRST: Final = 50
"""A reader sees at once that the download has begun."""
DELIMITERS: Final = {"tr": ";"}
"""Between the columns of a download, where spreadsheets of the language expect no comma."""
CSV_COLUMNS: Final = (
    *(column.name for column in COLUMNS),
    "provider_status_meaning",
    "provider_error_meaning",
)


class Download(StreamingResponse):
    """A file that is sent where one of `slots` is free, otherwise `refusal`.

    The slot is held while the file is sent: it is free again when the file ends, fails, or its reader goes away.
    """

    def __init__(self, parts: Iterator[str], slots: BoundedSemaphore, refusal: Callable[[], Response]) -> None:
        """`refusal` is called on a thread."""
        name = {"Content-Disposition": 'attachment; filename="deliveries.csv"'}
        super().__init__(parts, media_type="text/csv; charset=utf-8", headers=dict(HEADERS) | name)
        self._slots, self._refusal = slots, refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Taken here and not before: whatever becomes of the request, a slot that is taken is given back."""
        if not self._slots.acquire(blocking=False):
            refusal = await run_in_threadpool(self._refusal)
            await refusal(scope, receive, send)
            return
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._slots.release()


def csv_parts(seen: Visit, search: Search) -> Iterator[str]:
    """The file in parts, each read over a connection that is given back: a slow reader holds none.

    A part may be empty: between two of them it is noticed that the reader has gone. Where a bound ends the file
    although more may match, its last line states that.
    """
    # Spreadsheets know UTF-8 by the mark.
    yield f"\ufeff{_lines(seen, header=True)}"
    before: Place | None = None
    plan: Plan | None = None
    left, many, scans = MAX_DOWNLOADED, ROWS_AT_FIRST, 0
    show = seen.show
    while left > 0 and scans + MAX_PARTS <= MAX_SCANS:
        with seen.site.runtime.engine.connect() as connection:
            finder = Finder(connection, seen.access, show, seen.site.recorder)
            page = finder.find(search, before=before, limit=min(many, left), plan=plan)
        yield _lines(seen, *(masked_row(row) | explain_codes(row) for row in page.rows))
        plan, before, many = page.plan, page.before, ROWS_AT_ONCE
        left -= len(page.rows)
        scans += page.scans
        if before is None:
            return
    yield _lines(seen, {CSV_COLUMNS[0]: seen.language.say("search.cut", n=MAX_DOWNLOADED - left)})


def _lines(seen: Visit, *rows: dict[str, Any], header: bool = False) -> str:
    lines = csv_lines(CSV_COLUMNS, rows, delimiter=DELIMITERS.get(seen.language.code, ","))
    return "".join(islice(lines, 0 if header else 1, None))
