"""The Organik stand-in answers as the documents say."""

import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest

from ulak.sandbox.server import Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A small world whose lives are over at once."""
    with Sandbox(seed=3, speed=20_000) as running:
        running.control("POST", "/limits", {"provider": "organik", "requests": 10_000})
        yield running


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """One HTTP client."""
    with httpx.Client(trust_env=False, timeout=20) as made:
        yield made


def address(sandbox: Sandbox, tail: str = "detailedreport/json/", key: str | None = None) -> str:
    """The URL with the key of the demo account."""
    key = key or sandbox.control("GET", "/accounts")[2]["credentials"]["api_key"]
    return f"{sandbox.urls['organik']}/v2/{key}/{tail}"


def ask(sandbox: Sandbox, client: httpx.Client, **ids: Any) -> dict[str, Any]:
    """One detailed report in JSON: what stands under `response`."""
    answer = client.post(address(sandbox), json={"data": ids})
    assert answer.status_code == 200
    return dict(answer.json()["response"])


def sends(sandbox: Sandbox, kind: str) -> list[str]:
    """Registered ids of one kind."""
    rows = sandbox.control("GET", "/sends?provider=organik")
    return [row["value"] for row in rows if row["kind"] == kind]


def test_the_key_is_the_md5_of_name_and_password(sandbox: Sandbox) -> None:
    """The account's two ways to log in name the same key; so does the provider's sample."""
    account = sandbox.control("GET", "/accounts")[2]
    other = account["other_credentials"]
    text = other["username"] + other["password"]
    assert hashlib.md5(text.encode()).hexdigest() == account["credentials"]["api_key"]
    sample = hashlib.md5(b"OrganikHaberlesmemn_0g4R!").hexdigest()
    assert sample == "ce136df4c9c92d1428e828aba07d3b05"


def test_an_item_has_the_fields_of_the_sample(sandbox: Sandbox, client: httpx.Client) -> None:
    """Names and kinds are those of the provider's page."""
    body = ask(sandbox, client, transaction_ids=sends(sandbox, "transaction")[:1])
    assert body["result"] is True
    assert {name: type(value) for name, value in body["data"][0].items()} == {
        "gsm": int,
        "transaction_id": int,
        "gsm_track_id": int,
        "delivery_track_id": str,
        "create_date": str,
        "start_date": str,
        "finish_date": str,
        "status": int,
        "sms_count": int,
        "credit_amount": int,
        "is_foreign_gsm": int,
        "errorcode": int,
    }


def test_three_kinds_of_ids_as_text_or_numbers_find_the_same_items(sandbox: Sandbox, client: httpx.Client) -> None:
    """Also the dashed form of send replies; an item is told once however often it is asked."""
    tracks = sends(sandbox, "gsm_track")
    plain = next(one for one in tracks if "-" not in one)
    dashed = next(one for one in tracks if "-" in one)
    one = ask(sandbox, client, gsm_track_ids=[plain])["data"][0]
    again = ask(
        sandbox,
        client,
        gsm_track_ids=[int(plain), plain],
        transaction_ids=[str(one["transaction_id"])],
        delivery_track_ids=[one["delivery_track_id"]],
    )["data"]
    assert [item["gsm_track_id"] for item in again].count(one["gsm_track_id"]) == 1
    assert {item["transaction_id"] for item in again} == {one["transaction_id"]}
    found = ask(sandbox, client, gsm_track_ids=[dashed])["data"]
    assert [str(item["gsm_track_id"]) for item in found] == [dashed.rpartition("-")[2]]


def code(body: dict[str, Any]) -> tuple[bool, int, str]:
    """What an error says."""
    assert "data" not in body
    return body["result"], body["error"]["code"], body["error"]["number"]


