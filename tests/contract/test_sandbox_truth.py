"""The sandbox's truth is what its own endpoints say, read in the plainest way, for every row."""

import base64
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from ulak.sandbox.server import Sandbox

ISTANBUL = timezone(timedelta(hours=3))
Rows = Counter[tuple[Any, ...]]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A demo world after all its lives, its limits out of the way."""
    with Sandbox(seed=8, speed=1500, scale="demo") as running:
        for name in ("iletimerkezi", "vairo", "organik", "diyalog"):
            running.control("POST", "/limits", {"provider": name, "requests": 10**6})
        running.control("POST", "/settings", {"latency_seconds": 0.0})
        while not running.control("GET", "/truth/settled")["settled"]:
            time.sleep(0.05)
        yield running


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """One HTTP client."""
    with httpx.Client(trust_env=False, timeout=20) as made:
        yield made


def login(sandbox: Sandbox, place: int) -> dict[str, str]:
    """Credentials of an account."""
    return dict(sandbox.control("GET", "/accounts")[place]["credentials"])


def local(text: str | None) -> datetime | None:
    """A bare Istanbul time."""
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=ISTANBUL)


def when(text: str | None) -> datetime | None:
    """A time of the truth."""
    return None if text is None else datetime.fromisoformat(text)


def pick(sandbox: Sandbox, provider: str, *columns: str) -> Rows:
    """Columns of the truth, counted as a multiset; equal numbers lose their ordinal."""
    rows: Rows = Counter()
    for row in sandbox.truth(provider):
        row["sent_at"], row["done_at"] = when(row["sent_at"]), when(row["done_at"])
        rows[tuple(row[name] for name in columns)] += 1
    return rows


def walk_orders(sandbox: Sandbox, client: httpx.Client, first: date, last: date) -> list[dict[str, Any]]:
    """All pages of one window."""
    url, given = sandbox.urls["iletimerkezi"], login(sandbox, 0)
    orders: list[dict[str, Any]] = []
    for page in range(1, 50):
        chosen = {"start": str(first), "end": str(last), "page": page}
        body = {"request": {"authentication": given, "filter": chosen}}
        answer = client.post(url + "/v1/get-reports/json", json=body).json()["response"]
        orders += answer["orders"]
        if len(answer["orders"]) < 30:
            break
    return orders


def read_messages(sandbox: Sandbox, client: httpx.Client, order: dict[str, Any]) -> list[dict[str, Any]]:
    """All pages of one order; none before its time."""
    url, given = sandbox.urls["iletimerkezi"], login(sandbox, 0)
    messages: list[dict[str, Any]] = []
    for page in (1, 2, 3):
        asked = {"id": order["id"], "page": page}
        body = {"request": {"authentication": given, "order": asked}}
        answer = client.post(url + "/v1/get-report/json", json=body).json()["response"]
        if int(answer["status"]["code"]) != 200:
            break
        messages += answer["order"]["message"]
    return messages


def test_iletimerkezi(sandbox: Sandbox, client: httpx.Client) -> None:
    """Every order of fourteen days, and every recipient of each."""
    today = datetime.now(ISTANBUL).date()
    orders = walk_orders(sandbox, client, today - timedelta(days=9), today)
    orders += walk_orders(sandbox, client, today - timedelta(days=14), today - timedelta(days=10))
    found: Rows = Counter()
    words = {"110": "enroute", "111": "delivered", "112": "undeliverable"}
    for order in orders:
        counts = tuple(int(order[n]) for n in ("total", "delivered", "undelivered", "waiting"))
        status = {"113": "enroute", "115": "rejected"}.get(str(order["status"]))
        if status is None:
            status = "delivered" if counts[1] == counts[0] else "undeliverable"
            status = "partially_delivered" if 0 < counts[1] < counts[0] else status
        sent = local(order["sendAt"])
        if sent is not None and sent > datetime.now(UTC):
            # Still to be sent: `sendAt` is a plan.
            status, sent = "scheduled", None
        found["order", None, None, status, *counts, sent] += 1
        for one in read_messages(sandbox, client, order):
            number = "+90" + str(one["number"])[-10:]
            word = words[str(one["status"])]
            found["message", str(order["id"]), number, word, *[None] * 5] += 1
    columns = ("granularity", "parent_key", "recipient", "status", "total", "delivered")
    rest = ("undelivered", "waiting", "sent_at")
    assert found == pick(sandbox, "iletimerkezi", *columns, *rest)
    keys = {row["provider_key"] for row in sandbox.truth("iletimerkezi")}
    assert {str(order["id"]) for order in orders} <= keys


def test_vairo(sandbox: Sandbox, client: httpx.Client) -> None:
    """Every number of every send."""
    key, url = login(sandbox, 1)["api_key"], sandbox.urls["vairo"]
    words = {
        "WAITING": "enroute",
        "DELIVERED": "delivered",
        "SENT": "sent",
        "NOT_DELIVERED": "undeliverable",
        "INVALID_DESTINATION_ADDRESS": "undeliverable",
        "SEND_ERROR": "undeliverable",
        "EXPIRED": "expired",
        "REJECTED": "rejected",
        "BLACKLISTED_DESTINATION_ADDRESS": "rejected",
    }
    found: Rows = Counter()
    for row in sandbox.control("GET", "/sends?provider=vairo"):
        send, number = row["value"].split(":")
        answer = client.post(f"{url}/NumaraRaporu/{send}?api_key={key}", json={"numara": number})
        body = answer.json()["aciklama"]
        word = words[body["durum_gonderim"]]
        done = None if word == "enroute" else local(body["updated_at"])
        recipient = "+90" + body["numara"][-10:]
        parts = (str(body["id"]), str(body["sms_gonderim_id"]), row["client_ref"], recipient)
        found[*parts, word, body["mesaj_boy"], local(body["created_at"]), done] += 1
    columns = ("provider_key", "parent_key", "client_ref", "recipient", "status")
    told = pick(sandbox, "vairo", "granularity", *columns, "segments", "sent_at", "done_at")
    assert found == Counter({row[1:]: many for row, many in told.items() if row[0] == "message"})
    assert all(
        gate(sandbox, client, row["provider_key"]) == (row["status"], row["total"], row["credits"])
        for row in sandbox.truth("vairo")
        if row["granularity"] == "order"
    )


def gate(sandbox: Sandbox, client: httpx.Client, send: str) -> tuple[str, int, int]:
    """What GonderimBilgisi says of a send: its state in our words, its numbers, its credits."""
    key, url = login(sandbox, 1)["api_key"], sandbox.urls["vairo"]
    body = client.get(f"{url}/GonderimBilgisi/{send}?api_key={key}").json()["aciklama"]
    status = {0: "enroute", 1: "sent", -1: "rejected"}[body["paket_durum"]]
    return status, body["numara_toplam"], body["kredi_toplam"]


def test_organik(sandbox: Sandbox, client: httpx.Client) -> None:
    """Every registered id, fifty at a time."""
    key = login(sandbox, 2)["api_key"]
    url = f"{sandbox.urls['organik']}/v2/{key}/detailedreport/json/"
    ids: list[tuple[str, str]] = [
        (row["kind"] + "_ids", row["value"]) for row in sandbox.control("GET", "/sends?provider=organik")
    ]
    items: dict[int, dict[str, Any]] = {}
    for first in range(0, len(ids), 50):
        asked: dict[str, list[str]] = {}
        for kind, value in ids[first : first + 50]:
            asked.setdefault(kind, []).append(value)
        body = client.post(url, json={"data": asked}).json()["response"]
        items |= {item["gsm_track_id"]: item for item in body["data"]}
    found: Rows = Counter()
    for item in items.values():
        words = ("scheduled", "enroute", "delivered", "undeliverable", "expired")
        word = words[item["status"]]
        if item["status"] in (3, 4) and item["errorcode"] in (5, 6, 8, 23):
            word = "rejected"
        parts = (str(item["gsm_track_id"]), str(item["transaction_id"]))
        start = local(item["start_date"]) if item["status"] else None
        finish = local(item["finish_date"])
        more = (item["delivery_track_id"], f"+{item['gsm']}", word)
        found[*parts, *more, item["sms_count"], item["credit_amount"], start, finish] += 1
    columns = ("provider_key", "parent_key", "client_ref", "recipient", "status", "segments")
    assert found == pick(sandbox, "organik", *columns, "credits", "sent_at", "done_at")


def ask_diyalog(sandbox: Sandbox, client: httpx.Client, asked: dict[str, Any]) -> Any:
    """One signed request."""
    given = login(sandbox, 3)
    path, body = "/v1/reporting/getcustomermessaginglist", json.dumps(asked).encode()
    at = formatdate(time.time(), usegmt=True)
    text = b"\n".join((b"POST", b"application/json", at.encode(), body, path.encode()))
    made = hmac.new(given["access_key_secret"].encode(), text, hashlib.sha256).digest()
    signature = base64.b64encode(made).decode()
    headers = {
        "content-type": "application/json",
        "x-dlg-date": at,
        "x-dlg-authorization": f"DLGA {given['access_key_id']}:{signature}",
        "x-dlg-requester-userid": given["requester_userid"],
    }
    return client.post(sandbox.urls["diyalog"] + path, content=body, headers=headers).json()


def test_diyalog(sandbox: Sandbox, client: httpx.Client) -> None:
    """Every conversation-day of every registered customer."""
    found: Rows = Counter()
    for row in sandbox.control("GET", "/sends?provider=diyalog"):
        customer, _, staff = row["value"].partition(":")
        start = datetime.fromisoformat(row["sent_at"]).timestamp()
        asked = {
            "startDate": int(start * 1000),
            "endDate": int(time.time() * 1000),
            "customerId": customer,
            "pageSize": 20,
        } | ({"staffId": staff} if staff else {})
        for page in range(1, 9):
            items = ask_diyalog(sandbox, client, asked | {"pageNumber": page})
            for item in items:
                day = datetime.fromtimestamp(item["messagingDate"] / 1000, UTC)
                parts = (item["senderId"], item["receiverId"], str(item["groupId"]))
                quoted = [part.replace("%", "%25").replace(":", "%3A") for part in parts]
                key = ":".join((*quoted, f"{day:%Y-%m-%d}"))
                final = datetime.now(UTC) - day >= timedelta(days=3)
                found[key, "sent", final, item["sendMessageCount"]] += 1
            if len(items) < 20:
                break
    assert found == pick(sandbox, "diyalog", "provider_key", "status", "is_final", "total")
    assert any("%25" in key[0] and "%3A" in key[0] for key in found)
