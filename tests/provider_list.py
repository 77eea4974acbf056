"""A provider's list of orders that moves while it is read, without a network: what a poll sees of it, page by page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ulak.models.report import WalkedPage
from ulak.schedules.windows import Verdict, is_read_downwards, judge_reading


@dataclass(slots=True)
class ProviderList:
    """Orders in the provider's order; whatever changes, changes between two requests."""

    orders: list[str]
    size: int
    newest_first: bool
    arrived: int = 0
    removed: set[str] = field(default_factory=set)

    def arrive(self, at: int) -> None:
        """A new order at this place; the growing end is 0 where the newest come first, else the length."""
        self.arrived += 1
        self.orders.insert(min(at, len(self.orders)), f"new-{self.arrived}")

    def arrive_at_the_end(self) -> None:
        """A new order where new orders belong."""
        self.arrive(0 if self.newest_first else len(self.orders))

    def leave(self, at: int) -> None:
        """The order at this place is no longer listed."""
        if self.orders:
            self.removed.add(self.orders.pop(at % len(self.orders)))

    def swap(self, at: int) -> None:
        """Two neighbours change places, as orders of one second do."""
        if len(self.orders) > 1:
            one = at % (len(self.orders) - 1)
            self.orders[one : one + 2] = reversed(self.orders[one : one + 2])

    def page(self, number: int, attempt: int) -> WalkedPage:
        """What one request shows."""
        seen = tuple(self.orders[(number - 1) * self.size : number * self.size])
        count = len(self.orders)
        is_last = number * self.size >= count
        return WalkedPage(round=attempt, number=number, count=count, last=is_last, seen=seen, size=self.size,
                          newest_first=self.newest_first)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Walk:
    """How a poll over a list ended."""

    verdict: Verdict
    reads: Sequence[WalkedPage]
    undisturbed: int
    """Requests that the same list costs when nothing moves."""

    @property
    def seen(self) -> set[str]:
        """Every order that some page showed."""
        return {key for read in self.reads for key in read.seen}


def walk(provider: ProviderList, move: Callable[[int], None], judge: Callable[..., Verdict] = judge_reading) -> Walk:
    """Read the list as a poll does, one request after the other; `move(n)` changes it after the nth request."""
    pages = max(1, -(-len(provider.orders) // provider.size))
    closing = int(pages > 1 and is_read_downwards(newest_first=provider.newest_first))
    ahead = sorted(range(2, pages + 1), reverse=is_read_downwards(newest_first=provider.newest_first))
    reads = [provider.page(1, 1)]
    move(0)
    attempt = 1
    while True:
        for number in ahead:
            reads.append(provider.page(number, attempt))
            move(len(reads) - 1)
        verdict = judge(reads)
        if verdict.is_complete or not verdict.pages:
            return Walk(verdict, reads, pages + closing)
        ahead, attempt = list(verdict.pages), attempt + verdict.is_new_attempt
