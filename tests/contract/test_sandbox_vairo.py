"""The Vairo stand-in answers as the documents say."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from ulak.sandbox.server import Sandbox

WORDS = {
    "at_once": "DELIVERED",
    "sent": "SENT",
    "absent": "NOT_DELIVERED",
    "expired": "EXPIRED",
    "invalid": "INVALID_DESTINATION_ADDRESS",
    "refused": "REJECTED",
    "error": "SEND_ERROR",
    "blacklisted": "BLACKLISTED_DESTINATION_ADDRESS",
    "unknown_word": "QUEUED_AT_OPERATOR",
    "never": "WAITING",
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A small world whose lives are over at once."""
    with Sandbox(seed=3, speed=20_000) as running:
        running.control("POST", "/limits", {"provider": "vairo", "requests": 10_000})
        yield running


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """One HTTP client."""
    with httpx.Client(trust_env=False, timeout=20) as made:
        yield made


def ask(sandbox: Sandbox, client: httpx.Client, send: str, number: Any, key: str | None = None) -> httpx.Response:
    """One NumaraRaporu."""
    key = key or sandbox.control("GET", "/accounts")[1]["credentials"]["api_key"]
    url = f"{sandbox.urls['vairo']}/NumaraRaporu/{send}"
    return client.post(url, params={"api_key": key}, json={"numara": number})


def gate(sandbox: Sandbox, client: httpx.Client, send: str, method: str = "GET") -> Any:
    """One GonderimBilgisi."""
    key = sandbox.control("GET", "/accounts")[1]["credentials"]["api_key"]
    url = f"{sandbox.urls['vairo']}/GonderimBilgisi/{send}"
    return client.request(method, url, params={"api_key": key}).json()


@pytest.mark.parametrize("outcome", WORDS)
def test_a_magic_number_ends_in_its_word(sandbox: Sandbox, client: httpx.Client, outcome: str) -> None:
    """Each outcome has the word of the provider's table; two of them never end."""
    made = sandbox.control("POST", "/sends/vairo", {"count": 1, "outcome": outcome})["sends"]
    send, number = made[0]["value"].split(":")
    wait(sandbox, client, send, number, WORDS[outcome])


def wait(sandbox: Sandbox, client: httpx.Client, send: str, number: str, word: str) -> None:
    """Asks until the word is there."""
    for _ in range(300):
        body = ask(sandbox, client, send, number).json()["aciklama"]
        if body["durum_gonderim"] == word:
            return
    pytest.fail(f"{word} never came, last was {body['durum_gonderim']}")


def test_a_report_has_the_fields_of_the_sample(sandbox: Sandbox, client: httpx.Client) -> None:
    """Names and kinds are those of the provider's page, the message text among them."""
    send, number = sandbox.control("GET", "/sends?provider=vairo")[0]["value"].split(":")
    body = ask(sandbox, client, send, number).json()
    assert body["durum"] is True
    assert {name: type(value) for name, value in body["aciklama"].items()} == {
        "id": int,
        "sms_gonderim_id": int,
        "numara": str,
        "mesaj": str,
        "mesaj_boy": int,
        "durum_gonderim": str,
        "durum_iade": int,
        "created_at": str,
        "updated_at": str,
    }
    assert "kanaryametni" in body["aciklama"]["mesaj"]


def test_any_usual_spelling_of_the_number_is_understood(sandbox: Sandbox, client: httpx.Client) -> None:
    """Ten digits, with 0, 90 or +90 before them."""
    send, number = sandbox.control("GET", "/sends?provider=vairo")[0]["value"].split(":")
    spellings = [number, "0" + number, "90" + number, "+90" + number]
    ids = {ask(sandbox, client, send, one).json()["aciklama"]["id"] for one in spellings}
    assert len(ids) == 1


def test_errors_are_those_of_the_error_page(sandbox: Sandbox, client: httpx.Client) -> None:
    """401 for the key, 400 with a word or with free text."""
    send, number = sandbox.control("GET", "/sends?provider=vairo")[0]["value"].split(":")
    answers = [
        ask(sandbox, client, send, number, key="wrong"),
        ask(sandbox, client, send, ""),
        ask(sandbox, client, send, "12"),
        ask(sandbox, client, send, "5999999999"),
        ask(sandbox, client, "1", number),
    ]
    assert [(one.status_code, one.json()["durum"]) for one in answers] == [
        (401, False),
        *[(400, False)] * 4,
    ]
    assert answers[1].json()["aciklama"] == "MISSING_DESTINATION_ADDRESS"
    assert answers[2].json()["aciklama"] == "INVALID_DESTINATION_ADDRESS"


