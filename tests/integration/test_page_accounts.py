"""The page of one account: configuration, errors, dead letters and quarantine; and pages that are not there."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import Engine, text
from test_pages import Browser, Start, change, quiet_account, start

from ulak.api.pages.polls import POLLS_ON_A_PAGE
from ulak.models.access import Role
from ulak.models.database import transaction
from ulak.models.ledger.listing import list_notable
from ulak.models.tokens import create_token

__all__ = ["quiet_account", "start"]

pytestmark = pytest.mark.usefixtures("quiet_account")


def test_the_configuration_is_shown_as_it_holds(start: Start, migrated_database: Engine) -> None:
    """From the file, completed by the provider's defaults; credentials by where they are read from."""
    poll = {"every_seconds": 30, "max_check_seconds": 600, "adaptive": True}
    change(
        migrated_database,
        "UPDATE accounts SET poll = cast(:poll AS jsonb), credentials = cast(:credentials AS jsonb), options ="
        " cast(:options AS jsonb), timezone = 'Europe/Istanbul', limit_requests = 1200, limit_per_seconds = 3600,"
        " keep_days = 180",
        poll=json.dumps(poll),
        credentials=json.dumps({"api_key": "env:VAIRO_KEY"}),
        options=json.dumps({"validity_hours": 48}),
    )
    page = start().log_in()
    words = page.get("/accounts/kampanya")
    configuration = words[words.index("Configuration From") :]
    for told in (
        "Provider Vairo SMS",
        "Time zone Europe/Istanbul (UTC+3)",
        "Rate limit 1,200 requests in 1 h, 1 at a time",
        "Longest wait between checks 10 min",
        "Deliveries are kept 180 days",
        "First check of an id 5 s after sending",
        "Validity 2 d",
        "Credentials api_key = env:VAIRO_KEY",
    ):
        assert told in configuration, told
    assert "1.200 istek" in page.get("/accounts/kampanya", **{"accept-language": "tr"})


def test_failed_requests_are_shown_by_cause(start: Start, migrated_database: Engine) -> None:
    """How often, and when last; what succeeded, or is to be asked later, is no error."""
    outcomes = [("failed", 502, 3), ("refused", 401, 1), ("ok", 200, 5), ("later", 200, 2)]
    for outcome, status, many in outcomes:
        change(
            migrated_database,
            "INSERT INTO calls (account_id, endpoint, asked_at, gives_up_at, answered_at, released_at, outcome,"
            " http_status) SELECT 'kampanya', 'NumaraRaporu', t, t, t, t, :outcome, :status"
            " FROM (SELECT now() - n * interval '1 minute' AS t FROM generate_series(1, :many) AS n) AS times",
            outcome=outcome,
            status=status,
            many=many,
        )
    words = start().log_in().get("/accounts/kampanya")
    errors = words[words.index("Errors of the last 7 days") : words.index("Configuration")]
    assert "the network or the provider failed status 502 NumaraRaporu 3 1 min ago 3 min ago" in errors
    assert "refused the credentials or this server status 401 NumaraRaporu 1" in errors
    assert "status 200" not in errors


def dead_letters(engine: Engine, many: int) -> list[int]:
    """So many dead letters of the account, and their ids."""
    days = [json.dumps({"window": [f"2026-05-{day + 1:02}"] * 2}) for day in range(many)]
    with transaction(engine) as connection:
        connection.execute(text("UPDATE fetches SET state = 'cancelled'"))
        insert = text(
            "INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, state, finished_at, last_error)"
            " SELECT min(id), 'kampanya', 'page', cast(:params AS jsonb), :params, 'dead', now(), 'RequestIsWrong: no'"
            " FROM polls RETURNING id"
        )
        return [connection.execute(insert, {"params": day}).scalar_one() for day in days]


