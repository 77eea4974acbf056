"""Times as the providers write them; only Istanbul's fixed +03:00 since 2016-03-27 is needed here."""

from datetime import UTC, date, datetime, timedelta, timezone

ISTANBUL = timezone(timedelta(hours=3))
ZERO_DATE = "0000-00-00 00:00:00"
DAY_SECONDS = 86_400


def local_text(at: float) -> str:
    """`2016-08-01 14:30:14`: a bare Istanbul time, cut to the second."""
    return datetime.fromtimestamp(int(at), ISTANBUL).strftime("%Y-%m-%d %H:%M:%S")


def local_date(at: float) -> date:
    """The calendar day in Istanbul."""
    return datetime.fromtimestamp(at, ISTANBUL).date()


def dotted_text(at: float) -> str:
    """`18.05.2018 16:11:58.633 +0300`, the form of BiP's notices."""
    moment = datetime.fromtimestamp(round(at, 3), ISTANBUL)
    return f"{moment:%d.%m.%Y %H:%M:%S}.{moment.microsecond // 1000:03d} +0300"


def iso(at: float) -> str:
    """ISO 8601 in UTC; whole seconds without a fraction, anything else with milliseconds."""
    moment = datetime.fromtimestamp(round(at, 3), UTC)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds")


def utc_midnight(at: float) -> int:
    """The beginning of the UTC day that holds `at`, in epoch seconds."""
    return int(at // DAY_SECONDS) * DAY_SECONDS


def utc_date(at: float) -> str:
    """`YYYY-MM-DD` of the UTC day."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
