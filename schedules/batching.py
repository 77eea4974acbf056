"""When a call that answers for many ids is worth making: a pure function.

A batch costs one call, however many ids it holds. Between calls, the expected waiting of messages that are final
and not known adds up; the call is due when that reaches its price. Ordering at the moment at which the cost of
waiting equals that of ordering is the rule of the economic order quantity (Harris, 1913): for a steady stream it is
the optimum, and after a burst it does not ask for young messages of which hardly one can be final.
"""

from collections.abc import Iterable

from ulak.schedules.latency import Latency


def expected_waiting(latency: Latency, checked: float, age: float) -> float:
    """For how many seconds an id of this age, that was found open at the age `checked`, has been final on average."""
    before, moment_before = latency.below(checked)
    if age <= checked or before >= 1.0:
        return 0.0
    done, moment = latency.below(age)
    return max(0.0, (age * (done - before) - (moment - moment_before)) / (1.0 - before))


def is_worth_a_call(ids: Iterable[tuple[Latency, float, float]], price: float) -> bool:
    """Whether these ids, each (distribution, age at its last check, age), have waited for as long as a call costs."""
    waited = 0.0
    for latency, checked, age in ids:
        waited += expected_waiting(latency, checked, age)
        if waited >= price:
            return True
    return False
