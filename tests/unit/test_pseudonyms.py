"""What stands for a person where recipients are hashed."""

import re

import pytest

from ulak.models.keys import split_key
from ulak.models.pseudonyms import (
    HAS_PSEUDONYM,
    WrongPersonKeyError,
    check_key,
    holds_pseudonym,
    is_pseudonym,
    key_check,
    mark,
    operator_prefix,
    pseudonym,
)
from ulak.providers.phone_numbers import e164, lookup_form, person

KEY, OTHER_KEY = b"the person key of these tests, 32", b"another person key of these tests"
NUMBER = "+905321234567"


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        (NUMBER, "90532"),
        ("+902121234567", "90212"),
        ("+491701234567", None),
        ("905321234567", None),
        ("4711", None),
        ("+90532123456", None),
        (None, None),
    ],
)
def test_the_operator_prefix_of_a_turkish_number_is_the_same_clear_and_hashed(
    text: str | None, prefix: str | None
) -> None:
    """Of anybody else there is none."""
    assert operator_prefix(text) == prefix
    assert text is None or operator_prefix(pseudonym(KEY, text)) == prefix


@pytest.mark.parametrize("text", [NUMBER, "4711", "0212 123 45 67", "a:b%c", "\ud800", "x" * 500])
def test_a_pseudonym_stands_in_keys_as_it_is_and_is_no_number(text: str) -> None:
    """It has no separator, reads as nobody's number, and stands for itself."""
    hidden = pseudonym(KEY, text)
    assert is_pseudonym(hidden)
    assert split_key(f"o:{hidden}:1") == ("o", hidden, "1")
    assert (e164(hidden), lookup_form(hidden), person(hidden)) == (None, None, hidden)
    assert pseudonym(OTHER_KEY, hidden) == hidden
    assert pseudonym(OTHER_KEY, text) != hidden
    assert holds_pseudonym(f"o:{hidden}:1")
    assert re.search(HAS_PSEUDONYM, f"o:{hidden}")
    assert not holds_pseudonym(text)


def test_a_pseudonym_holds_the_hash_by_which_its_person_is_erased() -> None:
    """So whoever was erased before the account was made is recognised in it."""
    assert mark(OTHER_KEY, pseudonym(KEY, NUMBER)) == mark(KEY, NUMBER)
    assert mark(KEY, NUMBER) != mark(OTHER_KEY, NUMBER)


def test_an_account_is_not_used_with_another_person_key() -> None:
    """The sentence says what to do."""
    check_key(KEY, key_check(KEY))
    with pytest.raises(WrongPersonKeyError, match="ULAK_PERSON_KEY_FILE"):
        check_key(OTHER_KEY, key_check(KEY))
