"""The sandbox as a whole: limits, faults, truth, lives, state and the process."""

import contextlib
import json
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from ulak.sandbox.outcomes import OUTCOMES
from ulak.sandbox.server import Sandbox
from ulak.sandbox.settings import PROVIDERS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A small world whose lives are over within half a second."""
    with Sandbox(seed=5, speed=1200) as running:
        yield running


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """One HTTP client."""
    with httpx.Client(trust_env=False, timeout=10) as made:
        yield made


def make_list(sandbox: Sandbox) -> tuple[str, dict[str, Any]]:
    """URL and body of a list of today's orders."""
    login = sandbox.control("GET", "/accounts")[0]["credentials"]
    today = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 10_800))
    chosen = {"start": today, "end": today}
    body = {"request": {"authentication": login, "filter": chosen}}
    return sandbox.urls["iletimerkezi"] + "/v1/get-reports/json", body


def test_a_sliding_window_is_judged_by_arrival(sandbox: Sandbox, client: httpx.Client) -> None:
    """Exactly those are refused that find the window full, wherever it begins; refused ones count."""
    limit = {"provider": "iletimerkezi", "requests": 5, "per_seconds": 1.2}
    sandbox.control("POST", "/limits", limit)
    url, body = make_list(sandbox)
    codes = []
    for pause in (0, 0.9, 0, 0, 0, 0, 0, 0.5, 0.2, 0.2, 0.2, 0.6, 1.4, 0, 0, 0, 0, 0, 0):
        time.sleep(pause)
        codes.append(client.post(url, json=body).status_code)
    log = sandbox.log()
    times = [one["arrived_mono"] for one in log]
    full = [sum(0 <= now - other < 1.2 for other in times[: n + 1]) > 5 for n, now in enumerate(times)]
    assert codes == [429 if refused else 200 for refused in full]
    assert [one["why"] for one in log] == ["rate" if refused else None for refused in full]
    assert sandbox.control("GET", "/log/violations") == [one for one in log if one["violation"]]
    assert {200, 429} == set(codes)


def test_retry_after_comes_now_and_then(sandbox: Sandbox, client: httpx.Client) -> None:
    """Every second refusal says when to come back."""
    sandbox.control("POST", "/limits", {"provider": "iletimerkezi", "requests": 0})
    url, body = make_list(sandbox)
    said = [client.post(url, json=body).headers.get("retry-after") for _ in range(4)]
    assert Counter(said) == {"1": 2, None: 2}


def test_the_concurrency_of_an_account_is_enforced(sandbox: Sandbox, client: httpx.Client) -> None:
    """Of six at once with room for two, two pass; the log says how many were in the air."""
    limit = {"provider": "vairo", "requests": 100, "concurrency": 2}
    sandbox.control("POST", "/limits", limit)
    sandbox.control("POST", "/settings", {"latency_seconds": 2.0})
    key = sandbox.control("GET", "/accounts")[1]["credentials"]["api_key"]
    url = f"{sandbox.urls['vairo']}/GonderimBilgisi/1?api_key={key}"
    with ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(lambda _: client.get(url).status_code, range(6)))
    assert Counter(codes) == {400: 2, 429: 4}
    # A refusal is answered at once, so at most one refused request is in the air beside the two.
    log = sandbox.log()
    assert sorted(one["in_flight"] for one in log if not one["violation"]) == [1, 2]
    assert {one["why"] for one in log if one["violation"]} == {"concurrency"}


def test_the_log_holds_every_request_and_no_secret(sandbox: Sandbox, client: httpx.Client) -> None:
    """Ordinals without a gap, endpoint names, accounts by alias."""
    url, body = make_list(sandbox)
    client.post(url, json=body)
    client.post(url, json={"request": {"authentication": {"key": "x", "hash": "y"}}})
    log = sandbox.control("GET", "/log")
    assert [(o["n"], o["account"], o["endpoint"], o["status"]) for o in log] == [
        (1, "demo-iletimerkezi", "get-reports", 200),
        (2, "?", "get-reports", 401),
    ]
    assert sandbox.control("GET", "/log?since=1") == log[1:]
    assert all(one["answered_mono"] >= one["arrived_mono"] for one in log)
    text = json.dumps(log)
    assert not any(canary in text for canary in sandbox.control("GET", "/canaries"))


