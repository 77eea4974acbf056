"""Laws of redaction that hold for any text."""

import re
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ulak.core import redaction
from ulak.core.redaction import KnownSecrets, redact_text, redact_url, redact_value

EXAMPLES = settings(max_examples=300, deadline=None)

# Without the letters a to f: a run of them and of digits, 16 or longer, is a hash and stays.
around = st.text(st.sampled_from("xyz ,;:/=<>()[]{}'\"!?&\n\tğş%@#"), max_size=20)
subscriber = st.from_regex(r"5[0-9]{9}", fullmatch=True)
separators = st.sampled_from(["", " ", "-", ".", "\u00a0"])
FRAGMENTS = """https:// redis:// : @ / ? & = # + - . ( ) 90 0 532 123 45 67 5321234567 2016-11-02 abc
    password api_key authorization Basic Bearer dXNlcjpwYXNz <key> </key> ' " , 0123456789abcdef
    deadbeefdeadbeefdeadbeefdeadbeef *** *******67 127.0.0.1 1478087258"""
fragments = st.sampled_from([*FRAGMENTS.split(), " ", "\n"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)


@EXAMPLES
@given(around, st.sampled_from(["+90", "90", "0090", "0", ""]), subscriber, separators, around)
def test_no_turkish_mobile_number_survives(
    before: str,
    prefix: str,
    digits: str,
    gap: str,
    after: str,
) -> None:
    """Any prefix, any usual grouping, any text around it: the subscriber's digits do not show."""
    grouped = gap.join([digits[:3], digits[3:6], digits[6:8], digits[8:]])
    said = redact_text(f"{before}{prefix}{gap if prefix else ''}{grouped}{after}")
    # The text around it holds no digits: none may stand outside a mask.
    assert re.findall(r"\d", re.sub(r"\d{0,4}\*{7}\d\d", "", said)) == []


@EXAMPLES
@given(around, st.from_regex(r"\+[1-9][0-9]{9,14}", fullmatch=True), around)
def test_no_international_number_survives(before: str, number: str, after: str) -> None:
    """With a plus sign every number of E.164 is recognised, whatever its country."""
    assert number[4:-2] not in redact_text(f"{before}{number}{after}")


@EXAMPLES
@given(st.text() | st.lists(fragments).map("".join))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    """Lines pass through two processes' logs."""
    once = redact_text(text)
    assert redact_text(once) == once


# Of each shape that is left alone, or looks like one that must not be.
shaped = st.one_of(
    st.from_regex(redaction._PLAIN, fullmatch=True),
    st.from_regex(redaction._NUMBER),
    st.from_regex(redaction._KEY_VALUE),
)


@settings(max_examples=1500, deadline=None)
@given(st.text() | shaped | st.lists(fragments | shaped, max_size=6).map("".join))
def test_a_text_that_is_left_alone_holds_nothing_to_be_masked(text: str) -> None:
    """The quick look at most values of a line finds whatever the forms would mask."""
    # Other tests of this process have registered secrets.
    known = redaction._OUR_TOKEN.sub(redaction.MASK, redaction._KNOWN.mask(text))
    assert redact_text(text) == redaction._mask_forms(known)


@EXAMPLES
@given(st.text(), st.text(min_size=6).filter(lambda s: "*" not in s), st.text())
def test_a_known_secret_never_survives(before: str, secret: str, after: str) -> None:
    """Whatever a secret looks like, and wherever it stands."""
    known = KnownSecrets()
    known.add(secret)
    assert secret not in known.mask(before + secret + after)


@EXAMPLES
@given(
    st.from_regex(r"[a-z_]{1,12}", fullmatch=True),
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=30),
)
def test_no_query_value_survives(name: str, value: str) -> None:
    """The name tells what was sent, the value is nobody's business."""
    url = f"https://provider.example/path?{name}={value}&page=3"
    assert redact_url(url) == f"https://provider.example/path?{name}=***&page=***"


@EXAMPLES
@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2032, 1, 1)),  # noqa: DTZ001  Hypothesis asks for naive bounds
    st.integers(0, 999_999_999),
    st.uuids(),
)
def test_times_ids_and_uuids_survive(moment: datetime, row: int, uid: Any) -> None:
    """What a line is read for stays as it is, in every notation of a time."""
    aware = moment.replace(tzinfo=UTC)
    for text in (
        aware.isoformat(),
        moment.isoformat(sep=" ", timespec="seconds"),
        moment.strftime("%Y%m%d%H%M%S"),
        moment.strftime("%d.%m.%Y %H:%M"),
        str(max(int(aware.timestamp()), 1_000_000_000)),
        f"row {row}",
        f"{uid}",
        uid.hex if re.search("[a-f]", uid.hex) else "",
    ):
        assert redact_text(text) == text


@EXAMPLES
@given(json_values)
def test_any_value_can_be_masked(value: Any) -> None:
    """A log call never fails because of what it was given, and masking twice changes nothing."""
    once = redact_value(value)
    assert repr(redact_value(once)) == repr(once)


@EXAMPLES
@given(st.integers(-(10**9) + 1, 10**9 - 1))
def test_the_short_way_for_small_integers_masks_what_the_long_way_masks(number: int) -> None:
    """An integer of fewer digits than a phone number is never masked as one."""
    assert redact_text(str(number)) == str(number)
