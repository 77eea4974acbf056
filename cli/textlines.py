"""Lines of text from files as people save them: any usual end of line, UTF-8, or UTF-16 with a byte order mark."""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final

SAVE_AS: Final = 'save it as UTF-8 (in Excel: "CSV UTF-8 (Comma delimited)") and register it again'
_BOMS: Final = (
    # The mark of UTF-32 begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LONE_RETURN: Final = re.compile(r"(?<=\r)(?!\n|$)")


class NoTextError(Exception):
    """The file is not text; the message says how to save it."""


def text_lines(lines: Iterable[bytes], tell: Callable[[str], None]) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its end) of a file whose bytes come in pieces that end with a line feed.

    UTF-16 and UTF-32 are known by their byte order mark, everything else is UTF-8. `tell` gets one sentence where bytes
    are none: which they were meant to be cannot be known, so they become U+FFFD. Raises `NoTextError`.
    """
    pieces = iter(lines)
    first = next(pieces, b"")
    wide = next((name for mark, name in _BOMS if first.startswith(mark)), None)
    texts = _decoded(chain((first,), pieces), wide) if wide else _utf8(chain((first,), pieces), tell)
    number = 0
    for text in texts:
        for line in _LONE_RETURN.split(text) if "\r" in text else (text,):
            number += 1
            yield number, line


def _utf8(pieces: Iterable[bytes], tell: Callable[[str], None]) -> Iterator[str]:
    is_told = False
    for number, piece in enumerate(pieces, 1):
        if number == 1 and b"\0" in piece:
            raise NoTextError(f"The file is UTF-16 without a byte order mark, or no text: {SAVE_AS}.")
        try:
            text = piece.decode("utf-8")
        except UnicodeDecodeError:
            text = piece.decode("utf-8", "replace")
            if not is_told:
                is_told = True
                tell(f"The file is not UTF-8, as line {number} shows: {SAVE_AS}.")
        yield text.removeprefix("\ufeff") if number == 1 else text


def _decoded(pieces: Iterable[bytes], encoding: str) -> Iterator[str]:
    """Lines of an encoding in which a line feed is more than one byte."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    rest = ""
    for piece in pieces:
        *whole, rest = re.split(r"(?<=\n)", rest + decoder.decode(piece))
        yield from whole
    *whole, rest = re.split(r"(?<=\n)", rest + decoder.decode(b"", final=True))
    yield from whole
    if rest:
        yield rest
