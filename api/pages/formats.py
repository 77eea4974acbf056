"""Numbers, days and times as readers of one language write them, in a named time zone. Babel knows how."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final

from babel import dates, numbers

from ulak.core.time_zones import time_zone

LOCALES: Final[Mapping[str, str]] = {"en": "en_GB", "tr": "tr_TR"}
"""Of each language of the page. English as it is written outside the United States: day before month, 24 hours."""
_MOMENT: Final = "d MMM y, HH:mm:ss"
_MOMENT_OF_THIS_YEAR: Final = "d MMM, HH:mm:ss"
_CLOCK: Final = "HH:mm:ss"
_HOUR: Final = "HH:mm"
_DAY: Final = "d MMM y"
_SHORT_DAY: Final = "EEE d MMM"
_PERCENTS: Final[Mapping[str, str]] = {"tr": "%#,##0.0"}
"""Where the sign of a percentage does not come last."""


def number(language: str, value: float | Decimal) -> str:
    """`1,809` or `1.809`; fractions keep three places."""
    return numbers.format_decimal(value, locale=LOCALES[language])


def percent(language: str, part: float) -> str:
    """A part of one, with one place: `92.3%` or `%92,3`."""
    return numbers.format_percent(part, _PERCENTS.get(language, "#,##0.0%"), locale=LOCALES[language])


def points(language: str, difference: float) -> str:
    """A difference between two percentages, with its sign: `−3.1`."""
    return numbers.format_decimal(difference * 100, "+#,##0.0;−#,##0.0", locale=LOCALES[language])


def moment(language: str, when: datetime, zone: str, now: datetime) -> str:
    """`27 Nov, 14:03:22` in that zone, with the year where it is another one than now."""
    is_this_year = local_day(when, zone).year == local_day(now, zone).year
    return _in_zone(language, when, zone, _MOMENT_OF_THIS_YEAR if is_this_year else _MOMENT)


def clock_time(language: str, when: datetime, zone: str) -> str:
    """`14:03:22` in that zone."""
    return _in_zone(language, when, zone, _CLOCK)


def hour(language: str, when: datetime, zone: str) -> str:
    """`14:00` in that zone."""
    return _in_zone(language, when, zone, _HOUR)


def day(language: str, when: date) -> str:
    """`27 Nov 2026`."""
    return dates.format_date(when, _DAY, locale=LOCALES[language])


def short_day(language: str, when: date) -> str:
    """`Fri 27 Nov`."""
    return dates.format_date(when, _SHORT_DAY, locale=LOCALES[language])


def zone_name(zone: str, when: datetime) -> str:
    """`Europe/Istanbul (UTC+3)`, as it holds at that moment."""
    offset = when.astimezone(time_zone(zone)).utcoffset()
    minutes = round(offset.total_seconds() / 60) if offset else 0
    if not minutes:
        return zone if zone == "UTC" else f"{zone} (UTC)"
    hours, rest = divmod(abs(minutes), 60)
    return f"{zone} (UTC{'+' if minutes > 0 else '−'}{hours}{f':{rest:02}' if rest else ''})"


def local_day(when: datetime, zone: str) -> date:
    """The calendar day in that zone."""
    return when.astimezone(time_zone(zone)).date()


def start_of(when: date, zone: str) -> datetime:
    """The first moment of a calendar day in that zone, in UTC."""
    return datetime(when.year, when.month, when.day, tzinfo=time_zone(zone)).astimezone(UTC)


def _in_zone(language: str, when: datetime, zone: str, form: str) -> str:
    return dates.format_datetime(when, form, tzinfo=time_zone(zone), locale=LOCALES[language])