def states(engine: Engine) -> dict[int, str]:
    """What each fetch with an error is."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, state FROM fetches WHERE last_error IS NOT NULL"))
        return {row.id: row.state for row in rows}


def test_one_dead_letter_is_retried_another_discarded(start: Start, migrated_database: Engine) -> None:
    """Each by its button, and recorded; a third stays. Nothing is requested for what is discarded."""
    first, second, third = dead_letters(migrated_database, 3)
    page = start().log_in()
    page.get("/accounts/kampanya")
    assert "being retried" in page.press("/accounts/kampanya/retry", fetch=str(first), next="/accounts/kampanya")
    assert "Discarded" in page.press("/accounts/kampanya/discard", fetch=str(second), next="/accounts/kampanya")
    assert states(migrated_database) == {first: "cancelled", second: "cancelled", third: "dead"}
    polls = "SELECT count(*) FROM polls WHERE trigger = 'page'"
    assert change(migrated_database, polls) == 1
    for wrong in (str(second), "", "x", "9" * 30):
        words = page.press("/accounts/kampanya/discard", fetch=wrong, next="/accounts/kampanya")
        assert "It had already been removed." in words
    assert "retried a failed request" in words
    assert "discarded a failed request" in words
    assert states(migrated_database)[third] == "dead"
    assert change(migrated_database, "SELECT count(*) FROM events WHERE action = 'dead.discarded'") == 1


def quarantined(engine: Engine) -> int:
    """An entry that was sealed with nothing."""
    insert = (
        "INSERT INTO quarantine (account_id, reason, origin, fingerprint)"
        " VALUES ('kampanya', 'Unknown value', 'poll:page', 'x') RETURNING id"
    )
    entry: int = change(engine, insert)
    return entry


def test_quarantined_content_is_discarded_and_retried(start: Start, migrated_database: Engine) -> None:
    """By its button; what this version cannot parse stays, and both are recorded."""
    entry = quarantined(migrated_database)
    page = start().log_in()
    assert "Responses that could not be parsed (1)" in page.get("/accounts/kampanya")
    path = "/accounts/kampanya/quarantine"
    assert "This version cannot parse all of it" in page.press(
        f"{path}/retry", entry=str(entry), next="/accounts/kampanya"
    )
    assert "It had already been removed." in page.press(f"{path}/discard", next="/accounts/kampanya")
    assert "Discarded." in page.press(f"{path}/discard", entry=str(entry), next="/accounts/kampanya")
    assert "Responses that could not be parsed" not in page.get("/accounts/kampanya")
    recorded = "SELECT count(*) FROM events WHERE action LIKE 'quarantine.%'"
    assert change(migrated_database, recorded) == 2


@pytest.mark.parametrize("path", ["retry", "discard", "quarantine/retry", "quarantine/discard"])
def test_who_may_only_read_is_offered_nothing_and_refused(start: Start, migrated_database: Engine, path: str) -> None:
    """No button, and no way around it; another account's rows are out of reach."""
    [letter] = dead_letters(migrated_database, 1)
    entry = quarantined(migrated_database)
    with transaction(migrated_database) as connection:
        connection.execute(
            text(
                "INSERT INTO accounts SELECT (jsonb_populate_record(a,"
                " jsonb_build_object('id', 'otp', 'credentials_hash', 'otp'))).* FROM accounts a"
            )
        )
        reader = create_token(connection, "okur", role=Role.READ)
        other = create_token(connection, "otp", role=Role.OPERATE, accounts=["otp"])
    fields = {"fetch": str(letter), "entry": str(entry)}
    page = start().log_in(reader)
    page.get("/accounts/kampanya")
    assert f'action="/accounts/kampanya/{path}"' not in page.page.text
    assert page.post(f"/accounts/kampanya/{path}", **fields).status_code == 403
    page = start().log_in(other)
    page.get("/accounts/otp")
    assert page.post(f"/accounts/kampanya/{path}", **fields).status_code == 404
    assert page.post(f"/accounts/otp/{path}", **fields).status_code == 303
    assert states(migrated_database)[letter] == "dead"
    assert change(migrated_database, "SELECT count(*) FROM quarantine WHERE resolved_at IS NULL") == 1


