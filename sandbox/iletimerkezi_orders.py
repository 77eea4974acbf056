"""iletimerkezi's orders: their recipients, their counters, and when they are sent."""

from bisect import bisect_right
from dataclasses import dataclass, field
from random import Random

from ulak.sandbox.http_types import Event
from ulak.sandbox.provider_times import DAY_SECONDS
from ulak.sandbox.settings import Size
from ulak.sandbox.standin import Batch
from ulak.sandbox.truth import write_e164

PUSHED = {111: "delivered", 112: "undelivered"}
BODY = "Kanaryam kanaryawebhook ile uçtu"


@dataclass(frozen=True, slots=True)
class Recipient:
    """One message of an order: 110 from the sending on, `code` from `at` on."""

    number: str
    code: int
    at: float

    def read(self, now: float) -> int:
        """110, or the last code once its time has come."""
        return self.code if now >= self.at else 110


@dataclass
class Order:
    """One order; its counters are those of its recipients at every moment."""

    id: int
    submit: int
    send: int
    failed: bool
    lag: float
    recipients: list[Recipient]
    reads: int = 0
    good: list[float] = field(default_factory=list)
    bad: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.good = sorted(one.at for one in self.recipients if one.code == 111)
        self.bad = sorted(one.at for one in self.recipients if one.code != 111)
        self.closes = max(one.at for one in self.recipients) + self.lag

    def status(self, now: float) -> int:
        """113 until the pipeline has finished, which may be a little after the last message."""
        if now < self.closes:
            return 113
        return 115 if self.failed else 114

    def counts(self, now: float) -> tuple[int, int]:
        """Delivered and undelivered."""
        return bisect_right(self.good, now), bisect_right(self.bad, now)


def spread_orders(rng: Random, batch: Batch) -> list[tuple[float, float, int]]:
    """(submitted, sent, recipients) of every order of a batch, oldest first."""
    if batch.size is None:
        counts = [len(batch.recipients)] if batch.recipients else [2] * (batch.count or 1)
        return [(batch.at, batch.at, count) for count in counts]
    size: Size = batch.size
    plan: list[tuple[float, float, int]] = []
    for _ in range(size.orders_past):
        at = batch.at - rng.uniform(1, 12) * DAY_SECONDS
        plan.append((at, at, draw_total(rng, size)))
    for index in range(size.orders_today):
        at = batch.at - (rng.uniform(0, 3) if index % 2 else rng.uniform(600, 10_000))
        plan.append((at, at, draw_total(rng, size)))
    for index in range(size.orders_arriving):
        at = batch.at + (60 + index * 380 / size.orders_arriving) / batch.speed
        plan.append((at, at, draw_total(rng, size)))
    plan.append((batch.at - 3600, batch.at + 200 / batch.speed, 3))
    plan.append((batch.at - 1800, batch.at + DAY_SECONDS, 2))
    if size.big_order:
        plan.append((batch.at - 2, batch.at - 1, size.big_order))
    return sorted(plan)


def draw_total(rng: Random, size: Size) -> int:
    """How many recipients; many orders have just one."""
    return 1 if rng.random() < 0.3 else rng.randint(2, size.order_recipients)


def push_events(rng: Random, order: Order, batch: Batch, first_id: int) -> list[Event]:
    """The webhook events of an order: `accepted` at the sending, then how each message ended, a moment late.

    It names order and number, so only its own `id` distinguishes equal numbers. A status that the page does not
    list is never pushed. Message ids begin with `first_id`.
    """
    events: list[Event] = []
    for place, one in enumerate(order.recipients):
        plan = [(float(order.send), "accepted")]
        if one.code in PUSHED and one.at < batch.at + DAY_SECONDS:
            plan.append((one.at, PUSHED[one.code]))
        for at, word in plan:
            report = {
                "id": first_id + place,
                "packet_id": order.id,
                "status": word,
                "to": write_e164(one.number),
                "body": BODY,
            }
            events.append(Event(at + rng.uniform(0, 60) / batch.speed, "", {"report": report}))
    return events
