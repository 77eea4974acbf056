"""What receivers are sent: alarms of the status page as problems, and messages as plain text and as JSON.

Texts come from the page's catalogues. They hold account ids, counts, times and reasons that went through the
redaction: no number of a person, no secret.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from ulak.api.pages.alarms import Alarm
from ulak.api.pages.language import Language
from ulak.api.pages.rendering import Show
from ulak.core.plain_text import one_line
from ulak.core.redaction import redact_text
from ulak.models.problems import DATABASE_AWAY, NOT_EVALUATED, Problem, State
from ulak.providers.errors import as_sentence

MAX_ITEMS: Final = 30
"""A text names at most so many; the JSON holds all of them."""
MAX_SUBJECT_LENGTH: Final = 150
_SAME: Final[Mapping[str, str]] = MappingProxyType(
    {"probing": "breaker", "paused_until": "paused", "fruitless_ever": "fruitless"}
)
"""Kinds of alarms that are one problem at different moments."""


def problems_of(alarms: Iterable[Alarm], language: Language) -> list[Problem]:
    """Each alarm as a problem, with its texts."""
    return [_problem(alarm, language) for alarm in alarms]


def database_away(language: Language) -> Problem:
    """What can only be sent without the database."""
    return _problem(Alarm(kind=DATABASE_AWAY, severity="bad"), language)


def not_evaluated(language: Language) -> Problem:
    """The problem that problems cannot be evaluated."""
    return _problem(Alarm(kind=NOT_EVALUATED, severity="bad"), language)


def _problem(alarm: Alarm, language: Language) -> Problem:
    kind = _SAME.get(alarm.kind, alarm.kind)
    values = {name: _plain(value, name, language) for name, value in alarm.values.items()}
    return Problem(
        key=kind if alarm.account is None else f"{kind}:{alarm.account}",
        kind=kind,
        severity=alarm.severity,
        account=alarm.account,
        summary=one_line(language.say(f"alarm.{alarm.kind}", **values)),
        advice=one_line(language.say(f"alarm.{alarm.fix}.fix")),
    )


def _plain(value: Any, name: str, language: Language) -> Any:
    """A value of an alarm's text; a message is read later, so its times are moments."""
    if isinstance(value, datetime):
        return _moment(value, language)
    if name == "span":
        return Show(language).span(value)
    return redact_text(as_sentence(value)) if name == "reason" else value


def _moment(moment: datetime, language: Language) -> str:
    return language.say("time.utc", when=f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to a receiver."""

    id: str
    """Stable over all attempts."""
    items: Sequence[Mapping[str, Any]]
    """As `ulak.models.problems.Change.item` makes them; none in a test."""
    created_at: datetime
    language: Language
    page: str | None = None
    """Where the status page is."""

    def subject(self) -> str:
        """One line."""
        say = self.language.say
        if not self.items:
            return say("notify.test")
        first, more = self.items[0], len(self.items) - 1
        text = first["summary"] if first["state"] == State.OPEN else say("notify.over", summary=first["summary"])
        line = one_line(f"Ulak: {text}")
        ending = say("notify.more", n=more) if more else ""
        cut = (
            line if len(line) + len(ending) < MAX_SUBJECT_LENGTH else line[: MAX_SUBJECT_LENGTH - len(ending) - 2] + "…"
        )
        return f"{cut} {ending}".strip()

    def text(self) -> str:
        """What happened and what to do, in lines."""
        if not self.items:
            return self.language.say("notify.test.why")
        lines: list[str] = []
        for item in self.items[:MAX_ITEMS]:
            lines += self._lines(item)
        if len(self.items) > MAX_ITEMS:
            lines.append(self.language.say("notify.more", n=len(self.items) - MAX_ITEMS))
        if self.page is not None:
            lines.append(self.language.say("notify.page", url=self.page))
        return "\n".join(lines)

    def _lines(self, item: Mapping[str, Any]) -> list[str]:
        say = self.language.say
        since = _moment(datetime.fromisoformat(item["since"]), self.language)
        if item["state"] == State.OPEN:
            severity = say(f"alarm.{item['severity']}")
            what = [f"{severity}: {item['summary']}", f"{say('alarm.fix')} {item['advice']}"]
            return [*what, say("notify.since", since=since), ""]
        key = "notify.over" if item["state"] == State.RESOLVED else "notify.passed"
        until = _moment(datetime.fromisoformat(item["until"]), self.language)
        return [say(key, summary=item["summary"]), say("notify.span", since=since, until=until), ""]

    def document(self) -> dict[str, Any]:
        """As a webhook gets it: `type`, `timestamp` and `data`, as Standard Webhooks recommends."""
        kind = "ulak.problems" if self.items else "ulak.test"
        data = {"subject": self.subject(), "problems": [dict(item) for item in self.items], "page": self.page}
        return {"type": kind, "timestamp": self.created_at.astimezone(UTC).isoformat(), "data": data}

    def body(self) -> bytes:
        """The same as bytes."""
        return json.dumps(self.document(), ensure_ascii=False, separators=(",", ":")).encode()
