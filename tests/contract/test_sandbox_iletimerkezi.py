"""The iletimerkezi stand-in answers as the documents say."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from ulak.sandbox.server import Sandbox

ISTANBUL = timezone(timedelta(hours=3))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A small world whose lives are over in half a second."""
    with Sandbox(seed=3, speed=1200) as running:
        running.control("POST", "/limits", {"provider": "iletimerkezi", "requests": 10_000})
        yield running


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """One HTTP client."""
    with httpx.Client(trust_env=False, timeout=20) as made:
        yield made


def login(sandbox: Sandbox) -> dict[str, str]:
    """The credentials of the demo account."""
    return dict(sandbox.control("GET", "/accounts")[0]["credentials"])


def post(sandbox: Sandbox, client: httpx.Client, path: str, **request: Any) -> tuple[int, dict[str, Any]]:
    """One signed request; HTTP status and `response`."""
    body = {"request": {"authentication": login(sandbox), **request}}
    answer = client.post(sandbox.urls["iletimerkezi"] + path, json=body)
    return answer.status_code, answer.json()["response"]


def ask_list(
    sandbox: Sandbox, client: httpx.Client, back: int, until: int = 0, **more: Any
) -> tuple[int, dict[str, Any]]:
    """The list of the days from `back` days ago until `until` days ago."""
    today = datetime.now(ISTANBUL).date()
    chosen = {
        "start": str(today - timedelta(days=back)),
        "end": str(today - timedelta(days=until)),
        **more,
    }
    return post(sandbox, client, "/v1/get-reports/json", filter=chosen)


def test_a_list_has_the_fields_of_the_sample(sandbox: Sandbox, client: httpx.Client) -> None:
    """Names, nesting and date form are those of the provider's page."""
    status, body = ask_list(sandbox, client, 10)
    assert status == 200
    assert body["status"] == {"code": 200, "message": "İşlem başarılı"}
    assert list(body["orders"][0]) == [
        "id",
        "status",
        "total",
        "delivered",
        "undelivered",
        "waiting",
        "submitAt",
        "sendAt",
        "sender",
    ]
    datetime.strptime(body["orders"][0]["submitAt"], "%Y-%m-%d %H:%M:%S").astimezone(ISTANBUL)


def test_a_wrong_range_is_458_and_a_wrong_page_464(sandbox: Sandbox, client: httpx.Client) -> None:
    """More than ten days, end before start, another date form; page 0; HTTP mirrors the code."""
    codes = [
        ask_list(sandbox, client, 11),
        ask_list(sandbox, client, 0, 1),
        ask_list(sandbox, client, 1, start="22.11.2026"),
        ask_list(sandbox, client, 1, start="2026-02-31"),
        ask_list(sandbox, client, 1, page=0),
    ]
    assert [(status, body["status"]["code"]) for status, body in codes] == [
        (458, 458),
        (458, 458),
        (458, 458),
        (458, 458),
        (464, 464),
    ]
    assert all("orders" not in body for _, body in codes)
    assert ask_list(sandbox, client, 10)[0] == 200


def test_wrong_login_body_and_path_are_told_apart(sandbox: Sandbox, client: httpx.Client) -> None:
    """401 for the hash, 400 for the JSON, 404 for the address; a hash is compared, not made."""
    url = sandbox.urls["iletimerkezi"]
    wrong = {"request": {"authentication": {**login(sandbox), "hash": "0" * 64}, "filter": {}}}
    assert [
        client.post(url + "/v1/get-reports/json", json=wrong).status_code,
        client.post(url + "/v1/get-reports/json", content=b"{").status_code,
        client.post(url + "/v1/get-report-summary/json", json=wrong).status_code,
        client.get(url + "/v1/get-reports/json").status_code,
    ] == [401, 400, 404, 404]


def test_pages_of_thirty_are_oldest_first_and_a_new_order_joins_the_end(sandbox: Sandbox, client: httpx.Client) -> None:
    """As in the sample; what arrives between two pages moves nothing; past the end is empty."""
    sandbox.control("POST", "/sends/iletimerkezi", {"count": 64})
    first = ask_list(sandbox, client, 0, page=1)[1]
    sandbox.control("POST", "/sends/iletimerkezi", {"count": 1})
    second = ask_list(sandbox, client, 0, page="2")[1]
    ids = [one["id"] for one in first["orders"] + second["orders"]]
    assert len(first["orders"]) == 30
    assert second["count"] == first["count"] + 1
    assert (ids, len(set(ids))) == (sorted(ids), 60)
    far = ask_list(sandbox, client, 0, page=99)[1]
    assert (far["count"], far["orders"]) == (second["count"], [])


