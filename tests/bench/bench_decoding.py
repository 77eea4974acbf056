"""What reading an answer costs the client: from its bytes to the parameters of the statements that store it.

    python tests/bench/bench_decoding.py [seconds per case]

The fast reader of plain answers beside the tolerant one, in processor time of one thread; the last column is all that
is worth comparing between machines. No database: the statements go to a sink that answers that nothing is known yet,
or, for `moves`, that every row is stored as still on its way.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from rich.console import Console
from rich.table import Table

sys.path[:0] = [str(Path(__file__).parent)]

from canned_pages import rows_of, transaction_of  # noqa: E402 -- found through the path above

from ulak.models import deliveries, sending_time  # noqa: E402
from ulak.models.facts import encode_facts  # noqa: E402
from ulak.models.merge import observe  # noqa: E402
from ulak.models.report import DeliveryReport, TrackedKey  # noqa: E402
from ulak.models.vocabulary import Status  # noqa: E402
from ulak.providers import diyalog, iletimerkezi, organik  # noqa: E402
from ulak.providers.adapter import Account, Answer, DueId, Fetch, Parsed  # noqa: E402
from ulak.providers.plain import NotPlainError  # noqa: E402
from ulak.providers.registry import ADAPTERS  # noqa: E402

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROWS = 500


class Found(list[tuple[Any, ...]]):
    """The rows that a statement returns."""

    def fetchall(self) -> "Found":
        """All of them."""
        return self


class Sink:
    """Takes the upsert's statements and answers at once; `seconds`: what its own answering took."""

    def __init__(self, stored: Sequence[DeliveryReport] = ()) -> None:
        """`stored`: the reports of which the deliveries are known."""
        self.seconds = 0.0
        # To `ulak.models.database.execute` it is the connection, the driver's connection and the cursor.
        self.connection = self.dbapi_connection = self.dispatch = self
        self.before_cursor_execute = ()
        self._ids = {report.provider_key: place for place, report in enumerate(stored)}
        self._history = Found(_history_row(place, report) for place, report in enumerate(stored))

    def cursor(self, **_: Any) -> "Sink":
        """Of the driver's connection."""
        return self

    def execute(self, sql: str, parameters: dict[str, Any]) -> Found:
        """What PostgreSQL would return."""
        start = thread_time()
        try:
            return self._answer(sql, parameters)
        finally:
            self.seconds += thread_time() - start

    def _answer(self, sql: str, parameters: dict[str, Any]) -> Found:
        if sql is deliveries._HISTORY:
            return self._history
        if sql is deliveries._LOCK_CURRENT:
            return Found((place,) for place in sorted(parameters["ids"]))
        if sql is sending_time._MOVED_BY_ORDERS:
            return Found()
        if sql is deliveries._PROBE:
            rows = msgspec.json.decode(parameters["rows"])
            return Found((row["n"], self._ids.get(row["provider_key"]), False, False, None) for row in rows)
        if sql is deliveries._INSERT:
            return Found()
        return Found((row["id"],) for row in msgspec.json.decode(parameters["others"]))


def _history_row(place: int, report: DeliveryReport) -> tuple[Any, ...]:
    seen = observe(report, asked_at=NOON)
    return place, seen.content_hash, "poll", seen.as_of, None, None, NOON, encode_facts(seen.facts).decode(), None, None


def organik_page(page: int, status: int | None = None) -> bytes:
    """A reply with rows whose times, statuses and errorcodes vary; `status`: of every row."""
    rows = list(rows_of(ROWS, page))
    for place, row in enumerate(rows):
        sent = NOON + timedelta(seconds=place * 37)
        row["status"] = (2, 2, 3, 4, 1)[place % 5] if status is None else status
        row["errorcode"] = (0, 5, 99, 8)[place % 4] if row["status"] in {3, 4} else 0
        row["create_date"] = row["start_date"] = f"{sent:%Y-%m-%d %H:%M:%S}"
        is_open = row["status"] == 1
        row["finish_date"] = None if is_open else f"{sent + timedelta(seconds=place):%Y-%m-%d %H:%M:%S}"
    return msgspec.json.encode({"response": {"result": True, "data": rows}})


