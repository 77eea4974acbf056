"""Laws of the merge rule: the row is a function of the set of statements, whatever their order and number."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from report_strategies import DAY, NOON, reports, statements

from ulak.models.facts import Facts, content_hash, encode_facts
from ulak.models.merge import (
    KEPT_FIELDS,
    KEYS,
    Observation,
    Row,
    find_contradictions,
    fold,
    merge_history,
    merge_observation,
    normalise,
    observe,
    rank,
)
from ulak.models.report import DeliveryReport
from ulak.models.sanitize import clean_key
from ulak.models.vocabulary import FAILURES, STATUS_CLASS, Granularity, Reason, Source, Status, is_final

MESSAGE, ORDER, CONVERSATION = Granularity


def said(status: Status, hours: float | None = 0.0, **fields: object) -> DeliveryReport:
    """A statement about one message, made some hours after noon (None: nobody knows when)."""
    as_of = None if hours is None else NOON + timedelta(hours=hours)
    values: dict[str, object] = {"granularity": MESSAGE, "provider_key": "k", "provider_status": "w", "as_of": as_of}
    return DeliveryReport(**{**values, "status": status, **fields})  # type: ignore[arg-type]


def row_of(*told: DeliveryReport) -> Row:
    """The row that follows from these statements about one delivery."""
    return fold(told[0].granularity, [observe(report, asked_at=None) for report in told])


@given(statements(max_size=4), st.data())
@settings(max_examples=300)
def test_order_and_repetition_do_not_matter(told: list[DeliveryReport], data: st.DataObject) -> None:
    """Every permutation of a small set of statements, with any of them repeated, folds to the same row."""
    repeated = data.draw(st.lists(st.sampled_from(told), max_size=2))
    expected = row_of(*told)
    assert {msgspec.json.encode(row_of(*order, *repeated), order="sorted") for order in permutations(told)} == {
        msgspec.json.encode(expected, order="sorted")
    }


@given(statements(max_size=6), st.data())
@settings(max_examples=200)
def test_any_grouping_of_histories_is_the_same_history(told: list[DeliveryReport], data: st.DataObject) -> None:
    """Merging histories of parts, in any order, is merging the whole."""
    seen = [observe(report, asked_at=None) for report in told]
    shuffled = data.draw(st.permutations(seen))
    cut = data.draw(st.integers(0, len(seen)))
    parts = [*merge_history(shuffled[cut:]).values(), *merge_history(shuffled[:cut]).values()]
    assert merge_history(parts) == merge_history(seen)


@st.composite
def twins(draw: st.DrawFn) -> list[Observation]:
    """The same statement, made three times at various moments in various ways."""
    one = draw(st.sampled_from(list(Granularity)).flatmap(reports))
    made = []
    for _ in range(3):
        as_of = draw(st.none() | st.integers(0, 3).map(lambda hours: NOON + timedelta(hours=hours)))
        source = draw(st.sampled_from(Source))
        statement = draw(st.sampled_from([{}, {"a": 1}, {"a": 2}]))
        made.append(observe(replace(one, as_of=as_of, source=source, statement=statement), asked_at=None))
    return made


@given(twins())
@settings(max_examples=300)
def test_merging_twins_is_a_join(made: list[Observation]) -> None:
    """merge_observation is idempotent, commutative and associative."""
    a, b, c = made
    assert merge_observation(a, a) == a
    assert merge_observation(a, b) == merge_observation(b, a)
    assert merge_observation(merge_observation(a, b), c) == merge_observation(a, merge_observation(b, c))


@given(statements())
@settings(max_examples=200)
def test_each_kept_field_comes_from_the_greatest_statement_that_has_it(told: list[DeliveryReport]) -> None:
    """A statement that is silent about a field never wipes it, and a weaker one never overrides it."""
    granularity = told[0].granularity
    seen = list(merge_history(observe(report, asked_at=None) for report in told).values())
    row = fold(granularity, seen)
    ranked = sorted(seen, key=KEYS[granularity], reverse=True)
    said = [msgspec.to_builtins(one.facts) for one in ranked]
    expected = {name: next((facts[name] for facts in said if name in facts), None) for name in KEPT_FIELDS}
    assert {name: getattr(row, name) for name in KEPT_FIELDS} == expected
    extras = {
        name: next(facts["extra"][name] for facts in said if name in facts.get("extra", {}))
        for one in seen
        for name in one.facts.extra or {}
    }
    assert row.extra == extras


@given(statements())
@settings(max_examples=200)
def test_what_explains_the_status_comes_with_it(told: list[DeliveryReport]) -> None:
    """Status, reason and the provider's words all come from one statement: the greatest."""
    granularity = told[0].granularity
    seen = [observe(report, asked_at=None) for report in told]
    facts = rank(granularity, merge_history(seen).values())[0].facts
    row = fold(granularity, seen)
    names = ["status", "reason", "provider_status", "provider_error"]
    names += ["total", "delivered", "undelivered", "waiting"] if granularity is not MESSAGE else []
    assert [getattr(row, name) for name in names] == [getattr(facts, name) for name in names]


