"""Line numbers of keys in `accounts.toml`: `tomllib` returns values, not positions.

A scanner for pointing a person to a line, not a parser: where it does not find a key it names the line of the table
around it.
"""

import re

_ACCOUNT = re.compile(r"\s*\[\[\s*account\s*\]\]")
_HEADER = re.compile(r"\s*\[+\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=(.*)")
_INLINE_KEY = re.compile(r"[{,]\s*([\w-]+)\s*=")
_LONG_TEXT = re.compile("'''|\"\"\"")

Path = tuple[str, ...]


class LineIndex:
    """The lines of a file's accounts and of their keys, both counted as people and as the file do."""

    def __init__(self, text: str) -> None:
        """`text`: the whole file."""
        self._lines: dict[tuple[int, Path], int] = {}
        self._outside: dict[str, int] = {}
        self._account = 0
        self._table: Path | None = None
        in_long_text = False
        for number, line in enumerate(text.splitlines(), 1):
            if not in_long_text:
                self._note(number, line)
            in_long_text ^= len(_LONG_TEXT.findall(line)) % 2 == 1

    def line(self, account: int, *path: str) -> int:
        """The line of a key of the `account`th account (from 1), or of the nearest thing around it."""
        for length in range(len(path), -1, -1):
            if (found := self._lines.get((account, path[:length]))) is not None:
                return found
        return 1

    def line_outside(self, name: str) -> int:
        """The line of a key or table that is no part of an account."""
        return self._outside.get(name, 1)

    def _note(self, number: int, line: str) -> None:
        """Record the keys of a line."""
        if _ACCOUNT.match(line):
            self._account += 1
            self._table = ()
            self._lines[self._account, ()] = number
        elif header := _HEADER.match(line):
            self._note_header(number, _parts(header[1]))
        elif key := _KEY.match(line):
            self._note_key(number, _parts(key[1]), key[2])

    def _note_header(self, number: int, parts: Path) -> None:
        """A table: of the account above it, or of none."""
        if parts[0] == "account" and self._account:
            self._table = parts[1:]
            self._lines.setdefault((self._account, self._table), number)
        else:
            self._table = None
            self._outside.setdefault(parts[0], number)

    def _note_key(self, number: int, parts: Path, rest: str) -> None:
        """A key, and those of an inline table behind it."""
        if self._table is None:
            self._outside.setdefault(parts[0], number)
            return
        path = self._table + parts
        for length in range(1, len(path) + 1):
            self._lines.setdefault((self._account, path[:length]), number)
        if rest.lstrip().startswith("{"):
            for name in _INLINE_KEY.findall(rest):
                self._lines.setdefault((self._account, (*path, name)), number)


def _parts(dotted: str) -> Path:
    """The names of a dotted key."""
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
