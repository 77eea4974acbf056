"""What a provider says about an error is kept for operators, and nothing in it may give anybody away."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulak.core.redaction import register_secret
from ulak.providers.adapter import Answer
from ulak.providers.errors import (
    DETAIL_LIMIT,
    AnswerNotUnderstood,
    OurBug,
    PauseAccount,
    RequestIsWrong,
    SlowDown,
    TryAgainAt,
    TryAgainSoon,
    as_sentence,
    readable_detail,
)
from ulak.providers.registry import ADAPTERS


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, None),
        ("", None),
        (" \r\n\t ", None),
        ("Customer not found", "Customer not found"),
        ("Müşteri\r\n  bulunamadı\x00", "Müşteri bulunamadı"),
        ("no +905321234567", "no +90*******67"),
        ("no 0532 123 45 67.", "no *******67."),
        ("no 0\u200e53\u202c21234567", "no *******67"),
        ("see https://dlg.example/views.html#/messaging/abc?token=1 now", "see https://dlg.example/*** now"),
        ("call https://organikapi.com/v2/0123456789abcdef0123456789abcdef/x/", "call https://organikapi.com/***"),
        ("mail ada.lovelace@example.com", "mail ***@example.com"),
        ("api_key=abcdef123 refused", "api_key=*** refused"),
        ("Authorization: DLGA id:c2lnbmF0dXJl refused", "Authorization: *** refused"),
    ],
)
def test_what_may_be_shown_of_a_text(text: str | None, shown: str | None) -> None:
    """Numbers, secrets, addresses and mailboxes are masked; it is one line."""
    assert readable_detail(text) == shown


def test_a_secret_of_the_account_is_masked_wherever_it_stands() -> None:
    """A provider may quote the key that it refuses."""
    register_secret("gizli-anahtar-1907")
    assert readable_detail("the key gizli-anahtar-1907 is wrong") == "the key *** is wrong"


@given(st.text(max_size=40), st.integers(0, 5000))
def test_it_is_short_and_never_cuts_a_number_into_something_else(start: str, blanks: int) -> None:
    """However long the text is, and wherever the number stands in it."""
    shown = readable_detail(f"{start}{' ' * blanks}05321234567 {'x' * 5000}")
    assert shown is None or (len(shown) <= DETAIL_LIMIT and "0532123" not in shown and "\n" not in shown)


def test_an_error_is_explained_by_our_sentence_and_the_providers() -> None:
    """Without a text there is just our sentence."""
    error = TryAgainSoon("It failed.", code="500")
    assert error.explained == "It failed."
    error.quote("Kayıt yok")
    assert error.explained == 'It failed. The provider says: "Kayıt yok"'


def body(value: Any) -> bytes:
    """As JSON."""
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("provider", "status", "told", "said"),
    [
        ("iletimerkezi", 404, body({"response": {"status": {"code": 404, "message": "Metod yok"}}}), "Metod yok"),
        ("iletimerkezi", 200, body({"response": {"status": {"code": 200, "message": "Tamam"}}}), None),
        ("vairo", 400, body({"durum": False, "aciklama": "Serbest metin"}), "Serbest metin"),
        ("vairo", 200, body({"durum": True, "aciklama": "17"}), None),
        ("vairo", 200, body({"durum": False, "aciklama": {"mesaj": "Kodunuz 4711"}}), None),
        ("organik", 200, body({"response": {"result": False, "error": {"message": "Server fault."}}}), "Server fault."),
        ("organik", 200, b"<result>0</result><error><message>Fault</message><number>95</number></error>", "Fault"),
        ("organik", 200, body({"response": {"result": True, "data": []}}), None),
        ("diyalog", 500, b"Customer not found", "Customer not found"),
        ("diyalog", 400, b'"Bad range"', "Bad range"),
        ("diyalog", 502, b"<html>Bad gateway</html>", None),
        ("diyalog", 200, b"Customer not found", None),
        ("bip", 500, b"x", None),
    ],
)
def test_the_words_of_each_provider_are_found(provider: str, status: int, told: bytes, said: str | None) -> None:
    """And only those of an error."""
    assert ADAPTERS[provider].error_text(Answer(status=status, body=told)) == said


@pytest.mark.parametrize("name", list(ADAPTERS))
@given(status=st.sampled_from([200, 400, 401, 500, 999]), told=st.binary(max_size=80))
def test_looking_for_words_never_fails(name: str, status: int, told: bytes) -> None:
    """Whatever the answer is."""
    ADAPTERS[name].error_text(Answer(status=status, body=told, headers={"content-type": "x; charset=iso-8859-9"}))


def test_people_read_the_sentence_of_an_error_without_its_class() -> None:
    """The class says what Ulak does next; it stays in what is stored. Other words with a colon stay, too."""
    for kind in (PauseAccount, TryAgainSoon, TryAgainAt, SlowDown, RequestIsWrong, AnswerNotUnderstood, OurBug):
        assert as_sentence(f"{kind.__name__}: Organik refuses the key.") == "Organik refuses the key."
    assert as_sentence("Counted with 7; before: TryAgainSoon: Busy.") == "Counted with 7; before: Busy."
    assert (as_sentence("Kampanya: it says so."), as_sentence(None)) == ("Kampanya: it says so.", "")