def test_the_same_number_twice_is_shown_once(sandbox: Sandbox, client: httpx.Client) -> None:
    """One object per number, and it is always the same one."""
    values = {"recipients": ["+905550000001", "+905550000001"]}
    made = sandbox.control("POST", "/sends/vairo", values)["sends"]
    assert len(made) == 1
    send = made[0]["value"].split(":")[0]
    ids = {ask(sandbox, client, send, "5550000001").json()["aciklama"]["id"] for _ in range(3)}
    assert len(ids) == 1
    assert gate(sandbox, client, send)["aciklama"]["numara_toplam"] == 2


def test_the_gate_tells_running_finished_and_failed(client: httpx.Client) -> None:
    """`paket_durum` 0, 1 and -1; the zero date stands for not yet; GET and POST both answer."""
    with Sandbox(seed=1, speed=24, scale="demo") as demo:
        sends = {row["value"].split(":")[0] for row in demo.control("GET", "/sends?provider=vairo")}
        demo.control("POST", "/limits", {"provider": "vairo", "requests": 10_000})
        bodies = [
            gate(demo, client, send, "POST" if int(send) % 2 else "GET")["aciklama"] for send in sorted(sends)[:60]
        ]
    assert {body["paket_durum"] for body in bodies} == {-1, 0, 1}
    assert {body["ileri_tarih"] for body in bodies} == {"0000-00-00 00:00:00"}
    assert all((body["paket_durum"] == 0) == (body["sonlanma_zamani"] == "0000-00-00 00:00:00") for body in bodies)
    assert all(("log" in body) == (body["paket_durum"] == -1) for body in bodies)


def test_a_send_runs_until_its_validity_ends_whatever_its_numbers_say(client: httpx.Client) -> None:
    """As in the sample, 24 hours after its creation (an hour at speed 24); its numbers are delivered long before."""
    with Sandbox(seed=1, speed=4_000) as sandbox:
        sandbox.control("POST", "/limits", {"provider": "vairo", "requests": 100_000})
        made = sandbox.control("POST", "/sends/vairo", {"recipients": [f"9055500000{n:02d}" for n in range(40)]})
        send, ends = made["sends"][0]["value"].split(":")[0], made["sends"][0]["valid_until"]
        numbers = [row["value"].split(":")[1] for row in made["sends"]]
        while [ask(sandbox, client, send, one).json()["aciklama"]["durum_gonderim"] for one in numbers] != [
            "DELIVERED"
        ] * 40:
            time.sleep(0.05)
        while True:
            before = datetime.now(UTC)
            body = gate(sandbox, client, send)["aciklama"]
            if body["paket_durum"]:
                break
            assert before < datetime.fromisoformat(ends) + timedelta(seconds=5)
            time.sleep(0.1)
    created, ended = (datetime.fromisoformat(body[name]) for name in ("created_at", "sonlanma_zamani"))
    assert datetime.now(UTC) >= datetime.fromisoformat(ends)
    assert (ended - created).total_seconds() == int(86_400 / 4_000)
    assert body["gecerlilik_suresi"] == "00:00:21"
    assert body["numara_toplam"] == 40


def test_a_world_has_large_sends_of_which_some_never_end() -> None:
    """Two to forty numbers; a number without an end has a short validity, others of its send end in time."""
    with Sandbox(seed=1, speed=24, scale="demo") as demo:
        rows = [row for row in demo.truth("vairo") if row["granularity"] == "message"]
    by_send: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_send.setdefault(row["parent_key"], []).append(row)
    sizes = sorted(len(each) for each in by_send.values())
    assert sizes[-1] == 40
    assert sum(2 <= size <= 40 for size in sizes) > 40
    endless = [each for each in by_send.values() if any(row["settles_at"] is None for row in each)]
    assert sum(len(each) > 5 for each in endless) >= 4


def test_young_messages_pass_through_the_open_words(client: httpx.Client) -> None:
    """DEFAULT with a zero date, SENDING and WAITING are all seen in a slow young world."""
    with Sandbox(seed=1, speed=20, scale="demo") as demo:
        demo.control("POST", "/limits", {"provider": "vairo", "requests": 100_000})
        words: dict[str, set[bool]] = {}
        made = demo.control("POST", "/sends/vairo", {"count": 40, "outcome": "late"})["sends"]
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not {"SENDING", "WAITING"} <= set(words):
            for one in made:
                body = ask(demo, client, *one["value"].split(":")).json()["aciklama"]
                zero = body["updated_at"] == "0000-00-00 00:00:00"
                words.setdefault(body["durum_gonderim"], set()).add(zero)
    assert words.pop("DEFAULT") == {True}
    assert set(map(frozenset, words.values())) <= {frozenset({False})}
    assert {"SENDING", "WAITING"} <= set(words)
