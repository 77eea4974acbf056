"""What a body holds is counted before anything is built of it, and counted right."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulak.providers import decoding
from ulak.providers.decoding import load_json
from ulak.providers.errors import AnswerNotUnderstood
from ulak.providers.organik_replies import parse_xml
from ulak.providers.plain import read_plain
from ulak.providers.value_limits import MAX_VALUES, check_values

PROVIDERS = Path(decoding.__file__).parent
TEXTS = st.text(st.sampled_from('"\\[]{},:aş<'), max_size=8)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXTS, inner, max_size=6),
    max_leaves=40,
)


def counted(value: Any) -> int:
    """Containers, and what separates their items."""
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + len(value) + sum(map(counted, value.values()))
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(counted, value))
    return 0


@given(VALUES, st.booleans())
def test_a_body_passes_exactly_where_it_holds_no_more_values_than_allowed(value: Any, is_ascii: bool) -> None:
    """Whatever stands in strings does not count."""
    body = json.dumps([value], ensure_ascii=is_ascii).encode()
    many = counted([value])
    for count_short in (True, False):
        check_values(body, many, count_short=count_short)
    with pytest.raises(AnswerNotUnderstood):
        check_values(body, many - 1, count_short=False)
    with pytest.raises(AnswerNotUnderstood):
        check_values(body, many - 1)


@given(st.binary(max_size=200))
def test_whatever_the_bytes_are_they_are_only_counted(body: bytes) -> None:
    """Nothing but the one error comes out."""
    with suppress(AnswerNotUnderstood):
        check_values(body, 3)


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * (MAX_VALUES + 1) + b"[]]",
        b"[" + b"1," * (MAX_VALUES + 1) + b"1]",
        b"{" + b'"a":1,' * (MAX_VALUES // 2 + 1) + b'"a":1}',
        b"[" * (MAX_VALUES + 1),
    ],
    ids=["empty lists", "numbers", "fields", "depth"],
)
def test_json_with_too_many_values_is_refused_unbuilt(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any place where a body is read, whoever sent it."""
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(AnswerNotUnderstood, match=re.escape(f"more than {MAX_VALUES} values")):
        load_json(body)


def test_the_typed_readers_decode_only_what_was_counted() -> None:
    """In their one place, whatever Struct an adapter declares."""
    body = b"[" + b"{}," * (MAX_VALUES + 1) + b"{}]"
    with pytest.raises(AnswerNotUnderstood, match=re.escape(f"more than {MAX_VALUES} values")):
        read_plain(lambda _: pytest.fail("it was built"), body)
    found = {path.name: path.read_text(encoding="utf-8") for path in PROVIDERS.glob("*.py")}
    decoders = {name: code for name, code in found.items() if "json.Decoder(" in code}
    assert len(decoders) >= 3
    for name, code in decoders.items():
        assert set(re.findall(r"\S*_DECODE\b\S*", code)) == {"_DECODE:", "read_plain(_DECODE,"}, name
    assert [name for name, code in found.items() if "json.decode(" in code] == []


@pytest.mark.parametrize(
    "body",
    [
        b"<item " + b"".join(b'a%d="" ' % n for n in range(400_000)) + b"/>",
        b"<item " + b"".join(b"a%d='>' " % n for n in range(40_000)) + b"/>",
        b"<a/>" * (2 * MAX_VALUES + 2),
    ],
    ids=["attributes", "attributes that end no tag", "elements"],
)
def test_xml_with_too_many_values_is_refused_unbuilt(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser holds all attributes of an element before anybody sees them."""
    monkeypatch.setattr("ulak.providers.organik_replies.fromstring", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(AnswerNotUnderstood, match="values"):
        parse_xml(body)