def test_errors_come_with_http_200(sandbox: Sandbox, client: httpx.Client) -> None:
    """87 nothing found, 96 empty or too many, 97 body, 88 to 92 the address."""
    known = sends(sandbox, "transaction")[0]
    assert code(ask(sandbox, client, transaction_ids=[1])) == (False, 87, "87")
    assert code(ask(sandbox, client)) == (False, 96, "96")
    assert code(ask(sandbox, client, gsm_track_ids=list(range(101)))) == (False, 96, "96")
    assert len(ask(sandbox, client, transaction_ids=[1, known])["data"]) > 0
    tails = {
        address(sandbox, key="short"): 90,
        address(sandbox, key="0" * 32): 89,
        address(sandbox, key="x" * 32): 99,
        address(sandbox, "nosuchreport/json/"): 88,
        address(sandbox, "detailedreport/yaml/"): 92,
        address(sandbox, "detailedreport/json/yaml/"): 91,
    }
    for url, wanted in tails.items():
        answer = client.post(url, json={"data": {"transaction_ids": [known]}})
        assert (answer.status_code, code(answer.json()["response"])[1]) == (200, wanted)
    answer = client.post(address(sandbox), content=b"data=1")
    assert code(answer.json()["response"])[1] == 97


def test_errors_are_worded_as_in_the_table_and_dated_now(sandbox: Sandbox, client: httpx.Client) -> None:
    """English words; the time is Istanbul's."""
    error = ask(sandbox, client, transaction_ids=[1])["error"]
    said = datetime.fromisoformat(error["time"]).replace(tzinfo=timezone(timedelta(hours=3)))
    assert error["message"] == "No records were found."
    assert abs((datetime.now(UTC) - said).total_seconds()) < 60


@pytest.mark.parametrize(
    ("tail", "form"), [("JSON", "json"), ("XML/JSON", "json"), ("JSON/XML", "xml"), ("Xml", "xml")]
)
def test_the_types_in_the_path_may_be_in_capitals(sandbox: Sandbox, client: httpx.Client, tail: str, form: str) -> None:
    """The provider's README lists them so."""
    known = sends(sandbox, "transaction")[0]
    xml = f"<document><data><transaction_ids>{known}</transaction_ids></data></document>"
    content = xml if tail.upper().startswith("XML") else json.dumps({"data": {"transaction_ids": [known]}})
    answer = client.post(address(sandbox, f"detailedreport/{tail}/"), content=content)
    assert answer.headers["content-type"] == f"application/{form}"
    assert str(known) in answer.text


def test_one_text_may_hold_several_ids_with_commas(sandbox: Sandbox, client: httpx.Client) -> None:
    """The official ASP client sends them so; empty kinds are `[""]` at the JavaScript one."""
    known = sends(sandbox, "transaction")[:3]
    apart = ask(sandbox, client, transaction_ids=known)["data"]
    joined = ask(sandbox, client, transaction_ids=[",".join(known)], gsm_track_ids=[""])["data"]
    assert joined == apart


def test_an_error_in_xml_has_the_documented_root(sandbox: Sandbox, client: httpx.Client) -> None:
    """`<response><result>0</result><error>…`; without a root only as a stress test."""
    body = {"data": {"transaction_ids": [1]}}
    rooted = client.post(address(sandbox, "detailedreport/json/xml"), json=body)
    sandbox.control("POST", "/settings", {"organik_xml_bare_errors": True})
    bare = client.post(address(sandbox, "detailedreport/json/xml"), json=body)
    sandbox.control("POST", "/settings", {"organik_xml_bare_errors": False})
    found = ET.fromstring(rooted.content)
    assert (found.tag, found.findtext("result"), found.findtext("error/number")) == ("response", "0", "87")
    assert "<response>" not in bare.text
    assert "<result>0</result><error>" in bare.text


