"""Registering ids in bulk over HTTP."""

import json
from typing import Any

import pytest
from database_fixtures import add_account
from sqlalchemy import text
from task_api import Api, api

from ulak.models.database import transaction

__all__ = ["api"]


@pytest.fixture(autouse=True)
def account(api: Api) -> None:
    """An account that takes ids."""
    with transaction(api.engine) as connection:
        add_account(connection, "kampanya", provider="organik")


def track(api: Api, ids: list[Any], account: str = "kampanya") -> Any:
    """The answer to POST /v1/tracked."""
    return api.client.post("/v1/tracked", json={"account": account, "ids": ids}, timeout=500)


def stored(api: Api) -> list[tuple[Any, ...]]:
    """What is registered."""
    query = "SELECT id_kind, value, client_ref, recipient, expected FROM tracked_ids ORDER BY id_kind, value"
    with api.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_each_id_gets_its_own_result(api: Api) -> None:
    """Wrong ones are refused with what is wrong; the others are registered, again without harm."""
    ids = [
        {"kind": "transaction", "value": "1", "client_ref": "c-1", "recipient": "0530 123 45 67", "expected": 2},
        {"kind": "letter", "value": "1"},
        {"kind": "transaction"},
        {"kind": "transaction", "value": 5},
        {"kind": "transaction", "value": "2", "sent_at": "2026-05-01 10:00"},
        {"kind": "transaction", "value": "3", "colour": "red"},
        {"kind": "transaction", "value": "4", "sent_at": "9999-12-31T23:59:59Z"},
        {"kind": "transaction", "value": "5\0"},
        "6",
        {"kind": "transaction", "value": "7", "sent_at": "2026-05-02T10:00:00Z", "valid_until": "2026-05-01T10:00:00Z"},
        {"kind": "gsm_track", "value": "8", "sent_at": "2026-05-01T10:00:00+03:00"},
    ]
    answer = track(api, ids).json()
    problems = {each["index"]: each["problem"] for each in answer["results"] if each["result"] == "refused"}
    assert (answer["registered"], answer["new"], answer["refused"], len(answer["results"])) == (2, 2, 9, 11)
    assert problems == {
        1: "kind must be one of: transaction, delivery_track, gsm_track, order, message",
        2: "value is missing: it must be given",
        3: "value is no text: give a string",
        4: "sent_at is no time with an offset: give one such as 2026-05-01T10:00:00Z",
        5: "colour is not known here: known are kind, value, client_ref, recipient, expected, sent_at, valid_until",
        6: "sent_at must lie between the years 2000 and 2100",
        7: "value must not contain a NUL character",
        8: "the id is no object: give one in braces",
        9: "valid_until must not be before sent_at",
    }
    again = track(api, ids).json()
    assert (again["registered"], again["new"], again["refused"]) == (2, 0, 9)
    assert stored(api) == [
        ("gsm_track", "8", None, None, None),
        ("transaction", "1", "c-1", "+905301234567", 2),
    ]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_hundred_thousand_ids_are_registered_by_one_request(api: Api) -> None:
    """The stated limit, within seconds; one more is refused whole."""
    ids = [{"kind": "gsm_track", "value": str(number), "client_ref": f"order-{number}"} for number in range(100_000)]
    answer = track(api, ids)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["registered"], body["new"], body["refused"], len(body["results"])) == (100_000, 100_000, 0, 100_000)
    with api.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM tracked_ids")).scalar_one() == 100_000
    assert track(api, [*ids, ids[0]]).status_code == 413


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 422),
        (b"[]", 422),
        (b'{"account": "kampanya"}', 422),
        (b'{"account": "kampanya", "ids": {}}', 422),
        (b'{"account": "kampanya", "ids": [], "colour": 1}', 422),
        (b'{"account": "kampanya", "ids": []}', 422),
        (b'{"account": "nobody", "ids": [{}]}', 404),
        (b'{"account": "ka\\u0000", "ids": [{}]}', 404),
        (b" " * (32 * 1024 * 1024 + 1), 413),
    ],
)
def test_a_body_that_is_no_list_of_ids_is_refused_whole(api: Api, body: bytes, status: int) -> None:
    """With a problem document, and nothing registered."""
    answer = api.client.post("/v1/tracked", content=body)
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert stored(api) == []


