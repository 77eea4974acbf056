"""The sandbox's faults: each is what its name says, the log and the truth stay right, and calm ends them all."""

import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
from push_taker import Taker, taking

from ulak.sandbox.faults import ASKED, CONTENT, KINDS, PUSHED, TRANSPORT
from ulak.sandbox.server import Sandbox

GZIP = {"accept-encoding": "gzip"}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A small world whose lives are over within half a second, its limits out of the way."""
    with Sandbox(seed=5, speed=1200) as running:
        for name in ASKED:
            running.control("POST", "/limits", {"provider": name, "requests": 10**6, "concurrency": 100})
        running.control("POST", "/settings", {"latency_seconds": 0.0})
        yield running


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """One HTTP client."""
    with httpx.Client(trust_env=False, timeout=10) as made:
        yield made


class Asker:
    """One plain question for each kind of answer, the same each time."""

    def __init__(self, sandbox: Sandbox, client: httpx.Client) -> None:
        self.sandbox, self.client = sandbox, client
        self.accounts = {one["provider"]: one for one in sandbox.control("GET", "/accounts")}
        self.sends = sandbox.control("GET", "/sends")

    def orders(self, page: int = 1) -> httpx.Response:
        """A page of today's orders."""
        today = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 10_800))
        return self._iletimerkezi("get-reports", filter={"start": today, "end": today, "page": page})

    def order(self, key: int) -> httpx.Response:
        """An order's recipients."""
        return self._iletimerkezi("get-report", order={"id": key})

    def _iletimerkezi(self, path: str, **request: Any) -> httpx.Response:
        login = self.accounts["iletimerkezi"]["credentials"]
        body = {"request": {"authentication": login, **request}}
        return self.client.post(f"{self.sandbox.urls['iletimerkezi']}/v1/{path}/json", json=body, headers=GZIP)

    def number(self) -> httpx.Response:
        """One number of one send."""
        send, number = next(one["value"] for one in self.sends if one["kind"] == "number").split(":")
        key = self.accounts["vairo"]["credentials"]["api_key"]
        url = f"{self.sandbox.urls['vairo']}/NumaraRaporu/{send}?api_key={key}"
        return self.client.post(url, json={"numara": number}, headers=GZIP)

    def transaction(self, form: str = "json") -> httpx.Response:
        """The messages of several transactions."""
        known = [one["value"] for one in self.sends if one["kind"] == "transaction"]
        key = self.accounts["organik"]["credentials"]["api_key"]
        url = f"{self.sandbox.urls['organik']}/v2/{key}/detailedreport/json/{form}/"
        return self.client.post(url, json={"data": {"transaction_ids": known}}, headers=GZIP)


@pytest.fixture
def asker(sandbox: Sandbox, client: httpx.Client) -> Asker:
    """Questions."""
    return Asker(sandbox, client)


def order_fault(sandbox: Sandbox, kind: str, provider: str = "iletimerkezi", **values: Any) -> Any:
    """One order."""
    return sandbox.control("POST", "/faults", {"provider": provider, "kind": kind, **values})


def big_order(sandbox: Sandbox) -> int:
    """An order to six different numbers."""
    made = {"recipients": [f"9055500000{n:02d}" for n in range(6)]}
    sandbox.control("POST", "/sends/iletimerkezi", made)
    orders = [row for row in sandbox.truth("iletimerkezi") if row["granularity"] == "order"]
    return max(int(row["provider_key"]) for row in orders)


STATUSES = {
    "http_500": (500, None),
    "http_502": (502, None),
    "http_503": (503, None),
    "http_503_later": (503, "2"),
    "http_429": (429, "1"),
    "http_429_bare": (429, None),
}


@pytest.mark.parametrize("kind", STATUSES)
def test_refusals_come_with_and_without_a_time_to_wait(sandbox: Sandbox, asker: Asker, kind: str) -> None:
    """Each HTTP status as its name says, once."""
    order_fault(sandbox, kind, times=1)
    answer = asker.orders()
    assert (answer.status_code, answer.headers.get("retry-after")) == STATUSES[kind]
    assert asker.orders().status_code == 200


def test_a_gzip_body_may_have_several_members(sandbox: Sandbox, asker: Asker) -> None:
    """Whoever reads them all gets the whole body; the first alone is half of it."""
    good = asker.order(big_order(sandbox)).json()["response"]["order"]["id"]
    order_fault(sandbox, "gzip_members", times=1)
    body = {"request": {"authentication": asker.accounts["iletimerkezi"]["credentials"], "order": {"id": good}}}
    url = sandbox.urls["iletimerkezi"] + "/v1/get-report/json"
    with asker.client.stream("POST", url, json=body, headers=GZIP) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert packed.count(b"\x1f\x8b\x08") == 2
    assert json.loads(gzip.decompress(packed))["response"]["order"]["id"] == good


