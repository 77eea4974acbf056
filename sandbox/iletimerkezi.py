"""iletimerkezi.com: `get-reports/json`, `get-report/json` and the webhook.

Sources: toplusmsapi.com/sms/rapor/paket-ozet/json, …/liste/webhook, durum-kodlari-ve-mesajlar, and docs/api/get-report;
where they are silent, the decisions in the providers' page hold (gap of more than 10 days: 458; page 0: 464; past the
end: an empty page).
"""

import hashlib
import hmac
import re
import time
from collections import defaultdict
from datetime import date
from random import Random
from typing import Any

from typing_extensions import override

from ulak.sandbox.http_types import Answer, Call, answer_json, read_integer
from ulak.sandbox.iletimerkezi_orders import Order, Recipient, push_events, spread_orders
from ulak.sandbox.outcomes import NEVER, draw_delay, draw_number, draw_outcome, read_outcome
from ulak.sandbox.provider_times import local_date, local_text
from ulak.sandbox.settings import Settings
from ulak.sandbox.standin import Batch, StandIn, make_secret, poll_record, throttle
from ulak.sandbox.truth import Row, build_row, first_times, write_e164

PAGE = 30
ROWS = 1000
GOOD = frozenset({"delivered", "at_once", "late", "sent", "never", "unread", "read"})
MESSAGES = {
    200: "İşlem başarılı",
    400: "İstek çözümlenemedi",
    401: "Üyelik bilgileri hatalı",
    404: "API istek yapılan yönteme sahip değil",
    429: "Çok fazla istek yapıldı",
    455: "Sipariş bulunamadı",
    456: "Sipariş gönderim tarihi henüz gelmedi",
    458: "Tarih aralığı hatalı.",
    464: "Sayfa değeri 1'den başlamalıdır",
}
WORDS = {110: "enroute", 111: "delivered", 112: "undeliverable", 119: "unknown"}
FIRST_MESSAGE = 1_500_000_000
"""Ids of single messages: below 2**31, because official clients read them as 32-bit integers."""
HIDDEN_SECONDS = 3.0
"""The longest time an order stays hidden from lists (see the fault `inserted`)."""