def test_xml_rows_have_no_root(sandbox: Sandbox, client: httpx.Client) -> None:
    """As in the sample; a setting wraps them, another takes the errorcode away; the request may be XML as well."""
    known = sends(sandbox, "transaction")[0]
    asked = (
        '<?xml version="1.0" encoding="UTF-8"?><document><data>'
        f"<transaction_ids> {known} </transaction_ids></data></document>"
    )
    plain = client.post(address(sandbox, "detailedreport/xml/"), content=asked.encode())
    assert plain.headers["content-type"] == "application/xml"
    head, _, rest = plain.text.partition("\n")
    assert head == '<?xml version="1.0" encoding="UTF-8" ?>'
    items = ET.fromstring(f"<root>{rest}</root>").findall("item")
    assert items
    tags = {
        "gsm",
        "transaction_id",
        "gsm_track_id",
        "delivery_track_id",
        "create_date",
        "start_date",
        "finish_date",
        "status",
        "sms_count",
        "credit_amount",
        "is_foreign_gsm",
    }
    assert {child.tag for item in items for child in item} == tags | {"errorcode"}
    sandbox.control("POST", "/settings", {"organik_xml_no_errorcode": True})
    old = client.post(address(sandbox, "detailedreport/xml/"), content=asked.encode())
    sandbox.control("POST", "/settings", {"organik_xml_no_errorcode": False})
    rest = old.text.partition("\n")[2]
    assert {child.tag for item in ET.fromstring(f"<root>{rest}</root>") for child in item} == tags
    sandbox.control("POST", "/settings", {"organik_xml_wrapped": True})
    body = {"data": {"transaction_ids": [known]}}
    wrapped = client.post(address(sandbox, "detailedreport/json/xml"), json=body)
    sandbox.control("POST", "/settings", {"organik_xml_wrapped": False})
    assert len(ET.fromstring(wrapped.content).findall("data/item")) == len(items)


def test_a_scheduled_transaction_waits_without_a_finish(sandbox: Sandbox, client: httpx.Client) -> None:
    """Status 0, no count, no credit, no finish until its start has come."""
    asked = {kind + "_ids": sends(sandbox, kind) for kind in ("transaction", "delivery_track", "gsm_track")}
    rows = ask(sandbox, client, **asked)["data"]
    waiting = [row for row in rows if row["status"] == 0]
    assert waiting
    assert {(row["finish_date"], row["sms_count"], row["credit_amount"]) for row in waiting} == {(None, 0, 0)}
    foreign = [row for row in rows if row["is_foreign_gsm"]]
    assert {(row["gsm"], row["credit_amount"]) for row in foreign} == {(61491570156, 0)}


def test_two_calls_of_one_key_at_the_same_time_are_93(sandbox: Sandbox) -> None:
    """One of them is served, the other hears 93 with HTTP 200."""
    known = sends(sandbox, "transaction")[:1]
    sandbox.control("POST", "/settings", {"latency_seconds": 2.0})
    results: list[bool] = []
    both_are_there = threading.Barrier(2)

    def call() -> None:
        with httpx.Client(trust_env=False, timeout=20) as own:
            both_are_there.wait()
            results.append(ask(sandbox, own, transaction_ids=known)["result"])

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sandbox.control("POST", "/settings", {"latency_seconds": 0.0})
    assert sorted(results) == [False, True]
    assert [one["why"] for one in sandbox.control("GET", "/log/violations")] == ["concurrency"]


@pytest.mark.parametrize(
    ("outcome", "status", "codes"),
    [
        ("delivered", 2, {0}),
        ("opted_out", 3, {23}),
        ("test", 3, {88}),
        ("barred", 3, {8}),
        ("expired", 4, {0, 99}),
        ("unknown_word", 7, {0}),
        ("never", 1, {0}),
    ],
)
def test_a_magic_number_ends_in_its_status(
    sandbox: Sandbox, client: httpx.Client, outcome: str, status: int, codes: set[int]
) -> None:
    """Each outcome has a status and an errorcode of the provider's tables."""
    made = sandbox.control("POST", "/sends/organik", {"count": 6, "outcome": outcome})["sends"]
    by_kind: dict[str, list[str]] = {}
    for row in made:
        by_kind.setdefault(row["kind"] + "_ids", []).append(row["value"])
    for _ in range(300):
        data = ask(sandbox, client, **by_kind)["data"]
        if {row["status"] for row in data} == {status}:
            break
    assert {row["status"] for row in data} == {status}
    assert {row["errorcode"] for row in data} <= codes