def test_bytes_may_trail_and_charsets_lie(sandbox: Sandbox, asker: Asker) -> None:
    """A good JSON body with more behind it; a declared charset that is not the body's."""
    order_fault(sandbox, "trailing", times=1)
    trailing = asker.orders()
    order_fault(sandbox, "charset", times=1)
    lying = asker.orders()
    with pytest.raises(json.JSONDecodeError, match="Extra data"):
        json.loads(trailing.content.decode("latin-1"))
    assert "charset=" in lying.headers["content-type"]
    assert "utf-8" not in lying.headers["content-type"]
    json.loads(lying.content)


def test_a_clock_may_be_hours_wrong(sandbox: Sandbox, asker: Asker) -> None:
    """`Date` is off by hours for that answer, and right again after it."""
    order_fault(sandbox, "clock", times=1)
    wrong, right = (parsedate_to_datetime(asker.orders().headers["date"]).timestamp() for _ in range(2))
    assert abs(wrong - time.time()) > 3600
    assert abs(right - time.time()) < 60


def messages(answer: httpx.Response) -> Any:
    """The recipients of an answered order."""
    return answer.json()["response"]["order"]["message"]


def test_rows_may_be_null_missing_or_repeated(sandbox: Sandbox, asker: Asker) -> None:
    """While `total` says how many there are."""
    key = big_order(sandbox)
    good = {one["number"] for one in messages(asker.order(key))}
    found: dict[str, Any] = {}
    for kind in ("null_rows", "no_rows", "dropped", "duplicated"):
        order_fault(sandbox, kind, times=1)
        answer = asker.order(key)
        assert answer.json()["response"]["order"]["total"] == 6
        found[kind] = messages(answer)
    assert found["null_rows"] is None
    assert found["no_rows"] == []
    assert {one["number"] for one in found["dropped"]} < good
    assert max(Counter(one["number"] for one in found["duplicated"]).values()) > 1


def test_no_wrong_multiset_of_an_order_is_ever_served_twice(sandbox: Sandbox, asker: Asker) -> None:
    """Two equal readings would be a proof for any reader. What cannot be spoiled anew is answered rightly."""
    key = big_order(sandbox)
    right = sorted(one["number"] for one in messages(asker.order(key)))
    order_fault(sandbox, "duplicated", rate=0.5)
    order_fault(sandbox, "dropped", rate=0.9)
    seen = [tuple(sorted(one["number"] for one in messages(asker.order(key)))) for _ in range(150)]
    wrong = Counter(one for one in seen if list(one) != right)
    assert len(wrong) > 30
    assert max(wrong.values()) == 1
    struck = [one["fault"] for one in sandbox.log() if one["endpoint"] == "get-report"][1:]
    assert [fault is None for fault in struck] == [list(one) == right for one in seen]


def test_equal_numbers_of_an_order_are_left_alone(sandbox: Sandbox, asker: Asker) -> None:
    """Nobody could say which of them is missing or repeated."""
    twins = {"recipients": ["905550000001", "905550000001"]}
    sandbox.control("POST", "/sends/iletimerkezi", twins)
    key = max(int(row["parent_key"]) for row in sandbox.truth("iletimerkezi") if row["parent_key"])
    order_fault(sandbox, "duplicated")
    order_fault(sandbox, "dropped")
    assert [len(messages(asker.order(key))) for _ in range(5)] == [2] * 5


def test_an_answer_may_be_about_another_subject(sandbox: Sandbox, asker: Asker) -> None:
    """Another order, another number, another transaction: all true, none of them asked for."""
    key = big_order(sandbox)
    for provider in ("iletimerkezi", "vairo", "organik"):
        order_fault(sandbox, "foreign", provider)
    assert any(asker.order(key).json()["response"]["order"]["id"] != key for _ in range(5))
    assert len({asker.number().json()["aciklama"]["id"] for _ in range(9)}) > 1
    assert len({asker.transaction().text for _ in range(9)}) > 1


