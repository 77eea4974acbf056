"""Every provider fault at once, then calm: what the table ever said is held against what was ever true."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from judging import never, wait_truth
from sqlalchemy import Engine, text
from system import System

RATE = 0.3
"""The share of requests and pushes that suffer something."""
BREATH_SECONDS = 3.0
"""How often there is something new to ask for while the storm lasts."""
EARLY = timedelta(seconds=1.5)
"""Providers write whole seconds."""

_WATCH = """
    CREATE TABLE chaos_seen (
        account_id text NOT NULL, granularity text NOT NULL, provider_key text NOT NULL, status text NOT NULL,
        is_final boolean NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' OR NEW.status IS DISTINCT FROM OLD.status THEN
            INSERT INTO chaos_seen (account_id, granularity, provider_key, status, is_final)
            VALUES (NEW.account_id, NEW.granularity, NEW.provider_key, NEW.status, NEW.is_final);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER chaos_note AFTER INSERT OR UPDATE ON delivery_status FOR EACH ROW EXECUTE FUNCTION chaos_note();
    INSERT INTO chaos_seen (account_id, granularity, provider_key, status, is_final)
        SELECT account_id, granularity, provider_key, status, is_final FROM delivery_status;
"""
_BLOCKED = """
    SELECT id, greatest(paused_until, breaker_until, not_before) AS until, breaker_state FROM accounts
    WHERE enabled AND (
        paused_until > clock_timestamp() OR not_before > clock_timestamp() OR breaker_state <> 'closed')
"""


def watch(engine: Engine) -> None:
    """From now on the database itself notes every status that a row of the shared table is given."""
    with engine.begin() as connection:
        connection.execute(text(_WATCH))


def send_plenty(system: System) -> None:
    """What a storm needs to have its full choice: lists of several pages, large sends, numbers without an end."""
    system.sandbox.control("POST", "/sends/iletimerkezi", {"count": 70})
    for many in (2, 6, 12, 40):
        numbers = [f"905550{many:02d}{digits:04d}" for digits in range(many - 1)]
        # The last digits choose the outcome, and 91 never ends.
        system.sandbox.control("POST", "/sends/vairo", {"recipients": [*numbers, f"905550{many:02d}9991"]})
    system.send_more(3)


def rage(system: System, seconds: float, rate: float = RATE) -> dict[str, int]:
    """The storm, with new sends all the while, then calm. Returns how often each fault struck."""
    order = {"kind": "everything", "rate": rate, "seed": system.rng.randrange(10**6)}
    system.sandbox.control("POST", "/faults", order)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            system.send_more(2)
            time.sleep(BREATH_SECONDS)
        struck = system.sandbox.control("GET", "/faults")
    finally:
        system.sandbox.control("DELETE", "/faults")
    hits: dict[str, int] = defaultdict(int)
    for fault in struck:
        for kind, many in fault["hits_by_kind"].items():
            hits[kind] += many
    return dict(hits)


def wait_unblocked(system: System, seconds: float) -> list[str]:
    """Wait until no account is paused, held back or cut off; nobody gives a command. Which still are after that."""
    end = time.monotonic() + seconds
    while (blocked := system.query(_BLOCKED)) and time.monotonic() < end:
        time.sleep(0.5)
    return [f"blocked: {row.id} until {row.until}, circuit breaker {row.breaker_state}" for row in blocked]


def wrong_at_any_moment(engine: Engine, truth: Iterable[Mapping[str, Any]]) -> list[str]:
    """Final statuses that were never true, or not yet; and rows about nothing, also those that have gone."""
    with engine.connect() as connection:
        seen = connection.execute(text("SELECT * FROM chaos_seen ORDER BY at")).all()
    ever = _ever(truth)
    found: list[str] = []
    for row in seen:
        key = (row.account_id, row.granularity, row.provider_key)
        since = ever.get(key)
        if since is None:
            found.append(f"moment: {key} was invented as {row.status} at {row.at:%X}")
        elif row.is_final and (row.status not in since or row.at < since[row.status] - EARLY):
            found.append(f"moment: {key} was {row.status} at {row.at:%X}, which was true never or later: {since}")
    return sorted(set(found))


def _ever(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], dict[str, datetime]]:
    """Subject → status → since when."""
    return {
        (row["account"], row["granularity"], row["provider_key"]): {
            status: datetime.fromisoformat(at) for status, at in row["ever"].items()
        }
        for row in rows
    }


_DEAD = """
    SELECT account_id, count(*) AS many, max(last_error::text) AS error FROM fetches WHERE state = 'dead' GROUP BY 1
"""
_IDS = """
    SELECT account_id, id_kind, value, checks, close_reason,
           round(extract(epoch FROM next_check_at - clock_timestamp())) AS due_in_seconds
    FROM tracked_ids WHERE account_id = ANY(:accounts) AND value LIKE ANY(:values)
    ORDER BY account_id, value LIMIT 60
"""


def explain(system: System, wrong: list[str]) -> list[str]:
    """What the ledger says where something is wrong: dead letters, and the ids of what is missing."""
    keys = {tuple(each.split("'")[1:6:4]) for each in wrong if each.endswith("missing")}
    missing = [row for row in system.sandbox.truth() if (row["account"], row["provider_key"]) in keys]
    parents = {str(row["parent_key"] or row["provider_key"].partition(":")[0]) for row in missing}
    values = [f"{parent}%" for parent in parents] + [str(row["client_ref"]) for row in missing]
    rows = system.query(_DEAD)
    rows += system.query(_IDS, accounts=[row["account"] for row in missing], values=values)
    return [str(dict(row._mapping)) for row in rows]


def judge_storm(system: System, patience: float) -> list[str]:
    """All of it: the accounts recover, the table becomes the truth, and nothing was wrong on the way."""
    wrong = wait_unblocked(system, patience)
    return (
        wrong
        + wait_truth(system, patience)
        + wrong_at_any_moment(system.engine, system.sandbox.truth())
        + never(system)
    )
