"""`/metrics`: every figure, scraped over HTTP and read as Prometheus reads it, against rows that we know."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import Server, serving
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, text

from ulak.api import metrics
from ulak.api.app import make_api
from ulak.core import clock
from ulak.core.metrics import REGISTRY
from ulak.models.accounts import apply
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.job_runs import RECONCILE, beat
from ulak.models.ledger import sharing
from ulak.models.objectives import BOUNDS
from ulak.models.quarantine import new_key, seal
from ulak.models.report import DeliveryReport, Unreadable
from ulak.models.vocabulary import Granularity, Status
from ulak.providers.accounts import parse_accounts
from ulak.providers.http import HttpDoor
from ulak.tasks.runtime import Runtime

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
RULES = Path(__file__).parents[2] / "deploy"
ACCOUNTS = """
[[account]]
id = "kampanya"
provider = "vairo"
[account.credentials]
api_key = "env:CANARY_REFERENCE"
[[account]]
id = "marka"
provider = "organik"
[account.credentials]
api_key = "env:OTHER"
"""
CANARIES = ("5301234567", "CANARY", "gizli", "REF-77", "4711:")
MINE = {"account": "kampanya", "provider": "vairo"}
NOW = "clock_timestamp()"
Labels = tuple[tuple[str, str], ...]


@pytest.fixture
def database(migrated_database: Engine) -> Engine:
    """Two accounts; one with a little of everything."""
    with transaction(migrated_database) as connection:
        apply(connection, parse_accounts(ACCOUNTS), prune=False)
    return migrated_database


@pytest.fixture
def server(database: Engine) -> Iterator[Server]:
    """The HTTP process."""
    door = HttpDoor(max_connections=1, boot=clock.boot)
    with serving(make_api(Runtime(engine=database, door=door, seal_key=new_key()))) as server:
        yield server


def run(engine: Engine, statement: str, **values: Any) -> None:
    """Change the world behind the program's back."""
    with transaction(engine) as connection:
        connection.execute(text(statement), values)


def scrape(server: Server) -> dict[str, dict[Labels, float]]:
    """What Prometheus would store: by name, by labels."""
    said = server.ask("GET", "/metrics")
    assert (said.status, said.headers["content-type"].split(";")[0]) == (200, "text/plain")
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(said.body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def of(labels: dict[str, str], **more: str) -> Labels:
    """Labels in the form in which `scrape` has them."""
    return tuple(sorted((labels | more).items()))


def positive(found: dict[Labels, float]) -> dict[Labels, float]:
    """Without the zeros."""
    return {labels: value for labels, value in found.items() if value}


def report(key: str, status: Status, **more: Any) -> DeliveryReport:
    """A report whose traits must not be seen in any label."""
    return DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=f"4711:{key}",
        recipient="+905301234567",
        client_ref="REF-77",
        status=status,
        provider_status="CANARY",
        extra={"note": "gizli"},
        **more,
    )


def fill_ledger(engine: Engine) -> None:
    """A poll with fetches in every state, calls, ids, something in quarantine, a heartbeat."""
    run(
        engine, "INSERT INTO polls (account_id, kind, trigger, open_fetches) VALUES ('kampanya', 'plan', 'schedule', 3)"
    )
    run(
        engine,
        "INSERT INTO polls (account_id, kind, trigger, state, finished_at, dead)"
        " VALUES ('kampanya', 'plan', 'api', 'complete_with_errors', now() - interval '59 minutes', 1),"
        " ('kampanya', 'plan', 'api', 'complete', now() - interval '61 minutes', 0)",
    )
    run(
        engine,
        "INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, state, available_at, attempts,"
        " lease_token, lease_until, finished_at) SELECT min(polls.id), 'kampanya', 'page', '{}', md5(random()::text),"
        " f.state, now() - make_interval(secs => ago), attempts,"
        " CASE WHEN f.state = 'sending' THEN gen_random_uuid() END, CASE WHEN f.state = 'sending' THEN now() END,"
        " CASE WHEN f.state IN ('dead', 'done') THEN now() END"
        " FROM polls, (VALUES ('ready', 90, 0), ('ready', -60, 2), ('sending', 0, 1), ('dead', 0, 8), ('done', 0, 1))"
        " AS f(state, ago, attempts) GROUP BY f.state, ago, attempts",
    )
    run(
        engine,
        "INSERT INTO calls (account_id, asked_at, gives_up_at, answered_at, released_at, outcome, http_status)"
        " SELECT 'kampanya', now() - make_interval(secs => ago), now() + interval '30 seconds', answered,"
        " coalesce(answered, now() + interval '30 seconds'), outcome, status FROM (VALUES"
        " (30, now() - interval '30 seconds', 'ok', 200), (40, now() - interval '40 seconds', 'ok', 200),"
        " (50, now() - interval '50 seconds', 'throttled', 429), (70, now() - interval '70 seconds', 'failed', NULL),"
        " (400, now() - interval '400 seconds', 'ok', 200), (5, NULL, NULL, NULL))"
        " AS c(ago, answered, outcome, status)",
    )
    run(
        engine,
        "INSERT INTO tracked_ids (account_id, id_kind, value, recipient, origin, sent_at, valid_until, next_check_at)"
        " VALUES ('kampanya', 'number', '4711:5301234567', '+905301234567', 'sender', now() - interval '2 hours',"
        " now(), now() - interval '100 seconds'),"
        " ('kampanya', 'number', '4711:5301234568', '+905301234567', 'sender', now() - interval '1 hour', now(),"
        " now() + interval '1 hour')",
    )
    with transaction(engine) as connection:
        items = [Unreadable(reason="gizli", raw=b"gizli")]
        seal(connection, new_key(), account_id="kampanya", origin="poll:batch", unreadable=items, context={})
        beat(connection, RECONCILE)
        sharing.announce(connection, "one@host", 12)
        connection.execute(text("UPDATE accounts SET crowded_at = now() WHERE id = 'kampanya'"))


