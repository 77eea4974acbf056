"""The shared table, the accounts and send replies over HTTP."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from database_fixtures import add_account
from task_api import Api, api

from ulak.api.cursors import decode, encode
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Reason, Source, Status
from ulak.tasks.messages import dispatch_account

__all__ = ["api"]

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def said(status: Status, key: str, **fields: Any) -> DeliveryReport:
    """A statement about one message."""
    return DeliveryReport(
        granularity=Granularity.MESSAGE, provider_key=key, status=status, provider_status=status.value, **fields
    )


def tell(api: Api, *reports: DeliveryReport, hours: int = 0) -> None:
    """What the provider answered, some hours after noon."""
    with transaction(api.engine) as connection:
        upsert(connection, "marka-sms", "vairo", reports, asked_at=NOON + timedelta(hours=hours))


@pytest.fixture(autouse=True)
def account(api: Api) -> None:
    """An account with nothing in the table."""
    with transaction(api.engine) as connection:
        add_account(connection, "marka-sms")


def test_deliveries_are_found_by_what_people_know(api: Api) -> None:
    """Status, the sender's own id, and a number in any usual spelling."""
    tell(
        api,
        said(Status.DELIVERED, "a", recipient="+905301234567", client_ref="c-1"),
        said(Status.ENROUTE, "b", recipient="+905301234568"),
    )

    def keys(**query: Any) -> list[str]:
        return [row["provider_key"] for row in api.get("/v1/deliveries", **query)["deliveries"]]

    assert keys() == ["a", "b"]
    assert keys(status="enroute") == ["b"]
    assert keys(client_ref="c-1", account="marka-sms") == ["a"]
    assert keys(since="2100-01-01T00:00:00Z".replace("2100", "2099")) == []
    for spelling in ("+905301234567", "905301234567", "05301234567", "5301234567", "0530 123 45 67", "(0530) 123-4567"):
        assert keys(recipient=spelling) == ["a"]


@pytest.mark.parametrize("path", ["/v1/deliveries", "/v1/polls"])
def test_an_account_that_is_not_there_is_told_from_one_that_has_nothing(api: Api, path: str) -> None:
    """404 as at every other route, with the same sentence; an account with nothing in it gives an empty page."""
    answers = [api.client.get(path, params={"account": account}) for account in ("nobody", "marka-sms")]
    assert [answer.status_code for answer in answers] == [404, 200]
    assert answers[0].json()["detail"] == "There is no such account: /v1/accounts lists the known ones."


def test_pages_stay_right_while_rows_change(api: Api) -> None:
    """Every row of the beginning comes exactly once, whatever is written between two pages."""
    tell(api, *(said(Status.ENROUTE, f"k{number}") for number in range(7)))
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = api.get("/v1/deliveries", **query)
        seen += [row["provider_key"] for row in page["deliveries"]]
        tell(api, *(said(Status.DELIVERED, f"k{number}") for number in range(0, 7, 3)), hours=len(seen))
        if page["cursor"] is None:
            break
        query["cursor"] = page["cursor"]
    assert seen == [f"k{number}" for number in range(7)]
    other = api.client.get("/v1/deliveries", params=query | {"status": "delivered"})
    assert other.status_code == 400
    _, mark = decode(query["cursor"], tuple[int, str])
    for place in (0, -1, 2**63):
        assert api.client.get("/v1/deliveries", params=query | {"cursor": encode((place, mark))}).status_code == 400


def test_a_registered_number_without_an_answer_is_shown(api: Api) -> None:
    """On the search for it, beside the deliveries; not once the provider has answered for it."""
    body = {
        "account": "marka-sms",
        "ids": [{"kind": "number", "value": "9:5301234567", "recipient": "05301234567", "client_ref": "c-9"}],
    }
    assert api.client.post("/v1/tracked", json=body).json()["new"] == 1
    for query in ({"recipient": "0530 123 45 67"}, {"client_ref": "c-9"}):
        (waiting,) = api.get("/v1/deliveries", **query)["unanswered"]
        assert (waiting["value"], waiting["recipient"], waiting["closed_at"]) == ("9:5301234567", "+905301234567", None)
    assert api.get("/v1/deliveries")["unanswered"] == []


def test_what_was_never_answered_is_shown_only_where_it_was_asked_for(api: Api) -> None:
    """By account, reference and number; not under a status or a time of change, which it has not; on page one only."""
    with transaction(api.engine) as connection:
        add_account(connection, "kampanya-sms")
    for account, send, ref in (("marka-sms", 1, "c-1"), ("marka-sms", 2, "c-2"), ("kampanya-sms", 3, "c-1")):
        item = {"kind": "number", "value": f"{send}:5301234567", "recipient": "05301234567", "client_ref": ref}
        assert api.client.post("/v1/tracked", json={"account": account, "ids": [item]}).json()["new"] == 1
    tell(api, *(said(Status.ENROUTE, key, recipient="+905301234567") for key in ("a", "b")))

    def waiting(**query: Any) -> list[str]:
        return [row["value"] for row in api.get("/v1/deliveries", **query)["unanswered"]]

    assert waiting(recipient="5301234567") == ["1:5301234567", "2:5301234567", "3:5301234567"]
    assert waiting(recipient="5301234567", account="marka-sms") == ["1:5301234567", "2:5301234567"]
    assert waiting(recipient="5301234567", client_ref="c-1") == ["1:5301234567", "3:5301234567"]
    assert waiting(account="kampanya-sms", client_ref="c-1") == ["3:5301234567"]
    assert waiting(recipient="5301234567", status="enroute") == []
    assert waiting(recipient="5301234567", since="2020-01-01T00:00:00Z") == []
    cursor = api.get("/v1/deliveries", recipient="5301234567", limit=1)["cursor"]
    assert waiting(recipient="5301234567", limit=1, cursor=cursor) == []
    # The cursor holds for the whole question.
    other = {"recipient": "5301234567", "since": "2020-01-01T00:00:00Z", "cursor": cursor}
    assert api.client.get("/v1/deliveries", params=other).status_code == 400