@contextmanager
def setting(sandbox: Sandbox, name: str) -> Iterator[None]:
    """A stress test switched on."""
    sandbox.control("POST", "/settings", {name: True})
    try:
        yield
    finally:
        sandbox.control("POST", "/settings", {name: False})


def test_newest_first_is_a_stress_test_in_which_a_new_order_moves_all_others(
    sandbox: Sandbox, client: httpx.Client
) -> None:
    """It pushes one from page 1 to page 2."""
    sandbox.control("POST", "/sends/iletimerkezi", {"count": 64})
    with setting(sandbox, "iletimerkezi_newest_first"):
        first = ask_list(sandbox, client, 0, page=1)[1]
        sandbox.control("POST", "/sends/iletimerkezi", {"count": 1})
        second = ask_list(sandbox, client, 0, page=2)[1]
    assert first["orders"][-1]["id"] == second["orders"][0]["id"]


def test_text_typed_numbers_are_a_stress_test(sandbox: Sandbox, client: httpx.Client) -> None:
    """Both spellings within one list where it is on, numbers alone where it is off."""
    sandbox.control("POST", "/sends/iletimerkezi", {"count": 20})
    names = ("id", "status", "total", "delivered", "undelivered", "waiting")
    orders = ask_list(sandbox, client, 0)[1]["orders"]
    assert {type(one[name]) for one in orders for name in names} == {int}
    with setting(sandbox, "iletimerkezi_text_numbers"):
        orders = ask_list(sandbox, client, 0)[1]["orders"]
    assert [{type(one[name]) for one in orders} for name in names] == [{int, str}] * len(names)


def test_the_detail_of_2024_is_a_stress_test(sandbox: Sandbox, client: httpx.Client) -> None:
    """No counters, and numbers as integers of ten digits."""
    key = next(row["provider_key"] for row in sandbox.truth("iletimerkezi") if row["granularity"] == "order")
    new = post(sandbox, client, "/v1/get-report/json", order={"id": key})[1]["order"]
    with setting(sandbox, "iletimerkezi_old_details"):
        old = post(sandbox, client, "/v1/get-report/json", order={"id": key})[1]["order"]
    assert set(new) - set(old) == {"total", "delivered", "undelivered", "waiting"}
    assert [f"+90{one['number']}" for one in old["message"]] == [one["number"] for one in new["message"]]


def test_a_detail_walks_in_pages_of_at_most_a_thousand(client: httpx.Client) -> None:
    """The big order of the demo world needs two pages, and `rowCount` over 1000 is cut."""
    with Sandbox(seed=1, speed=600, scale="demo") as demo:
        big = next(row for row in demo.truth("iletimerkezi") if (row["total"] or 0) > 1000)
        pages = [
            post(
                demo,
                client,
                "/v1/get-report/json",
                order={"id": big["provider_key"], "page": page, "rowCount": 5000},
            )[1]["order"]
            for page in (1, 2, 3)
        ]
    assert [len(page["message"]) for page in pages] == [1000, big["total"] - 1000, 0]
    assert set(pages[0]["message"][0]) == {"number", "status"}


def test_unknown_and_scheduled_orders_have_their_own_codes(sandbox: Sandbox, client: httpx.Client) -> None:
    """455 for an order nobody has, 456 before its time has come."""
    # The last of them is the one that is scheduled for tomorrow.
    *_, waiting = (row for row in sandbox.truth("iletimerkezi") if row["status"] == "scheduled")
    assert [
        post(sandbox, client, "/v1/get-report/json", order={"id": 5})[0],
        post(sandbox, client, "/v1/get-report/json", order={"id": waiting["provider_key"]})[0],
    ] == [455, 456]


def test_equal_numbers_change_places_between_reads(client: httpx.Client) -> None:
    """The multiset of one number's ends stays, their places do not."""
    with Sandbox(seed=1, speed=5000, scale="demo") as demo:
        rows = demo.truth("iletimerkezi")
        key = next(r["parent_key"] for r in rows if r["provider_key"].endswith(":2"))
        reads: list[list[tuple[str, int]]] = []
        for _ in range(4):
            body = post(demo, client, "/v1/get-report/json", order={"id": int(key)})[1]["order"]
            reads.append([(str(one["number"]), int(one["status"])) for one in body["message"]])
    assert len({tuple(sorted(read)) for read in reads}) == 1
    assert len({tuple(read) for read in reads}) > 1


def test_the_range_counts_the_day_of_submission(sandbox: Sandbox, client: httpx.Client) -> None:
    """Every order of a list was submitted on a day of its range."""
    _, body = ask_list(sandbox, client, 9, 1)
    days = {date.fromisoformat(one["submitAt"][:10]) for one in body["orders"]}
    today = datetime.now(ISTANBUL).date()
    assert all(1 <= (today - day).days <= 9 for day in days)
    assert len(body["orders"]) == int(body["count"]) > 0
