"""Phone numbers by fixed rules: laws over all numbers, and the rules' own examples."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulak.providers.phone_numbers import (
    e164,
    lookup_form,
    national_number,
    person,
    plain,
    recipient,
    same_number_spellings,
    trimmed,
)

MOBILES = st.integers(5_000_000_000, 5_999_999_999).map(str)
LAND_LINES = st.integers(2_120_000_000, 4_999_999_999).map(str)
FOREIGN = st.integers(1_000_000, 999_999_999_999_999).map(str).filter(lambda digits: not digits.startswith("90"))


def spell(digits: str, cut: int, separator: str) -> str:
    """The same digits with a separator somewhere."""
    return digits[:cut] + separator + digits[cut:]


@given(MOBILES, st.integers(1, 9), st.sampled_from([" ", "-", "", "\u00a0", "."]))
def test_all_spellings_of_one_mobile_number_agree(national: str, cut: int, separator: str) -> None:
    """However a person writes a Turkish mobile number, it is one number."""
    body = spell(national, cut, separator)
    prefixes = ("", "0", "90", "+90", "0090", "90 ", "+90 (0) ", "+90-", "0 ", "(0)")
    assert {e164(prefix + body) for prefix in prefixes} == {f"+90{national}"}
    assert {lookup_form(prefix + body) for prefix in prefixes} == {f"+90{national}"}


@given(LAND_LINES, st.sampled_from(["", "0", "90", "+90", "0090", "+90 (0) "]))
def test_look_ups_know_land_lines_too(national: str, prefix: str) -> None:
    """The wider rules of look-ups hold for land lines in every spelling."""
    assert lookup_form(prefix + national) == f"+90{national}"


@given(FOREIGN)
def test_foreign_numbers_are_never_made_turkish(digits: str) -> None:
    """A number that the provider calls foreign only gets its plus, and without that word it is never changed."""
    assert e164(digits, foreign=True) == f"+{digits}"
    assert e164(f"+{digits}") == f"+{digits}"
    assert e164(f"00{digits}") == f"+{digits}"
    assert recipient(digits) in {digits, f"+{digits}", f"+90{digits}"}


@given(st.text(max_size=30) | st.from_regex(r"\+?[0 -]*[0-9]{5,18}", fullmatch=True), st.booleans())
def test_the_rules_are_idempotent_and_never_fail(text: str, foreign: bool) -> None:
    """What came out of the rules goes through them unchanged, whatever went in."""
    number = e164(text, foreign=foreign)
    if number is not None:
        assert (e164(number), e164(number, foreign=True), lookup_form(number)) == (number, number, number)
    found = lookup_form(text)
    assert found is None or lookup_form(found) == found
    assert text.strip() in same_number_spellings(text)


@given(FOREIGN | MOBILES)
def test_a_look_up_tries_the_form_under_which_a_report_was_stored(digits: str) -> None:
    """Whatever the rules made of a provider's number, the plain number finds it."""
    assert recipient(digits) in same_number_spellings(digits)


@given(MOBILES)
def test_the_national_form_is_the_way_back(national: str) -> None:
    """Ten digits become E.164 and ten digits again."""
    assert national_number(e164(national) or "") == national


@pytest.mark.parametrize(
    ("text", "foreign", "number"),
    [
        ("5399999999", False, "+905399999999"),
        ("905399999999", False, "+905399999999"),
        ("+905333128320", False, "+905333128320"),
        ("05399999999", False, "+905399999999"),
        ("00905399999999", False, "+905399999999"),
        ("61491570156", False, None),  # never +9061491570156
        ("61491570156", True, "+61491570156"),
        ("5351234567", True, "+5351234567"),  # Cuba, not a Turkish mobile
        ("9053XXXXXXXX", False, None),
        ("nbVj/RZxGvcn/gdEYJ0MSg==", False, None),
        ("0123456789abcdef0123456789abcdef", True, None),
        ("٥٣٩٩٩٩٩٩٩٩", False, None),
        ("02121234567", False, None),
        ("+", False, None),
        ("", True, None),
    ],
)
def test_the_rules_of_the_page_hold_row_by_row(text: str, foreign: bool, number: str | None) -> None:
    """The fixed rules, their trap (an Australian number) and what is no number at all."""
    assert e164(text, foreign=foreign) == number


