"""Searches on the status page: the newest first, several numbers at once, totals, a file, and one sentence."""

import asyncio
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from html import unescape
from itertools import repeat
from threading import BoundedSemaphore, Event
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.responses import Response
from starlette.types import Message
from test_pages import NOON, NUMBER, Browser, Start, change, deliveries, found, report, start

from ulak.api.pages import delivery_search, downloads
from ulak.api.pages.deliveries import place_of
from ulak.api.pages.delivery_search import MAX_PARTS
from ulak.api.pages.downloads import MAX_SCANS, Download
from ulak.api.pages.search_form import MAX_LISTED, Search, search_of
from ulak.api.pages.visits import DOWNLOADS_AT_ONCE
from ulak.core import clock
from ulak.models import newest_deliveries
from ulak.models.access import Role
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.report import DeliveryReport
from ulak.models.tokens import create_token
from ulak.models.vocabulary import Granularity, Reason, Status

__all__ = ["deliveries", "start"]


def store(engine: Engine, *reports: DeliveryReport, provider: str = "vairo") -> list[int]:
    """Their row ids."""
    with transaction(engine) as connection:
        upsert(connection, "kampanya", provider, list(reports), asked_at=NOON)
    keys = [each.provider_key for each in reports]
    return [change(engine, "SELECT id FROM delivery_status WHERE provider_key = :key", key=key) for key in keys]


def at(minute: int) -> datetime:
    """A time of today's fixture day."""
    return NOON + timedelta(minutes=minute)


@pytest.fixture
def timed(migrated_database: Engine, deliveries: dict[str, int]) -> list[int]:
    """Five messages to five people, the later ones first in the table."""
    reports = [
        report(f"t-{n}", Status.DELIVERED, recipient=f"+90532000000{n}", client_ref=f"ref-{n}", sent_at=at(60 - n))
        for n in range(5)
    ]
    return store(migrated_database, *reports)


def test_the_newest_come_first_and_without_a_search(start: Start, deliveries: dict[str, int], timed: list[int]) -> None:
    """By the time of the message, whatever the order of the rows; orders are listed where they are asked for."""
    page = start().log_in()
    words = page.get("/deliveries?account=kampanya&since=2026-05-01&until=2026-05-01")
    assert found(page) == timed
    assert "5 deliveries match, newest first. 5 delivered, 0 failed, 0 pending" in words
    assert "Nothing matches." in page.get("/deliveries?account=kampanya&kind=order")
    assert set(found(page)) == set()
    page.get("/deliveries")
    assert found(page) == sorted(deliveries.values(), reverse=True)


def test_several_numbers_and_references_are_looked_for_at_once(
    start: Start, deliveries: dict[str, int], timed: list[int]
) -> None:
    """As they are pasted: a line each, or between commas; with how many there are. None stands in the address."""
    page = start().log_in()
    page.get("/deliveries")
    pasted = "0532 000 00 01\r\n +90 532 000 00 03;905320000004,\r\n0532 999 99 99"
    words = page.press("/deliveries", recipient=pasted)
    assert found(page) == [timed[1], timed[3], timed[4]]
    assert "3 deliveries match, newest first. Searched for 4 numbers or references." in words
    assert "532" not in str(page.page.url)
    assert page.page.text.count("0532 000 00 01") == 1
    page.press("/deliveries", client_ref="ref-0\nref-4\nref-9")
    assert found(page) == [timed[0], timed[4]]
    page.press("/deliveries", client_ref="ref-0\nref-4", recipient="0532 000 00 04", since="2026-05-01")
    assert found(page) == [timed[4]]
    assert "Nothing matches." in page.press("/deliveries", client_ref="ref-0", since="2026-05-02")


