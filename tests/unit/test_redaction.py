"""What is masked, and what must stay readable, case by case."""

from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest

from ulak.core.redaction import redact_text, redact_url, redact_value, register_secret

NUMBERS = [
    ("+905321234567", "+90*******67"),
    ("905321234567", "90*******67"),
    ("00905321234567", "0090*******67"),
    ("05321234567", "*******67"),
    ("5321234567", "*******67"),
    ("+90 532 123 45 67", "+90*******67"),
    ("+90-532-123-4567", "+90*******67"),
    ("0 (532) 123 45 67", "*******67"),
    ("(0532) 123-45-67", "*******67"),
    ("0532.123.45.67", "*******67"),
    ("0312 123 45 67", "*******67"),
    ("+44 7911 123456", "+44*******56"),
    ("+4915112345678", "+49*******78"),
    ("+12125550100", "+1*******00"),
    ("212-555-0100", "*******00"),
    ("12125550100", "*******00"),
    ("441234567890", "*******90"),
    ("9876543210", "*******10"),
]


@pytest.mark.parametrize(("number", "masked"), NUMBERS)
@pytest.mark.parametrize(
    "text",
    ["{}", "to {} failed", "order-1:{}:1", "<gsm>{}</gsm>", "['{}']", "gsm={}&x=1", "({}),", "{}."],
)
def test_a_phone_number_is_masked_wherever_it_stands(number: str, masked: str, text: str) -> None:
    """Country prefix and the last two digits remain; the length does not show."""
    assert redact_text(text.format(number)) == text.format(masked)


@pytest.mark.parametrize(
    "text",
    ["5321234567 12 345 678", "12 345 678 905321234567", "counts 12 34 567 890 532 123 45 67"],
)
def test_figures_beside_a_number_do_not_become_one(text: str) -> None:
    """A line that is masked in two processes looks as it did after the first."""
    once = redact_text(text)
    assert "53212" not in once.replace(" ", "")
    assert redact_text(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "2016-11-02 11:47:38",
        "2016-11-02T11:47:38.123456+03:00",
        "2016-11-02T08:47:38Z",
        "02.11.2016 11:47:38",
        "02/11/2016",
        "20161102114738",
        "20161102-20161109",
        "1478087258",
        "1478087258123",
        "1478087258.123",
        "took 0.12345678901234 s",
        "row 123456789",
        "task 550e8400-e29b-41d4-a716-446655440000",
        "hash deadbeef12345678901234567890abcd",
        "127.0.0.1:8000",
        "192.168.100.200",
        "page 3 of 12, 500 rows",
        "PostgreSQL 18.6.3",
        "basic authentication failed",
        "/var/lib/ulak/logs/worker.log",
    ],
)
def test_what_only_looks_like_a_number_stays(text: str) -> None:
    """Times, row ids, uuids, hashes, addresses and versions are what logs are read for."""
    assert redact_text(text) == text


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (
            "https://h/api/0123456789abcdef0123456789abcdef/reports?x=1&y=",
            "https://h/api/***/reports?x=***&y=",
        ),
        ("https://h/send?api_key=abc&to=x#f", "https://h/send?api_key=***&to=***#f"),
        ("postgresql://u:pw@h:5432/db", "postgresql://u:***@h:5432/db"),
        ("redis://:p@ss@h:6379/0", "redis://:***@h:6379/0"),
        ("https://token@h/x", "https://***@h/x"),
        ("/v1/0123456789abcdef0123456789abcdef", "/v1/***"),
        ("https://h/v1/polls/42", "https://h/v1/polls/42"),
        ("https://h/x?0123456789abcdef", "https://h/x?***"),
    ],
)
def test_a_url_keeps_its_shape_and_loses_its_secrets(url: str, masked: str) -> None:
    """Alone and inside a sentence alike."""
    assert redact_url(url) == masked
    assert redact_text(f"GET {url} HTTP/1.1") == f"GET {masked} HTTP/1.1"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: ***"),
        ("{'authorization': 'Bearer abc.def'}", "{'authorization': '***'}"),
        ("(b'Authorization', b'Bearer abc')", "(b'Authorization', b'***')"),
        ("sent Bearer eyJhbGciOi now", "sent Bearer *** now"),
        ("password=pw host=h", "password=*** host=h"),
        ('{"api_key": "abc", "page": 1}', '{"api_key": "***", "page": 1}'),
        ("<key>abc</key><hash>def</hash><id>1</id>", "<key>***</key><hash>***</hash><id>1</id>"),
    ],
)
def test_credentials_are_masked_by_the_name_before_them(text: str, masked: str) -> None:
    """Headers, key=value pairs, JSON and XML, whatever library wrote the line."""
    assert redact_text(text) == masked


