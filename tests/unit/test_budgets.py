"""A number of bytes that threads share."""

import threading

from ulak.core import clock
from ulak.core.memory_budget import Budget


def test_what_is_held_and_what_must_be_left_bounds_what_can_be_taken() -> None:
    """A request that leaves half of it free gets less than one that need not."""
    budget = Budget(100)
    assert [budget.take(30, leave=50), budget.take(30, leave=50), budget.take(60), budget.take(20)] == [
        True,
        False,
        True,
        False,
    ]
    budget.give(60)
    assert (budget.held, budget.take(20, leave=50)) == (30, True)


def test_what_is_larger_than_the_whole_comes_through_alone() -> None:
    """Otherwise it never would."""
    budget = Budget(100)
    assert (budget.take(150), budget.take(1), budget.wait(1, 0.01)) == (True, False, False)
    budget.give(150)
    assert budget.take(1)


def test_whoever_waits_longest_is_served_first() -> None:
    """A large amount is not overtaken forever by small ones that would still fit."""
    budget = Budget(100)
    assert budget.take(60)
    served: list[int] = []

    def wait(amount: int) -> None:
        assert budget.wait(amount, 60)
        served.append(amount)

    large = threading.Thread(target=wait, args=(80,))
    large.start()
    while not budget.waiting:
        clock.sleep(0.01)
    small = threading.Thread(target=wait, args=(10,))
    small.start()
    while budget.waiting < 2:
        clock.sleep(0.01)
    assert served == []
    budget.give(60)
    large.join(60)
    small.join(60)
    assert sorted(served) == [10, 80]
    assert budget.held == 90


def test_a_block_that_got_nothing_gives_nothing_back() -> None:
    """Its value says so."""
    budget = Budget(10)
    with budget.holding(8, 1) as first, budget.holding(8, 0.01) as second:
        assert (first, second, budget.held) == (True, False, 8)
    assert budget.held == 0