def order_page(*, is_list: bool) -> bytes:
    """A page of orders, or of one order's recipients."""
    order = {"status": 114, "undelivered": 0, "waiting": 0, "sender": "eMarka", "price": "0,0372"}
    times = {"submitAt": "2026-03-01 10:00:00", "sendAt": "2026-03-01 10:00:07"}
    orders = [{"id": number, "total": 1, "delivered": 1, **order, **times} for number in range(ROWS)]
    people = [{"number": f"+9053{place * 7919 % 10**8:08}", "status": 111} for place in range(ROWS)]
    one = {"id": 7, "total": ROWS, "delivered": ROWS, **order, **times, "message": people}
    content = {"count": ROWS, "orders": orders} if is_list else {"order": one}
    return msgspec.json.encode({"response": {"status": {"code": 200, "message": "İşlem başarılı"}, **content}})


def conversations() -> bytes:
    """Conversation-days of one customer, more than a page holds."""
    names = {"nameOfReceiver": "Agent", "nameOfSender": "Cust 113377", "conversationDetailLink": "http://127.0.0.1/x"}
    day = {"groupId": 0, "isGroupMessaging": False, "messagingDate": 1617667200000, "senderId": "113377", **names}
    return msgspec.json.encode([{**day, "receiverId": str(place), "sendMessageCount": 5} for place in range(ROWS)])


def account(provider: str) -> Account:
    """An account with all defaults."""
    return Account(
        id=provider,
        provider=provider,
        base_url="",
        timezone=ZoneInfo("Europe/Istanbul"),
        credentials={"key": "k", "hash": "h"},
        options=ADAPTERS[provider].record.options(),
    )


def asked(module: ModuleType, kind: str, value: str) -> Fetch:
    """The call for one id."""
    due = DueId(key=TrackedKey(id_kind=kind, value=value), expected=ROWS)
    spec = module.ADAPTER.plan_ids(account(module.ADAPTER.record.name), [due], NOON.date())[0]
    return Fetch(spec=spec, ids={due.key: due})


def refuse(*_: object) -> Parsed:
    """Stands for the fast reader where nothing is plain."""
    raise NotPlainError


def measure(module: ModuleType, fetch: Fetch, bodies: Callable[[int], bytes], seconds: float, *, moves: bool) -> float:
    """Median processor microseconds a row."""
    taken: list[float] = []
    provider, end = account(module.ADAPTER.record.name), perf_counter() + seconds
    page = 0
    while perf_counter() < end or len(taken) < 10:
        page += 1
        answer = Answer(status=200, body=bodies(page), received_at=NOON)
        opened = Answer(status=200, body=organik_page(page, 1)) if moves else None
        known = module.ADAPTER.parse(provider, fetch, opened).reports if opened is not None else ()
        assert all(report.status is Status.ENROUTE for report in known)
        sink: Any = Sink(known)
        start = thread_time()
        reports = module.ADAPTER.parse(provider, fetch, answer).reports
        deliveries.upsert(sink, provider.id, provider.provider, reports, asked_at=NOON + timedelta(hours=bool(known)))
        taken.append((thread_time() - start - sink.seconds) / ROWS)
    return median(taken[1:]) * 1e6


def main(url: str = "", seconds: float = 2.0) -> None:
    """Print the table; the address is not used."""
    del url
    transaction, window = transaction_of(ROWS, 1), (date(2026, 3, 1), date(2026, 3, 1))
    listed = Fetch(spec=iletimerkezi.ADAPTER.plan_window(account("iletimerkezi"), *window)[0])
    page, order = asked(organik, "transaction", transaction), asked(iletimerkezi, "order", "7")
    cases = {
        "organik rows, new": (organik, page, lambda _: organik_page(1), False),
        "organik rows, moves": (organik, page, lambda number: organik_page(number, 2), True),
        "iletimerkezi recipients, new": (iletimerkezi, order, lambda _: order_page(is_list=False), False),
        "iletimerkezi orders, new": (iletimerkezi, listed, lambda _: order_page(is_list=True), False),
    }
    customer = asked(diyalog, "customer", "113377")
    cases["diyalog conversations, new"] = (diyalog, customer, lambda _: conversations(), False)
    table = Table("500 rows", "tolerant µs/row", "fast µs/row", "tolerant : fast")
    for name, (module, fetch, bodies, moves) in cases.items():
        costs = []
        for is_fast in (False, True):
            with nullcontext() if is_fast else pytest.MonkeyPatch.context() as patch:
                if patch is not None:
                    patch.setattr(module, "_parse_plain", refuse)
                costs.append(measure(module, fetch, bodies, seconds, moves=moves))
        table.add_row(name, *(f"{cost:.1f}" for cost in costs), f"{costs[0] / costs[1]:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main("", *(float(word) for word in sys.argv[1:2]))