@given(st.lists(reports(), min_size=1, max_size=4), reports())
@settings(max_examples=200)
def test_a_further_statement_never_lowers_the_class(told: list[DeliveryReport], late: DeliveryReport) -> None:
    """A message only ever moves up, and a conflict never goes away."""
    before, after = row_of(*told), row_of(*told, late)
    assert STATUS_CLASS[Status(after.status)] >= STATUS_CLASS[Status(before.status)]
    assert STATUS_CLASS[Status(after.status)] >= STATUS_CLASS[late.status]
    assert (before.conflict, after.conflict) in {(False, False), (False, True), (True, True)}


@given(st.lists(reports(), min_size=1, max_size=4))
@settings(max_examples=200)
def test_a_conflict_is_two_finals_or_read_and_a_failure(told: list[DeliveryReport]) -> None:
    """`conflict` says that the history of a message contradicts itself, and nothing else."""
    statuses = {report.status for report in told}
    finals = statuses & {Status.DELIVERED, Status.UNDELIVERABLE, Status.EXPIRED, Status.REJECTED}
    assert row_of(*told).conflict == (len(finals) > 1 or (Status.READ in statuses and bool(statuses & FAILURES)))


@given(st.lists(reports(ORDER), min_size=1, max_size=4) | st.lists(reports(CONVERSATION), min_size=1, max_size=4))
@settings(max_examples=50)
def test_orders_and_conversations_never_conflict(told: list[DeliveryReport]) -> None:
    """Counts may be corrected; only a message can contradict itself."""
    assert row_of(*told).conflict is False


@given(reports(), st.integers(-12, 14), st.sampled_from(Source))
@settings(max_examples=100)
def test_the_same_statement_in_another_form_is_the_same_observation(
    told: DeliveryReport, offset: int, source: Source
) -> None:
    """Time zones, number types, and when and how it was said do not make another statement."""
    zone = timezone(timedelta(hours=offset))
    twin = replace(
        told,
        sent_at=told.sent_at and told.sent_at.astimezone(zone),
        credits=int(told.credits) if told.credits in {1.0, 2.0} else told.credits,
        source=source,
        as_of=NOON,
        provider_time=NOON.astimezone(zone),
        statement={"form": "list"},
    )
    assert normalise(twin) == normalise(told)
    assert content_hash(normalise(twin)) == content_hash(normalise(told))


@given(st.lists(reports(), min_size=2, max_size=2))
@settings(max_examples=200)
def test_different_statements_have_different_hashes(told: list[DeliveryReport]) -> None:
    """Observations are told apart exactly by their facts."""
    one, other = (normalise(report) for report in told)
    # Compared as text, since 1 == 1.0 == True in Python.
    same = msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")
    assert (content_hash(one) == content_hash(other)) == same