def test_lists_move_while_they_are_paged(sandbox: Sandbox, asker: Asker) -> None:
    """A displaced page, a page that comes again, an order that appears between two pages, a count that is wrong."""
    sandbox.control("POST", "/sends/iletimerkezi", {"count": 70})
    ids: Callable[[httpx.Response], list[int]] = lambda answer: [  # noqa: E731
        one["id"] for one in answer.json()["response"]["orders"]
    ]
    first, second = ids(asker.orders()), ids(asker.orders(2))
    count = asker.orders().json()["response"]["count"]
    order_fault(sandbox, "moved", times=1)
    moved = ids(asker.orders(2))
    assert moved != second
    assert set(moved) & set(second)
    order_fault(sandbox, "repeated_page", times=1)
    assert ids(asker.orders(1)) == first  # there is no page before it, so nothing strikes
    assert ids(asker.orders(2)) == first
    order_fault(sandbox, "wrong_count", times=1)
    assert asker.orders().json()["response"]["count"] != count
    order_fault(sandbox, "inserted", times=1)
    hidden = asker.orders()
    later = asker.orders(2)
    assert hidden.json()["response"]["count"] == count - 1
    assert later.json()["response"]["count"] == count
    assert ids(asker.orders()) == first


def test_numbers_may_be_text(sandbox: Sandbox, asker: Asker) -> None:
    """Counters and codes."""
    order_fault(sandbox, "text_numbers", times=1)
    body = asker.orders().json()["response"]
    assert (type(body["count"]), type(body["status"]["code"]), type(body["orders"][0]["total"])) == (str, str, str)


def test_xml_rows_suffer_as_well(sandbox: Sandbox, asker: Asker) -> None:
    """Items repeated or missing without a root around them."""
    many = asker.transaction("xml").text.count("<item>")
    order_fault(sandbox, "duplicated", "organik", times=1)
    repeated = asker.transaction("xml").text
    order_fault(sandbox, "dropped", "organik", times=1)
    thinned = asker.transaction("xml").text
    tracks = re.findall(r"<gsm_track_id>(\d+)<", repeated)
    assert len(set(tracks)) < len(tracks)
    assert thinned.count("<item>") < many


def test_every_kind_strikes_at_every_provider_that_can_suffer_it(sandbox: Sandbox, asker: Asker) -> None:
    """`all` is each of them; what does not fit a request is neither drawn nor counted."""
    made = sandbox.control("POST", "/faults", {"provider": "all", "kind": "http_500", "times": 1})
    assert [fault["provider"] for fault in made] == list(ASKED)
    assert [asker.orders().status_code, asker.number().status_code, asker.transaction().status_code] == [500] * 3
    assert asker.orders().status_code == 200
    sandbox.control("DELETE", "/faults")
    order_fault(sandbox, "wrong_count", "vairo")
    assert asker.number().status_code == 200
    assert sandbox.control("GET", "/faults")[0]["hits"] == 0


def storm(seed: int) -> list[str | None]:
    """The faults of so many equal requests in a storm; after it all is calm."""
    with Sandbox(seed=5, speed=1200) as sandbox, httpx.Client(trust_env=False, timeout=0.4) as client:
        sandbox.control("POST", "/limits", {"provider": "vairo", "requests": 10**6, "concurrency": 100})
        asker = Asker(sandbox, client)
        order_fault(sandbox, "everything", "vairo", seed=seed, rate=0.5)
        for _ in range(120):
            with suppress(httpx.HTTPError):
                asker.number()
        sandbox.control("DELETE", "/faults")
        assert asker.number().status_code == 200
        assert sandbox.control("GET", "/faults") == []
        return [one["fault"] for one in sandbox.log()[:-1]]


def test_everything_at_once_follows_its_seed_and_its_rate_and_ends_with_calm() -> None:
    """The same seed strikes alike, another does not; after calm nothing strikes."""
    one, again, other = storm(1), storm(1), storm(2)
    assert one == again
    assert one != other
    assert 30 < sum(fault is not None for fault in one) < 90
    assert len(set(one)) > 12


def test_truth_and_log_stay_right_in_a_storm(sandbox: Sandbox, asker: Asker) -> None:
    """Every request is in the log, with its fault; the truth is that of a world without faults."""
    while not sandbox.control("GET", "/truth/settled")["settled"]:
        time.sleep(0.05)
    before = sandbox.truth()
    sandbox.control("POST", "/faults", {"kind": "everything", "rate": 0.7, "seed": 3})
    asker.client = httpx.Client(trust_env=False, timeout=0.3)
    for number in range(60):
        with suppress(httpx.HTTPError):
            (asker.orders, asker.number, asker.transaction)[number % 3]()
    asker.client.close()
    sandbox.control("DELETE", "/faults")
    log = sandbox.log()
    assert [one["n"] for one in log] == list(range(1, 61))
    assert {one["fault"] for one in log} - {None} <= set(TRANSPORT + CONTENT)
    assert [{**row, "ever": None} for row in sandbox.truth()] == [{**row, "ever": None} for row in before]
    assert sandbox.control("GET", "/log/violations") == []


