"""Searches, look-ups, tracked ids and the summary: what each role finds, sees and leaves in the record."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from command_line import Ulak, ulak
from sqlalchemy import text
from test_roles import ASKED, NATIONAL, NUMBER, House, form_mark, holds_number, house

from ulak.api.pages import delivery_search
from ulak.api.pages.search_form import Search, people_sought
from ulak.models.access import Role
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.events import Action, list_events
from ulak.models.report import DeliveryReport
from ulak.models.tokens import create_token
from ulak.models.vocabulary import Granularity, Status
from ulak.providers.phone_numbers import person
from ulak.workers.audit_recording import people_in

__all__ = ["house", "ulak"]

SPELLED = "0530 123 45 67"
LOOK_UP = "/v1/deliveries/lookup"
OF_A_PERSON: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("GET", "/v1/deliveries", {"params": {"recipient": SPELLED}}),
    ("GET", "/v1/deliveries", {"params": {"provider_key": f"771:{NATIONAL}"}}),
    ("GET", "/v1/deliveries", {"params": {"client_ref": NUMBER}}),
    ("GET", "/v1/deliveries", {"params": {"parent_key": "U-7", "granularity": "conversation"}}),
    ("POST", LOOK_UP, {"json": {"recipients": [SPELLED]}}),
    ("POST", LOOK_UP, {"json": {"provider_keys": ["x", f"771:{NATIONAL}"]}}),
    ("POST", LOOK_UP, {"json": {"client_refs": [NATIONAL]}}),
    ("GET", "/v1/tracked", {"params": {"recipient": SPELLED}}),
    ("GET", "/v1/tracked", {"params": {"account": "kampanya", "kind": "number", "value": f"9:{NATIONAL}"}}),
    ("GET", "/v1/tracked", {"params": {"client_ref": NUMBER}}),
)
"""Every way to look for a person."""


def register(house: House) -> None:
    """An id of the account `kampanya` that nobody has reported."""
    item = {"kind": "number", "value": f"9:{NATIONAL}", "client_ref": "offen", "recipient": NUMBER}
    answer = house.api("operate", "POST", "/v1/tracked", json={"account": "kampanya", "ids": [item]})
    assert answer.status_code == 200, answer.text


def recorded(house: House, action: Action) -> list[tuple[str, str | None, bool, Any]]:
    """(who, account, whether it is about the number, details) of the events, the oldest first."""
    with house.engine.connect() as connection:
        rows = list_events(connection, actions=[action], limit=1000)
    mark = house.app.state.deps.recorder.require_mark(NUMBER)
    return [(row.actor, row.account_id, row.person == mark, row.details) for row in reversed(rows)]


@pytest.mark.parametrize(("method", "path", "given"), OF_A_PERSON)
def test_every_search_for_a_person_takes_support_and_is_recorded(
    house: House, method: str, path: str, given: dict[str, Any]
) -> None:
    """Also by a key or reference that holds the number, found or not; below it nothing is found or recorded."""
    register(house)
    answers = {who: house.api(who, method, path, **given) for who in ("read", "support", "operate")}
    assert {who: answer.status_code for who, answer in answers.items()} == {
        "read": 403, "support": 200, "operate": 200
    }  # fmt: skip
    assert "support" in answers["read"].json()["detail"]
    shown = answers["support"].text.replace(SPELLED, "").replace(f'"value":"771:{NATIONAL}"', "")
    assert NATIONAL not in shown.replace(f'"value":"{NATIONAL}"', "")
    account = given.get("params", {}).get("account")
    found = recorded(house, Action.PERSON_SEARCHED)
    is_number = "U-7" not in str(given)
    assert found == [(who, account, is_number, {}) for who in ("support", "operate")]


def test_a_key_holds_a_number_where_one_of_its_parts_is_one() -> None:
    """Ids of providers that are whole numbers are none."""
    assert people_in(f"771:{NATIONAL}", "12345678", None, NUMBER, "gsm-0530 123 45 67x") == [NUMBER]
    assert people_in("905301234567:905301234568:g:2026-05-01") == [NUMBER, "+905301234568"]


def test_bare_digits_of_a_number_abroad_are_one_after_the_first_part_of_a_key() -> None:
    """The first part is an id, and so is a word of one part; short parts are places in a list."""
    assert people_in("771:4915112345678", "T1:4915112345678:2") == ["+4915112345678"]
    assert people_in("4915112345678", "4915112345678:g", "771:12") == []


@pytest.mark.parametrize("field", ["client_ref", "id"])
def test_the_page_records_a_search_by_a_word_that_holds_a_number(house: House, field: str) -> None:
    """As a search by recipient. By reference it takes support; by id everybody may search, and finds no person."""
    for who, status in (("support", 200), ("read", 403 if field == "client_ref" else 200)):
        with house.browser(who) as client:
            mark = form_mark(client.get("/deliveries").text)
            given = {"form_mark": mark, field: f"771:{NATIONAL}"}
            answer = client.get(client.post("/deliveries", data=given).headers["location"])
            assert answer.status_code == status, (who, answer.text)
    assert recorded(house, Action.PERSON_SEARCHED) == [("support", None, True, {})]


def test_a_search_in_an_account_that_one_may_not_search_leaves_no_record(house: House) -> None:
    """Neither page nor file writes an event about an account that the visitor may not know."""
    with transaction(house.engine) as connection:
        house.tokens["limited"] = create_token(connection, "limited", role=Role.SUPPORT, accounts=["otp"])
    with house.browser("limited") as client:
        mark = form_mark(client.get("/deliveries").text)
        for account, status in (("kampanya", 404), ("unknown", 404), ("otp", 200)):
            given = {"form_mark": mark, "recipient": SPELLED, "account": account}
            place = client.post("/deliveries", data=given).headers["location"]
            for path in (place, place.replace("/deliveries", "/deliveries.csv")):
                assert client.get(path).status_code == status, path
    assert recorded(house, Action.PERSON_SEARCHED) == [("limited", "otp", True, {})] * 2


def test_lists_by_a_number_range_take_support(house: House) -> None:
    """It is more of a number than the mask leaves. Sums by range are shown to all, with a link for whoever may."""
    with transaction(house.engine) as connection:
        connection.execute(text("UPDATE delivery_status SET message_time = now() - interval '1 minute'"))
    for who, status in (("read", 403), ("support", 200)):
        with house.browser(who) as client:
            mark = form_mark(client.get("/deliveries").text)
            named = {"form_mark": mark, "id": "siparis-otp", "range": "+90530"}
            sealed = client.post("/deliveries", data=named).headers["location"]
            for path in ("/deliveries?range=%2B90530", "/deliveries.csv?range=%2B90530", sealed):
                assert client.get(path).status_code == status, (who, path)
            assert client.get("/deliveries?range=none").status_code == 200
            assert ('name="range"' in client.get("/deliveries").text) == (status == 200)
            results = client.get("/results?by=range").text
            assert ("+90530…" in results, "range=%2B90530" in results) == (True, status == 200)


def test_rows_of_other_accounts_take_no_place_among_what_an_id_finds(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are and whoever may see them; and every filter given beside the id holds."""
    monkeypatch.setattr(delivery_search, "MAX_PER_ID", 1)
    with transaction(house.engine) as connection:
        connection.execute(text("UPDATE delivery_status SET client_ref = 'shared-7'"))
        ids = list(connection.execute(text("SELECT id FROM delivery_status ORDER BY id")).scalars())
        last = connection.execute(text("SELECT account_id FROM delivery_status ORDER BY id DESC LIMIT 1")).scalar_one()
        limited = create_token(connection, "limited", role=Role.SUPPORT, accounts=[last])
    house.tokens["limited"] = limited
    with house.browser("limited") as client:
        mark = form_mark(client.get("/deliveries").text)
        for given, found in (
            ({"id": "shared-7"}, ids[1:]),
            ({"id": NUMBER}, ids[1:]),
            ({"id": "shared-7", "range": "+90530", "status": "delivered", "recipient": SPELLED}, ids[1:]),
            ({"id": "shared-7", "range": "+90532"}, []),
            ({"id": "shared-7", "status": "rejected"}, []),
            ({"id": "shared-7", "client_ref": "shared-8"}, []),
        ):
            place = client.post("/deliveries", data={"form_mark": mark, **given}).headers["location"]
            shown = re.findall(r'<a href="/deliveries/(\d+)"', client.get(place).text)
            assert list(map(int, shown)) == found, given


