"""Undoing HTTP content codings (RFC 9110, section 8.4) under a size cap, for answers and for received bodies alike.

Supported: gzip (`x-gzip`) with all its members (RFC 1952, section 2.2), deflate (zlib, and the raw form that some
servers send under this name), and several of them stacked.
"""

import zlib
from typing import Final

SUPPORTED: Final = "gzip, deflate"
"""For `Accept-Encoding`."""

_GZIP: Final = frozenset({"gzip", "x-gzip"})
_NAMED: Final = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip", "aes128gcm"})
"""Registered codings that are not supported; any other name is a stranger's text and is not repeated."""
_MAX_CODINGS: Final = 4
_MAX_MEMBERS: Final = 100_000
"""A member takes 20 bytes at least and some microseconds each, however little it holds."""
_FIRST_PIECE: Final = 512
_MAX_PIECE: Final = 64 * 1024
_ANY_ZLIB: Final = zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS
_ANY_GZIP: Final = 16 + zlib.MAX_WBITS


class ContentCodingError(Exception):
    """A body cannot be unpacked. `sentence(subject)` gives the reason without repeating the body."""

    def __init__(self, message: str) -> None:
        """`message`: a sentence in which `{}` is the body's name."""
        super().__init__(message)
        self._message = message

    def sentence(self, subject: str) -> str:
        """Why; `subject` is `answer` or `body`."""
        return self._message.format(subject)


class UnsupportedCodingError(ContentCodingError):
    """The declared coding is not one of those above."""


class BrokenCodingError(ContentCodingError):
    """The bytes do not match the declared coding: another format, cut off, or followed by further bytes."""


class ExpandedTooLargeError(ContentCodingError):
    """Unpacked it is larger than the cap."""


def is_packed(declared: str | None) -> bool:
    """Whether `Content-Encoding` (all its lines joined by commas) declares anything but identity."""
    return bool(_codings(declared))


def unpack(body: bytes, declared: str | None, cap: int) -> bytes:
    """`body` with the codings that `Content-Encoding` declares undone, the last one first.

    At most `cap` bytes (plus one piece) are held at any step, so a decompression bomb is never expanded. An empty
    body is empty under every coding. Raises one of the three errors above.
    """
    codings = _codings(declared)
    if not body or not codings:
        return body
    unsupported = [name for name in codings if name not in _GZIP and name != "deflate"]
    if unsupported or len(codings) > _MAX_CODINGS:
        named = next((name for name in unsupported if name in _NAMED), None)
        what = f"as {named}" if named else "in an unknown way" if unsupported else "too many times"
        raise UnsupportedCodingError(f"The {{}} is packed {what}; only gzip and deflate are supported.")
    for coding in reversed(codings):
        body = _gunzip(body, cap) if coding in _GZIP else _inflate(body, cap)
    return body


def _codings(declared: str | None) -> list[str]:
    """The names in the order in which they were applied, in lower case; identity means nothing."""
    names = (name.strip().lower() for name in (declared or "").split(","))
    return [name for name in names if name not in {"", "identity"}]


def _gunzip(body: bytes, cap: int) -> bytes:
    """All members of a gzip stream, one after the other; whatever follows the last one is an error."""
    plain, at = bytearray(), 0
    for _ in range(_MAX_MEMBERS):
        if at and not body.startswith(b"\x1f\x8b", at):
            raise BrokenCodingError("The packed {} is followed by bytes that do not belong to it.")
        at = _member(body, at, _ANY_GZIP, plain, cap)
        if at == len(body):
            return bytes(plain)
    raise BrokenCodingError(f"The packed {{}} has more than {_MAX_MEMBERS} members.")


def _inflate(body: bytes, cap: int) -> bytes:
    """A zlib stream, as the standard requires, or a raw one, as some servers send."""
    for bits in (_ANY_ZLIB, _RAW):
        plain = bytearray()
        try:
            end = _member(body, 0, bits, plain, cap)
        except BrokenCodingError:
            if bits == _RAW or _is_zlib(body):
                raise
            continue
        if end == len(body):
            return bytes(plain)
        if bits == _RAW or _is_zlib(body):
            break
    raise BrokenCodingError("The packed {} is followed by bytes that do not belong to it.")


def _is_zlib(body: bytes) -> bool:
    """Whether it begins with zlib's header (RFC 1950, section 2.2), a checksum included."""
    return len(body) > 1 and body[0] & 0x0F == zlib.DEFLATED and int.from_bytes(body[:2]) % 31 == 0


def _member(body: bytes, at: int, bits: int, plain: bytearray, cap: int) -> int:
    """Unpack one stream that begins at `at` to the end of `plain`; returns where it ends."""
    stream, size = zlib.decompressobj(bits), _FIRST_PIECE
    view = memoryview(body)
    while at < len(body):
        # The pieces grow, so that a body of very many small members is not copied once for each.
        piece = view[at : at + size]
        try:
            plain += stream.decompress(piece, cap + 1 - len(plain))
        except zlib.error:
            raise BrokenCodingError("The {} says that it is packed, but it is not.") from None
        if len(plain) > cap:
            raise ExpandedTooLargeError(f"The {{}} is larger than {cap} bytes.")
        at += len(piece) - len(stream.unused_data)
        if stream.eof:
            return at
        size = min(4 * size, _MAX_PIECE)
    raise BrokenCodingError("The packed {} broke off.")
