"""Phone numbers by fixed rules: laws over all numbers, and the rules' own examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.numbers import e164, lookup_form, national_number, recipient, same_number_spellings

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
