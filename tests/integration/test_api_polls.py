"""Polls over HTTP: opened once per key, paged, cancelled."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from database_fixtures import add_account
from sqlalchemy import text
from task_api import Api, api

from ulak.core import clock
from ulak.models.database import transaction
from ulak.tasks.messages import poll_account

__all__ = ["api"]


@pytest.fixture(autouse=True)
def accounts(api: Api) -> None:
    """One account with a list of days, one that takes ids, one that is disabled."""
    with transaction(api.engine) as connection:
        add_account(connection, "kampanya", provider="iletimerkezi")
        add_account(connection, "marka-sms")
        add_account(connection, "bildirim", provider="bip")
        add_account(connection, "eski")
        connection.execute(text("UPDATE accounts SET enabled = false WHERE id = 'eski'"))


def ask(api: Api, body: dict[str, Any], key: str | None = None) -> Any:
    """The answer to POST /v1/polls."""
    return api.client.post("/v1/polls", json=body, headers={} if key is None else {"Idempotency-Key": key})


def test_a_poll_is_a_row_and_then_a_message(api: Api) -> None:
    """202 with the poll; the message speaks of a committed row."""
    answer = ask(api, {"account": "kampanya", "from": "2026-05-01", "to": "2026-05-02"})
    poll = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/polls/{poll['id']}")
    assert api.get(f"/v1/polls/{poll['id']}") == poll
    assert {name: poll[name] for name in ("account", "trigger", "state", "from", "to", "planned", "finished_at")} == {
        "account": "kampanya",
        "trigger": "api",
        "state": "running",
        "from": "2026-05-01",
        "to": "2026-05-02",
        "planned": False,
        "finished_at": None,
    }
    assert api.heard() == [poll_account("kampanya", poll["id"])]


def test_the_same_key_gives_the_same_poll(api: Api) -> None:
    """Again, and at the same moment from many; without a key each request opens one."""
    body = {"account": "kampanya"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(api, body, "key-1"), range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert ask(api, body).json()["id"] != ask(api, body).json()["id"]
    (found,) = api.get("/v1/polls", task="key-1")["polls"]
    assert found["id"] == answers[0].json()["id"]


def test_a_key_that_asked_for_something_else_is_refused(api: Api) -> None:
    """Other days, other ids or another account under the same key are a mistake of the caller."""
    ids = [{"kind": "number", "value": "1:5301234567"}]
    assert ask(api, {"account": "marka-sms", "ids": ids}, "key-1").status_code == 202
    assert ask(api, {"account": "marka-sms", "ids": ids}, "key-1").status_code == 202
    for other in ({"account": "marka-sms"}, {"account": "kampanya"}, {"account": "kampanya", "from": "2026-05-01"}):
        answer = ask(api, other, "key-1")
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "header.Idempotency-Key")
    assert len(api.get("/v1/polls")["polls"]) == 1
    assert ask(api, {"account": "marka-sms"}, "key-2").status_code == 202
    assert ask(api, {"account": "kampanya"}, "key-2").status_code == 422  # the same question to another account


def test_the_poll_of_a_key_is_found_only_where_it_was_looked_for(api: Api) -> None:
    """Account and state narrow a search by key as they do any other."""
    poll = ask(api, {"account": "kampanya"}, "key-1").json()

    def found(**query: Any) -> list[int]:
        return [each["id"] for each in api.get("/v1/polls", task="key-1", **query)["polls"]]

    assert found() == found(account="kampanya") == found(state="running", account="kampanya") == [poll["id"]]
    assert found(account="marka-sms") == found(state="complete") == []


def test_the_first_day_may_be_tomorrow_and_no_later(api: Api) -> None:
    """East of Greenwich tomorrow has begun already while it is still today in UTC."""
    today = clock.now().date()
    tomorrow = ask(api, {"account": "kampanya", "from": (today + timedelta(days=1)).isoformat()})
    assert tomorrow.status_code == 202
    later = ask(api, {"account": "kampanya", "from": (today + timedelta(days=2)).isoformat()})
    assert (later.status_code, later.json()["errors"][0]["problem"]) == (422, "lies in the future")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"account": "nobody"}, 404, None),
        ({"account": "eski"}, 409, None),
        ({"account": "bildirim"}, 422, "body.account"),
        ({"account": "bildirim", "from": "2026-05-01"}, 422, "body.account"),
        ({"account": "kampanya", "to": "2026-05-01"}, 422, "body.from"),
        ({"account": "kampanya", "from": "2026-05-02", "to": "2026-05-01"}, 422, "body.to"),
        ({"account": "kampanya", "from": "2024-05-02", "to": "2026-05-01"}, 422, "body.to"),
        ({"account": "kampanya", "from": "2200-01-01"}, 422, "body.from"),
        ({"account": "marka-sms", "from": "2026-05-01"}, 422, "body.from"),
        ({"account": "marka-sms", "ids": [{"kind": "letter", "value": "1"}]}, 422, "body.ids.0"),
        ({"account": "marka-sms", "ids": []}, 422, "body.ids"),
    ],
)
def test_what_can_never_be_asked_is_refused(api: Api, body: dict[str, Any], status: int, field: str | None) -> None:
    """Each mistake by its field, and no poll is opened."""
    answer = ask(api, body)
    assert (answer.status_code, answer.json().get("errors", [{}])[0].get("field")) == (status, field)
    assert (api.get("/v1/polls")["polls"], api.sent) == ([], [])


def test_a_poll_is_cancelled_once_and_an_ended_one_not_at_all(api: Api) -> None:
    """Cancelling again says the same; 409 for a poll that is complete."""
    first, second = (ask(api, {"account": "kampanya"}).json()["id"] for _ in range(2))
    for _ in range(2):
        answer = api.client.delete(f"/v1/polls/{first}")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    with transaction(api.engine) as connection:
        connection.execute(
            text("UPDATE polls SET state = 'complete', finished_at = now() WHERE id = :id"), {"id": second}
        )
    assert api.client.delete(f"/v1/polls/{second}").status_code == 409
    assert api.client.delete("/v1/polls/999999").status_code == 404


def test_pages_of_polls_hold_each_once(api: Api) -> None:
    """The newest first, while further ones are opened; a cursor serves only its own search."""
    opened = [ask(api, {"account": "kampanya"}).json()["id"] for _ in range(5)]
    seen: list[int] = []
    query: dict[str, Any] = {"account": "kampanya", "state": "running", "limit": 2}
    while True:
        page = api.get("/v1/polls", **query)
        seen += [poll["id"] for poll in page["polls"]]
        if page["cursor"] is None:
            break
        query["cursor"] = page["cursor"]
        ask(api, {"account": "kampanya"})
    assert seen == opened[::-1]
    for cursor, account in ((query["cursor"], "marka-sms"), ("nonsense", "kampanya"), ("WzEsMl0", "kampanya")):
        wrong = api.client.get("/v1/polls", params=query | {"cursor": cursor, "account": account})
        assert wrong.status_code == 400
    assert api.client.get("/v1/polls", params=query | {"state": "complete"}).status_code == 400


@pytest.mark.parametrize("kind", ["order", "conversation"])
def test_an_id_that_only_attaches_a_reference_is_none_that_a_poll_can_ask_for(api: Api, kind: str) -> None:
    """Registering it is right, asking for it is not: the poll could never be planned."""
    ids = [{"kind": kind, "value": "1:2:0:2026-01-01"}]
    answer = api.client.post("/v1/polls", json={"account": "kampanya", "ids": ids})
    assert answer.status_code == 422, answer.text