def test_the_ledger_is_told_as_it_stands(server: Server, database: Engine) -> None:
    """Depth, ages, retries, calls by outcome and status class, use of the limit, quarantine."""
    fill_ledger(database)
    told = scrape(server)
    assert positive(told["ulak_fetches"]) == {
        of(MINE, state="ready"): 2,
        of(MINE, state="sending"): 1,
        of(MINE, state="dead"): 1,
    }
    assert told["ulak_calls_recent"] == {
        of(MINE, outcome="ok", status="2xx"): 2,
        of(MINE, outcome="throttled", status="4xx"): 1,
        of(MINE, outcome="failed", status="none"): 1,
    }
    exact = ("fetches_retrying", "polls_running", "quarantine_open", "tracked_open", "tracked_due", "calls_unanswered")
    assert {
        name: told[f"ulak_{name}"][of(MINE)] for name in (*exact, "limit_slots_busy", "account_limit_requests")
    } == {
        "fetches_retrying": 1,
        "polls_running": 1,
        "quarantine_open": 1,
        "tracked_open": 2,
        "tracked_due": 1,
        "calls_unanswered": 1,
        "limit_slots_busy": 4,
        "account_limit_requests": 20,
    }
    ages = ("fetch_ready_age", "answer_age", "tracked_overdue", "unanswered_age")
    rounded = {name: round(told[f"ulak_{name}_seconds"][of(MINE)] / 10) * 10 for name in ages}
    assert rounded == {"fetch_ready_age": 90, "answer_age": 30, "tracked_overdue": 100, "unanswered_age": 7200}
    assert positive(told["ulak_polls_ended_last_hour"]) == {of(MINE, state="complete_with_errors"): 1}
    assert told["ulak_heartbeat_age_seconds"][of({"name": "reconcile"})] < 10
    assert told["ulak_clock_steps_last_day"][of({})] == 0
    assert [told[f"ulak_{name}"][of({})] for name in ("worker_threads", "accounts_waiting_for_threads")] == [12, 1]
    assert set(told["ulak_figures_up"].values()) == {1}


def test_the_account_is_told_as_it_stands(server: Server, database: Engine) -> None:
    """Pause and breaker, each by itself, beside the one word that sums them up."""
    run(
        database,
        "UPDATE accounts SET paused_until = now() + interval '1 h', breaker_state = 'open' WHERE id = 'kampanya'",
    )
    told = scrape(server)
    assert positive(told["ulak_account_state"]) == {
        of(MINE, state="paused"): 1,
        of({"account": "marka", "provider": "organik"}, state="ok"): 1,
    }
    assert told["ulak_account_paused"][of(MINE)] == 1
    assert told["ulak_account_breaker"][of(MINE, state="open")] == 1


def test_nothing_is_told_as_nothing_for_every_account(server: Server) -> None:
    """An alarm on a figure needs no guess about its absence."""
    told = scrape(server)
    for name in ("quarantine_open", "tracked_open", "fetch_ready_age_seconds", "polls_running", "account_paused"):
        assert list(told[f"ulak_{name}"].values()) == [0, 0]
    assert len(told["ulak_fetches"]) == 6