def test_each_number_of_a_search_is_recorded_and_takes_the_role(
    start: Start, migrated_database: Engine, timed: list[int]
) -> None:
    """One event for each person; a reader may not search for any, and filters alone record nothing."""
    with transaction(migrated_database) as connection:
        token = create_token(connection, "okur", role=Role.READ)
    count = "SELECT count(*) FROM events WHERE action = 'person.searched'"
    page, reader = start().log_in(), start().log_in(token)
    for browser in (page, reader):
        browser.get("/deliveries")
    page.press("/deliveries", recipient="0532 000 00 01\n0532 000 00 02")
    assert change(migrated_database, count) == 2
    assert "Your role does not allow this" in reader.press("/deliveries", recipient="0532 000 00 01")
    page.get("/deliveries?outcome=delivered")
    reader.get("/deliveries?outcome=delivered")
    assert found(reader)
    assert change(migrated_database, count) == 2


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("outcome=failed", ["m-4", "m-2"]),
        ("outcome=pending", ["m-3"]),
        ("status=rejected", ["m-4"]),
        ("reason=absent", ["m-2"]),
        ("outcome=failed&reason=none", ["m-4"]),
        ("range=%2B90530&outcome=delivered", ["m-1"]),
        ("range=none", []),
        ("range=x&reason=y&outcome=z&since=99-99&before=x-y", ["m-4", "m-3", "m-2", "m-1"]),
        ("recipient=%2B905301234567&outcome=pending", ["m-3"]),
        ("since=0001-01-01&until=9999-12-31", ["m-4", "m-3", "m-2", "m-1"]),
        ("before=0-0", []),
        (f"before={10**30}-{10**30}", ["m-4", "m-3", "m-2", "m-1"]),
    ],
)
def test_filters_stand_in_the_address(start: Start, deliveries: dict[str, int], query: str, keys: list[str]) -> None:
    """So a list can be linked to; what cannot be is left out, and so is a number, which nobody may put there."""
    page = start().log_in()
    page.get(f"/deliveries?{query}")
    assert page.page.status_code == 200
    assert sorted(found(page)) == sorted(deliveries[key] for key in keys)


def lines(page: Browser, path: str, **headers: str) -> Sequence[str]:
    """The lines of a file."""
    answer = page.client.get(path, headers=headers)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="deliveries.csv"'
    return answer.text.removeprefix("\ufeff").splitlines()


def test_a_search_is_downloaded_with_numbers_masked(start: Start, deliveries: dict[str, int], timed: list[int]) -> None:
    """All of its rows in the same order; with semicolons for Turkish spreadsheets; never with a number."""
    page = start().log_in()
    page.get("/deliveries")
    page.press("/deliveries", recipient=NUMBER)
    link = re.search(r'href="(/deliveries\.csv\?q=[^"]+)"', page.page.text)
    assert link is not None
    header, *rows = lines(page, unescape(link[1]))
    assert header.startswith("id,account_id,provider,granularity,provider_key,")
    assert [int(row.partition(",")[0]) for row in rows] == found(page)
    assert not [row for row in rows if "530123456" in row]
    turkish = lines(page, "/deliveries.csv?account=kampanya&outcome=delivered", **{"accept-language": "tr"})
    assert turkish[0].startswith("id;account_id;provider;")
    assert len(turkish) == 2
    assert page.client.get("/deliveries.csv?q=forged").status_code == 404


def test_a_long_list_goes_page_by_page_by_time(start: Start, migrated_database: Engine, timed: list[int]) -> None:
    """Sixty messages of the same second: each on one page, and all in the file."""
    many = [report(f"n-{n:02}", Status.SENT, recipient=None, client_ref=None, sent_at=at(5)) for n in range(60)]
    rows = sorted(store(migrated_database, *many), reverse=True)
    page = start().log_in()
    path = "/deliveries?since=2026-05-01&until=2026-05-01"
    words = page.get(path)
    assert "65 deliveries match" in words
    listed = found(page)
    following = re.search(r'rel="next" href="([^"]+)"', page.page.text)
    assert following is not None
    page.get(unescape(following[1]))
    assert listed + found(page) == timed + rows
    assert 'rel="next"' not in page.page.text
    written = lines(page, path.replace("/deliveries", "/deliveries.csv"))
    assert [int(row.partition(",")[0]) for row in written[1:]] == timed + rows