def test_people_of_a_search_are_named_once() -> None:
    """Which fields name them does not matter."""
    search = Search(recipient=SPELLED, client_ref=f"r:{NATIONAL}", id=f"771:{NATIONAL}")
    assert people_sought(search) == [NUMBER]
    assert people_sought(Search(client_ref="order-77", id="T-1")) == []

    assert person(SPELLED) == NUMBER


def by_reference(house: House, who: str) -> list[httpx.Response]:
    """Both ways to find rows by a reference, and the list of tracked ids."""
    return [
        house.api(who, "POST", LOOK_UP, json={"client_refs": ["siparis-kampanya", "offen"]}),
        house.api(who, "GET", "/v1/tracked"),
        house.api(who, "GET", "/v1/tracked", params={"client_ref": "offen"}),
    ]


@pytest.mark.parametrize("who", ["read", "support", "operate", "admin"])
def test_look_ups_and_tracked_ids_are_masked_below_operate(house: House, who: str) -> None:
    """In keys, values and provider's fields; reading them in full is recorded once an hour."""
    register(house)
    may_see = who in {"operate", "admin"}
    for answer in by_reference(house, who):
        assert (answer.status_code, holds_number(answer)) == (200, may_see), answer.text
    found = by_reference(house, who)[0].json()["results"]
    assert [len(each["deliveries"]) + len(each["unanswered"]) for each in found] == [1, 1]
    assert found[0]["deliveries"][0]["provider_status_meaning"] is None
    read = [actor for actor, account, _, _ in recorded(house, Action.DELIVERIES_READ) if account == "kampanya"]
    assert read == ([who] if may_see else [])


