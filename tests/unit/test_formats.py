"""Numbers and times on the status page, as readers of each language write them."""

from datetime import UTC, date, datetime

import pytest

from ulak.api.pages import formats
from ulak.api.pages.language import Language
from ulak.api.pages.rendering import Show

LATE = datetime(2026, 11, 27, 21, 3, 22, tzinfo=UTC)


def test_numbers_are_grouped_and_percentages_signed_as_the_language_does() -> None:
    """English with commas and the sign behind, Turkish with points and the sign in front."""
    assert (formats.number("en", 1809), formats.number("tr", 1809)) == ("1,809", "1.809")
    assert (formats.percent("en", 0.9234), formats.percent("tr", 0.9234)) == ("92.3%", "%92,3")
    assert [formats.points("tr", each) for each in (0.0312, -0.5, 0.0)] == ["+3,1", "−50,0", "+0,0"]


def test_a_moment_is_told_in_the_named_zone_with_the_year_where_it_is_another() -> None:
    """Nine in the evening UTC is the next day in Istanbul."""
    told = formats.moment("en", LATE, "Europe/Istanbul", LATE)
    assert told == "28 Nov, 00:03:22"
    assert formats.moment("tr", LATE, "UTC", LATE.replace(year=2027)) == "27 Kas 2026, 21:03:22"
    assert formats.local_day(LATE, "Europe/Istanbul") == date(2026, 11, 28)
    assert formats.start_of(date(2026, 11, 28), "Europe/Istanbul") == datetime(2026, 11, 27, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "name"),
    [
        ("UTC", "UTC"),
        ("Europe/Istanbul", "Europe/Istanbul (UTC+3)"),
        ("Asia/Kolkata", "Asia/Kolkata (UTC+5:30)"),
        ("America/New_York", "America/New_York (UTC−5)"),
        ("Europe/London", "Europe/London (UTC)"),
    ],
)
def test_a_zone_is_named_with_its_offset(zone: str, name: str) -> None:
    """As it holds at that moment."""
    assert formats.zone_name(zone, LATE) == name


def test_the_page_has_the_zone_of_most_accounts_and_names_another_one_at_its_times() -> None:
    """So no time stands there without a zone that can be known."""
    zones = {"a": "Europe/Istanbul", "b": "Europe/Istanbul", "c": "Europe/Berlin"}
    show = Show(Language("en"), zones)
    assert (show.zone, show.zone_of("c"), Show(Language("en")).zone) == ("Europe/Istanbul", "Europe/Berlin", "UTC")
    assert "Europe/Berlin</time>" in show.moment(LATE, "c")
    assert "Europe" not in show.moment(LATE, "a")
    assert 'title="2026-11-27 21:03:22 UTC"' in show.moment(LATE, "a")


def test_whole_numbers_within_texts_are_grouped_and_names_are_not() -> None:
    """A count is a number, an id is given as text."""
    assert Language("tr").say("alarm.dead", n=1234, account="a") == "a hesabının 1.234 isteği başarısız oldu."
    assert Language("en").say("delivery.title", id="1234") == "Delivery 1234"
