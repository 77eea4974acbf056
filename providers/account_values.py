"""Reading one table of `accounts.toml` value by value, with each mistake noted and a default in its place."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ulak.providers.toml_lines import LineIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One thing that is wrong in the file."""

    line: int
    """From 1."""
    account: str
    """The account's id, `#2` for the second account where the id is not usable, empty for the file itself."""
    where: str
    """The key, dotted: `limit.requests`."""
    problem: str
    right: str

    def __str__(self) -> str:
        """One line for people, without the place."""
        subject = " ".join(part for part in (self.account, self.where) if part)
        return f"{subject + ': ' if subject else ''}{self.problem}; right would be: {self.right}"


class Section:
    """One account's table, or a table within it."""

    def __init__(
        self,
        table: dict[str, Any],
        *,
        place: int,
        lines: LineIndex,
        mistakes: list[Mistake],
        path: tuple[str, ...] = (),
        account: str | None = None,
    ) -> None:
        """`place`: which account of the file, from 1. `mistakes`: shared by all, filled as values are read."""
        self._table = table
        self._place = place
        self._lines = lines
        self._mistakes = mistakes
        self._path = path
        name = table.get("id")
        self._account = account or (name if isinstance(name, str) and name else f"#{place}")
        self._asked: set[str] = set()

    def names(self) -> list[str]:
        """The keys that are there."""
        return list(self._table)

    def take(self, name: str, default: Any) -> Any:
        """The value as written, or the default."""
        self._asked.add(name)
        return self._table.get(name, default)

    def wrong(self, name: str, problem: str, right: str) -> None:
        """Note a mistake of the key `name` (empty: of this table). Neither sentence may repeat the value."""
        path = (*self._path, name) if name else self._path
        self._mistakes.append(
            Mistake(
                line=self._lines.line(self._place, *path),
                account=self._account,
                where=".".join(path),
                problem=problem,
                right=right,
            )
        )

    def section(self, name: str) -> "Section":
        """The table `name` within this one; an empty one where it is missing or no table."""
        table = self.take(name, {})
        if not isinstance(table, dict):
            self.wrong(name, "it is not a table", f"[{'.'.join(('account', *self._path, name))}]")
            table = {}
        path = (*self._path, name)
        return Section(
            table, place=self._place, lines=self._lines, mistakes=self._mistakes, path=path, account=self._account
        )

    def word(self, name: str, *, choices: tuple[str, ...]) -> str:
        """One of `choices`; empty where it is not."""
        value = self.take(name, None)
        if value in choices:
            return str(value)
        problem = "it is missing" if value is None else "it is not known"
        self.wrong(name, problem, self.nearest(value, choices))
        return ""

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self.take(name, default)
        if isinstance(value, bool):
            return value
        self.wrong(name, "it is neither true nor false", f"{name} = true or {name} = false, without quotes")
        return default

    def whole(self, name: str, default: int, *, minimum: float | None = None, maximum: float | None = None) -> int:
        """A whole number within its bounds."""
        value = self.take(name, default)
        if isinstance(value, int) and not isinstance(value, bool) and _within(value, minimum, None, maximum):
            return value
        self.wrong(name, "it is no number within its bounds", f"a whole number{_bounds(minimum, None, maximum)}")
        return default

    def number(
        self,
        name: str,
        default: float,
        *,
        minimum: float | None = None,
        above: float | None = None,
        maximum: float | None = None,
    ) -> float:
        """A number, whole or not, within its bounds."""
        value = self.take(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and math.isfinite(value) and _within(value, minimum, above, maximum):
            return float(value)
        self.wrong(
            name, "it is no number within its bounds", f"a number{_bounds(minimum, above, maximum)}, without quotes"
        )
        return default

    def maybe_number(
        self, name: str, *, minimum: float | None = None, above: float | None = None, maximum: float | None = None
    ) -> float | None:
        """A number, or None where there is none."""
        if name not in self._table:
            self._asked.add(name)
            return None
        return self.number(name, math.nan, minimum=minimum, above=above, maximum=maximum)

    def skip(self) -> None:
        """Do not ask what the keys mean: the provider is unknown."""
        self._asked.update(self._table)

    def refuse_others(self) -> None:
        """Report every unknown key, with the nearest known one."""
        for name in self._table:
            if name not in self._asked:
                self.wrong(name, "it is not known", self.nearest(name, self._asked))

    @staticmethod
    def nearest(given: Any, known: Iterable[str]) -> str:
        """What was probably meant; otherwise the whole list where it is short."""
        names = sorted(known) if not isinstance(known, tuple) else list(known)
        close = difflib.get_close_matches(str(given), names, n=1, cutoff=0.6)
        if close:
            return str(close[0])
        return "one of " + ", ".join(names[:12]) + (", …" if len(names) > 12 else "")  # noqa: PLR2004


def _within(value: float, minimum: float | None, above: float | None, maximum: float | None) -> bool:
    """Whether the bounds hold."""
    return (
        (minimum is None or value >= minimum)
        and (above is None or value > above)
        and (maximum is None or value <= maximum)
    )


def _bounds(minimum: float | None, above: float | None, maximum: float | None) -> str:
    """The bounds in words."""
    words = [
        f"{word} {int(bound) if bound == int(bound) else bound}"
        for word, bound in (("at least", minimum), ("above", above), ("at most", maximum))
        if bound is not None
    ]
    return (" " + ", ".join(words)) if words else ""
