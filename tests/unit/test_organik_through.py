"""Gsm ids in the text form of a send reply are asked for by their transaction: one call for all, none lost."""

import json
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulak.models.report import TrackedKey
from ulak.providers.adapter import Account, Answer, DueId, Fetch, FetchSpec, Parsed
from ulak.providers.organik import ADAPTER, OrganikOptions

ACCOUNT = Account(
    id="organik-1",
    provider="organik",
    base_url="https://organikapi.com",
    timezone=ZoneInfo("Europe/Istanbul"),
    credentials={"api_key": "k" * 32},
    options=OrganikOptions(),
)
TODAY = date(2026, 1, 1)


def gsm(n: int, transaction: int = 880, **fields: Any) -> DueId:
    """The n-th gsm id of a transaction, as a send reply writes it."""
    return DueId(key=TrackedKey(id_kind="gsm_track", value=f"{transaction}-4730-{n}"), **fields)


def row(n: int, status: int = 2, transaction: int = 880, **fields: Any) -> dict[str, Any]:
    """The n-th row of a transaction, under the other number that reports use."""
    given = {"gsm": 905321230000 + n, "transaction_id": transaction, "gsm_track_id": 410_000_000 + n}
    return given | {"status": status, "delivery_track_id": None, **fields}


def plan(*due: DueId) -> tuple[FetchSpec, ...]:
    """What is asked."""
    return ADAPTER.plan_ids(ACCOUNT, due, TODAY)


def parse(due: list[DueId], rows: list[Any]) -> Parsed:
    """What the one call for these ids makes of these rows."""
    (spec,) = plan(*due)
    body = json.dumps({"response": {"result": True, "data": rows}}).encode()
    return ADAPTER.parse(ACCOUNT, Fetch(spec=spec, ids={item.key: item for item in due}), Answer(status=200, body=body))


def settled(parsed: Parsed) -> dict[str, bool]:
    """The ids that were answered, and whether they are settled."""
    return {answer.key.value: answer.settled for answer in parsed.answers if answer.found}


def alone(parsed: Parsed) -> list[str]:
    """The ids that are asked for by themselves now."""
    assert all(spec.params["by"] == "gsm_track" and len(spec.ids) == 1 for spec in parsed.children)
    return [spec.params["ids"][0] for spec in parsed.children]


def test_a_hundred_ids_of_one_send_are_one_call() -> None:
    """And a hundred sends with two each are one call too; the ids are held by it."""
    (spec,) = plan(*[gsm(n) for n in range(100)])
    request = ADAPTER.request(ACCOUNT, Fetch(spec=spec), None)  # type: ignore[arg-type]
    assert json.loads(request.body) == {"data": {"transaction_ids": ["880"]}}
    assert len(spec.ids) == 100
    (spec,) = plan(*[gsm(n, transaction) for transaction in range(100) for n in range(2)])
    assert len(json.loads(ADAPTER.request(ACCOUNT, Fetch(spec=spec), None).body)["data"]["transaction_ids"]) == 100  # type: ignore[arg-type]


def test_an_only_id_of_its_send_and_whole_numbers_are_asked_as_before() -> None:
    """An id alone costs one call either way, without the rows of all others."""
    number = DueId(key=TrackedKey(id_kind="gsm_track", value="410471976"))
    odd = DueId(key=TrackedKey(id_kind="gsm_track", value="x-y"))
    specs = plan(gsm(1, 880), gsm(1, 881), number, odd)
    assert sorted((spec.params["by"], *spec.params["ids"]) for spec in specs) == [
        ("gsm_track", "410471976"),
        ("gsm_track", "880-4730-1"),
        ("gsm_track", "881-4730-1"),
        ("gsm_track", "x-y"),
    ]


def test_ids_without_anything_registered_are_settled_together() -> None:
    """Which row is whose cannot be told, so nothing is settled before all are final."""
    due = [gsm(n) for n in range(3)]
    first, second, third = (item.key.value for item in due)
    assert settled(parse(due, [row(1), row(2), row(3)])) == {first: True, second: True, third: True}
    assert settled(parse(due, [row(1), row(2), row(3, status=1)])) == {first: False, second: False, third: False}
    assert len(parse(due, [row(n) for n in range(1, 6)]).reports) == 5


def test_an_id_is_known_by_the_number_that_it_ends_in_else_by_its_recipient() -> None:
    """Each is then settled by its own row, and completes it with what was registered."""
    due = [gsm(410_000_001, client_ref="A"), gsm(2, recipient="+905321230002", client_ref="B")]
    parsed = parse(due, [row(1, status=1), row(2)])
    assert settled(parsed) == {due[0].key.value: False, due[1].key.value: True}
    assert [report.tracked for report in parsed.reports] == [due[0].key, due[1].key]
    assert alone(parsed) == []


