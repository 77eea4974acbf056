"""Reading providers' values: strict about meaning, tolerant about form."""

import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from ulak.providers import decoding
from ulak.providers.adapter import Answer
from ulak.providers.decoding import (
    Fields,
    as_amount,
    as_count,
    as_int,
    as_key,
    as_list,
    as_text,
    check_http,
    drop_fields,
    load_json,
    load_object,
    local_time,
    refuse_client_error,
    retry_after,
    scrub,
)
from ulak.providers.errors import (
    AnswerNotUnderstood,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainSoon,
)

ISTANBUL = ZoneInfo("Europe/Istanbul")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\xe7"}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"[" * 40 + b"]" * 40,
        '{"a": 1}'.encode("utf-16"),
    ],
)
def test_what_is_not_strict_json_is_not_understood(body: bytes) -> None:
    """Whatever cannot be read raises the one error, with the bytes and without quoting them."""
    with pytest.raises(AnswerNotUnderstood) as caught:
        load_json(body)
    assert caught.value.raw == body
    assert caught.value.message in {"The answer is not JSON.", "The answer is nested too deep."}
    # A traceback in a log must not go on to the parser's own error, whose text quotes the body.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_byte_order_mark_is_tolerated_and_only_objects_are_objects() -> None:
    """A mark before the JSON is no mistake; a list is no object."""
    assert load_object(b'\xef\xbb\xbf{"a": [1]}') == {"a": [1]}
    with pytest.raises(AnswerNotUnderstood):
        load_object(b"[]")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (114, 114),
        ("114", 114),
        (" -1 ", -1),
        (114.0, 114),
        (True, None),
        (1.5, None),
        ("1.0", None),
        ("", None),
        ("١١٤", None),
        (2**63, None),
        ("9" * 19, None),
        ("9" * 5000, None),
        (1e300, None),
        (float("nan"), None),
        (None, None),
        ([], None),
    ],
)
def test_whole_numbers_come_as_numbers_or_as_text(value: object, number: int | None) -> None:
    """114 and "114" are the same; a boolean, a fraction or a giant is no number."""
    assert as_int(value) == number


def test_counts_fit_their_columns() -> None:
    """A count is never negative and never larger than the column that keeps it."""
    assert [as_count(value) for value in (0, "7", -1, 2**31 - 1, 2**31)] == [0, 7, None, 2**31 - 1, None]


def test_texts_are_storable_and_keys_are_never_changed() -> None:
    """A text is made storable; a key that would have to be changed is refused, so that two never become one."""
    assert [as_text(value) for value in ("a\x00b", "\ud800", 12, " ", True, 1.5, None)] == [
        "a\ufffdb",
        "\ufffd",
        "12",
        None,
        None,
        None,
        None,
    ]
    assert as_text("x" * 501) == "x" * 500
    assert [as_key(value) for value in ("a", 12, " a ", "a\x00", "\udfff", "\ufffd", "", "x" * 201, True, 1.5)] == [
        "a",
        "12",
        "a",
        *[None] * 7,
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(410471976.0, "410471976"), (9e15, "9000000000000000"), (1e16, None), (7.5, None)]
)
def test_an_id_that_came_as_a_float_is_the_whole_number_that_it_is(value: float, text: str | None) -> None:
    """Like 114.0 where a code is read; beyond 2⁵³ nobody knows which number was meant."""
    assert (as_key(value), as_text(value)) == (text, text)


def test_amounts_may_have_a_decimal_comma() -> None:
    """Official samples show 1, 0.5 and "0,0372"."""
    given = (1, 0.5, "0,0372", "0.5", "1.234,5", "x", True, None, 1e300, 10**400, float("nan"))
    assert [as_amount(value) for value in given] == [1.0, 0.5, 0.0372, 0.5, *[None] * 7]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2016-11-02 11:47:38", datetime(2016, 11, 2, 8, 47, 38, tzinfo=UTC)),
        ("2016-01-02 11:47:38", datetime(2016, 1, 2, 9, 47, 38, tzinfo=UTC)),
        ("2015-11-08 03:30:00", datetime(2015, 11, 8, 0, 30, tzinfo=UTC)),
        ("2024-11-12T02:04:08.500", datetime(2024, 11, 11, 23, 4, 8, tzinfo=UTC)),
        ("0000-00-00 00:00:00", None),
        ("0001-01-01 00:00:00", None),
        ("9999-12-31 23:59:59", None),
        ("2024-02-30 00:00:00", None),
        ("2024-01-01", None),
        ("", None),
        (20240101, None),
        (None, None),
    ],
)
def test_bare_local_times_become_utc(text: object, moment: datetime | None) -> None:
    """The zone's own history holds (summer time, the doubled hour means its first); a zero date is no time."""
    assert local_time(text, ISTANBUL) == moment


