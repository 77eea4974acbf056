"""Looking many identifiers up, tracked ids and the summary over HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from database_fixtures import add_account
from msgspec.structs import replace
from sqlalchemy import text
from task_api import Api, api

from ulak.api import statistics
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status

__all__ = ["api"]

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NUMBER = "+905301234567"


def said(status: Status, key: str, **fields: Any) -> DeliveryReport:
    """A statement about one message, unless `granularity` says otherwise."""
    given = {"granularity": Granularity.MESSAGE, "provider_status": status.value} | fields
    return DeliveryReport(provider_key=key, status=status, **given)


@pytest.fixture(autouse=True)
def filled(api: Api) -> None:
    """An order with two messages, a message of another account, and two ids without a report."""
    with transaction(api.engine) as connection:
        add_account(connection, "toplu", provider="organik")
        add_account(connection, "kampanya", provider="organik")
        reports = [
            said(Status.SENT, "7001", granularity=Granularity.ORDER, client_ref="inv-7"),
            said(Status.DELIVERED, "m1", parent_key="7001", recipient=NUMBER, client_ref="inv-7"),
            said(Status.REJECTED, "m2", parent_key="7001", recipient="+905301234568"),
        ]
        upsert(connection, "toplu", "organik", reports, asked_at=NOON)
        upsert(connection, "kampanya", "organik", [said(Status.ENROUTE, "m1", recipient=NUMBER)], asked_at=NOON)
    ids = [
        {"kind": "transaction", "value": "5", "client_ref": "inv-8", "recipient": "0530 123 45 67"},
        {"kind": "transaction", "value": "6"},
    ]
    assert api.client.post("/v1/tracked", json={"account": "kampanya", "ids": ids}).status_code == 200


def look_up(api: Api, **asked: Any) -> list[tuple[str, str, list[tuple[str, str]], list[str]]]:
    """(by, value, (account, key) of its deliveries, values of what is not reported) of each result."""
    answer = api.client.post("/v1/deliveries/lookup", json=asked)
    assert answer.status_code == 200, answer.text
    return [
        (
            each["by"],
            each["value"],
            [(row["account_id"], row["provider_key"]) for row in each["deliveries"]],
            [row["value"] for row in each["unanswered"]],
        )
        for each in answer.json()["results"]
    ]


def test_references_keys_and_numbers_are_looked_up_together(api: Api) -> None:
    """One result for each, in the order of the request, the newest delivery first; what is unknown is empty."""
    found = look_up(
        api, client_refs=["inv-8", "none", "inv-7"], provider_keys=["m1", " 7001 "], recipients=["0530 123 45 67", "x"]
    )
    assert found == [
        ("client_ref", "inv-8", [], ["5"]),
        ("client_ref", "none", [], []),
        ("client_ref", "inv-7", [("toplu", "7001"), ("toplu", "m1")], []),
        ("provider_key", "m1", [("kampanya", "m1"), ("toplu", "m1")], []),
        ("provider_key", " 7001 ", [("toplu", "7001")], []),
        ("recipient", "0530 123 45 67", [("kampanya", "m1"), ("toplu", "m1")], ["5"]),
        ("recipient", "x", [], []),
    ]
    assert look_up(api, account="toplu", provider_keys=["m1"]) == [("provider_key", "m1", [("toplu", "m1")], [])]


def test_a_look_up_has_its_bounds(api: Api) -> None:
    """A thousand in all and at least one; twenty deliveries of each, with a word where there are more."""
    with transaction(api.engine) as connection:
        many = [said(Status.DELIVERED, f"n{number:02}", client_ref="many") for number in range(25)]
        upsert(connection, "toplu", "organik", many, asked_at=NOON)
    thousand = [f"r{number}" for number in range(999)]
    answer = api.client.post("/v1/deliveries/lookup", json={"client_refs": ["many", *thousand]}).json()
    assert len(answer["results"]) == 1000
    assert [row["provider_key"] for row in answer["results"][0]["deliveries"]] == [
        f"n{24 - each:02}" for each in range(20)
    ]
    assert [each["more"] for each in answer["results"][:2]] == [True, False]
    for body, detail in (
        ({"client_refs": ["a", *thousand], "recipients": ["b"]}, "body has too many entries: give at most 1000 in all"),
        ({"client_refs": ["a", "b", *thousand]}, "body.client_refs has too many entries: give at most 1000"),
        ({"account": "toplu"}, "body holds nothing to look up: give client_refs, provider_keys, recipients"),
        ({"client_refs": [""]}, "body.client_refs.0 is empty: give a value, or leave it out"),
    ):
        refused = api.client.post("/v1/deliveries/lookup", json=body)
        assert (refused.status_code, refused.json()["detail"]) == (422, f"The request is wrong: {detail}.")
    unknown = api.client.post("/v1/deliveries/lookup", json={"account": "nobody", "client_refs": ["a"]})
    assert unknown.status_code == 404


def test_deliveries_are_narrowed_by_key_parent_kind_and_time(api: Api) -> None:
    """Alone and together; a cursor belongs to its filters."""

    def keys(**query: Any) -> list[str]:
        return [row["provider_key"] for row in api.get("/v1/deliveries", **query)["deliveries"]]

    assert keys(provider_key="m1") == ["m1", "m1"]
    assert keys(parent_key="7001") == ["m1", "m2"]
    assert keys(parent_key="7001", status="rejected") == ["m2"]
    assert keys(granularity="order") == ["7001"]
    assert keys(client_ref="inv-7", granularity="message") == ["m1"]
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert (keys(until=later, account="toplu"), keys(since=later)) == (["m1", "m2", "7001"], [])
    assert api.get("/v1/deliveries", recipient=NUMBER, granularity="message")["unanswered"] == []
    page = api.get("/v1/deliveries", parent_key="7001", limit=1)
    other = api.client.get("/v1/deliveries", params={"parent_key": "7002", "cursor": page["cursor"]})
    assert other.status_code == 400
    wrong = api.client.get("/v1/deliveries", params={"granularity": "letter"}).json()["detail"]
    assert wrong.endswith("query.granularity is none of the known words: give message, order or conversation.")


def tracked(api: Api, **query: Any) -> list[tuple[str, str, str | None]]:
    """(value, state, why it is closed) of tracked ids."""
    return [(row["value"], row["state"], row["close_reason"]) for row in api.get("/v1/tracked", **query)["tracked"]]


def test_tracked_ids_are_listed_and_untracked(api: Api) -> None:
    """One by DELETE, many by POST, in any form of the id; twice is once; registering again opens it."""
    assert tracked(api) == [("5", "open", None), ("6", "open", None)]
    assert tracked(api, client_ref="inv-8") == tracked(api, recipient="05301234567") == [("5", "open", None)]
    one = {"account": "kampanya", "kind": "transaction", "value": "005"}
    for _ in range(2):
        answer = api.client.delete("/v1/tracked", params=one)
        assert (answer.status_code, answer.json()["state"], answer.json()["value"]) == (200, "closed", "5")
    assert answer.json() | {"next_check_at": None, "close_reason": "untracked", "client_ref": "inv-8"} == answer.json()
    ids = [{"kind": "transaction", "value": value} for value in ("5", "6", "7")] + [{"kind": "transaction"}]
    ids.append({"kind": "transactoin", "value": "5"})
    many = api.client.post("/v1/tracked/untrack", json={"account": "kampanya", "ids": ids}).json()
    assert many["untracked"] == 1
    assert [(each["result"], each["problem"]) for each in many["results"]] == [
        ("not open", None),
        ("untracked", None),
        ("not open", None),
        ("refused", "value is missing: it must be given"),
        ("refused", "kind must be one of: transaction, delivery_track, gsm_track, order, message"),
    ]
    assert tracked(api, state="open") == []
    assert tracked(api, account="kampanya", kind="transaction", value="6") == [("6", "closed", "untracked")]
    again = api.client.post("/v1/tracked", json={"account": "kampanya", "ids": ids[:1]}).json()
    assert (again["registered"], again["new"], tracked(api, state="open")) == (1, 0, [("5", "open", None)])


def test_what_is_not_there_cannot_be_untracked(api: Api) -> None:
    """404 for the account and for the id; without one of its three parts nothing is untracked."""
    one = {"account": "kampanya", "kind": "transaction", "value": "99"}
    assert api.client.delete("/v1/tracked", params=one).status_code == 404
    assert api.client.delete("/v1/tracked", params=one | {"account": "nobody"}).status_code == 404
    for name in one:
        partly = {other: value for other, value in one.items() if other != name}
        refused = api.client.delete("/v1/tracked", params=partly)
        detail = f"The request is wrong: query.{name} is missing: it must be given."
        assert (refused.status_code, refused.json()["detail"]) == (422, detail)
    assert api.client.post("/v1/tracked/untrack", json={"account": "nobody", "ids": [{}]}).status_code == 404
    assert api.client.post("/v1/tracked/untrack", json={"account": "kampanya", "ids": []}).status_code == 422
    assert [state for _, state, _ in tracked(api)] == ["open", "open"]


def test_the_summary_counts_messages_only(api: Api) -> None:
    """Delivered, failed and pending by account and in all; an order is no message."""
    with transaction(api.engine) as connection:
        old = [said(Status.DELIVERED, "old"), said(Status.READ, "seen")]
        upsert(connection, "toplu", "organik", old, asked_at=NOON)
        move = "UPDATE delivery_status SET message_time = now() - interval '2 days' WHERE provider_key = 'old'"
        connection.execute(text(move))
    told = api.get("/v1/summary")
    counts = ("total", "delivered", "failed", "pending", "delivery_rate")
    assert {each["account"]: tuple(each[name] for name in counts) for each in told["accounts"]} == {
        "kampanya": (1, 0, 0, 1, None),
        "toplu": (3, 2, 1, 0, 0.6667),
    }
    assert tuple(told["total"][name] for name in counts) == (4, 2, 1, 1, 0.6667)
    assert told["total"]["statuses"] == {"delivered": 1, "enroute": 1, "read": 1, "rejected": 1}
    since = (datetime.now(UTC) - timedelta(days=3)).isoformat()
    assert api.get("/v1/summary", since=since, account="toplu")["total"]["total"] == 4
    for moment in (datetime.now(UTC) - timedelta(days=8), datetime.now(UTC) + timedelta(days=1)):
        refused = api.client.get("/v1/summary", params={"since": moment.isoformat()})
        detail = "The request is wrong: query.since must be a time within the last 7 days."
        assert (refused.status_code, refused.json()["detail"]) == (422, detail)
    assert api.client.get("/v1/summary", params={"account": "nobody"}).status_code == 404


def test_statistics_are_counted_by_what_is_asked(api: Api) -> None:
    """By local day, status or reason, with what the credits mean; the days are the local ones."""
    with transaction(api.engine) as connection:
        midnight = datetime(2026, 5, 1, 21, tzinfo=UTC)
        connection.execute(text("UPDATE accounts SET timezone = 'Europe/Istanbul' WHERE id = 'toplu'"))
        late = replace(
            said(Status.DELIVERED, "late"), sent_at=midnight, done_at=midnight + timedelta(seconds=4), credits=2
        )
        early = replace(
            said(Status.REJECTED, "early"), sent_at=midnight - timedelta(seconds=1), recipient="+905321112233"
        )
        upsert(connection, "toplu", "organik", [late, early], asked_at=NOON)
    days = {"from": "2026-05-01", "to": "2026-05-02"}
    told = api.get("/v1/statistics", **days, by=["day", "number_range"])
    assert (told["from"], told["to"], told["granularity"]) == ("2026-05-01", "2026-05-02", "message")
    names = ("day", "number_range", "account", "messages", "delivered", "failed", "credits", "median_seconds")
    assert [tuple(each[name] for name in names) for each in told["groups"]] == [
        ("2026-05-01", "+90532", None, 1, 0, 1, 0.0, None),
        ("2026-05-02", None, None, 1, 1, 0, 2.0, 3.0),
    ]
    total = told["total"]
    assert (total["messages"], total["delivery_rate"], total["credits"], total["mean_seconds"]) == (2, 0.5, 2.0, 4.0)
    assert list(told["credits_mean"]) == ["organik"]
    assert api.get("/v1/statistics", **days, account="kampanya")["total"]["messages"] == 0
    assert api.get("/v1/statistics", **days)["groups"] == []
    for wrong in (days | {"to": "2026-04-30"}, days | {"from": "2024-05-01"}, days | {"by": "colour"}):
        assert api.client.get("/v1/statistics", params=wrong).status_code == 422, wrong
    assert api.client.get("/v1/statistics", params={"account": "nobody"}).status_code == 404


def test_too_many_groups_are_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller is told to ask for less; nobody makes the process hold them all."""
    monkeypatch.setattr(statistics, "MAX_GROUPS", 1)
    refused = api.client.get("/v1/statistics", params={"by": "status"})
    detail = "The request is wrong: query.by gives more than 1 groups: name fewer days or groups."
    assert (refused.status_code, refused.json()["detail"]) == (422, detail)
    assert api.client.get("/v1/statistics").status_code == 200