def test_a_known_secret_is_masked_in_every_spelling() -> None:
    """As it is, percent-encoded as in a URL, escaped as in JSON."""
    register_secret('a b"c/ğ')
    spelled = 'a b"c/ğ | a%20b%22c%2F%C4%9F | a+b%22c%2F%C4%9F | a b\\"c/\\u011f'
    assert redact_text(spelled) == "*** | *** | *** | ***"


@pytest.mark.parametrize(
    "name", ["webhook_secret", "Webhook-Secret", "db_password", "callbackPassword", "oauth_access_token", "my.api.key"]
)
def test_a_field_that_ends_like_a_secret_is_one(name: str) -> None:
    """A provider's new field is not in any list; how its name ends tells what it is."""
    assert redact_value({name: "lantern", "in": [{name: 7}]}) == {name: "***", "in": [{name: "***"}]}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://panel.example/in#access_token=lantern", "https://panel.example/in#access_token=***"),
        ("https://panel.example/in#state=quartz&code=lantern", "https://panel.example/in#state=***&code=***"),
        ("https://panel.example/in?a=quartz#b=lantern", "https://panel.example/in?a=***#b=***"),
    ],
)
def test_what_stands_after_a_hash_mark_is_masked_too(url: str, shown: str) -> None:
    """Logins hand tokens over in the fragment of an address."""
    assert (redact_url(url), redact_text(f"went to {url} then")) == (shown, f"went to {shown} then")


def test_a_secret_that_begins_like_another_is_masked_whole() -> None:
    """The longer one is looked for first, whichever was opened first: no end of it stays readable."""
    register_secret("quartz-1")
    register_secret("quartz-1-lantern")
    assert redact_text("quartz-1-lantern quartz-1 lantern") == "*** *** lantern"


def test_a_short_secret_is_not_searched_for() -> None:
    """Masking every "7" would make the logs unreadable without protecting anything."""
    register_secret("7")
    assert redact_text("page 7") == "page 7"


def test_values_are_walked_and_the_original_stays_as_it_is() -> None:
    """Mappings, sequences, objects and keys; harmless values keep their type."""
    moment, uid = datetime(2026, 1, 2, tzinfo=UTC), UUID(int=5)
    value = {
        "password": ["pw"],
        "API-Key": 12,
        "flower_auth": "a:b",
        "token": None,
        "recipient": 905321234567,
        "rows": (1, 2.5, True, None, moment, uid),
        "text": "Sayin musteri",
        "body": b"bytes",
        "+905321234567": {"deep": [ValueError("call +905321234567")]},
        "provider_key": "7:+905321234567:1",
    }
    before = repr(value)
    assert redact_value(value) == {
        "password": "***",
        "API-Key": "***",
        "flower_auth": "***",
        "token": None,
        "recipient": "90*******67",
        "rows": [1, 2.5, True, None, moment, uid],
        "text": "<13 characters>",
        "body": "<5 bytes>",
        "+90*******67": {"deep": ["call +90*******67"]},
        "provider_key": "7:+90*******67:1",
    }
    assert repr(value) == before


def test_a_value_that_contains_itself_ends() -> None:
    """A cycle is cut at a depth no honest log line has."""
    loop: list[object] = []
    loop.append(loop)
    assert repr(redact_value(loop)).count("[") == 8


TOKEN = "ulak_" + "Ab3_-xYz9" * 5