def test_what_is_too_long_for_a_time_is_not_remembered() -> None:
    """Whatever stands where a time should, a thousand answers' worth of it must not stay in memory."""
    remembered = decoding._local_time.cache_info().currsize
    assert [local_time("x" * many, ISTANBUL) for many in (30, 1_000_000)] == [None, None]
    assert decoding._local_time.cache_info().currsize == remembered


@pytest.mark.parametrize("ours", [timedelta(0), timedelta(hours=-1), timedelta(hours=1), None])
def test_a_date_to_wait_for_is_of_the_provider_s_clock(ours: timedelta | None) -> None:
    """However far ours differs: neither an hour of silence nor none."""
    headers = {"date": "Thu, 01 Jan 2026 00:00:00 GMT", "retry-after": "Thu, 01 Jan 2026 00:00:20 GMT"}
    received = None if ours is None else datetime(2026, 1, 1, tzinfo=UTC) + ours
    assert retry_after(Answer(status=429, headers=headers, received_at=received)) == 20.0


def test_retry_after_is_read_in_both_forms() -> None:
    """Seconds, or an HTTP date against the time of the answer; nonsense is None, and no wait is longer than a day."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    given = ("7", "Thu, 01 Jan 2026 00:01:00 GMT", "Wed, 31 Dec 2025 00:00:00 GMT", "soon", "-1", "9" * 50, "²")
    answers = [Answer(status=429, headers={"retry-after": text}, received_at=now) for text in given]
    assert [retry_after(answer) for answer in answers] == [7.0, 60.0, 0.0, None, None, 86400.0, None]
    assert retry_after(Answer(status=429)) is None
    assert retry_after(Answer(status=429, headers={"retry-after": given[1]})) is None


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (429, {"retry-after": "3"}, SlowDown("The provider asks us to slow down.", retry_after_seconds=3.0)),
        (503, {"retry-after": "3"}, SlowDown("…", retry_after_seconds=3.0)),
        (503, {}, TryAgainSoon("…")),
        (500, {}, TryAgainSoon("…")),
        (500, {"retry-after": "3"}, TryAgainSoon("…")),
        (302, {}, TryAgainSoon("…")),
        (100, {}, TryAgainSoon("…")),
    ],
)
def test_http_statuses_mean_what_to_do_next(status: int, headers: dict[str, str], error: ProviderError) -> None:
    """429, a 5xx and a redirect mean the same at every provider."""
    with pytest.raises(type(error)) as caught:
        check_http(Answer(status=status, headers=headers))
    assert caught.value.code == str(status)
    assert getattr(caught.value, "retry_after_seconds", None) == getattr(error, "retry_after_seconds", None)


def test_client_errors_are_told_apart_only_where_the_body_says_nothing() -> None:
    """401, 403 and 407 pause, 408 and 425 pass, the rest of the 4xx is our request's fault.

    2xx and 4xx pass the common check.
    """
    pausing, passing, wrong = (401, 403, 407), (408, 425), (400, 404, 499)
    expected = dict.fromkeys(pausing, PauseAccount) | dict.fromkeys(passing, TryAgainSoon)
    for status, error in (expected | dict.fromkeys(wrong, RequestIsWrong)).items():
        check_http(Answer(status=status))
        with pytest.raises(error):
            refuse_client_error(Answer(status=status))
    check_http(Answer(status=200))
    refuse_client_error(Answer(status=200))


def test_statements_keep_values_as_given_and_drop_what_is_personal() -> None:
    """Dropped fields are dropped at any depth; texts become storable; numbers and null stay what they were."""
    item = {"id": 1, "mesaj": "secret", "in": [{"mesaj": "secret", "x": "a\x00"}], "n": None, "k\x00": 1.5}
    assert scrub(item, drop={"mesaj"}) == {"id": 1, "in": [{"x": "a\ufffd"}], "n": None, "k\ufffd": 1.5}


def test_dropped_fields_are_gone_at_any_depth_and_in_any_case() -> None:
    """Everything else stays; of what is not JSON nothing does."""
    body = b'{"report": {"id": 7, "Body": "gizli", "in": [{"BODY": "gizli", "to": "1"}]}, "body": {"a": 1}}'
    assert drop_fields(body, ("body",)) == b'{"report": {"id": 7, "in": [{"to": "1"}]}}'
    assert drop_fields(b'{"report": {"body": "gizli"', ("body",)) == b""


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2019-12-02T20:01:00.283041Z", datetime(2019, 12, 2, 20, 1, tzinfo=UTC)),
        ("2019-12-02t20:01:00z", datetime(2019, 12, 2, 20, 1, tzinfo=UTC)),
        ("2019-12-02T20:01Z", datetime(2019, 12, 2, 20, 1, tzinfo=UTC)),
        ("2019-12-02T20:01:00,5+00:00", datetime(2019, 12, 2, 20, 1, tzinfo=UTC)),
        ("2019-12-02 20:01:00 UTC", datetime(2019, 12, 2, 20, 1, tzinfo=UTC)),
        ("2019-12-02T23:01:00+03:00", datetime(2019, 12, 2, 20, 1, tzinfo=UTC)),
        ("2019-12-02T23:01:00.283041123+0300", datetime(2019, 12, 2, 20, 1, tzinfo=UTC)),
        ("2019-12-02 23:01:00 +03", datetime(2019, 12, 2, 20, 1, tzinfo=UTC)),
        ("2019-12-02T16:31:00\u221203:30", datetime(2019, 12, 2, 20, 1, tzinfo=UTC)),
        ("2015-11-08T03:30:00+02:00", datetime(2015, 11, 8, 1, 30, tzinfo=UTC)),
        ("2019-12-02T23:01:00", datetime(2019, 12, 2, 20, 1, tzinfo=UTC)),
        ("2019-12-02T20:01:00+15:00", None),
        ("2019-12-02T20:01:00+03:60", None),
        ("2019-12-02T20:01:00 Europe/Istanbul", None),
        ("2019-12-02T24:00:00Z", None),
        ("2019-W49-1T20:01:00Z", None),
    ],
)
def test_a_time_with_an_offset_needs_no_zone(text: str, moment: datetime | None) -> None:
    """ISO 8601 says itself which moment it means; the account's zone is only for bare local times."""
    assert local_time(text, ISTANBUL) == moment