def test_lists_and_summaries_of_a_limited_token_hold_its_accounts_alone(house: House) -> None:
    """Of both accounts' rows those of the other are not there; it is unknown by name."""
    register(house)
    with transaction(house.engine) as connection:
        connection.execute(text("UPDATE delivery_status SET message_time = now() - interval '1 hour'"))
    assert [each["account"] for each in house.api("admin", "GET", "/v1/summary").json()["accounts"]] == [
        "kampanya", "otp"
    ]  # fmt: skip
    told = house.api("elsewhere", "GET", "/v1/summary").json()
    assert ([each["account"] for each in told["accounts"]], told["total"]["total"]) == (["otp"], 1)
    assert house.api("elsewhere", "GET", "/v1/tracked").json()["tracked"] == []
    keys = {"provider_keys": [f"771:{NATIONAL}"], "client_refs": ["offen"], "recipients": [NUMBER]}
    results = house.api("elsewhere", "POST", LOOK_UP, json=keys).json()["results"]
    assert {row["account_id"] for each in results for row in each["deliveries"]} == {"otp"}
    assert [row for each in results for row in each["unanswered"]] == []
    for method, path, given in (
        ("GET", "/v1/summary", {"params": {"account": "kampanya"}}),
        ("GET", "/v1/tracked", {"params": {"account": "kampanya"}}),
        ("POST", LOOK_UP, {"json": {"account": "kampanya", "client_refs": ["offen"]}}),
    ):
        assert house.api("elsewhere", method, path, **given).status_code == 404, path


