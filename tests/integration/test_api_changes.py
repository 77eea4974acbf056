"""The feed of changes over HTTP."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from database_fixtures import add_account
from quiet_cluster import wait_for_the_feed
from sqlalchemy import text
from task_api import Api, api

from ulak.api.cursors import decode, encode
from ulak.core import clock
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.erasure import erase
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status

__all__ = ["api"]

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def account(api: Api) -> None:
    """An account with nothing in the table."""
    with transaction(api.engine) as connection:
        add_account(connection, "marka-sms")


def tell(api: Api, *keys: str, status: Status = Status.ENROUTE, hours: int = 0) -> None:
    """What the provider answered about these messages."""
    reports = [
        DeliveryReport(
            granularity=Granularity.MESSAGE,
            provider_key=key,
            status=status,
            provider_status=status.value,
            recipient=f"person-1{key}",
        )
        for key in keys
    ]
    with transaction(api.engine) as connection:
        upsert(connection, "marka-sms", "vairo", reports, asked_at=NOON + timedelta(hours=hours))


def fold(api: Api, rows: dict[int, Any], cursor: str | None, limit: int = 2) -> str:
    """Read the feed to its end into `rows`; the cursor to go on from."""
    wait_for_the_feed(api.engine)
    while True:
        query = {"limit": limit} | ({} if cursor is None else {"cursor": cursor})
        page = api.get("/v1/changes", **query)
        for change in page["changes"]:
            if change["op"] == "put":
                rows[change["id"]] = change["delivery"]
            else:
                rows.pop(change["id"], None)
        cursor = page["cursor"]
        if not page["changes"]:
            assert page["more"] is False
            return str(cursor)


def test_folding_the_feed_gives_the_deliveries(api: Api) -> None:
    """Put by put and erasure by erasure, over pages of two."""
    tell(api, "a", "b", "c", "d", "e")
    rows: dict[int, Any] = {}
    cursor = fold(api, rows, None)
    tell(api, "b", "f", status=Status.DELIVERED, hours=1)
    with transaction(api.engine) as connection:
        erase(connection, "person-1c")
    cursor = fold(api, rows, cursor)
    whole = api.get("/v1/deliveries")["deliveries"]
    assert (sorted(rows.values(), key=lambda row: row["id"]), len(whole)) == (whole, 5)
    assert api.get("/v1/changes", cursor=cursor) == {"changes": [], "cursor": cursor, "more": False}


def test_a_reader_may_wait_for_a_change(api: Api) -> None:
    """It is answered when something is committed, and with nothing when its time is over."""
    cursor = fold(api, {}, None)
    started = clock.boot()
    assert api.get("/v1/changes", cursor=cursor, wait=0.6)["changes"] == []
    assert clock.boot() - started >= 0.6
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_for_changes, api, cursor)
        clock.sleep(0.3)
        tell(api, "a")
        wait_for_the_feed(api.engine)
        free = clock.boot()
        (change,) = waiting.result()
    assert (change["op"], change["delivery"]["provider_key"]) == ("put", "a")
    assert clock.boot() - free < 10


def wait_for_changes(api: Api, cursor: str) -> Any:
    """What a reader that waits is told; it asks again, since another test may hold the whole cluster's feed up."""
    for _ in range(5):
        if told := api.get("/v1/changes", cursor=cursor, wait=20)["changes"]:
            return told
    return []


def test_many_may_wait_and_the_others_are_still_served(api: Api) -> None:
    """A waiter holds neither a thread nor a connection."""
    cursor = fold(api, {}, None)
    with ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(api.get, "/v1/changes", cursor=cursor, wait=10) for _ in range(60)]
        clock.sleep(0.5)
        api.get("/v1/polls")
        assert not any(each.done() for each in waiting)
        assert all(each.result()["changes"] == [] for each in waiting)


def test_a_cursor_that_is_none_is_told_from_one_that_is_too_old(api: Api) -> None:
    """400: it never was one. 410: begin again."""
    tell(api, "a")
    cursor = fold(api, {}, None)
    other = api.get("/v1/polls")["cursor"]
    assert other is None
    for wrong in ("x", "nonsense!", "bnVsbA", "WzEsMl0", cursor[:-3], cursor + "AAAA", "W10"):
        assert api.client.get("/v1/changes", params={"cursor": wrong}).status_code == 400
    feed_id, began, changed_in, last_id = decode(cursor, tuple[str, str, int, int])
    for place in (
        (feed_id, began.removesuffix("Z"), changed_in, last_id),  # a time without a zone
        (feed_id, began, 2**63, last_id),
        (feed_id, began, changed_in, 2**63),
        (feed_id, began, -1, last_id),
    ):
        assert api.client.get("/v1/changes", params={"cursor": encode(place)}).status_code == 400
    for wait in (-1, 31):
        assert api.client.get("/v1/changes", params={"wait": wait}).status_code == 422
    with transaction(api.engine) as connection:
        connection.execute(text("UPDATE change_feed SET id = gen_random_uuid()"))
    gone = api.client.get("/v1/changes", params={"cursor": cursor})
    assert (gone.status_code, gone.json()["status"]) == (410, 410)


def test_after_a_restore_the_feed_goes_on_by_itself(api: Api) -> None:
    """The first to ask begins a new feed; a reader of the old one is told so."""
    tell(api, "a", "b")
    cursor = fold(api, {}, None)
    with transaction(api.engine) as connection:
        connection.execute(text("UPDATE change_feed SET cluster = 'another'"))
        connection.execute(text("UPDATE delivery_status SET changed_in = 9000000000000"))
    assert api.client.get("/v1/changes", params={"cursor": cursor}).status_code == 410
    rows: dict[int, Any] = {}
    fold(api, rows, None)
    assert list(rows.values()) == api.get("/v1/deliveries")["deliveries"]
