"""`/metrics`: metrics read from the database at scrape time, and this process's own measurements.

Nothing that the whole system counts is kept in a process, so any number of processes, started and killed at any time,
export the same values.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from ulak.core import clock, metrics
from ulak.core.logging import get_logger
from ulak.models.metric_queries import GROUPS, Sample

log = get_logger(__name__)
router = APIRouter(tags=["probes"])

KEPT_SECONDS: Final = 5.0
"""Metrics are read at most this often, however many scrapers there are."""
SHARE: Final = 20.0
"""Figures that took long are kept so many times as long: reading them costs at most a twentieth of one connection."""
STATEMENT_SECONDS: Final = 15

ACCOUNT: Final = ("account", "provider")
FIGURES: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "account_state": ((*ACCOUNT, "state"), "1 for the current state of the account, 0 for the others."),
    "account_breaker": ((*ACCOUNT, "state"), "1 for the state of the account's circuit breaker."),
    "account_paused": (ACCOUNT, "Whether an enabled account is paused."),
    "account_limit_requests": (ACCOUNT, "Calls that the limit allows in its window."),
    "account_limit_window_seconds": (ACCOUNT, "The limit's sliding window."),
    "account_limit_concurrency": (ACCOUNT, "Calls that may be unanswered at once."),
    "account_asked_age_seconds": (ACCOUNT, "Since the last call was made."),
    "calls_recent": ((*ACCOUNT, "outcome", "status"), "Answered calls asked within 5 minutes, by HTTP status class."),
    "calls_unanswered": (ACCOUNT, "Calls in flight."),
    "limit_slots_busy": (ACCOUNT, "Slots of the limit in use now."),
    "answer_age_seconds": (ACCOUNT, "Since the last good answer."),
    "fetches": ((*ACCOUNT, "state"), "Fetches of the ledger that are not over: ready, sending, dead (given up)."),
    "fetches_retrying": (ACCOUNT, "Ready fetches that have failed before."),
    "fetch_ready_age_seconds": (ACCOUNT, "How long the oldest ready fetch could have been made."),
    "fetch_stalled_seconds": (ACCOUNT, "How long neither limit, pause nor breaker kept a ready fetch from being made."),
    "polls_running": (ACCOUNT, "Polls that are not over."),
    "polls_ended_last_hour": ((*ACCOUNT, "state"), "Polls that ended within an hour, by how."),
    "quarantine_open": (ACCOUNT, "Unresolved quarantine entries."),
    "tracked_open": (ACCOUNT, "Ids that are still asked for."),
    "tracked_due": (ACCOUNT, "Ids whose check is due and that no fetch holds."),
    "tracked_overdue_seconds": (ACCOUNT, "How long the id that is due longest has been due."),
    "unanswered_age_seconds": (ACCOUNT, "Since the sending of the oldest id that is still asked for."),
    "heartbeat_age_seconds": (("name",), "Since a periodic task last came to its end."),
    "clock_steps_last_day": ((), "How often the database's clock was set by more than a second within a day."),
    "worker_threads": ((), "Threads that make fetches, of all workers that were heard of within 16 seconds."),
    "accounts_waiting_for_threads": ((), "Accounts that would make further calls if more threads were free."),
    "feed_held_back": ((), "Changes that the feed does not show yet (at most 100000 are counted)."),
    "feed_lag_seconds": ((), "Age of the oldest change that the feed does not show yet."),
    "deliveries": ((*ACCOUNT, "granularity", "status"), "Rows of the shared table."),
    "deliveries_conflicting": (ACCOUNT, "Rows about which the provider contradicted itself."),
    "final_freshness_seconds": (
        ACCOUNT,
        "From when a provider could have reported a final status until it was stored.",
    ),
    "finals_good": (ACCOUNT, "Of these, deliveries that met the objective of their account; all where it has none."),
    "objective_ratio": (ACCOUNT, "The part of the deliveries that the account's objective asks for."),
    "objective_seconds": (ACCOUNT, "How soon the objective wants them to be known."),
}
"""Every figure by its name without `ulak_`: its labels, and what it means. Gauges unless stated otherwise."""
COUNTERS: Final = frozenset({"finals_good"})
"""Their names end in `_total` where they are scraped."""
HISTOGRAMS: Final = frozenset({"final_freshness_seconds"})
OWN: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "figures_up": (("group",), "Whether a group of figures could be read."),
    "figures_age_seconds": (("group",), "How old the figures of a group are."),
}


@dataclass(slots=True)
class _Kept:
    """The figures of one group, and until when they are good (boot clock)."""

    samples: tuple[Sample, ...] | None = None
    read_at: float = 0.0
    good_until: float = 0.0


@dataclass(slots=True, eq=False)
class FiguresCollector(Collector):
    """Reads the figures from the database, one group after the other, and keeps each for a while."""

    engine: Engine
    _lock: Lock = field(default_factory=Lock)
    _kept: dict[str, _Kept] = field(default_factory=lambda: {name: _Kept() for name in GROUPS})

    def collect(self) -> Iterable[Metric]:
        """All families; without those of a group that could not be read."""
        with self._lock:
            self._refresh()
            now = clock.boot()
            samples = [sample for kept in self._kept.values() for sample in kept.samples or ()]
            for name, kept in self._kept.items():
                samples.append(Sample("figures_up", {"group": name}, kept.samples is not None))
                if kept.samples is not None:
                    samples.append(Sample("figures_age_seconds", {"group": name}, now - kept.read_at))
        return _families(samples)

    def _refresh(self) -> None:
        """Refresh what has expired. An unavailable database is tried once, not once per group."""
        old = [name for name, kept in self._kept.items() if clock.boot() >= kept.good_until]
        if not old:
            return
        try:
            with self.engine.connect() as connection:
                for name in old:
                    self._kept[name] = _read(connection, name)
        except SQLAlchemyError as error:
            log.warning("metrics.not_read", error=type(error).__name__)
            for name in old:
                self._kept[name] = _Kept()


def _read(connection: Connection, name: str) -> _Kept:
    """One group in a transaction of its own. A statement that takes too long costs its own group only."""
    started = clock.boot()
    try:
        with connection.begin():
            connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'"))
            samples: tuple[Sample, ...] | None = tuple(GROUPS[name](connection))
    except SQLAlchemyError as error:
        if connection.invalidated:
            raise
        log.warning("metrics.not_read", group=name, error=type(error).__name__)
        samples = None
    ended = clock.boot()
    return _Kept(samples=samples, read_at=ended, good_until=ended + max(KEPT_SECONDS, SHARE * (ended - started)))


def _families(samples: Iterable[Sample]) -> Iterator[Metric]:
    families: dict[str, Metric] = {}
    for sample in samples:
        labels, meaning = (FIGURES | OWN)[sample.figure]
        values = [sample.labels[label] for label in labels]
        name = f"ulak_{sample.figure}"
        if sample.figure in HISTOGRAMS:
            histogram = families.setdefault(name, HistogramMetricFamily(name, meaning, labels=labels))
            histogram.add_metric(values, sample.buckets, float(sample.value))  # type: ignore[attr-defined]
            continue
        kind = CounterMetricFamily if sample.figure in COUNTERS else GaugeMetricFamily
        family = families.setdefault(name, kind(name, meaning, labels=labels))
        family.add_metric(values, float(sample.value))  # type: ignore[attr-defined]
    return iter(families.values())


class _OfThisProcess(Collector):
    """What this process measures itself."""

    def collect(self) -> Iterable[Metric]:
        """All of its registry."""
        return metrics.REGISTRY.collect()


def registry_for(engine: Engine) -> CollectorRegistry:
    """Everything that `/metrics` shows."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FiguresCollector(engine))
    registry.register(_OfThisProcess())
    return registry


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response)
def show(request: Request) -> Response:
    """Never asks for a password: keep it inside."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(request.app.state.metrics), media_type=content_type)
