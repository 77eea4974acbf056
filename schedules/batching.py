"""When a call that answers for many ids is worth making: a pure function.

A batch costs one call, however many ids it holds. Between calls, the expected waiting of messages that are final
and not known adds up; the call is due when that reaches its price. Ordering at the moment at which the cost of
waiting equals that of ordering is the rule of the economic order quantity (Harris, 1913): for a steady stream it is
the optimum. After a burst that the limit cannot follow, the price of its calls is not known: then ids that were never
checked wait until half of those that can be final are (`half_age`), as the last calls for them would otherwise be the
first ones made in vain.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ulak.schedules.latency import Latency


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingId:
    """An open id that is due; ages in seconds of uncompressed time."""

    latency: Latency
    checked: float
    """Its age when it was found open last."""
    age: float
    missed: float = 1.0
    """The part of the final states that no callback announces."""
    announced: float | None = None
    """Its age when a callback spoke of it, if that was after the last check."""


def expected_waiting(each: WaitingId) -> float:
    """For how many seconds the id has been final on average."""
    if each.announced is not None:
        return max(0.0, each.age - each.announced)
    before, moment_before = each.latency.below(each.checked)
    if each.age <= each.checked or before >= 1.0:
        return 0.0
    done, moment = each.latency.below(each.age)
    unheard = 1.0 - before - (1.0 - each.missed) * (done - before)
    return max(0.0, each.missed * (each.age * (done - before) - (moment - moment_before)) / unheard)


def is_worth_a_call(ids: Iterable[WaitingId], price: float) -> bool:
    """Whether these ids have waited for as long as a call costs."""
    waited = 0.0
    for each in ids:
        waited += expected_waiting(each)
        if waited >= price:
            return True
    return False


def half_age(latency: Latency) -> float:
    """The age by which half of the messages are final that become so before the end of validity."""
    return latency.quantile(latency.cumulated[-1] / 2)