def test_a_field_that_is_there_and_cannot_be_read_is_noted_once() -> None:
    """Absent, null, empty and the zero date are no mistake, in the forms in which PHP writes it."""
    item: dict[str, object] = {
        "null": None,
        "empty": " ",
        "list": [],
        "object": {},
        "zero": "0000-00-00 00:00:00",
        "zero_iso": "-0001-11-30T00:00:00.000000Z",
        "zero_day": "0000-00-00",
        "zero_offset": "0000-00-00T00:00:00.000+03:00",
        "bad_time": "02.12.2019 20:01",
        "bad_count": -1,
        "bad_amount": "1.234,5",
        "bad_text": ["x"],
        "good": "7",
    }
    fields = Fields(item, ISTANBUL)
    absent = ("missing", "null", "empty", "list", "object")
    assert [fields.count(name) for name in absent] == [None] * len(absent)
    zeros = ("zero", "zero_iso", "zero_day", "zero_offset")
    assert [fields.time(name) for name in (*absent, *zeros)] == [None] * (len(absent) + len(zeros))
    assert (fields.count("good"), fields.whole("good"), fields.amount("good"), fields.text("good")) == (7, 7, 7.0, "7")
    assert fields.unreadable("An item") == ()
    read = (fields.time("bad_time"), fields.count("bad_count"), fields.amount("bad_amount"), fields.text("bad_text"))
    assert read == (None, None, None, None)
    assert fields.time("bad_time") is None
    troubles = fields.unreadable("An item")
    assert [trouble.reason for trouble in troubles] == [
        f"An item has a `{name}` that cannot be read." for name in ("bad_time", "bad_count", "bad_amount", "bad_text")
    ]
    assert all(trouble.once and json.loads(trouble.raw) == item for trouble in troubles)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ([], []),
        ([1, {"a": 2}], [1, {"a": 2}]),
        ({"1": "b", "0": "a"}, ["a", "b"]),
        ({"10": "c", "9": "b", "2": "a"}, ["a", "b", "c"]),
        ({"3": [1]}, [[1]]),
        ({}, None),
        ({"1": "a", "id": 5}, None),
        ({"01": "a"}, None),
        ({"-1": "a"}, None),
        ({"1.0": "a"}, None),
        ({"١": "a"}, None),
        ({"": "a"}, None),
        (None, None),
        ("[]", None),
        (5, None),
    ],
)
def test_a_list_is_read_also_where_php_wrote_an_object(value: object, wanted: list[object] | None) -> None:
    """Keys that are all indexes stand for a list with a gap; any other object is none."""
    assert as_list(value) == wanted