def test_the_table_is_counted_and_what_upkeep_counted_of_its_freshness_is_told(
    server: Server, database: Engine
) -> None:
    """As counters that last: a histogram, how many met the objective, and the objective."""
    run(database, "UPDATE accounts SET objective = '95 % within 60 s' WHERE id = 'kampanya'")
    run(
        database,
        "INSERT INTO freshness (account_id, at, total, good, seconds, buckets)"
        " SELECT 'kampanya', now() - n * interval '1 minute', 30 - n, 20 - n, 400,"
        " array_fill(CAST(10 AS double precision), ARRAY[:bounds]) FROM generate_series(0, 5) n",
        bounds=len(BOUNDS),
    )
    with transaction(database) as connection:
        said = [report("a", Status.DELIVERED), report("b", Status.UNKNOWN), report("c", Status.SENT)]
        upsert(connection, "kampanya", "vairo", said, asked_at=clock.now())
    told = scrape(server)
    counted = ("delivered", "unknown", "sent")
    assert told["ulak_deliveries"] == {of(MINE, granularity="message", status=status): 1 for status in counted}
    other = of({"account": "marka", "provider": "organik"})
    assert told["ulak_finals_good_total"] == {of(MINE): 20, other: 0}
    assert told["ulak_final_freshness_seconds_count"] == {of(MINE): 30, other: 0}
    assert told["ulak_final_freshness_seconds_sum"] == {of(MINE): 400, other: 0}
    assert told["ulak_final_freshness_seconds_bucket"][of(MINE, le="60.0")] == 10
    assert told["ulak_final_freshness_seconds_bucket"][of(MINE, le="+Inf")] == 30
    assert (told["ulak_objective_ratio"], told["ulak_objective_seconds"]) == ({of(MINE): 0.95}, {of(MINE): 60})


def test_the_feed_tells_what_an_open_transaction_holds_back(server: Server, database: Engine) -> None:
    """Changes wait for the oldest open transaction of the cluster."""
    with database.connect() as holder:
        holder.execute(text("SELECT pg_current_xact_id()"))
        with transaction(database) as connection:
            upsert(connection, "kampanya", "vairo", [report("a", Status.SENT)], asked_at=clock.now())
        assert scrape(server)["ulak_feed_held_back"] == {(): 1}
        holder.rollback()


def test_no_label_holds_a_number_a_reference_or_a_text(server: Server, database: Engine) -> None:
    """Nothing that was put into the tables stands in what is scraped, and no stranger can make a label."""
    fill_ledger(database)
    with transaction(database) as connection:
        upsert(connection, "kampanya", "vairo", [report("a", Status.DELIVERED)], asked_at=clock.now())
    assert server.ask("POST", "/callbacks/CANARY/5301234567/gizli", b"{}").status == 404
    said = server.ask("GET", "/metrics").body.decode()
    assert [canary for canary in CANARIES if canary in said] == []
    assert "ulak_callback_seconds_count" in said


def test_a_database_that_is_away_is_told_and_not_waited_for(
    server: Server, database: Engine, drop_database: Callable[[str], None]
) -> None:
    """The scrape succeeds: what the process measures itself is there, and every group is down."""
    drop_database(database.url.render_as_string(hide_password=False))
    told = scrape(server)
    assert (set(told["ulak_figures_up"].values()), "ulak_fetches" in told) == ({0}, False)
    assert "ulak_upsert_seconds_count" in told


def test_figures_are_read_at_most_every_few_seconds(server: Server, database: Engine) -> None:
    """Many who scrape cost the database no more than one."""
    before = scrape(server)["ulak_tracked_open"][of(MINE)]
    fill_ledger(database)
    assert (before, scrape(server)["ulak_tracked_open"][of(MINE)]) == (0, 0)


def known() -> set[str]:
    """Every metric there is, by its family's name."""
    own = {family.name for family in REGISTRY.collect() if family.name.startswith("ulak_")}
    return own | {named(name) for name in metrics.FIGURES | metrics.OWN}


def named(figure: str) -> str:
    """What is scraped."""
    return f"ulak_{figure}{'_total' if figure in metrics.COUNTERS else ''}"


def test_every_scraped_figure_has_a_meaning_and_every_meaning_a_figure(server: Server, database: Engine) -> None:
    """What the collector can tell is what its table lists."""
    fill_ledger(database)
    with transaction(database) as connection:
        upsert(connection, "kampanya", "vairo", [report("a", Status.SENT)], asked_at=clock.now())
    run(database, "UPDATE accounts SET last_asked_at = now(), objective = '95 % within 60 s'")
    told = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in scrape(server) if name.startswith("ulak_")}
    assert known() - told <= {"ulak_http_request_seconds", "ulak_callback_seconds"}
    assert told <= known()


def test_the_page_lists_every_metric_and_none_that_is_not_there() -> None:
    """With exactly the labels that it has."""
    listed = dict(re.findall(r"^\| `(ulak_\w+)` \|([^|]*)\|", PAGE, re.MULTILINE))
    assert set(listed) == known()
    for name, (labels, _) in (metrics.FIGURES | metrics.OWN).items():
        assert tuple(re.findall(r"`(\w+)`", listed[named(name)])) == labels


@pytest.mark.parametrize("path", ["alerts.yml", "grafana/ulak.json"])
def test_rules_and_dashboard_speak_of_metrics_that_exist(path: str) -> None:
    """A misspelt metric never fires."""
    spoken = set(re.findall(r"\bulak_\w+", (RULES / path).read_text(encoding="utf-8")))
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in spoken} - known() == set()
    assert len(spoken) >= 5