FAULTS: dict[str, Any] = {
    "http_500": 500,
    "http_429": 429,
    "unauthorized": 401,
    "html_200": "<!DOCTYPE html>",
    "empty": "",
    "garbage": '{"',
    "reset": httpx.ReadError,
    "truncate": httpx.RemoteProtocolError,
    "hang": httpx.ReadTimeout,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_strikes_as_often_as_ordered(sandbox: Sandbox, kind: str) -> None:
    """Once, then all is well again."""
    url, body = make_list(sandbox)
    sandbox.control("POST", "/faults", {"provider": "iletimerkezi", "kind": kind, "times": 1})
    wanted = FAULTS[kind]
    patience = httpx.Timeout(10, read=0.5 if kind == "hang" else 10)
    with httpx.Client(trust_env=False, timeout=patience) as own:
        if isinstance(wanted, type):
            with pytest.raises(wanted):
                own.post(url, json=body)
        else:
            answer = own.post(url, json=body)
            if isinstance(wanted, int):
                assert answer.status_code == wanted
            else:
                assert answer.status_code == 200
                assert answer.text.startswith(wanted)
                assert (answer.text == "") == (kind == "empty")
        assert own.post(url, json=body, timeout=10).status_code == 200
    assert [one["fault"] for one in sandbox.log()] == [kind, None]


def test_drip_and_slow_take_their_time(sandbox: Sandbox) -> None:
    """A dripping answer runs into a total deadline, a slow one comes whole in the end."""
    url, body = make_list(sandbox)
    sandbox.control("POST", "/faults", {"provider": "iletimerkezi", "kind": "drip", "times": 1})
    with httpx.Client(trust_env=False, timeout=10) as own:
        began = time.monotonic()
        with own.stream("POST", url, json=body) as answer:
            assert answer.status_code == 200
            chunks = answer.iter_raw()
            assert [next(chunks), next(chunks)] == [b"{", b'"']
        assert 0.4 < time.monotonic() - began < 8
        order = {"provider": "iletimerkezi", "kind": "slow", "for_seconds": 30}
        sandbox.control("POST", "/faults", order)
        began = time.monotonic()
        assert own.post(url, json=body).status_code == 200
        assert time.monotonic() - began > 2.9
        assert sandbox.control("DELETE", "/faults") == []


def test_a_rate_strikes_some_of_them(sandbox: Sandbox, client: httpx.Client) -> None:
    """With rate 0.5 some of forty requests fail and some do not."""
    url, body = make_list(sandbox)
    sandbox.control("POST", "/limits", {"provider": "iletimerkezi", "requests": 100})
    order = {"provider": "iletimerkezi", "kind": "http_500", "rate": 0.5}
    sandbox.control("POST", "/faults", order)
    codes = Counter(client.post(url, json=body).status_code for _ in range(40))
    assert min(codes[200], codes[500]) > 5


def test_wrong_orders_are_refused_with_a_sentence(sandbox: Sandbox, client: httpx.Client) -> None:
    """Unknown providers, faults, outcomes, settings: 422 and what is known."""
    control = sandbox.urls["control"]
    answers = [
        client.post(control + "/faults", json={"provider": "vairo", "kind": "fire"}),
        client.post(control + "/faults", json={"provider": "bip", "kind": "reset"}),
        client.post(control + "/sends/nobody", json={}),
        client.post(control + "/sends/vairo", json={"outcome": "luck"}),
        client.post(control + "/settings", json={"nothing": 1}),
        client.post(control + "/limits", json={"provider": "vairo", "hours": 1}),
    ]
    assert [one.status_code for one in answers] == [422] * 6
    assert all(one.json()["error"] for one in answers)


def test_lives_only_go_forward() -> None:
    """A final row never changes, except from delivered to read; rows never go away."""
    final: dict[tuple[str, str], str] = {}
    open_seen = 0
    with Sandbox(seed=6, speed=75, scale="demo") as sandbox:
        while not sandbox.control("GET", "/truth/settled")["settled"]:
            rows = {(r["provider"], r["provider_key"]): r for r in sandbox.truth()}
            open_seen += sum(not row["is_final"] for row in rows.values())
            for key, status in final.items():
                now = rows[key]["status"]
                assert now == status or (status, now) == ("delivered", "read")
            final |= {key: row["status"] for key, row in rows.items() if row["is_final"]}
        last = sandbox.truth()
    assert open_seen > 50
    assert len(last) > 2500
    assert len({(row["provider"], row["provider_key"]) for row in last}) == len(last)
    waiting = [row for row in last if not row["is_final"] and row["settles_at"] is not None]
    # What is still open has no end, or waits for tomorrow; conversation-days close by age.
    tomorrow = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 80_000))
    # And a Vairo send as a whole runs until the end of its validity.
    early = [row for row in waiting if row["settles_at"] < tomorrow]
    assert {(row["provider"], row["granularity"]) for row in early} == {("diyalog", "conversation"), ("vairo", "order")}


def test_the_demo_is_over_within_forty_seconds_of_its_start() -> None:
    """At the demo's speed the plan of every first send ends by then; and it is large enough."""
    with Sandbox(seed=1, speed=24, scale="demo") as sandbox:
        assert sandbox.world.settles_at() - sandbox.world.start < 50
        rows = sandbox.truth()
    assert len(rows) > 2500
    early = Counter(row["provider"] for row in rows if not row["is_final"])
    assert min(early[name] for name in ("iletimerkezi", "vairo", "organik", "bip")) > 20