def test_a_file_ends_within_bounds_and_says_what_it_leaves_out(
    start: Start, migrated_database: Engine, timed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rare filter reads a bounded number of parts and counts once; the last line says that more may match."""
    [rare] = store(migrated_database, report("rare", Status.REJECTED, sent_at=at(-60)))
    columns = "account_id, provider, granularity, status, is_final, provider_status, message_time_source"
    change(
        migrated_database,
        f"INSERT INTO delivery_status ({columns}, provider_key, message_time) SELECT {columns}, 'copy-' || n,"
        " message_time - make_interval(secs => n) FROM delivery_status, generate_series(1, 1600) n"
        " WHERE provider_key = 't-0'",
    )
    monkeypatch.setattr(newest_deliveries, "SCANNED_ROWS", 1)
    monkeypatch.setattr(newest_deliveries, "MIN_SCANNED", 1)
    scans, counts = counted_calls(monkeypatch, "newest_of_accounts"), counted_calls(monkeypatch, "count_days")
    page, path = start().log_in(), "/deliveries.csv?account=kampanya&since=2026-05-01&until=2026-05-01&outcome=failed"
    _, last = lines(page, path)
    assert last.startswith('"Incomplete: this file ends after 0 rows, and more may match.')
    assert (MAX_SCANS - MAX_PARTS < len(scans) <= MAX_SCANS, len(counts)) == (True, 1)
    monkeypatch.setattr(newest_deliveries, "MIN_SCANNED", 500)
    assert [row.partition(",")[0] for row in lines(page, path)] == ["id", str(rare)]
    assert lines(page, path, **{"accept-language": "tr"})[1].startswith(f"{rare};")
    monkeypatch.setattr(downloads, "MAX_DOWNLOADED", 3)
    assert "ends after 3 rows" in lines(page, path.replace("outcome=failed", ""))[4]


def counted_calls(monkeypatch: pytest.MonkeyPatch, name: str, before: Callable[[], object] = bool) -> list[str]:
    """The calls that searches make of this function from now on; `before` runs at the beginning of each."""
    calls: list[str] = []
    real = getattr(delivery_search, name)

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(name)
        before()
        return real(*given, **named)

    monkeypatch.setattr(delivery_search, name, counted)
    return calls


def test_downloads_leave_room_for_everything_else(
    start: Start, timed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at a time; more are refused at once, while pages and callbacks are served. When one ends there is room."""
    go_on = Event()
    calls = counted_calls(monkeypatch, "newest_of_accounts", lambda: go_on.wait(120))
    page, path = start().log_in(), "/deliveries.csv?since=2026-05-01&until=2026-05-01"
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        try:
            running = [pool.submit(lines, page, path) for _ in range(DOWNLOADS_AT_ONCE)]
            ends = clock.boot() + 60
            while len(calls) < DOWNLOADS_AT_ONCE:
                assert clock.boot() < ends
                clock.sleep(0.05)
            for _ in range(20):
                assert "Too many downloads in progress" in page.get(path)
                assert page.page.status_code == 429
            page.get("/polls")
            assert page.page.status_code == 200
            assert page.client.post("/callbacks/vairo/unknown/x", json={}).status_code == 404
        finally:
            go_on.set()
        assert [len(each.result(timeout=60)) for each in running] == [6, 6]
    assert len(lines(page, path)) == 6


def test_a_reader_who_goes_away_gives_the_place_back() -> None:
    """While the file still has parts; and so does one that fails."""

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        await asyncio.sleep(0)

    slots, scope = BoundedSemaphore(1), {"type": "http", "asgi": {"spec_version": "2.3"}}
    for _ in range(2):
        asyncio.run(Download(repeat("x"), slots, Response)(scope, receive, send))
    with pytest.raises(ValueError, match="none"):
        asyncio.run(
            Download(map(str, map(int, ["none"])), slots, Response)(
                scope | {"asgi": {"spec_version": "2.4"}}, receive, send
            )
        )
    assert slots.acquire(blocking=False)


SENT, DONE = datetime(2026, 5, 1, 9, 0, 0, tzinfo=UTC), datetime(2026, 5, 1, 9, 0, 8, tzinfo=UTC)


@pytest.mark.usefixtures("deliveries")
@pytest.mark.parametrize(
    ("status", "fields", "sentence"),
    [
        (Status.DELIVERED, {"sent_at": SENT, "done_at": DONE},
         "Delivered to +90•••••••67 on 1 May, 09:00:08, 8 s after it was sent; reported by Vairo SMS."),
        (Status.READ, {"done_at": DONE}, "Delivered to +90•••••••67 on 1 May, 09:00:08; reported by Vairo SMS."),
        (Status.DELIVERED, {}, "Delivered to +90•••••••67; Vairo SMS does not report when."),
        (Status.UNDELIVERABLE, {"sent_at": SENT, "reason": Reason.ABSENT},
         "(undeliverable): the subscriber could not be reached. Sent on 1 May, 09:00:00;"),
        (Status.REJECTED, {"sent_at": SENT}, "(rejected); Vairo SMS gives no reason. Sent on 1 May"),
        (Status.ENROUTE, {"sent_at": SENT}, "On its way to +90•••••••67, sent on 1 May, 09:00:00."),
        (Status.SCHEDULED, {}, "Scheduled for +90•••••••67: Vairo SMS has accepted it"),
        (Status.SENT, {"sent_at": SENT}, "gives no delivery report for it, so whether it arrived is unknown."),
        (Status.UNREPORTED, {"sent_at": SENT}, "reported no outcome within its validity."),
        (Status.UNKNOWN, {"sent_at": SENT, "provider_status": "Q7"}, "reports the undocumented status Q7."),
    ],
)  # fmt: skip
def test_a_delivery_begins_with_one_sentence(
    start: Start, migrated_database: Engine, status: Status, fields: dict[str, Any], sentence: str
) -> None:
    """What became of it, to whom, when, how fast, and who says so; in the zone of the account."""
    [row] = store(migrated_database, report("s-1", status, **fields))
    page = start().log_in()
    words = page.get(f"/deliveries/{row}")
    assert sentence.replace(", 09", f"{'' if datetime.now(UTC).year == 2026 else ' 2026'}, 09") in words
    assert words.index("Mesaj" if "Mesaj" in words else "Delivery") < words.index(sentence[:12])


def test_orders_say_how_many_of_their_messages_arrived(
    start: Start, migrated_database: Engine, deliveries: dict[str, int]
) -> None:
    """They are no message, and marked as orders in a list."""
    fields: dict[str, Any] = {"total": 1200, "delivered": 1000, "undelivered": 150, "waiting": 50}
    order = DeliveryReport(
        granularity=Granularity.ORDER, provider_key="o-1", status=Status.ENROUTE, provider_status="113", **fields
    )
    [row] = store(migrated_database, order)
    page = start().log_in()
    words = page.get(f"/deliveries/{row}")
    assert "An order of 1,200 messages through Vairo SMS: 1,000 delivered, 150 failed, 50 pending." in words
    assert "order 1,200 messages" in page.get("/deliveries?kind=order")
    assert found(page) == [row]


def test_a_form_is_read_within_bounds() -> None:
    """So many numbers at once, and days that every zone knows."""
    asked = search_of({"recipient": "\n".join(f"0532{n:07}" for n in range(500)), "since": "0001-01-01", "kind": "x"})
    assert (len(asked.recipients), asked.since, asked.kind, asked.is_named) == (MAX_LISTED, "", "", True)
    assert Search(account="a", since="2026-05-01", recipient="5").query == "account=a&since=2026-05-01"
    assert place_of("1-2") == (datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC), 2)
    assert [place_of(each) for each in ("", "1", "-", "x-1", "1-x", f"1-{2**63}", "²-1")] == [None] * 7