class Iletimerkezi(StandIn):
    """The stand-in."""

    name = "iletimerkezi"
    root = ""
    pushes = True
    has_count = True

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.key = make_secret("iletimerkezi key", 32)
        self.secret = make_secret("iletimerkezi secret", 32)
        self.hash = hmac.new(self.secret.encode(), self.key.encode(), hashlib.sha256).hexdigest()
        # 32 or more characters, because the webhook's address is all that a receiver can check.
        self.webhook_secret = make_secret("iletimerkezi webhook", 40)
        self.orders: list[Order] = []
        self.by_id: dict[int, Order] = {}
        self.next_message = FIRST_MESSAGE
        self.hidden: tuple[int, float] | None = None

    @override
    def credentials(self) -> dict[str, str]:
        return {"key": self.key, "hash": self.hash, "webhook_secret": self.webhook_secret}

    @override
    def record(self) -> dict[str, Any]:
        return {
            "poll": poll_record(),
            "options": {"details": True},
            "other_credentials": {"key": self.key, "secret": self.secret},
        }

    @override
    def canaries(self) -> list[str]:
        return [self.key, self.hash, self.secret, self.webhook_secret, "kanaryawebhook"]

    # What is sent -------------------------------------------------------------------------

    @override
    def add(self, batch: Batch) -> None:
        rng = batch.rng(self.name)
        first = 70_000_000 + batch.number * 1_000_000
        for index, (submit, send, total) in enumerate(spread_orders(rng, batch)):
            order = self._draw(rng, batch, first + 7 * index, (submit, send, total), index)
            self.orders.append(order)
            self.by_id[order.id] = order
            # What ended before the batch was pushed long ago.
            events = push_events(rng, order, batch, self.next_message)
            self.events += [event for event in events if event.due >= batch.at]
            self.next_message += len(order.recipients)
        self.orders.sort(key=lambda order: (order.submit, order.id))

    def _draw(self, rng: Random, batch: Batch, key: int, plan: tuple[float, float, int], index: int) -> Order:
        submit, send, total = int(plan[0]), int(plan[1]), plan[2]
        failed = batch.size is not None and index % 11 == 5 and total < 50
        lag = rng.choice((0.0, 0.0, 20.0)) / batch.speed
        wanted = list(batch.recipients) or [draw_number(rng, batch.outcome or draw_outcome(rng)) for _ in range(total)]
        recipients: list[Recipient] = []
        for number in wanted:
            outcome = read_outcome(number)
            code = 111 if outcome in GOOD else 112
            if outcome == "unknown_word":
                code = 119
            at = NEVER if outcome == "never" else send + draw_delay(rng, outcome) / batch.speed
            recipients.append(Recipient(number, code, at))
            if batch.size is not None and total > 4 and rng.random() < 0.06:
                # The same number once more, with the opposite end: only its position distinguishes them.
                again = send + draw_delay(rng, outcome) / batch.speed
                recipients.append(Recipient(number, 223 - code, again))
        if failed:
            at = send + draw_delay(rng, "delivered") / batch.speed
            recipients = [Recipient(one.number, 112, at) for one in recipients]
        return Order(key, submit, send, failed, lag, recipients)

    # What is answered ---------------------------------------------------------------------

    @override
    def identify(self, call: Call) -> bool:
        return bool(call.dig("request", "authentication", "key") == self.key)

    @override
    def endpoint(self, call: Call) -> str:
        names = {f"/v1/{name}/json": name for name in ("get-reports", "get-report", "get-balance")}
        return names.get(call.path.rstrip("/"), "?")

    @override
    def throttled(self, call: Call, n: int, why: str) -> Answer:
        del call, why
        return throttle(self._refuse(429), n)

    @override
    def unauthorized(self, call: Call) -> Answer:
        del call
        return self._refuse(401)

    @override
    def answer(self, call: Call) -> Answer:
        endpoint = self.endpoint(call)
        if endpoint == "?" or call.method != "POST":
            return self._refuse(404)
        request = call.dig("request")
        if not isinstance(request, dict) or not isinstance(request.get("authentication"), dict):
            return self._refuse(400)
        given = request["authentication"]
        if (given.get("key"), given.get("hash")) != (self.key, self.hash):
            return self._refuse(401)
        if endpoint == "get-balance":
            status, balance = {"code": 200, "message": MESSAGES[200]}, {"amount": "1250.00", "sms": "33602"}
            return answer_json(200, {"response": {"status": status, "balance": balance}})
        return self._list(call) if endpoint == "get-reports" else self._detail(call)

    def _refuse(self, code: int) -> Answer:
        status = {"code": code, "message": MESSAGES[code]}
        return answer_json(code, {"response": {"status": status}})

    def _list(self, call: Call) -> Answer:
        chosen = call.dig("request", "filter")
        if not isinstance(chosen, dict):
            return self._refuse(400)
        first, last = read_day(chosen.get("start")), read_day(chosen.get("end"))
        if first is None or last is None or not 0 <= (last - first).days <= 10:
            return self._refuse(458)
        page = read_integer(chosen.get("page", 1))
        if page is None:
            return self._refuse(400)
        if page < 1:
            return self._refuse(464)
        found = [
            order
            for order in self.orders
            if order.submit <= call.now
            and first <= local_date(order.submit) <= last
            and order.id != self._hidden_id(page)
        ]
        if self.settings.iletimerkezi_newest_first:
            found.reverse()
        start = max(0, (page - 1) * PAGE + call.shift)
        count: int | str = len(found)
        if self.settings.iletimerkezi_text_numbers and len(found) % 7 == 3:
            count = str(count)
        body = {
            "status": {"code": 200, "message": MESSAGES[200]},
            "count": count,
            "orders": [self._summary(order, call.now) for order in found[start : start + PAGE]],
        }
        return answer_json(200, {"response": body})

    @override
    def hide_one(self, rng: Random, now: float) -> None:
        # Until a later page than the first is asked for, or for a moment.
        known = [order.id for order in self.orders if order.submit <= now]
        if known:
            self.hidden = (rng.choice(known), time.monotonic() + HIDDEN_SECONDS)

    def _hidden_id(self, page: int) -> int | None:
        if self.hidden is not None and (page > 1 or time.monotonic() > self.hidden[1]):
            self.hidden = None
        return self.hidden[0] if self.hidden else None

    def _summary(self, order: Order, now: float) -> dict[str, Any]:
        done, failed = order.counts(now)
        total = len(order.recipients)
        item: dict[str, Any] = {
            "id": order.id,
            "status": order.status(now),
            "total": total,
            "delivered": done,
            "undelivered": failed,
            "waiting": total - done - failed,
            "submitAt": local_text(order.submit),
            "sendAt": local_text(order.send),
            "sender": "eMarka",
        }
        if self.settings.iletimerkezi_text_numbers:
            textual = {0: ("id",), 1: ("status",), 2: ("total", "delivered", "undelivered", "waiting")}
            for name in textual.get(order.id // 7 % 5, ()):
                item[name] = str(item[name])
        return item

    def _detail(self, call: Call) -> Answer:
        key = read_integer(call.dig("request", "order", "id"))
        order = self.by_id.get(key) if key is not None else None
        if key is None:
            return self._refuse(400)
        if order is None or order.submit > call.now:
            return self._refuse(455)
        if order.send > call.now:
            return self._refuse(456)
        asked = call.dig("request", "order")
        page, rows = read_integer(asked.get("page", 1)), read_integer(asked.get("rowCount", ROWS))
        if page is None or rows is None or rows < 1:
            return self._refuse(400)
        if page < 1:
            return self._refuse(464)
        rows = min(rows, ROWS)
        order.reads += 1
        body = self._summary(order, call.now)
        if self.settings.iletimerkezi_old_details and len(order.recipients) <= ROWS:
            # The sample of 2024 has no counters.
            for name in ("total", "delivered", "undelivered", "waiting"):
                del body[name]
        body["price"] = (1, 0.5, "0,0372")[order.id // 7 % 3]
        body["message"] = self._messages(order, (page - 1) * rows, rows, call.now)
        code: int | str = 200
        if self.settings.iletimerkezi_text_numbers and order.id // 7 % 4 == 1:
            code = "200"
        status = {"code": code, "message": MESSAGES[200]}
        return answer_json(200, {"response": {"status": status, "order": body}})

    def _messages(self, order: Order, first: int, rows: int, now: float) -> list[dict[str, Any]]:
        shown = order.recipients[first : first + rows]
        places: dict[str, list[int]] = defaultdict(list)
        for place, one in enumerate(shown):
            places[one.number].append(place)
        codes = [one.read(now) for one in shown]
        for equal in places.values():
            if len(equal) > 1:
                # No order is promised among equal numbers, so none is kept between two reads.
                turn = order.reads % len(equal)
                swapped = [codes[place] for place in equal[turn:] + equal[:turn]]
                for place, code in zip(equal, swapped, strict=True):
                    codes[place] = code
        old = self.settings.iletimerkezi_old_details
        textual = self.settings.iletimerkezi_text_numbers and order.id // 7 % 3 == 0
        return [
            {
                "number": int(one.number[2:]) if old else write_e164(one.number),
                "status": str(code) if textual else code,
            }
            for one, code in zip(shown, codes, strict=True)
        ]

    # What is true -------------------------------------------------------------------------

    @override
    def sends(self, now: float, since_batch: int = 0) -> list[dict[str, Any]]:
        """None: orders are found in the lists."""
        del now, since_batch
        return []

    @override
    def settles_at(self) -> float:
        soon = {order.id for order in self.orders if order.send < order.submit + 40_000}
        ends = [order.closes for order in self.orders if order.id in soon and order.closes != NEVER]
        return max([0, *ends, *(event.due for event in self.events if event.body["report"]["packet_id"] in soon)])

    # Faults that only its own lists and orders know ----------------------------------------

    @override
    def rows_at(self, call: Call) -> tuple[str, ...] | None:
        return {"get-reports": ("orders",), "get-report": ("order", "message")}.get(self.endpoint(call))

    @override
    def is_list(self, call: Call) -> bool:
        return self.endpoint(call) == "get-reports"

    @override
    def another(self, call: Call, rng: Random) -> Call | None:
        if self.is_list(call):
            return None
        known = [order.id for order in self.orders if order.send <= call.now]
        return call.rewritten(lambda body: body["request"]["order"].update(id=rng.choice(known)))

    @override
    def another_page(self, call: Call, rng: Random) -> Call | None:
        page = read_integer(call.dig("request", "filter", "page")) or 1
        del rng
        return call.rewritten(lambda body: body["request"]["filter"].update(page=page - 1)) if page > 1 else None

    @override
    def truth(self, now: float, settings: Settings) -> list[Row]:
        del settings
        rows: list[Row] = []
        for order in self.orders:
            if order.submit <= now:
                rows.append(self._order_row(order, now))
                if order.send <= now:
                    rows.extend(self._recipient_rows(order, now))
        return rows

    def _order_row(self, order: Order, now: float) -> Row:
        done, failed = order.counts(now)
        total, code = len(order.recipients), order.status(now)
        if code == 113:
            status = "enroute" if now >= order.send else "scheduled"
        elif code == 115:
            status = "rejected"
        else:
            status = "delivered" if done == total else "partially_delivered"
            status = status if done else "undeliverable"
        row = build_row(
            self.name,
            "order",
            str(order.id),
            status,
            total=total,
            delivered=done,
            undelivered=failed,
            waiting=total - done - failed,
            sent_at=order.send if order.send <= now else None,
            settles_at=order.closes,
            ever=first_times([(order.submit, "enroute")] + ([(order.closes, status)] if code != 113 else [])),
        )
        if code == 113:
            row["status_any"] = ["enroute", "scheduled"]
        return row

    def _recipient_rows(self, order: Order, now: float) -> list[Row]:
        equal: dict[str, list[Recipient]] = defaultdict(list)
        for one in order.recipients:
            equal[one.number].append(one)
        rank = {111: 0, 110: 1, 119: 2, 112: 3}
        rows = []
        for number, group in equal.items():
            last = max(one.at for one in group)
            # Equal numbers are indistinguishable, so each may have the state of any other.
            reached = sorted((one.at, WORDS[one.code]) for one in group if one.at <= now)
            ever = first_times([(order.send, "enroute"), *reached])
            codes = sorted((one.read(now) for one in group), key=rank.__getitem__)
            for ordinal, code in enumerate(codes, 1):
                key = f"{order.id}:{write_e164(number)}:{ordinal}"
                row = build_row(self.name, "message", key, WORDS[code], settles_at=last, ever=ever)
                row |= {"parent_key": str(order.id), "recipient": write_e164(number)}
                rows.append(row)
        return rows


def read_day(text: Any) -> date | None:
    """A `Y-m-d` date, or None."""
    if not isinstance(text, str) or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