def test_a_parent_key_finds_conversations_only_where_they_are_asked_for(house: House) -> None:
    """The parent of a conversation is a person, and that of a message an order."""
    reports = [
        DeliveryReport(
            granularity=granularity, provider_key=key, parent_key="U-7", status=Status.SENT, provider_status="x"
        )
        for granularity, key in ((Granularity.CONVERSATION, "U-7:b:g:2026-05-01"), (Granularity.MESSAGE, "m-7"))
    ]
    with transaction(house.engine) as connection:
        upsert(connection, "kampanya", "vairo", reports, asked_at=ASKED)

    def keys(who: str, **query: str) -> list[str]:
        found = house.api(who, "GET", "/v1/deliveries", params={"parent_key": "U-7", **query}).json()
        return [row["provider_key"] for row in found["deliveries"]]

    assert (keys("read"), keys("operate")) == (["m-7"], ["m-7"])
    assert keys("operate", granularity="conversation") == ["U-7:b:g:2026-05-01"]


def test_untracking_leaves_an_event_with_the_change(house: House, ulak: Ulak) -> None:
    """By request and by command, with how many were open; where nothing was there is none."""
    one = {"account": "kampanya", "kind": "number", "value": f"9:{NATIONAL}"}
    many = {"account": "kampanya", "ids": [{"kind": "number", "value": f"9:{NATIONAL}"}]}
    for _ in range(2):
        register(house)
        for _ in range(2):
            assert house.api("operate", "DELETE", "/v1/tracked", params=one).status_code == 200
        register(house)
        for _ in range(2):
            assert house.api("operate", "POST", "/v1/tracked/untrack", json=many).status_code == 200
    assert recorded(house, Action.IDS_UNTRACKED) == [("operate", "kampanya", False, {"ids": 1})] * 4
    register(house)
    assert ulak("untrack", "kampanya", f"number=9:{NATIONAL}").code == 0
    [by_command] = recorded(house, Action.IDS_UNTRACKED)[4:]
    assert by_command[1:] == ("kampanya", False, {"ids": 1})


def test_nothing_is_untracked_without_its_event(house: House) -> None:
    """Both stand in one transaction."""
    register(house)
    with transaction(house.engine) as connection:
        connection.execute(text("ALTER TABLE events ADD CONSTRAINT none CHECK (action <> 'ids.untracked') NOT VALID"))
    one = {"account": "kampanya", "kind": "number", "value": f"9:{NATIONAL}"}
    with pytest.raises(httpx.HTTPError):
        house.api("operate", "DELETE", "/v1/tracked", params=one).raise_for_status()
    with house.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM tracked_ids WHERE closed_at IS NULL")).scalar_one() == 1


def test_a_file_of_numbers_is_recorded_number_by_number(house: House, ulak: Ulak) -> None:
    """By the command line too; other files are one reading."""
    assert ulak("deliveries", "--file", "-", "--by", "recipient", stdin=f"{SPELLED}\n5309999999\n".encode()).code == 0
    found = recorded(house, Action.PERSON_SEARCHED)
    assert [is_about for _, _, is_about, _ in found] == [True, False]
    assert ulak("deliveries", "--file", "-", stdin=b"siparis-otp\n").code == 0
    assert len(recorded(house, Action.PERSON_SEARCHED)) == 2
    assert recorded(house, Action.DELIVERIES_READ)


def test_the_summary_counts_as_the_view_does(house: House) -> None:
    """By the time of the message, whatever the time at which it was first seen."""
    since = datetime.now(UTC) - timedelta(hours=30)
    with transaction(house.engine) as connection:
        connection.execute(text("UPDATE delivery_status SET message_time = now() - interval '25 hours'"))
        connection.execute(text("UPDATE delivery_status SET status = 'sent' WHERE account_id = 'otp'"))
        view = connection.execute(
            text("SELECT account_id, outcome, count(*) FROM messages WHERE message_time >= :since GROUP BY 1, 2"),
            {"since": since},
        ).all()
    assert house.api("read", "GET", "/v1/summary").json()["accounts"] == []
    told = house.api("read", "GET", "/v1/summary", params={"since": since.isoformat()}).json()["accounts"]
    counts = [
        (each["account"], outcome, each[outcome])
        for each in told
        for outcome in ("delivered", "failed", "pending")
        if each[outcome]
    ]
    assert sorted(counts) == sorted(tuple(row) for row in view)