def test_one_delivery_tells_its_history_and_why_it_is_what_it_is(api: Api) -> None:
    """The winner first; the loser with the part by which it lost; the contradiction by its words."""
    tell(api, said(Status.DELIVERED, "a", statement={"durum": 1}))
    tell(api, said(Status.UNDELIVERABLE, "a", reason=Reason.ABSENT), hours=1)
    (row,) = api.get("/v1/deliveries")["deliveries"]
    found = api.get(f"/v1/deliveries/{row['id']}")
    history = [(each["status"], each["won"], each["lost_by"], each["source"]) for each in found.pop("history")]
    assert history == [("undeliverable", True, None, "poll"), ("delivered", False, "as_of", "poll")]
    assert found.pop("conflicting") == ["delivered", "undeliverable"]
    assert found == row
    assert api.client.get("/v1/deliveries/999999").status_code == 404


def test_an_account_is_paused_and_resumed(api: Api) -> None:
    """Both say how it stands then; resuming wakes the dispatcher."""
    (account,) = api.get("/v1/accounts")["accounts"]
    assert (account["id"], account["state"], account["limit"]["requests"]) == ("marka-sms", "ok", 1)
    paused = api.client.post("/v1/accounts/marka-sms/pause", json={"reason": "maintenance"}).json()
    assert (paused["state"], paused["reason"], paused["until"]) == ("paused", "maintenance", None)
    resumed = api.client.post("/v1/accounts/marka-sms/resume").json()
    assert (resumed["state"], resumed["reason"]) == ("ok", None)
    assert api.heard() == [dispatch_account("marka-sms")]
    assert api.client.post("/v1/accounts/marka-sms/pause").json()["reason"] == "paused through the API"
    past = api.client.post("/v1/accounts/marka-sms/pause", json={"until": "2020-01-01T00:00:00Z"})
    assert (past.status_code, past.json()["errors"][0]["field"]) == (422, "body.until")
    for verb in ("pause", "resume"):
        assert api.client.post(f"/v1/accounts/nobody/{verb}").status_code == 404


def test_a_send_reply_is_handed_over(api: Api) -> None:
    """Twice is once; what is not understood is kept; nothing at all and a provider without replies are refused."""
    with transaction(api.engine) as connection:
        add_account(connection, "bildirim", provider="bip")
    reply = {
        "txnid": "T-1",
        "resultcode": 0,
        "list": [{"resultcode": 0, "receiver": "905301234570", "reportid": "r-1"}],
    }

    def hand(account: str, body: bytes) -> Any:
        return api.client.post(f"/v1/reports/{account}", content=body)

    first, again = (hand("bildirim", json.dumps(reply).encode()) for _ in range(2))
    assert first.json() == {"reports": 1, "new": 1, "advanced": 0, "unchanged": 0, "quarantined": 0}
    assert again.json() == {"reports": 1, "new": 0, "advanced": 0, "unchanged": 1, "quarantined": 0}
    assert hand("bildirim", b"<html>").json()["quarantined"] == 1
    assert (hand("marka-sms", b"{}").status_code, hand("nobody", b"{}").status_code) == (422, 404)
    for nothing in (b"", b" \r\n"):
        empty = hand("bildirim", nothing)
        told = "The body is empty: send the reply, byte for byte as the provider gave it."
        assert (empty.status_code, empty.json()["detail"]) == (422, told)
    (row,) = api.get("/v1/deliveries", account="bildirim")["deliveries"]
    assert (row["provider_key"], row["recipient"], row["client_ref"]) == ("r-1", "+905301234570", "T-1")
    (told,) = api.get(f"/v1/deliveries/{row['id']}")["history"]
    assert told["source"] == Source.SEND_REPLY


@pytest.mark.parametrize("mark", ["\u202a", "\u2066", "\u200e", "\u200b", "\ufeff", "\u00ad", "\u00a0"])
def test_a_pasted_number_is_found(api: Api, mark: str) -> None:
    """Format characters and blanks of any kind around and within the number do not count."""
    tell(api, said(Status.DELIVERED, "a", recipient="+905301234567", client_ref="c-1"))
    for query in ({"recipient": f"{mark}+90 530{mark}1234567{mark}"}, {"client_ref": f"{mark}c-1{mark}"}):
        assert [row["provider_key"] for row in api.get("/v1/deliveries", **query)["deliveries"]] == ["a"]


def test_the_providers_codes_are_explained(api: Api) -> None:
    """In a search, in the history and in the feed of changes; null where no document says what a code means."""
    coded = DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key="coded",
        status=Status.SENT,
        provider_status="SENT",
        provider_error="SEND_ERROR",
    )
    tell(api, coded, said(Status.SENT, "strange"))
    meanings = {
        "provider_status_meaning": "sent, but the operator gives no delivery reports",
        "provider_error_meaning": "sending failed, for various causes",
    }
    known, strange = api.get("/v1/deliveries")["deliveries"]
    assert meanings.items() <= known.items()
    assert (strange["provider_status_meaning"], strange["provider_error_meaning"]) == (None, None)
    assert (strange["message_time"], strange["message_time_source"]) == (strange["first_seen_at"], "first_seen")
    explained = api.get(f"/v1/deliveries/{known['id']}")
    codes = {"provider_status": "SENT", "provider_error": "SEND_ERROR", **meanings}
    assert codes.items() <= explained.items()
    assert codes.items() <= explained["history"][0].items()