_RECORDED = {
    "least": {},
    "message": {
        "parent_key": "p:1",
        "client_ref": "sipariş-7",
        "recipient": "+905301234567",
        "status": Status.REJECTED,
        "reason": Reason.OPTED_OUT,
        "provider_error": "23",
        "segments": 2,
        "credits": 1,
        "sent_at": NOON,
        "done_at": NOON + timedelta(seconds=7.5),
        "valid_until": NOON.astimezone(timezone(timedelta(hours=3))),
        "extra": {"z": {"b": 1, "a": [None, 0.5]}, "create_date": "x", "a": True},
    },
    "order": {"granularity": ORDER, "total": 3, "delivered": 0, "undelivered": 1, "waiting": 2, "credits": 0.0372},
    "conversation": {"granularity": CONVERSATION, "total": 5, "day": DAY, "extra": {"group_id": 0}},
}


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("least", "8c4cece516142e7691aea38bbc93a3b9889d794885f5c201f5b3dc079b4a5d4f"),
        ("message", "d879b232d63f2fde0b646c893eabdf72fe49f09c49c788c9276e2faaeb9d7296"),
        ("order", "d19b2fb547de1c061553c04f1e81aa9f5fadf3b9f6b22a263213c45ba210794e"),
        ("conversation", "a23c99d74df9ed076c516b6263f9ad3b1e10ae02a75611e804d2b78fd647989e"),
    ],
)
def test_a_stored_hash_stays_the_same(name: str, digest: str) -> None:
    """Hashes of statements that were recorded when facts were plain dictionaries, their keys sorted."""
    facts = normalise(said(**{"status": Status.SENT, **_RECORDED[name]}))  # type: ignore[arg-type]
    assert content_hash(facts).hex() == digest


@given(statements())
@settings(max_examples=200)
def test_facts_are_encoded_canonically(told: list[DeliveryReport]) -> None:
    """The fields are declared in the order of their names, so the encoded form is that of a sorted dictionary."""
    for report in told:
        facts = normalise(report)
        assert encode_facts(facts) == msgspec.json.encode(msgspec.to_builtins(facts), order="sorted")


_any_text = st.text(st.characters(codec=None), max_size=8)


@given(_any_text, st.recursive(_any_text | st.integers() | st.floats(), lambda inner: st.lists(inner, max_size=3)))
@settings(max_examples=200)
def test_facts_and_statement_are_always_storable(word: str, value: object) -> None:
    """NUL, lone surrogates and huge numbers of a provider never reach PostgreSQL."""
    told = said(Status.UNKNOWN, provider_status=word, client_ref=word, extra={word: value}, statement={"v": [value]})
    seen = observe(told, asked_at=None)
    encoded = msgspec.json.encode([seen.facts, seen.statement])
    assert b"\\u0000" not in encoded.replace(b"\\\\", b"")
    facts, _ = msgspec.json.decode(encoded)
    assert facts.keys() == msgspec.to_builtins(seen.facts).keys()
    assert msgspec.convert(facts, Facts).status is Status.UNKNOWN


def test_odd_values_are_left_out_or_shortened() -> None:
    """What no column holds counts as not said; a key that no index holds ends in its hash; deep nesting is cut."""
    deep: dict[str, object] = {}
    for _ in range(5000):
        deep = {"d": deep}
    told = said(
        Status.SENT,
        total=10**12,
        segments=-5,
        credits=float("inf"),
        recipient="9" * 1000,
        extra={"big": 10**3000, "deep": deep},
        sent_at=datetime.min.replace(tzinfo=timezone(timedelta(hours=3))),
    )
    facts = msgspec.to_builtins(normalise(told))
    assert {name: value for name, value in facts.items() if name not in {"recipient", "extra"}} == {
        "status": "sent",
        "provider_status": "w",
        "segments": -5,
    }
    assert len(facts["recipient"]) == 400
    assert facts["extra"]["big"] == hex(10**3000)
    assert len(msgspec.json.encode(facts["extra"]["deep"])) < 500
    # The same, whatever stands beside it.
    assert normalise(said(Status.SENT, extra={"deep": deep})).extra == {"deep": facts["extra"]["deep"]}
    assert normalise(said(Status.SENT, extra={"big": 10**3000})).extra == {"big": hex(10**3000)}
    assert normalise(said(Status.SENT, extra={"big": 10**700, "text": "9" * 700})).extra == {
        "big": hex(10**700),
        "text": "9" * 700,
    }


def test_two_long_keys_stay_two() -> None:
    """Keys that differ only where no index reaches must not become one delivery; a short key is never changed."""
    long = ["k" * 600 + end for end in ("1", "2", "1")]
    first, second, again = (clean_key(key) for key in long)
    assert (first == again, first == second) == (True, False)
    assert {len(key) for key in (first, second)} == {400}
    assert clean_key("k" * 400) == "k" * 400


