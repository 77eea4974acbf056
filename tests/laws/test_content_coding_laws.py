"""Content codings: whatever was packed by the rules comes back whole, and whatever was not is refused."""

import gzip
import zlib
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulak.core.content_coding import BrokenCodingError, ContentCodingError, ExpandedTooLargeError, is_packed, unpack

CAP = 10_000
BODIES = st.binary(max_size=400)
CODINGS = st.lists(st.sampled_from(["gzip", "x-gzip", "deflate", "raw", "identity"]), max_size=4)


def pack(body: bytes, coding: str) -> bytes:
    """One coding applied; `raw` is the deflate of servers that leave zlib's frame out."""
    if coding == "identity":
        return body
    if coding == "deflate":
        return zlib.compress(body)
    if coding == "raw":
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return packer.compress(body) + packer.flush()
    return gzip.compress(body, mtime=0)


def declaration(codings: Sequence[str]) -> str:
    """`Content-Encoding` as servers write it, in any case and spacing."""
    return " , ".join("deflate" if coding == "raw" else coding for coding in codings).upper()


@given(st.lists(BODIES, min_size=1, max_size=5))
def test_all_members_of_a_gzip_body_count(parts: list[bytes]) -> None:
    """RFC 1952, section 2.2: a file is a series of members, and its content is theirs, one after the other."""
    assert unpack(b"".join(pack(part, "gzip") for part in parts), "gzip", CAP) == b"".join(parts)


@given(BODIES.filter(bool), CODINGS)
def test_stacked_codings_are_undone_in_reverse(body: bytes, codings: list[str]) -> None:
    """RFC 9110, section 8.4: in the order in which they were applied."""
    packed = body
    for coding in codings:
        packed = pack(packed, coding)
    assert unpack(packed, declaration(codings), CAP) == body
    assert is_packed(declaration(codings)) == any(coding != "identity" for coding in codings)


@given(BODIES.filter(bool), st.sampled_from(["gzip", "deflate", "raw"]), st.data())
def test_a_body_that_was_cut_off_is_never_taken_for_a_whole_one(body: bytes, coding: str, data: st.DataObject) -> None:
    """Not even where everything that can be seen of it unpacks."""
    packed = pack(body, coding)
    cut = data.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(BrokenCodingError):
        unpack(packed[:cut], declaration([coding]), CAP)


@given(BODIES, st.sampled_from(["gzip", "deflate"]), st.binary(min_size=1, max_size=50))
def test_bytes_after_the_end_are_an_error(body: bytes, coding: str, surplus: bytes) -> None:
    """Zeros too: they could be the beginning of what was lost."""
    with pytest.raises(BrokenCodingError):
        unpack(pack(body, coding) + surplus, coding, CAP)


@given(st.binary(min_size=1, max_size=200), CODINGS)
def test_nothing_but_its_own_errors_is_raised(body: bytes, codings: list[str]) -> None:
    """Whatever comes."""
    with suppress(ContentCodingError):
        unpack(body, declaration(codings), CAP)


@given(st.integers(0, 3 * CAP), st.sampled_from(["gzip", "deflate", "raw"]))
def test_the_cap_is_the_largest_size_that_is_taken(size: int, coding: str) -> None:
    """Unpacked; one byte more is refused, in one member or in two."""
    packed = pack(b"x" * size, coding)
    halves = pack(b"x" * (size // 2), "gzip") + pack(b"x" * (size - size // 2), "gzip")
    for body, declared in ((packed, declaration([coding])), (halves, "gzip")):
        if size <= CAP:
            assert len(unpack(body, declared, CAP)) == size
        else:
            with pytest.raises(ExpandedTooLargeError):
                unpack(body, declared, CAP)
