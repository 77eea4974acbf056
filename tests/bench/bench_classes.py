"""Does it pay to learn by hour of the day or by operator? One mixed distribution beside one for each class.

*Known*: the cost (calls + lag / 30 s) of the best schedule for the mixed distribution, divided by that of the best
schedule of each class: what separate learning could gain at most. *Learned*: the same from runs in virtual time in
which everything is learned, so that each class has fewer messages to learn from. The classes differ by a factor on all
medians (`when_world.LAWS`). An operator that the number shows only sometimes: the prefix does not reveal the operator
of a number that was ported, so a part of each class lands in another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from when_world import DAY, World, draw, exact_of

from ulak.schedules.latency import Latency
from ulak.schedules.poll_times import PRICE_SECONDS, Bounds, forecast, poll_times

DAYS = 5
MANY = 100_000
LIMIT = (100, 60.0)
"""Wide: it never binds."""
NIGHT_HOURS = 7
NIGHT_TRAFFIC = 0.15
SLOW_OPERATOR = 0.3
PORTED = 0.3
"""Of the numbers: their prefix names another operator."""
SEED = 7201


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One message, its class as it could be known when it is sent."""

    at: float
    latency: float
    is_slow: bool


def main(_: str) -> None:
    """A line for each case."""
    for law in ("fast", "mixed", "slow"):
        for factor in (2.0, 4.0, 10.0):
            _known(law, factor)
    for law in ("fast", "mixed", "slow"):
        for per_day in (1000, 5000):
            for factor in (4.0,):
                _learned(law, factor, per_day)


def _latency(rng: Random, law: str, factor: float) -> float:
    latency = draw(rng, law)
    return latency if latency >= DAY else min(DAY, latency * factor)


def _best(latencies: Sequence[float]) -> float:
    truth = exact_of(latencies)
    return _cost(truth, truth)


def _cost(truth: Latency, planned_for: Latency) -> float:
    times = poll_times(planned_for, PRICE_SECONDS, Bounds(validity=DAY))
    return forecast(truth, times, DAY).cost(PRICE_SECONDS)


def _known(law: str, factor: float) -> None:
    rng = Random(SEED)
    usual = [draw(rng, law) for _ in range(MANY)]
    slow = [_latency(rng, law, factor) for _ in range(MANY)]
    for name, share, mistaken in (
        ("night", NIGHT_TRAFFIC, 0.0),
        ("operator", SLOW_OPERATOR, 0.0),
        ("operator by prefix", SLOW_OPERATOR, PORTED),
    ):
        # Of each class as it is seen: usual and slow messages.
        seen = ((1 - share) * (1 - mistaken), share * mistaken), ((1 - share) * mistaken, share * (1 - mistaken))
        separate = sum(sum(parts) * _best(_mixed(usual, slow, *parts)) for parts in seen)
        print(
            f"{law:6s} x {factor:<4g} {name:18s} known: {_best(_mixed(usual, slow, 1 - share, share)) / separate:.3f}"
        )


def _mixed(usual: Sequence[float], slow: Sequence[float], one: float, other: float) -> list[float]:
    many = round(MANY * one / (one + other))
    return [*usual[:many], *slow[: MANY - many]]


def _learned(law: str, factor: float, per_day: int) -> None:
    for name, sent in (("night", _nights(law, factor, per_day)), ("operator", _operators(law, factor, per_day))):
        mixed = _paid(sent)
        classes = [[each for each in sent if each.is_slow is is_slow] for is_slow in (False, True)]
        separate = sum(_paid(part) * len(part) for part in classes) / len(sent)
        print(
            f"{law:6s} x {factor:<4g} {name:18s} learned, {per_day:,} messages a day: {mixed / separate:.3f}",
            flush=True,
        )


def _paid(sent: Sequence[Sent]) -> float:
    """Mean cost of these messages, polled by what they teach; the first day, in which both learn, counts too."""
    world = World(sends=[(each.at, each.latency) for each in sent], limit=LIMIT).run()
    calls = sum(message.calls for message in world.messages)
    lag = sum((message.seen or 0.0) - message.sent - message.latency for message in world.messages)
    return (calls * PRICE_SECONDS + lag) / len(sent)


def _nights(law: str, factor: float, per_day: int) -> list[Sent]:
    """The first hours of each day are slow, and have less traffic."""
    rng, night = Random(SEED), NIGHT_HOURS * 3600.0
    sent = []
    for day in range(DAYS):
        for _ in range(per_day):
            is_slow = rng.random() < NIGHT_TRAFFIC
            at = day * DAY + (rng.uniform(0, night) if is_slow else rng.uniform(night, DAY))
            sent.append(Sent(at=at, latency=_latency(rng, law, factor if is_slow else 1.0), is_slow=is_slow))
    return sorted(sent, key=lambda each: each.at)


def _operators(law: str, factor: float, per_day: int) -> list[Sent]:
    rng = Random(SEED)
    sent = []
    for _ in range(DAYS * per_day):
        is_slow = rng.random() < SLOW_OPERATOR
        latency = _latency(rng, law, factor if is_slow else 1.0)
        sent.append(Sent(at=rng.uniform(0, DAYS * DAY), latency=latency, is_slow=is_slow))
    return sorted(sent, key=lambda each: each.at)
