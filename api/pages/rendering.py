"""How values look on a page: times, spans, masked numbers; and the templates that use them."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ulak.api.masking import mask
from ulak.api.pages import formats
from ulak.api.pages.alarms import Alarm
from ulak.api.pages.language import CATALOGUES, Language
from ulak.core import clock
from ulak.core.plain_text import without_bidi
from ulak.core.redaction import redact_text
from ulak.providers.codes import with_meaning
from ulak.providers.errors import as_sentence

HERE: Final = Path(__file__).parent
STATIC: Final = HERE / "static"
_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60))
_TIME_WORDS: Final = ("time.ago", "time.in", "time.now", "span.s", "span.min", "span.h", "span.d")


@dataclass(frozen=True, slots=True)
class Show:
    """Values as people of one language read them, times in a named zone. Given to every template as `show`."""

    language: Language
    zones: Mapping[str, str] = field(default_factory=dict)
    """The time zone of each account that the reader may see."""

    @property
    def zone(self) -> str:
        """The zone of the page's times: that of most accounts."""
        many = Counter(self.zones.values())
        return min(many, key=lambda zone: (-many[zone], zone)) if many else "UTC"

    def zone_of(self, account: str | None) -> str:
        """The zone of an account's times; without one the page's."""
        return self.zones.get(account or "", self.zone)

    def zone_name(self, account: str | None = None) -> str:
        """The zone with its present offset from UTC."""
        return formats.zone_name(self.zone_of(account), clock.now())

    def number(self, value: float | Decimal | None) -> str:
        """A number, grouped as the language does; nothing for None."""
        return "" if value is None else formats.number(self.language.code, value)

    def percent(self, part: float | None) -> str:
        """A part of one as a percentage; a dash where there is none."""
        return "–" if part is None else formats.percent(self.language.code, part)

    def points(self, difference: float) -> str:
        """A difference of two parts in percentage points, with its sign."""
        return formats.points(self.language.code, difference)

    def day(self, when: date) -> str:
        """A calendar day."""
        return formats.day(self.language.code, when)

    def short_day(self, when: date) -> str:
        """A calendar day of the last weeks, with its weekday."""
        return formats.short_day(self.language.code, when)

    def span(self, seconds: float) -> str:
        """A duration in its largest unit, rounded down."""
        for unit, length in _UNITS:
            if seconds >= length:
                return self.language.say(f"span.{unit}", n=int(seconds // length))
        return self.language.say("span.s", n=int(max(0.0, seconds)))

    def relative(self, moment: datetime) -> Markup:
        """How long ago, or in how long; a script keeps it up to date."""
        seconds = (moment - clock.now()).total_seconds()
        key = "time.now" if abs(seconds) < 1 else "time.in" if seconds > 0 else "time.ago"
        shown = self.language.say(key, span=self.span(abs(seconds)))
        return self._time(moment, shown, "relative")

    def moment(self, moment: datetime, account: str | None = None) -> Markup:
        """The moment itself, in the zone of the account or of the page, which is named where the two differ."""
        zone = self.zone_of(account)
        shown = formats.moment(self.language.code, moment, zone, clock.now())
        return self._time(moment, shown if zone == self.zone else f"{shown} {zone}", "moment")

    def clock_time(self, moment: datetime) -> Markup:
        """The time of the day alone, for a list of what has just happened."""
        return self._time(moment, formats.clock_time(self.language.code, moment, self.zone), "moment")

    def hour(self, when: datetime, account: str | None = None) -> str:
        """An hour of a day, in the zone of the account or of the page."""
        return formats.hour(self.language.code, when, self.zone_of(account))

    def alarm(self, alarm: Alarm) -> Markup:
        """What is wrong, as a sentence."""
        shown = {name: self._alarm_value(name, value) for name, value in alarm.values.items()}
        return self.language.html(f"alarm.{alarm.kind}", **shown)

    def value(self, name: str, value: Any, account: str | None = None) -> Any:
        """A column of a delivery of that account."""
        if isinstance(value, datetime):
            return self.moment(value, account)
        if isinstance(value, Decimal | float | int):
            return self.number(value)
        if name in {"status", "reason", "granularity", "message_time_source"}:
            return self.language.word(name, value)
        return value

    def meaning(self, group: str, code: str) -> str:
        """What a word of ours or a column (`field`) means, for a tooltip."""
        return self.language.meaning(group, code)

    def times(self) -> str:
        """What the script needs to format times in this language."""
        return json.dumps({key: CATALOGUES[self.language.code][key] for key in _TIME_WORDS}, ensure_ascii=False)

    def _alarm_value(self, name: str, value: Any) -> Any:
        if isinstance(value, datetime):
            return self.relative(value)
        if name == "span":
            return self.span(value)
        if name == "account":
            return Markup('<a href="/accounts/{0}">{0}</a>').format(value)
        return redact_text(as_sentence(value)) if name == "reason" else value

    def _utc(self, moment: datetime) -> str:
        return self.language.say("time.utc", when=f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}")

    def _time(self, moment: datetime, shown: str, how: str) -> Markup:
        stamp = moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return Markup('<time datetime="{}" title="{}" data-{}>{}</time>').format(stamp, self._utc(moment), how, shown)


def scrub(text: str | None) -> str:
    """Text of others in a list: numbers and secrets in it are masked."""
    return redact_text(text) if text else ""


def tone(status: str) -> str:
    """The colour of a status or state: good, bad, open or plain."""
    tones: Mapping[str, str] = {
        "good": "ok delivered read complete sent",
        "bad": "undeliverable expired rejected unknown breaker_open complete_with_errors partially_delivered",
        "open": "scheduled enroute running throttled paused",
    }
    word = status.replace(" ", "_")
    return next((name for name, words in tones.items() if word in words.split()), "plain")


def pretty(value: Any) -> str:
    """A statement as indented JSON."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=_plain)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime | date) else str(value)


def environment() -> Environment:
    """The templates. An undefined name is an error, and every value is escaped."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_in_order,
    )
    made.filters.update(mask=mask, scrub=scrub, tone=tone, pretty=pretty, code=with_meaning, sentence=as_sentence)
    made.globals.update(languages=tuple(CATALOGUES), static=_static_addresses())
    return made


def _in_order(value: Any) -> Any:
    """A value of a template, without characters that would turn the text around it."""
    if isinstance(value, Markup):
        return Markup(without_bidi(value))  # noqa: S704 - it was markup before
    return without_bidi(value) if isinstance(value, str) else value


def _static_addresses() -> dict[str, str]:
    """Each file by name, with its content in the address: a browser keeps it until it changes."""
    return {
        path.name: f"/static/{path.name}?v={sha256(path.read_bytes()).hexdigest()[:12]}"
        for path in sorted(STATIC.iterdir())
        if path.is_file()
    }
