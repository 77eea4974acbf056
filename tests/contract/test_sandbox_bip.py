"""The BiP stand-in pushes everything, in disorder and more than once, until it is taken."""

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from push_taker import Taker, taking

from ulak.sandbox.server import Sandbox

LOGIN = {"user": "taker", "password": "word"}


@pytest.fixture
def taker() -> Iterator[Taker]:
    """A receiver that is not ready for its first ten requests."""
    with taking("/callbacks/bip/demo-bip", refusing=10) as server:
        yield server


def settle(sandbox: Sandbox) -> None:
    """Waits until every push has been taken."""
    for _ in range(1200):
        if sandbox.control("GET", "/truth/settled")["settled"]:
            return
        time.sleep(0.05)
    pytest.fail("it did not settle")


def fold(sandbox: Sandbox, taken: list[tuple[str, dict[str, Any]]]) -> dict[str, tuple[Any, ...]]:
    """Key → (status, parent, sendtime shown) of replies and pushes, read in the plainest way."""
    replies = sandbox.control("GET", "/sends?provider=bip")["replies"]
    reports = [one["body"] for one in replies]
    reports += [body for path, body in taken if path.endswith("/report")]
    rows: dict[str, tuple[Any, ...]] = {}
    parents: dict[str, str] = {}
    for report in reports:
        txnid = report["txnid"]
        if int(report["resultcode"]) != 0:
            rows[txnid] = ("rejected", txnid)
        for item in report.get("list", ()):
            if item["reportid"] is None:
                plus = "+" if item["receiver"].isdigit() else ""
                receiver = plus + item["receiver"].replace("%", "%25").replace(":", "%3A")
                rows[f"{txnid}:{receiver}:{item['totalnumberofmessage']}"] = ("rejected", txnid)
            else:
                parents[item["reportid"]] = txnid
    best: dict[str, int] = dict.fromkeys(parents, -1)
    for _, body in taken:
        if body.get("type") == "R":
            report = body["report"]
            best[report["reportid"]] = max(best[report["reportid"]], report["reporttype"])
    words = {-1: "enroute", 0: "delivered", 1: "read"}
    return rows | {key: (words[kind], parents[key]) for key, kind in best.items()}


def test_everything_is_pushed_in_the_end(taker: Taker) -> None:
    """What was pushed and replied, folded plainly, is the truth; nothing is lost to 503."""
    with Sandbox(seed=4, speed=300, scale="demo") as sandbox:
        sandbox.control("POST", "/bip/callback", {"url": taker.url, **LOGIN})
        settle(sandbox)
        truth = {r["provider_key"]: (r["status"], r["parent_key"]) for r in sandbox.truth("bip")}
        pushes = sandbox.control("GET", "/bip/pushes")
        assert fold(sandbox, taker.taken) == truth
    assert len(truth) > 150
    assert {pushes["planned"], pushes["acknowledged"]} == {len(taker.taken)}
    assert pushes["attempts"] == len(taker.taken) + 10
    assert taker.logins == {"Basic " + base64.b64encode(b"taker:word").decode()}


def test_pushes_are_repeated_and_in_disorder(taker: Taker) -> None:
    """Duplicates, a notice before its report, read before delivered, hashes, M and E all occur."""
    with Sandbox(seed=4, speed=300, scale="demo") as sandbox:
        sandbox.control("POST", "/bip/callback", {"url": taker.url, **LOGIN})
        settle(sandbox)
        synchronous = {
            item["reportid"]
            for one in sandbox.control("GET", "/sends?provider=bip")["replies"]
            for item in one["body"].get("list", ())
        }
    taken = taker.taken
    texts = [json.dumps(body) for _, body in taken]
    assert len(set(texts)) < len(texts)
    assert {body.get("type") for _, body in taken} == {None, "R", "M", "E"}
    assert all(path.endswith("/report") == ("type" not in body) for path, body in taken)
    known, early = set(synchronous), 0
    kinds: dict[str, list[int]] = {}
    for _, body in taken:
        known |= {item["reportid"] for item in body.get("list", ())}
        if body.get("type") == "R":
            early += body["report"]["reportid"] not in known
            kinds.setdefault(body["report"]["reportid"], []).append(body["report"]["reporttype"])
    assert early > 0
    assert any(order[:2] == [1, 0] for order in kinds.values())
    receivers = {item["receiver"] for _, body in taken for item in body.get("list", ())}
    assert any(not one.isdigit() for one in receivers)