def test_reset_begins_again(sandbox: Sandbox, client: httpx.Client) -> None:
    """The log, orders and faults are gone, the same seed makes the same rows."""
    before = {row["provider_key"] for row in sandbox.truth("organik")}
    url, body = make_list(sandbox)
    client.post(url, json=body)
    sandbox.control("POST", "/sends/organik", {"count": 3})
    sandbox.control("POST", "/faults", {"provider": "vairo", "kind": "hang"})
    sandbox.control("POST", "/reset")
    assert sandbox.log() == []
    assert sandbox.control("GET", "/faults") == []
    assert {row["provider_key"] for row in sandbox.truth("organik")} == before


@contextlib.contextmanager
def running(*options: str) -> Iterator[dict[str, str]]:
    """The sandbox as a process; ends it with SIGTERM and expects a quick, clean end."""
    command = [sys.executable, "-m", "ulak.sandbox", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert select.select([process.stdout], [], [], 60)[0]
            yield json.loads(process.stdout.readline())
        finally:
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            rest, errors = process.communicate(timeout=30)
        assert (process.returncode, rest, errors) == (0, "", "")
        # It takes half a second; a busy machine may need more. A request that hangs does so for five minutes.
        assert time.monotonic() - began < 15


def test_a_restart_with_a_state_file_goes_on_with_the_same_lives(client: httpx.Client, tmp_path: Path) -> None:
    """One line of JSON, an end within a second even while a request hangs, the same lives after."""
    state = tmp_path / "state.json"
    options = ("--scale", "small", "--speed", "5000", "--state", str(state))
    with running(*options, "--ports", "0", "--seed", "9") as urls:
        client.post(urls["control"] + "/sends/vairo", json={"count": 2}).raise_for_status()
        while not client.get(urls["control"] + "/truth/settled").json()["settled"]:
            time.sleep(0.05)
        before = client.get(urls["control"] + "/truth").json()
        fault = {"provider": "vairo", "kind": "hang"}
        client.post(urls["control"] + "/faults", json=fault).raise_for_status()
        with pytest.raises(httpx.ReadTimeout):
            client.get(urls["vairo"] + "/GonderimBilgisi/1", timeout=0.2)
    ports = [url.split(":")[2].split("/")[0] for url in [*urls.values()][1:]]
    ports.append(urls["control"].rpartition(":")[2])
    with running(*options, "--ports", ",".join(ports)) as again:
        after = client.get(again["control"] + "/truth").json()
    assert list(urls) == ["control", "iletimerkezi", "vairo", "organik", "diyalog", "bip"]
    assert again == urls
    assert [(row["provider_key"], row["recipient"]) for row in after] == [
        (row["provider_key"], row["recipient"]) for row in before
    ]
    # Lives go on meanwhile, up to the end of validity; what has happened stays.
    assert all(old["ever"].items() <= new["ever"].items() for old, new in zip(before, after, strict=True))
    assert state.stat().st_mode & 0o777 == 0o600


def test_a_busy_port_moves_to_a_free_one() -> None:
    """Two sandboxes with the same wish both run."""
    with Sandbox(seed=1) as one:
        port = int(one.urls["organik"].rpartition(":")[2])
        with Sandbox(seed=1, ports=(0, 0, port, 0, 0, 0)) as two:
            assert two.urls["organik"] != one.urls["organik"]


def test_the_documented_table_of_magic_numbers_is_the_one_in_use() -> None:
    """Each row of the page names an outcome and its digits as the code has them."""
    text = (ROOT / "docs" / "reference" / "sandbox.md").read_text()
    rows = re.findall(r"^\| (\d\d)(?:-(\d\d))? \| `(\w+)`", text, re.MULTILINE)
    told = {name: range(int(first), int(last or first) + 1) for first, last, name in rows}
    assert told == OUTCOMES


def test_stress_tests_and_a_storm_can_be_switched_on_at_the_start(client: httpx.Client) -> None:
    """`--set` and `--faults`; a new life by `/reset` keeps the settings of the start and ends the storm."""
    given = ("--set", "iletimerkezi_text_numbers=true", "--set", "organik_error_field=code", "--faults", "0.5")
    with running("--scale", "small", "--ports", "0", *given) as urls:
        control = urls["control"]
        told = client.post(control + "/settings", json={"latency_seconds": 0.5}).json()
        assert (told["iletimerkezi_text_numbers"], told["organik_error_field"]) == (True, "code")
        storm = client.get(control + "/faults").json()
        assert {(fault["kind"], fault["rate"]) for fault in storm} == {("everything", 0.5)}
        assert [fault["provider"] for fault in storm] == list(PROVIDERS)
        client.post(control + "/reset").raise_for_status()
        again = client.post(control + "/settings", json={}).json()
        assert (again["iletimerkezi_text_numbers"], again["latency_seconds"]) == (True, 0.012)
        assert client.get(control + "/faults").json() == []


@pytest.mark.parametrize("text", ["nothing=1", "iletimerkezi_text_numbers=7", "vairo_unknown_status"])
def test_a_wrong_setting_is_refused_at_the_start(text: str) -> None:
    """Exit code 2 and a sentence."""
    command = [sys.executable, "-m", "ulak.sandbox", "--ports", "0", "--set", text]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--set" in done.stderr