@pytest.mark.parametrize(
    "text",
    [
        "X-Request-Id: {}", "'{}'", "/v1/accounts?t={}", "Bearer {}", "token is {}.", '{{"t": "{}"}}', "{}{}", "x={};",
        "\n{}\n", "given {} to", "<{}>",
    ],
)  # fmt: skip
def test_our_own_token_is_masked_although_no_process_knows_it(text: str) -> None:
    """Only its hash is stored; somebody sends it as a request's id by mistake."""
    assert "Ab3_" not in redact_text(text.format(TOKEN, TOKEN))
    assert redact_text("ulak_callback_seconds_count_of_all_that_was_stored") == (
        "ulak_callback_seconds_count_of_all_that_was_stored"
    )


SECRET = "Gizli/Şifre+42=&~x"


@pytest.mark.parametrize(
    "spelled",
    [
        "Gizli/Şifre+42=&~x", "Gizli%2F%C5%9Eifre%2B42%3D%26~x", "Gizli%2f%c5%9eifre%2b42%3d%26~x",
        "Gizli/%C5%9Eifre%2B42%3D%26~x", "Gizli/%c5%9eifre%2b42%3d%26~x", "Gizli/\\u015eifre+42=&~x",
        "Gizli\\/\\u015eifre+42=&~x", "Gizli/Şifre+42=&amp;~x",
    ],
)  # fmt: skip
def test_a_known_secret_is_masked_as_every_writer_spells_it(spelled: str) -> None:
    """URLs in either case and with slashes kept, JSON with slashes escaped, HTML."""
    register_secret(SECRET)
    assert redact_text(f"sent {spelled} there") == "sent *** there"


@pytest.mark.parametrize("user", ["", "u", "us", "ulak", "firma-adi"])
@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
def test_a_known_secret_is_masked_within_base64(user: str, encode: Callable[[bytes], bytes]) -> None:
    """As a Basic header holds it, without the header's name beside it."""
    secret = "quartz-lantern-1907?>"
    register_secret(secret)
    sent = encode(f"{user}:{secret}:x".encode()).decode()
    shown = redact_text(f"said {sent}")
    assert "***" in shown
    left = max(shown.removeprefix("said ").split("***"), key=len)
    assert len(left) <= len(user) * 2 + 5


@pytest.mark.parametrize(
    "text",
    [
        '{{\\"password\\": \\"{}\\"}}', '{{\\\\\\"api_key\\\\\\": \\\\\\"{}\\\\\\"}}', "hash={}", "key={}",
        "key: {}", "token={}",
        "'key': '{}'", '"hash":"{}"', "Cookie: a={}; b={}", "cookie: ulak_session={}", "Set-Cookie: a={}; Path=/",
        "şifre={}", "Şifre: {}", "ŞİFRE={}", "sifre={}", "parola: {}", "Parola={}", "api-token={}",
        "(b'Cookie', b'a={}')",
        "pwd={}", "x-api-key: {}", "secret={}",
    ],
)  # fmt: skip
def test_the_name_before_it_gives_a_secret_away(text: str) -> None:
    """In JSON within JSON, in Turkish and in cookies, too."""
    assert "lantern" not in redact_text(text.format("lantern", "lantern"))


@pytest.mark.parametrize("text", ["provider_key=m-1", "params_hash: x", "no-key: x", "monkey=banana", "keys: 3"])
def test_a_word_that_only_ends_like_one_is_no_name_of_a_secret(text: str) -> None:
    """Keys of deliveries are what a line is read for."""
    assert redact_text(text) == text


GAPS = [
    ",", "_", "\t", "\n", "\r\n", "   ", "\u2009", "\u202f", "\u2007", "\u3000", "\u2013", "\u2011", "\u2212", "\u200b",
    "\u2060", "\ufeff", "\u00ad", "\u200d", "%20", "&nbsp;", ", ", " - ", "\u00a0\u00a0",
]  # fmt: skip


@pytest.mark.parametrize("gap", GAPS, ids=ascii)
@pytest.mark.parametrize("start", ["+90", "0", ""])
def test_a_number_is_masked_however_it_is_parted(gap: str, start: str) -> None:
    """Blanks, dashes and invisible marks of every kind."""
    number = start + (gap if start == "+90" else "") + gap.join(("532", "123", "45", "67"))
    shown = redact_text(f"to {number} failed")
    assert "123" not in shown
    assert "45" not in shown
    assert redact_text(shown) == shown
