"""An adapter's output with pseudonyms in place of people: for accounts with `recipients = "hashed"`.

Adapters work with clear numbers, which requests need. What they make of a response passes through here before anything
of it is stored, so no adapter knows of pseudonyms, except that it takes any text as a recipient. A repeated statement
stays the same observation, and what is made of a stored statement again comes out the same.

Requests keep their clear parameters, and sealed bytes are sealed as they came.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from ulak.models.keys import join_key, split_key
from ulak.models.pseudonyms import holds_pseudonym, is_pseudonym
from ulak.models.report import AmbiguousReport, DeliveryReport, NewId, Report, TrackedKey
from ulak.models.vocabulary import Granularity
from ulak.providers.adapter import FetchSpec, Parsed, ProviderRecord
from ulak.providers.phone_numbers import e164, lookup_form, recipient

_RUN: Final = re.compile(r"[+(]?[0-9][0-9 ().\-/]{5,}[0-9]")
_MIN_DIGITS: Final = 7
_PARTS_OF_MESSAGE: Final = 3
_PARTS_OF_CONVERSATION: Final = 4


@dataclass(frozen=True, slots=True)
class Pseudonymiser:
    """Replaces people in what one provider's adapter makes of its responses."""

    record: ProviderRecord
    pseudonym: Callable[[str], str] = field(repr=False)
    """What replaces a person; a pseudonym is returned unchanged."""

    def parsed(self, parsed: Parsed) -> Parsed:
        """A parsed response with pseudonyms.

        `discovered` keeps its ids clear, to be hidden where they are stored (`new_id`), and `seen` is needed as it
        is while further pages of its chain are read.
        """
        ambiguous = tuple(self._ambiguous_report(ambiguous_report) for ambiguous_report in parsed.ambiguous)
        return replace(
            parsed,
            reports=self.reports(parsed.reports),
            children=tuple(self.spec(each) for each in parsed.children),
            answers=tuple(replace(each, key=self.tracked(each.key)) for each in parsed.answers),
            unreadable=tuple(
                each
                if each.provider_key is None
                else replace(each, provider_key=self._keys_of(parsed.reports).get(each.provider_key, each.provider_key))
                for each in parsed.unreadable
            ),
            ambiguous=ambiguous,
        )

    def reports(self, reports: Sequence[Report]) -> tuple[Report, ...]:
        """These reports, each as `report`."""
        return tuple(map(self.report, reports))

    def report(self, report: Report) -> DeliveryReport:
        """A report without the people it is about, in its key, recipient and provider fields.

        A pure function of the report, whatever came with it. The sender's own reference stays.
        """
        people = _people_of(report)
        found = {number[1:]: number for each in people if (number := lookup_form(each)) is not None}
        parent = report.parent_key
        is_person = parent is not None and report.granularity is Granularity.CONVERSATION
        full = report.in_full()
        return msgspec.structs.replace(
            full,
            provider_key=self.key(report.granularity, report.provider_key, people),
            parent_key=self.pseudonym(parent) if is_person and parent is not None else parent,
            recipient=None if report.recipient is None else self.pseudonym(report.recipient),
            provider_status=self._text(full.provider_status, found),
            provider_error=None if full.provider_error is None else self._text(full.provider_error, found),
            extra=self._fields(full.extra, people, found),
            statement=self._fields(full.statement, people, found),
            tracked=None if report.tracked is None else self.tracked(report.tracked),
        )

    def key(self, granularity: Granularity, key: str, people: Sequence[str] = ()) -> str:
        """The key of a delivery about these people; without them, the parts of the usual forms that name one."""
        parts = split_key(key)
        if granularity is Granularity.CONVERSATION:
            named = {0, 1} if len(parts) == _PARTS_OF_CONVERSATION else set()
        elif granularity is Granularity.MESSAGE and len(parts) == _PARTS_OF_MESSAGE:
            is_named = not people or parts[1] in people or is_pseudonym(parts[1]) or e164(parts[1]) == parts[1]
            named = {1} if is_named else set()
        else:
            named = set()
        return self._replaced(key, named)

    def tracked(self, key: TrackedKey) -> TrackedKey:
        """The stored form of a tracked id."""
        kind = key.id_kind
        granularity = self.record.reference_kinds.get(kind)
        if granularity is not None:
            value = self.key(granularity, key.value)
        else:
            place = self.record.phone_key_part.get(kind, self.record.person_part.get(kind))
            value = key.value if place is None else self._replaced(key.value, {place})
        return key if value == key.value else msgspec.structs.replace(key, value=value)

    def named(self, item: Mapping[str, str]) -> dict[str, str]:
        """An id (kind, value) that a poll names, in its stored form."""
        return {**item, "value": self.tracked(TrackedKey(id_kind=item["kind"], value=item["value"])).value}

    def new_id(self, clear: NewId) -> NewId:
        """An id to be tracked in its stored form, with what requests need beside it (`clear`)."""
        value = self.tracked(TrackedKey(id_kind=clear.id_kind, value=clear.value)).value
        recipient = None if clear.recipient is None else self.pseudonym(clear.recipient)
        pairs = {"value": (clear.value, value), "recipient": (clear.recipient, recipient)}
        needed = {name: given for name, (given, hidden) in pairs.items() if given and given != hidden}
        return replace(clear, value=value, recipient=recipient, clear=needed or None)

    def spec(self, spec: FetchSpec) -> FetchSpec:
        """A fetch with the stored forms of the ids that it asks for; its parameters stay."""
        return replace(spec, ids=tuple(map(self.tracked, spec.ids)))

    def _ambiguous_report(self, ambiguous_report: AmbiguousReport) -> AmbiguousReport:
        report = None if ambiguous_report.report is None else self.report(ambiguous_report.report)
        people = () if ambiguous_report.report is None else _people_of(ambiguous_report.report)
        return replace(
            ambiguous_report,
            report=report,
            twin_key=self.key(Granularity.MESSAGE, ambiguous_report.twin_key, people),
            ask=self.tracked(ambiguous_report.ask),
        )

    def _keys_of(self, reports: Iterable[Report]) -> dict[str, str]:
        return {each.provider_key: self.key(each.granularity, each.provider_key, _people_of(each)) for each in reports}

    def _replaced(self, key: str, places: set[int]) -> str:
        if not places:
            return key
        parts = split_key(key)
        return join_key(*(self.pseudonym(part) if place in places else part for place, part in enumerate(parts)))

    def _fields(self, fields: Mapping[str, Any], people: Sequence[str], found: Mapping[str, str]) -> dict[str, Any]:
        return {str(name): self._value(str(name), value, people, found) for name, value in fields.items()}

    def _value(self, name: str, value: Any, people: Sequence[str], found: Mapping[str, str]) -> Any:
        """`name`: of the field that holds it, however deep."""
        if isinstance(value, Mapping):
            is_person = name in self.record.person_fields
            return {
                str(inner): self._value(name if is_person else str(inner), each, people, found)
                for inner, each in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._value(name, each, people, found) for each in value]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return value
        if name in self.record.person_fields:
            return self._person(str(value), people)
        if isinstance(value, str):
            return self._text(value, found)
        text = str(value)
        shown = self._text(text, found) if len(text) >= _MIN_DIGITS and found else text
        return value if shown == text else shown

    def _person(self, text: str, people: Sequence[str]) -> str:
        """The pseudonym for the person in a field, in any spelling; other fields are unchanged."""
        if not text.strip():
            return text
        spellings = text, text.strip(), recipient(text), recipient(text, foreign=True)
        named = next((each for each in people if each in spellings), None)
        return self.pseudonym(named if named is not None else recipient(text.strip()))

    def _text(self, text: str, found: Mapping[str, str]) -> str:
        """The text without these numbers."""
        if not found or len(text) < _MIN_DIGITS or holds_pseudonym(text):
            return text
        return _RUN.sub(lambda run: self._run(run[0], found), text)

    def _run(self, run: str, found: Mapping[str, str]) -> str:
        number = e164(run) or lookup_form(run)
        return run if number is None or number[1:] not in found else self.pseudonym(found[number[1:]])


def _people_of(report: Report) -> list[str]:
    """Whom the report is about, as its key names them."""
    people = [report.recipient]
    if report.granularity is Granularity.CONVERSATION:
        people += [report.parent_key, *split_key(report.provider_key)[:2]]
    return list(dict.fromkeys(each for each in people if each))