def test_forms_are_those_of_the_pages(taker: Taker) -> None:
    """A report item, a refused one, a notice; a failed send has no list."""
    with Sandbox(seed=4, speed=2000, scale="demo") as sandbox:
        sandbox.control("POST", "/bip/callback", {"url": taker.url, **LOGIN})
        settle(sandbox)
    reports = [body for path, body in taker.taken if path.endswith("/report")]
    notices = [body for _, body in taker.taken if body.get("type") == "R"]
    items = [item for body in reports for item in body.get("list", ())]
    assert {tuple(item) for item in items} == {
        ("receiver", "resultcode", "reportid", "numberofmessage", "totalnumberofmessage")
    }
    refused = {(item["reportid"], item["numberofmessage"]) for item in items if item["resultcode"]}
    assert refused == {(None, None)}
    assert {tuple(body) for body in notices} == {("sender", "type", "msgid", "sendtime", "txnid", "report")}
    assert all(body["sendtime"].endswith(" +0300") for body in notices)
    failed = [body for body in reports if int(body["resultcode"])]
    assert failed
    assert not any("list" in body for body in failed)


def test_refusals_have_the_codes_of_the_error_page(taker: Taker) -> None:
    """Several codes from 301 on, of whole sends and of single messages; the truth gives each its reason."""
    with Sandbox(seed=4, speed=2000, scale="large") as sandbox:
        sandbox.control("POST", "/bip/callback", {"url": taker.url, **LOGIN})
        settle(sandbox)
        reasons = {row["provider_key"]: row["reason"] for row in sandbox.truth("bip") if row["status"] == "rejected"}
        replies = [one["body"] for one in sandbox.control("GET", "/sends?provider=bip")["replies"]]
    reports = replies + [body for path, body in taker.taken if path.endswith("/report")]
    whole = {body["txnid"]: int(body["resultcode"]) for body in reports if int(body["resultcode"])}
    single = {item["resultcode"] for body in reports for item in body.get("list", ()) if item["resultcode"]}
    assert set(whole.values()) == {*range(300, 312)}
    assert single == {301, 302, 305, 306, 307, 311, 312}
    expected = {301: "invalid_number", 308: "quota"}
    assert {txnid: reasons[txnid] for txnid in whole} == {
        txnid: expected.get(code, "other") for txnid, code in whole.items()
    }


def test_totalnumberofmessage_is_the_place_of_a_message_also_over_several_reports(taker: Taker) -> None:
    """A large send is reported in several POSTs with a `reqid` each; the place tells its messages apart."""
    with Sandbox(seed=4, speed=2000, scale="demo") as sandbox:
        sandbox.control("POST", "/bip/callback", {"url": taker.url, **LOGIN})
        settle(sandbox)
    reports = [body for path, body in taker.taken if path.endswith("/report") and "list" in body]
    requests = {(body["txnid"], body["reqid"]): body["list"] for body in reports}
    posts = Counter(txnid for txnid, _ in requests)
    assert max(posts.values()) > 1
    places: dict[tuple[str, str], list[int]] = {}
    for (txnid, _), items in requests.items():
        for item in items:
            places.setdefault((txnid, item["receiver"]), []).append(item["totalnumberofmessage"])
    assert max(map(len, places.values())) > 1
    assert all(sorted(each) == list(range(1, len(each) + 1)) for each in places.values())


def test_there_is_nothing_to_pull() -> None:
    """Any request to BiP's port is a 404, and it is logged."""
    import httpx

    with Sandbox(seed=1) as sandbox:
        assert httpx.get(sandbox.urls["bip"] + "/reports", trust_env=False).status_code == 404
        assert [(one["provider"], one["status"]) for one in sandbox.log()] == [("bip", 404)]