def settle(sandbox: Sandbox) -> None:
    """Waits until all that is due was pushed."""
    end = time.monotonic() + 60
    while not sandbox.control("GET", "/truth/settled")["settled"]:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def taker() -> Iterator[Taker]:
    """A receiver."""
    with taking("/callback") as server:
        yield server


def said(taker: Taker) -> list[str]:
    """Every push as text."""
    return [json.dumps([path, body], sort_keys=True) for path, body in taker.taken]


def pushes_under(kind: str | None, taker: Taker, seed: int = 4) -> tuple[list[str], list[dict[str, Any]]]:
    """What came of a world's pushes under a fault, and the truth."""
    with Sandbox(seed=seed, speed=300) as sandbox:
        if kind:
            order_fault(sandbox, kind, "bip", rate=0.5)
        sandbox.control("POST", "/bip/callback", {"url": taker.url, "user": "u", "password": "p"})
        settle(sandbox)
        return said(taker), sandbox.truth("bip")


def test_a_dropped_push_is_no_part_of_the_truth(taker: Taker) -> None:
    """Nobody was told, so nobody can know; what came in another push is still true."""
    texts, truth = pushes_under("push_dropped", taker)
    with taking("/callback") as other:
        all_texts, all_truth = pushes_under(None, other)
    assert len(texts) < len(all_texts)
    told = "".join(texts)
    keys = {row["provider_key"] for row in all_truth} - {row["provider_key"] for row in truth}
    assert keys
    assert not any(f'"{key}"' in told for key in keys if ":" not in key)
    delivered = [row["provider_key"] for row in truth if row["status"] in ("delivered", "read")]
    assert delivered
    assert all(f'"{key}"' in told for key in delivered)


@pytest.mark.parametrize("kind", ["push_duplicated", "push_late", "push_shuffled"])
def test_pushes_come_twice_late_or_out_of_order_and_none_is_lost(kind: str, taker: Taker) -> None:
    """The same set of pushes, more often or in another order."""
    texts, truth = pushes_under(kind, taker)
    with taking("/callback") as other:
        calm, all_truth = pushes_under(None, other)
    assert len(truth) == len(all_truth)
    if kind == "push_duplicated":
        assert len(texts) > len(calm)
    else:
        assert len(texts) == len(calm)


def test_wrong_orders_are_refused_with_what_is_known(sandbox: Sandbox, client: httpx.Client) -> None:
    """Unknown kinds and providers, and what a provider cannot suffer."""
    control = sandbox.urls["control"]
    wrong = [("vairo", "fire"), ("nobody", "reset"), ("bip", "reset"), ("vairo", "push_late")]
    answers = [client.post(control + "/faults", json={"provider": provider, "kind": kind}) for provider, kind in wrong]
    assert [one.status_code for one in answers] == [422] * 4
    assert all(kind in answers[0].json()["error"] for kind in (*KINDS, "everything"))


def test_ever_names_every_status_that_was_true_and_since_when() -> None:
    """Watched while the lives go on: whatever a row ever said is in its `ever` afterwards, at its time."""
    seen: dict[tuple[str, str, str], dict[str, float]] = {}
    with Sandbox(seed=6, speed=60) as sandbox:
        while not sandbox.control("GET", "/truth/settled")["settled"]:
            now = time.time()
            for row in sandbox.world.truth(now=now):
                key = (row["provider"], row["granularity"], row["provider_key"])
                seen.setdefault(key, {}).setdefault(row["status"], now)
        last = {(row["provider"], row["granularity"], row["provider_key"]): row for row in sandbox.truth()}
    changed = 0
    for key, statuses in seen.items():
        ever = last[key]["ever"]
        assert set(statuses) <= set(ever), key
        assert last[key]["status"] in ever
        assert all(timestamp(ever[status]) <= at + 0.01 for status, at in statuses.items())
        changed += len(statuses) > 1
    assert changed > 5
    assert not any({"delivered", "undeliverable"} <= set(row["ever"]) for row in last.values() if is_alone(row, last))


def timestamp(text: str) -> float:
    """Epoch seconds."""
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def is_alone(row: dict[str, Any], rows: dict[tuple[str, str, str], Any]) -> bool:
    """Whether a message has no twin in its order."""
    stem = row["provider_key"].rpartition(":")[0]
    return (row["provider"], row["granularity"], f"{stem}:2") not in rows


def test_the_page_names_every_fault() -> None:
    """docs/sandbox.md describes each kind."""
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
    assert [kind for kind in (*KINDS, *PUSHED, "everything") if f"`{kind}`" not in text] == []