# ------------------------------------------------------------------------------------------------------------- polls


def add_polls(engine: Engine, many: int, **columns: Any) -> None:
    """So many polls that are over."""
    usual: Mapping[str, Any] = {"trigger": "schedule", "state": "complete", "new": 0, "advanced": 0, "dead": 0}
    change(
        engine,
        "INSERT INTO polls (account_id, trigger, state, new, advanced, dead, planned_at, finished_at)"
        " SELECT 'kampanya', :trigger, :state, :new, :advanced, :dead, now(), now() FROM generate_series(1, :many)",
        **{**usual, **columns, "many": many},
    )


def listed(page: Browser) -> list[int]:
    """The polls on the page."""
    return [int(each) for each in re.findall(r'<td data-label="Poll">(\d+)</td>', page.page.text)]


def test_polls_with_news_come_first_and_the_others_are_counted(start: Start, migrated_database: Engine) -> None:
    """Changed, failed or opened by a person; between them one line for all that brought nothing."""
    add_polls(migrated_database, 30)
    add_polls(migrated_database, 1, new=3)
    add_polls(migrated_database, 7)
    add_polls(migrated_database, 1, state="complete_with_errors", dead=2)
    add_polls(migrated_database, 1, trigger="api")
    page = start().log_in()
    words = page.get("/polls")
    assert listed(page) == [41, 40, 32]
    assert [int(each) for each in re.findall(r"(\d+) polls without changes", words)] == [7, 31]
    for show, polls in (("failed", [40]), ("changed", [32]), ("running", []), ("all", list(range(41, 0, -1)))):
        page.get(f"/polls?show={show}&account=kampanya")
        assert listed(page) == polls, show


def test_pages_of_polls_lose_none(migrated_database: Engine, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a page reads at most, every notable poll is on one page and every quiet one is counted once."""
    for _ in range(20):
        add_polls(migrated_database, 3)
        add_polls(migrated_database, 1, advanced=1)
    for scanned in (5, 7, 5000):
        monkeypatch.setattr("ulak.models.ledger.listing.SCANNED_POLLS", scanned)
        before, seen, quiet = None, [], 0
        with migrated_database.connect() as connection:
            for _ in range(100):
                found = list_notable(connection, limit=4, before_id=before)
                seen += [each.poll.id for each in found.polls if each.poll]
                quiet += sum(each.quiet for each in found.polls)
                before = found.before_id
                if before is None:
                    break
        assert (len(seen), seen, quiet) == (20, sorted(seen, reverse=True), 61), scanned
    page = start().log_in()
    page.get("/polls?show=all")
    assert len(listed(page)) == POLLS_ON_A_PAGE


# -------------------------------------------------------------------------------------------- pages that are not there


@pytest.mark.parametrize(
    "path", ["/nothing", "/deliveries/x", "/deliveries/999999", "/accounts/nobody", "/polls?before=x", "/accounts/"]
)
def test_a_page_that_is_not_there_leads_on(start: Start, path: str) -> None:
    """With the navigation of whoever is logged in; a program gets its problem document."""
    browser = {"accept": "text/html,application/xhtml+xml"}
    page = start().log_in()
    words = page.get(path, **browser)
    assert (page.page.status_code, "Not found" in words, "Search deliveries" in words) == (404, True, True)
    assert '<nav aria-label="Pages">' in page.page.text
    assert page.page.headers["content-security-policy"].startswith("default-src 'self'")
    stranger = start()
    stranger.get(path, **browser)
    assert '<nav aria-label="Pages">' not in stranger.page.text
    for unknown in ("/nothing", "/v1/nothing"):
        answer = page.client.get(
            unknown, headers={"accept": "application/json" if unknown == "/nothing" else "text/html"}
        )
        assert answer.headers["content-type"].startswith("application/problem+json"), unknown
