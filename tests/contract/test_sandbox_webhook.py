"""The iletimerkezi stand-in pushes its webhook where the account has an address for it."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from push_taker import Taker, taking

from ulak.sandbox.server import Sandbox


@pytest.fixture
def taker() -> Iterator[Taker]:
    """A receiver that takes everything."""
    with taking("/callbacks/iletimerkezi/demo-iletimerkezi/secret-of-the-address") as server:
        yield server


def settled(sandbox: Sandbox) -> None:
    """Waits until every push that is due has been taken."""
    end = time.monotonic() + 60
    while not sandbox.control("GET", "/truth/settled")["settled"]:
        assert time.monotonic() < end
        time.sleep(0.05)


def by_message(taker: Taker) -> dict[int, list[dict[str, Any]]]:
    """The pushes of each message, in the order in which they came."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for _, body in taker.taken:
        found[body["report"]["id"]].append(body["report"])
    return found


def test_a_message_is_accepted_and_then_ends_in_its_word(taker: Taker) -> None:
    """One `accepted` and one last word for each message; none for a message without an end."""
    with Sandbox(seed=4, speed=300) as sandbox:
        sandbox.control("POST", "/iletimerkezi/callback", {"url": taker.url})
        made = {"recipients": ["905550000001", "905550000070", "905550000091", "905550000090"]}
        sandbox.control("POST", "/sends/iletimerkezi", made)
        settled(sandbox)
        newest = max(int(row["provider_key"]) for row in sandbox.truth("iletimerkezi") if row["granularity"] == "order")
        pushes = sandbox.control("GET", "/iletimerkezi/pushes")
    words: dict[str, Counter[str]] = defaultdict(Counter)
    for report in (body["report"] for _, body in taker.taken if body["report"]["packet_id"] == newest):
        words[report["to"][-2:]][report["status"]] += 1
    assert words == {
        "01": Counter(accepted=1, delivered=1),
        "70": Counter(accepted=1, undelivered=1),
        "91": Counter(accepted=1),
        "90": Counter(accepted=1),
    }
    assert taker.logins == {None}
    assert (pushes["acknowledged"], pushes["refused"]) == (len(taker.taken), 0)


def test_a_push_has_the_form_of_the_page_with_the_text_of_the_message(taker: Taker) -> None:
    """Five fields under `report`, the message text among them; each message keeps its id."""
    with Sandbox(seed=4, speed=300) as sandbox:
        sandbox.control("POST", "/iletimerkezi/callback", {"url": taker.url})
        sandbox.control("POST", "/sends/iletimerkezi", {"count": 3})
        settled(sandbox)
        canaries = sandbox.control("GET", "/canaries")
    assert {tuple(body) for _, body in taker.taken} == {("report",)}
    assert {tuple(body["report"]) for _, body in taker.taken} == {("id", "packet_id", "status", "to", "body")}
    assert all(any(canary in body["report"]["body"] for canary in canaries) for _, body in taker.taken)
    for reports in by_message(taker).values():
        assert len({(one["packet_id"], one["to"]) for one in reports}) == 1


def test_nothing_is_pushed_for_what_ended_before_the_start_or_is_sent_tomorrow(taker: Taker) -> None:
    """And settled means: nothing that is due waits."""
    with Sandbox(seed=4, speed=300) as sandbox:
        sandbox.control("POST", "/iletimerkezi/callback", {"url": taker.url})
        settled(sandbox)
        rows = {row["provider_key"]: row for row in sandbox.truth("iletimerkezi") if row["granularity"] == "order"}
        start = sandbox.world.start
    orders = {str(body["report"]["packet_id"]) for _, body in taker.taken}
    tomorrow = {key for key, row in rows.items() if row["status"] == "scheduled"}
    assert orders
    assert tomorrow
    assert not orders & tomorrow
    old = {key for key, row in rows.items() if row["settles_at"] and timestamp(row["settles_at"]) < start - 5}
    assert old
    assert not orders & old


def timestamp(text: str) -> float:
    """Epoch seconds."""
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def test_the_callback_survives_a_restart(taker: Taker, tmp_path: Any) -> None:
    """The state file holds the address; a provider that pushes nothing takes none."""
    state = tmp_path / "state.json"
    with Sandbox(seed=4, speed=300, state=state) as sandbox:
        sandbox.control("POST", "/iletimerkezi/callback", {"url": taker.url})
        settled(sandbox)
        before = len(taker.taken)
        import httpx

        refused = httpx.post(sandbox.urls["control"] + "/vairo/callback", json={"url": taker.url}, trust_env=False)
        assert refused.status_code == 422
    with Sandbox(seed=4, speed=300, state=state) as again:
        settled(again)
    assert len(taker.taken) == 2 * before > 0