def test_an_id_that_no_row_can_be_about_is_asked_for_alone() -> None:
    """The transaction shows fewer rows than ids, or none with the id's recipient."""
    due = [gsm(1, recipient="+905321230001"), gsm(2, recipient="+905321230002")]
    parsed = parse(due, [row(1), row(7)])
    assert settled(parsed) == {due[0].key.value: True}
    assert alone(parsed) == [due[1].key.value]
    due = [gsm(n) for n in range(3)]
    assert sorted(alone(parse(due, [row(1), row(2)]))) == sorted(item.key.value for item in due)
    assert sorted(alone(parse(due, []))) == sorted(item.key.value for item in due)


def test_equal_numbers_are_settled_together_and_no_reference_is_given_to_the_wrong_one() -> None:
    """Two messages to one number: with different references and no word of the row, only a call for each can tell."""
    same: dict[str, Any] = {"recipient": "+905321230001"}
    rows = [row(1, gsm=905321230001), row(2, status=1, gsm=905321230001)]
    due = [gsm(1, **same), gsm(2, **same)]
    assert set(settled(parse(due, rows)).values()) == {False}
    due = [gsm(1, client_ref="A", **same), gsm(2, client_ref="B", **same)]
    assert len(alone(parse(due, rows))) == 2
    named = [{**one, "delivery_track_id": ref} for one, ref in zip(rows, "AB", strict=True)]
    assert alone(parse(due, named)) == []


def test_a_row_that_cannot_be_read_settles_nobody_it_might_be_about() -> None:
    """Only an id whose own row was read is settled beside it."""
    due = [gsm(1, recipient="+905321230001"), gsm(2), gsm(3)]
    parsed = parse(due, [row(1), row(2), row(3), {"transaction_id": 880}])
    assert settled(parsed) == {due[0].key.value: True, due[1].key.value: False, due[2].key.value: False}
    assert len(parsed.unreadable) == 1


@pytest.mark.parametrize("code", [86, 87, 96, 97])
def test_where_the_transaction_is_not_known_each_id_is_asked_for_alone(code: int) -> None:
    """None is lost, whatever the transaction's answer is."""
    due = [gsm(n) for n in range(4)]
    (spec,) = plan(*due)
    body = json.dumps({"response": {"result": False, "error": {"number": str(code)}}}).encode()
    fetch = Fetch(spec=spec, ids={item.key: item for item in due})
    parsed = ADAPTER.parse(ACCOUNT, fetch, Answer(status=200, body=body))
    assert (parsed.answers, sorted(alone(parsed))) == ((), sorted(item.key.value for item in due))


def test_a_refused_batch_of_transactions_is_asked_in_halves() -> None:
    """Each half holds its own gsm ids."""
    due = [gsm(n, transaction) for transaction in (1, 2, 3) for n in range(2)]
    (spec,) = plan(*due)
    body = b'{"response": {"result": false, "error": {"number": "96"}}}'
    parsed = ADAPTER.parse(ACCOUNT, Fetch(spec=spec), Answer(status=200, body=body))
    assert [(each.params["ids"], len(each.ids)) for each in parsed.children] == [(["1"], 2), (["2", "3"], 4)]


RECIPIENTS = st.none() | st.integers(1, 4).map(lambda n: f"+90532123000{n}")


@given(
    st.lists(st.tuples(RECIPIENTS, st.none() | st.sampled_from("AB")), min_size=2, max_size=8),
    st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from([0, 1, 2, 3, 4, 9]), st.none() | st.sampled_from("AB")),
        max_size=8,
    ),
)
def test_every_id_is_answered_or_asked_for_alone_and_none_is_settled_too_early(
    registered: list[tuple[str | None, str | None]], told: list[tuple[int, int, str | None]]
) -> None:
    """The law of it: nothing is lost, and a settled id leaves no open row that could be its own."""
    due = [gsm(n, recipient=who, client_ref=ref) for n, (who, ref) in enumerate(registered)]
    rows = [
        row(n, status=status, gsm=905321230000 + number, delivery_track_id=ref)
        for n, (number, status, ref) in enumerate(told)
    ]
    parsed = parse(due, rows)
    answered, asked = settled(parsed), alone(parsed)
    assert sorted([*answered, *asked]) == sorted(item.key.value for item in due)
    assert len(parsed.reports) == len(rows)
    open_numbers = {f"+{one['gsm']}" for one in rows if one["status"] not in {2, 3, 4}}
    for item in due:
        if answered.get(item.key.value) and item.recipient is not None:
            assert item.recipient not in open_numbers
    owners = [report.tracked for report in parsed.reports if report.tracked is not None]
    assert len(owners) == len(set(owners))
