"""The language of a page, and its texts. Every text is in a catalogue, none in a template or in code."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from markupsafe import Markup, escape

from ulak.api.pages import texts_en, texts_tr, tooltips
from ulak.api.pages.formats import number

CATALOGUES: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {"en": {**texts_en.TEXTS, **tooltips.ENGLISH}, "tr": {**texts_tr.TEXTS, **tooltips.TURKISH}}
)
DEFAULT: Final = "en"
ONE: Final = ".one"
"""Ends the key of the text for exactly one `n`."""
_MAX_CONSIDERED = 20
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Language:
    """The texts of one language."""

    code: str

    def say(self, key: str, /, **values: object) -> str:
        """The text with its values; KeyError for a key that is in no catalogue."""
        return self._pattern(key, values).format(**self._shown(values))

    def html(self, key: str, /, **values: object) -> Markup:
        """The text as HTML: values are escaped unless they are `Markup` themselves; `…` in backticks becomes code."""
        pattern = _CODE.sub(r"<code>\1</code>", str(escape(self._pattern(key, values))))
        return Markup(pattern).format(**self._shown(values))  # noqa: S704 - the pattern is a text of ours, escaped

    def word(self, group: str, code: str) -> str:
        """The word for a code of ours (`status`, `sent`); the code itself where there is no text for it."""
        return CATALOGUES[self.code].get(f"{group}.{code.replace(' ', '_')}", code)

    def meaning(self, group: str, code: str) -> str:
        """What a word of ours or a column (`field`) means, as a sentence; empty where there is none."""
        return CATALOGUES[self.code].get(f"means.{group}.{code}", "")

    def _shown(self, values: Mapping[str, object]) -> dict[str, object]:
        """Whole numbers as the language writes them; what is a name (an id) is given as text."""
        return {name: number(self.code, each) if type(each) is int else each for name, each in values.items()}

    def _pattern(self, key: str, values: Mapping[str, object]) -> str:
        texts = CATALOGUES[self.code]
        one = texts.get(key + ONE) if values.get("n") == 1 else None
        return texts[key] if one is None else one


def choose(chosen: str | None, accepted: str | None) -> Language:
    """What was chosen with the switch, else the best of an Accept-Language header that there is."""
    if chosen is not None and chosen in CATALOGUES:
        return Language(chosen)
    found = (code for _, code in sorted(_wanted(accepted or ""), reverse=True) if code in CATALOGUES)
    return Language(next(found, DEFAULT))


def _wanted(header: str) -> list[tuple[float, str]]:
    """(weight, primary code); of equal weights the first one named comes out on top."""
    wanted = []
    for place, part in enumerate(header.split(",")[:_MAX_CONSIDERED]):
        tag, _, rest = part.strip().partition(";")
        try:
            weight = float(rest.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        if weight > 0:
            wanted.append((weight - place / 10_000, tag.strip().lower().partition("-")[0]))
    return wanted