@pytest.mark.parametrize(
    ("number", "kept"), [(2**31 - 1, 2**31 - 1), (2**31, None), (1 - 2**31, 1 - 2**31), (-(2**31), None)]
)
def test_a_count_is_what_its_column_can_hold(number: int, kept: int | None) -> None:
    """One number too large must not keep a whole batch from being stored."""
    assert normalise(said(Status.SENT, segments=number, total=number)).segments == kept
    assert normalise(said(Status.SENT, total=number)).total == kept


def test_a_time_without_a_zone_is_our_bug() -> None:
    """An adapter that forgets the zone is told so."""
    with pytest.raises(ValueError, match="without a zone"):
        normalise(said(Status.SENT, sent_at=datetime(2026, 1, 1)))  # noqa: DTZ001 -- the mistake under test


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([said(Status.SCHEDULED, 9), said(Status.ENROUTE, 0)], Status.ENROUTE),
        ([said(Status.ENROUTE, 0), said(Status.UNKNOWN, 1)], Status.UNKNOWN),
        ([said(Status.ENROUTE, 2), said(Status.UNKNOWN, 1)], Status.ENROUTE),
        ([said(Status.ENROUTE, None), said(Status.UNKNOWN, -99999)], Status.UNKNOWN),
        ([said(Status.UNREPORTED, 50, source=Source.OURS), said(Status.ENROUTE, 99)], Status.UNREPORTED),
        ([said(Status.UNREPORTED, 50, source=Source.OURS), said(Status.SENT, 1)], Status.SENT),
        ([said(Status.UNREPORTED, 50, source=Source.OURS), said(Status.REJECTED, None)], Status.REJECTED),
        ([said(Status.SENT, 9), said(Status.UNDELIVERABLE, 1)], Status.UNDELIVERABLE),
        ([said(Status.READ, 1), said(Status.DELIVERED, 9)], Status.READ),
        ([said(Status.DELIVERED, 1), said(Status.EXPIRED, 9)], Status.EXPIRED),
        ([said(Status.DELIVERED, 9), said(Status.EXPIRED, 1)], Status.DELIVERED),
    ],
)
def test_a_message_follows_class_then_time(told: list[DeliveryReport], expected: Status) -> None:
    """The class decides, then handed over or not, then the time at which it was said."""
    row = row_of(*told)
    assert (row.status, row.is_final) == (expected.value, is_final(expected))


def test_a_notice_without_a_recipient_wipes_none() -> None:
    """A stronger statement keeps what only a weaker one knew."""
    row = row_of(
        said(Status.ENROUTE, recipient="+905301234567", client_ref="order-7", extra={"line": 1, "price": 2}),
        said(Status.DELIVERED, 1, extra={"price": 3}),
    )
    assert row == Row(
        status="delivered",
        is_final=True,
        provider_status="w",
        recipient="+905301234567",
        client_ref="order-7",
        extra={"line": 1, "price": 3},
    )


def test_a_silent_statement_wipes_no_field_at_all() -> None:
    """Everything but what explains the status stays as the weaker statement had it."""
    kept: dict[str, Any] = {
        "parent_key": "send-1",
        "client_ref": "order-7",
        "recipient": "+905301234567",
        "total": 4,
        "delivered": 3,
        "undelivered": 1,
        "waiting": 0,
        "segments": 2,
        "credits": 0.5,
    }
    told = said(
        Status.ENROUTE,
        reason=Reason.NETWORK,
        provider_error="10",
        **kept,
        sent_at=NOON,
        done_at=NOON + timedelta(hours=1),
        valid_until=NOON + timedelta(hours=24),
    )
    assert row_of(told, said(Status.DELIVERED, 1, provider_status="ok")) == Row(
        status="delivered",
        is_final=True,
        provider_status="ok",
        **kept,
        sent_at=NOON.astimezone(UTC).isoformat(),
        done_at=(NOON + timedelta(hours=1)).astimezone(UTC).isoformat(),
        valid_until=(NOON + timedelta(hours=24)).astimezone(UTC).isoformat(),
    )


