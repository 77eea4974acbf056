"""What the official clients of the providers demand of a body, in our own words: the sandbox's bodies meet it.

Read in their sources: the C# client binds JSON numbers to 32-bit integers and JSON texts to strings and throws on
anything else, the Python client compares codes with integers, the Java client fails where a counter is absent.
"""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ulak.sandbox.server import Sandbox

Shape = dict[str, Any]

ORDER: Shape = {
    "id": int,
    "status": int,
    "total": int,
    "delivered": int,
    "undelivered": int,
    "waiting": int,
    "submitAt": str,
    "sendAt": str,
    "sender": str,
}
STATUS: Shape = {"code": int, "message": str}
WEBHOOK: Shape = {"id": int, "packet_id": int, "status": str, "to": str, "body": str}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A demo world whose lives are over within a second."""
    with Sandbox(seed=3, speed=600, scale="demo") as running:
        running.control("POST", "/limits", {"provider": "iletimerkezi", "requests": 10_000})
        yield running


def bind(value: Any, shape: Shape) -> None:
    """Fails as System.Text.Json does: each named field present, of its very kind, integers within 32 bits."""
    for name, kind in shape.items():
        assert type(value[name]) is kind, f"{name} is {value[name]!r}"
        assert kind is not int or abs(value[name]) < 2**31


def ask(sandbox: Sandbox, path: str, **request: Any) -> tuple[int, dict[str, Any]]:
    """HTTP status and `response`."""
    login = sandbox.control("GET", "/accounts")[0]["credentials"]
    body = {"request": {"authentication": {"key": login["key"], "hash": login["hash"]}, **request}}
    answer = httpx.post(sandbox.urls["iletimerkezi"] + path, json=body, trust_env=False)
    return answer.status_code, answer.json()["response"]


def lists(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Every page of ten days."""
    end, start = (time.strftime("%Y-%m-%d", time.gmtime(time.time() + 10_800 - days * 86_400)) for days in (0, 9))
    first = ask(sandbox, "/v1/get-reports/json", filter={"start": start, "end": end, "page": 1})[1]
    # Pages of thirty, from a `count` that is divided as a number.
    pages = -(-first["count"] // 30)
    return [first] + [
        ask(sandbox, "/v1/get-reports/json", filter={"start": start, "end": end, "page": page})[1]
        for page in range(2, pages + 1)
    ]


def test_lists_bind_to_the_types_of_the_official_clients(sandbox: Sandbox) -> None:
    """Code, count and every field of every order."""
    pages = lists(sandbox)
    for page in pages:
        bind(page["status"], STATUS)
        bind(page, {"count": int})
        for order in page["orders"]:
            bind(order, ORDER)
            assert order["status"] in {113, 114, 115}
    assert sum(len(page["orders"]) for page in pages) == pages[0]["count"] > 30


def test_details_bind_to_the_types_of_the_official_clients(sandbox: Sandbox) -> None:
    """Every counter is there; a number is text, its status an integer that the clients have a word for."""
    for order in [order for page in lists(sandbox) for order in page["orders"]][:40]:
        status, body = ask(sandbox, "/v1/get-report/json", order={"id": order["id"], "page": 1, "rowCount": 1000})
        bind(body["status"], STATUS)
        if status == 456:
            continue
        bind(body["order"], ORDER)
        assert body["status"]["code"] == 200
        for message in body["order"]["message"]:
            bind(message, {"number": str, "status": int})
            assert message["status"] in {110, 111, 112}


def test_an_error_has_a_status_and_nothing_else(sandbox: Sandbox) -> None:
    """Clients branch on an integer code."""
    status, body = ask(sandbox, "/v1/get-report/json", order={"id": 1})
    bind(body["status"], STATUS)
    assert (status, list(body), body["status"]["code"]) == (455, ["status"], 455)


def test_webhook_bodies_bind_to_the_types_of_the_official_clients(sandbox: Sandbox) -> None:
    """Also those of the largest order; the words are the three that the clients know."""
    reports = [event.body["report"] for event in sandbox.world.standins["iletimerkezi"].events]
    for report in reports:
        bind(report, WEBHOOK)
    assert {report["status"] for report in reports} == {"accepted", "delivered", "undelivered"}
    assert max(len(str(report["to"])) for report in reports) == 13


def test_organik_answers_what_its_javascript_client_unwraps() -> None:
    """HTTP 200, `response.result` as a boolean, `response.data` as a list; it sends no content type and `[""]`."""
    with Sandbox(seed=3, speed=20_000) as sandbox:
        key = sandbox.control("GET", "/accounts")[2]["credentials"]["api_key"]
        known = next(
            row["value"] for row in sandbox.control("GET", "/sends?provider=organik") if row["kind"] == "transaction"
        )
        content = f'{{"data":{{"transaction_ids":["{known}"],"delivery_track_ids":[""],"gsm_track_ids":[""]}}}}'
        answer = httpx.post(
            f"{sandbox.urls['organik']}/v2/{key}/detailedreport/", content=content.encode(), trust_env=False
        )
    body = answer.json()["response"]
    assert (answer.status_code, body["result"], type(body["data"])) == (200, True, list)
    assert {str(row["transaction_id"]) for row in body["data"]} == {known}