def test_an_id_that_is_no_text_is_refused_by_itself(api: Api) -> None:
    """Lone surrogates and deep nests end neither the request nor the process."""
    deep = "[" * 5000 + "]" * 5000
    items = ['{"kind": "transaction", "value": "\\ud800"}', f'{{"kind": {deep}, "value": "1"}}', deep]
    body = f'{{"account": "kampanya", "ids": [{", ".join(items)}]}}'
    answer = api.client.post("/v1/tracked", content=body.encode())
    assert answer.status_code in {200, 400}
    if answer.status_code == 200:
        assert json.loads(answer.text)["registered"] == 0


def test_a_number_in_the_place_of_a_name_is_not_told_back(api: Api) -> None:
    """What a caller makes up as a field or a kind may be anything; the answer says what is wrong all the same."""
    number = "905301234567"
    for item in ({"kind": "number", "value": "1:2", number: 1}, {"kind": number, "value": "1:2"}):
        answer = track(api, [item]).json()
        assert answer["refused"] == 1
        assert number not in json.dumps(answer)
    whole = api.client.post("/v1/tracked", json={"account": "kampanya", "ids": [], number: 1})
    assert (whole.status_code, number in whole.text) == (422, False)


def test_ids_are_stored_in_one_form(api: Api) -> None:
    """Blanks, leading zeros, invisible marks and other scripts' digits make no second id, nor a second person."""
    ids = [
        {
            "kind": "transaction",
            "value": "14094858 ",
            "client_ref": " c-1\u00a0",
            "recipient": "\u202a0530 123 45 67\u202c",
        },
        {"kind": "transaction", "value": "0014094858"},
        {"kind": " transaction", "value": "\u2068\u0661\u0664\u0660\u0669\u0664\u0668\u0665\u0668\u2069"},
        {"kind": "gsm_track", "value": "\ufeff16502030-4730-63032793"},
        {"kind": "gsm_track", "value": "007"},
        {"kind": "delivery_track", "value": " 007\u200b"},
        {"kind": "delivery_track", "value": "7"},
    ]
    answer = track(api, ids).json()
    assert (answer["registered"], answer["new"], answer["refused"]) == (7, 5, 0)
    assert stored(api) == [
        ("delivery_track", "007", None, None, None),
        ("delivery_track", "7", None, None, None),
        ("gsm_track", "16502030-4730-63032793", None, None, None),
        ("gsm_track", "7", None, None, None),
        ("transaction", "14094858", "c-1", "+905301234567", None),
    ]
    assert track(api, ids).json()["new"] == 0


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        ("transaction", "1.4094858E+7", "The id must be a whole number, digits alone, such as 14094857."),
        ("transaction", "-5", "The id must be a whole number, digits alone, such as 14094857."),
        ("transaction", " ", "The id must be a whole number, digits alone, such as 14094857."),
        ("transaction", "9" * 20, "The id must be a whole number, digits alone, such as 14094857."),
        ("gsm_track", "5,3", "A gsm id must be a whole number, or a text such as 16502030-4730-63032793."),
        ("delivery_track", "\u200b", "The id must be a text of 1 to 200 characters without control characters."),
        ("delivery_track", "x" * 201, "The id must be a text of 1 to 200 characters without control characters."),
        ("delivery_track", "a\tb", "The id must be a text of 1 to 200 characters without control characters."),
    ],
)
def test_an_id_that_cannot_be_is_refused_with_what_would_be_right(
    api: Api, kind: str, value: str, problem: str
) -> None:
    """It would be asked for in vain until its validity ends."""
    [result] = track(api, [{"kind": kind, "value": value}]).json()["results"]
    assert result == {"index": 0, "result": "refused", "problem": problem}
    assert stored(api) == []


def test_an_id_that_was_stored_in_another_form_stays_one_id(api: Api) -> None:
    """A file that is registered anew does not make what an earlier version stored come again as new ids."""
    with transaction(api.engine) as connection:
        connection.execute(
            text(
                "INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until, next_check_at)"
                " VALUES ('kampanya', 'transaction', '0014094857', 'sender', now(), now(), now())"
            )
        )
    assert track(api, [{"kind": "transaction", "value": "0014094857"}]).json()["new"] == 0
    assert [row[1] for row in stored(api)] == ["0014094857"]