@pytest.mark.parametrize(
    ("statuses", "contradicting"),
    [
        ({Status.READ, Status.UNDELIVERABLE}, {Status.READ, Status.UNDELIVERABLE}),
        ({Status.READ, Status.DELIVERED}, set()),
        ({Status.READ, Status.DELIVERED, Status.EXPIRED}, {Status.READ, Status.DELIVERED, Status.EXPIRED}),
        ({Status.REJECTED, Status.EXPIRED, Status.ENROUTE}, {Status.REJECTED, Status.EXPIRED}),
        ({Status.SENT, Status.UNREPORTED, Status.DELIVERED}, set()),
    ],
)
def test_the_words_that_contradict_each_other_are_all_named(statuses: set[Status], contradicting: set[Status]) -> None:
    """Whoever asks why a message is in conflict reads both sides."""
    seen = [observe(said(status), asked_at=None) for status in statuses]
    assert find_contradictions(seen) == contradicting


def test_the_reason_of_an_overruled_failure_goes_with_it() -> None:
    """A delivered message has no reason for not having arrived."""
    row = row_of(said(Status.EXPIRED, 0, reason=Reason.EXPIRED, provider_error="7"), said(Status.DELIVERED, 1))
    assert (row.status, row.reason, row.provider_error, row.conflict) == ("delivered", None, None, True)


def order(status: Status, delivered: int, undelivered: int, hours: float) -> DeliveryReport:
    """A statement about an order of ten recipients."""
    counts = {"total": 10, "delivered": delivered, "undelivered": undelivered}
    return said(status, hours, granularity=ORDER, **counts)


def test_the_counts_of_an_order_only_move_forward() -> None:
    """An older answer that arrives late, or a list that lags behind, does not take counts back."""
    row = row_of(order(Status.ENROUTE, 5, 1, 1), order(Status.ENROUTE, 2, 1, 2), order(Status.ENROUTE, 4, 2, 0))
    assert (row.delivered, row.undelivered, row.is_final) == (5, 1, False)


def test_the_answered_of_an_order_count_before_its_delivered_and_both_before_the_time() -> None:
    """Three failures are further than one success; equally far, the greater success; only then the later answer."""
    row = row_of(order(Status.ENROUTE, 1, 0, 2), order(Status.ENROUTE, 0, 3, 1))
    assert (row.delivered, row.undelivered) == (0, 3)
    row = row_of(order(Status.ENROUTE, 1, 2, 2), order(Status.ENROUTE, 2, 1, 1))
    assert (row.delivered, row.undelivered) == (2, 1)


def test_a_final_order_beats_open_counts() -> None:
    """114 is final whatever an open statement had counted."""
    row = row_of(order(Status.PARTIALLY_DELIVERED, 5, 5, 1), order(Status.ENROUTE, 9, 1, 2))
    assert (row.status, row.delivered, row.is_final) == ("partially_delivered", 5, True)


def counted(count: int, hours: float) -> DeliveryReport:
    """A statement about a conversation's day."""
    return said(Status.SENT, hours, granularity=CONVERSATION, total=count, day=DAY)


def test_a_conversation_follows_the_last_word_even_if_it_was_said_before() -> None:
    """Counts may go up, down and back again; a restatement renews the statement."""
    assert row_of(counted(5, 0), counted(7, 1), counted(5, 2)).total == 5
    assert row_of(counted(5, 0), counted(7, 3), counted(5, 2)).total == 7


@pytest.mark.parametrize(
    ("hours", "final"),
    [((0, 59.9), False), ((0, 60), True), ((60,), False), ((60, 60), False), ((60, 61), True), ((0, 1), False)],
)
def test_a_conversation_settles_48_hours_after_its_end_when_read_twice(hours: tuple[float, ...], final: bool) -> None:
    """The day ends 12 hours after its noon; 48 hours later two equal reads make it final."""
    assert row_of(*(counted(5, hour) for hour in hours)).is_final is final


def test_asking_time_stands_in_only_for_polls() -> None:
    """A callback without a time counts as the earliest possible, never as its arrival."""
    asked_at = NOON + timedelta(hours=1)
    poll, callback = said(Status.SENT, None), said(Status.SENT, None, source=Source.CALLBACK)
    assert observe(poll, asked_at=asked_at).as_of == asked_at
    assert observe(callback, asked_at=asked_at).as_of is None
    assert observe(replace(poll, as_of=NOON), asked_at=asked_at).as_of == NOON.astimezone(UTC)