@pytest.mark.parametrize("given", ["+90 212 123 45 67", "0212 1234567", "(212) 123 45 67", "00902121234567"])
def test_a_look_up_tries_every_form_in_which_a_provider_may_write_the_number(given: str) -> None:
    """What the fixed rules did not know is stored as its provider wrote it; the likeliest form comes first."""
    forms = ("+902121234567", "902121234567", "2121234567", "02121234567", "00902121234567")
    assert same_number_spellings(given) == (*forms, *(() if given in forms else (given,)))
    assert same_number_spellings("+61491570156") == ("+61491570156", "61491570156", "0061491570156")
    assert same_number_spellings(" nbVj/RZx== ") == ("nbVj/RZx==",)


def test_numbers_abroad_keep_their_country_code_in_the_national_form() -> None:
    """Only Turkish numbers have a national form here."""
    assert national_number("+61491570156") == "61491570156"


EVERY_CHARACTER = range(sys.maxunicode + 1)
FORMAT_MARKS = [chr(code) for code in EVERY_CHARACTER if unicodedata.category(chr(code)) == "Cf"]
ZEROS = [
    code for code in EVERY_CHARACTER if unicodedata.category(chr(code)) == "Nd" and unicodedata.decimal(chr(code)) == 0
]
DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
BLANKS = " \u00a0\u2007\u2009\u202f\u3000\t"


@given(
    MOBILES,
    st.lists(st.tuples(st.integers(0, 14), st.sampled_from(FORMAT_MARKS)), max_size=6),
    st.sampled_from(ZEROS),
    st.sampled_from(["+", "\uff0b", "\ufe62", "00"]),
    st.sampled_from(DASHES + BLANKS),
)
def test_a_pasted_number_is_the_number_that_is_seen(
    national: str, marks: list[tuple[int, str]], zero: int, plus: str, separator: str
) -> None:
    """Invisible marks, the digits of any script, typographic dashes, plus signs and blanks make no other number."""
    pasted = plus + "".join(chr(zero + int(digit)) for digit in f"90{national}")
    pasted = spell(pasted, 6, separator)
    for place, mark in marks:
        pasted = spell(pasted, place, mark)
    number = f"+90{national}"
    assert (lookup_form(pasted), person(pasted), same_number_spellings(pasted)[0]) == (number, number, number)


@given(MOBILES, st.sampled_from([*FORMAT_MARKS, *map(chr, ZEROS[1:])]))
def test_what_providers_send_makes_the_same_key_as_ever(national: str, mark: str) -> None:
    """Numbers of reports are parts of keys: one that the rules did not know is still kept as it came."""
    assert (e164(f"+90{national}{mark}"), recipient(f"+90{national}{mark}")) == (None, f"+90{national}{mark}")


@given(st.text(max_size=20))
def test_plain_texts_stay_plain(text: str) -> None:
    """Nothing is left to take away the second time, and a plain ASCII text only loses its blanks."""
    assert plain(plain(text)) == plain(text)
    assert trimmed(trimmed(text)) == trimmed(text)
    if text.isascii():
        assert (plain(text), trimmed(text)) == (text.strip(), text.strip())


def test_marks_within_a_reference_stay() -> None:
    """A joiner belongs to the script of some words; only what hangs on the ends was pasted along."""
    word = "\u0645\u06cc\u200c\u0631\u0648\u0645"
    assert trimmed(f"\u202a {word}\u200b\u00a0\u202c") == word
    assert trimmed("\u200e\u202c") == ""
