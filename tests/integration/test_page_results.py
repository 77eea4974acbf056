"""Results on the status page: first, exact, and down to the deliveries in three clicks."""

import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from database_fixtures import add_account
from sqlalchemy import Connection, Engine, text
from test_pages import Browser, Start, start

from ulak.models.access import Role
from ulak.models.database import transaction
from ulak.models.tokens import create_token

__all__ = ["start"]

_INSERT = text("""
    INSERT INTO delivery_status (account_id, provider, granularity, provider_key, recipient, status, is_final, reason,
        provider_status, sent_at, done_at, message_time, message_time_source)
    SELECT a.account, 'vairo', 'message', a.key || n, a.numbers || lpad(n::text, 7, '0'), a.status,
        a.status <> 'enroute', a.reason, 'x', a.at, CASE WHEN a.status = 'delivered' THEN a.at + interval '8 s' END,
        a.at, 'own'
    FROM jsonb_to_record(CAST(:given AS jsonb))
        AS a(account text, key text, numbers text, status text, reason text, at timestamptz, many integer)
    CROSS JOIN LATERAL generate_series(1, a.many) AS n
""")


def add(connection: Connection, key: str, many: int, status: str, at: datetime, **more: str | None) -> None:
    """So many messages of one kind."""
    usual = {"account": "kampanya", "reason": None, "numbers": "+90532"}
    given = usual | more | {"key": key, "many": many, "status": status, "at": at.isoformat()}
    connection.execute(_INSERT, {"given": json.dumps(given)})


@pytest.fixture
def week(migrated_database: Engine) -> datetime:
    """An account that was well for days and failed in the last hours; and one of another zone. The present time."""
    with transaction(migrated_database) as connection:
        now: datetime = connection.execute(text("SELECT now()")).scalar_one()
        add_account(connection, "kampanya")
        add_account(connection, "otp")
        for days in range(2, 7):
            add(connection, f"good-{days}", 18, "delivered", now - timedelta(days=days))
            add(connection, f"bad-{days}", 2, "undeliverable", now - timedelta(days=days), reason="absent")
        today = now - timedelta(minutes=1)
        add(connection, "good", 6, "delivered", today)
        add(connection, "open", 3, "enroute", today)
        add(connection, "bad", 1, "undeliverable", today, reason="absent")
        add(connection, "worse", 5, "rejected", today, reason="network", numbers="+90542")
        add(connection, "otp", 4, "delivered", today, account="otp", numbers="+90555")
    return now


def links(page: Browser) -> list[str]:
    """The addresses that the last page leads to."""
    return [unescape(each) for each in re.findall(r'href="([^"]+)"', page.page.text)]


def test_the_first_page_says_first_what_became_of_the_messages(start: Start, week: datetime) -> None:
    """Rate, trend, delivered, failed, pending, reasons and the median of each account, above how it is polled."""
    page = start().log_in()
    words = page.get("/")
    assert "Last 24 hours Delivery rate 62.5%" in words
    assert "Delivered 10 Failed 6 Pending 3 Median time to delivery" in words
    line = words[words.index("kampanya vairo" if "kampanya vairo" in words else "kampanya Vairo") :]
    assert line.startswith("kampanya Vairo SMS 50.0% ▼ −40.0 6 · 6 · 3")
    assert re.search(r"the network 5\s+the subscriber could not be reached 1", line), line
    assert words.index("Last 24 hours") < words.index("Current state of polling") < words.index("Limit in use")
    assert '<details id="machinery" class="machinery">' in page.page.text
    assert page.page.text.count('<svg class="week"') == 2
    assert re.search(r'aria-label="[^"]*6 delivered, 6 failed, 3 pending', page.page.text)
    assert "%62,5" in page.get("/", **{"accept-language": "tr"})


def test_why_the_rate_dropped_takes_three_clicks(start: Start, migrated_database: Engine, week: datetime) -> None:
    """The rate, the day, the reason: then exactly the deliveries that failed so."""
    page = start().log_in()
    page.get("/")
    page.get(next(each for each in links(page) if each == "/results?account=kampanya"))
    day = next(each for each in links(page) if "day=" in each)
    words = page.get(day)
    assert re.search(r"the network 5 33\.3% ▲ \+33\.3 0\.0%", words)
    assert "+90542… 5 0.0%" in words
    reason = next(each for each in links(page) if "reason=network" in each)
    words = page.get(reason)
    assert "5 deliveries match" in words
    with migrated_database.connect() as connection:
        expected = connection.execute(text("SELECT id FROM delivery_status WHERE reason = 'network'")).scalars()
        assert sorted(re.findall(r'href="/deliveries/(\d+)"', page.page.text)) == sorted(map(str, expected))


def test_providers_and_number_ranges_are_compared(start: Start, week: datetime) -> None:
    """With the time before; a range leads to its deliveries."""
    page = start().log_in()
    assert re.search(r"Vairo SMS 119 86\.2%", page.get("/results?by=provider"))
    words = page.get("/results?by=range&days=7")
    assert re.search(r"\+90532… 110 89\.7%.*\+90542… 5 0\.0%.*\+90555… 4 100\.0%", words)
    words = page.get(next(each for each in links(page) if "range=%2B90542" in each))
    assert "5 deliveries match" in words or re.search(r"5 deliveries since .* match", words)
    assert "No messages in this period." in page.get("/results?day=2020-01-01")
    assert page.get("/results?days=x") != ""
    assert page.page.status_code == 404


def test_a_token_for_some_accounts_sees_the_results_of_these_alone(
    start: Start, migrated_database: Engine, week: datetime
) -> None:
    """In sums, comparisons and lists; another account's page is not there."""
    with transaction(migrated_database) as connection:
        token = create_token(connection, "destek", role=Role.READ, accounts=["otp"])
    page = start().log_in(token)
    for path in ("/", "/results", "/results?by=range", "/deliveries"):
        words = page.get(path)
        assert "kampanya" not in page.page.text, path
        assert "network" not in words, path
    assert "Delivered 4 Failed 0 Pending 0" in page.get("/results")
    for path in ("/results?account=kampanya", "/deliveries?account=kampanya", "/deliveries.csv?account=kampanya"):
        page.get(path)
        assert page.page.status_code == 404, path


def test_days_are_those_of_the_accounts_zone(start: Start, migrated_database: Engine, week: datetime) -> None:
    """Half past nine in the evening UTC is the next day in Istanbul: in results and in searches."""
    late = datetime(2026, 5, 1, 21, 30, tzinfo=UTC)
    with transaction(migrated_database) as connection:
        connection.execute(text("UPDATE accounts SET timezone = 'Europe/Istanbul'"))
        add(connection, "late", 1, "delivered", late, account="otp")
    page = start().log_in()
    assert "Delivered 1 Failed 0" in page.get("/results?account=otp&day=2026-05-02")
    assert "No messages" in page.get("/results?account=otp&day=2026-05-01")
    assert "One delivery matches." in page.get("/deliveries?account=otp&since=2026-05-02&until=2026-05-02")
    assert "2 May" in page.words()
    assert "00:30:00" in page.words()
    assert "Times are in Europe/Istanbul (UTC+3)." in page.words()
    assert "Nothing matches." in page.get("/deliveries?account=otp&since=2026-05-01&until=2026-05-01")
