"""Diyalog: `getcustomermessaginglist` behind DLGA signatures.

Sources: diyalog.im/docs, pages diyalog-reporting-api-getcustomermessaginglist and
diyalog-api-authentication.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any

from typing_extensions import override

from ulak.sandbox.http_types import Answer, Call, answer_json, answer_text, read_integer
from ulak.sandbox.outcomes import Life, build_life
from ulak.sandbox.provider_times import DAY_SECONDS, utc_date, utc_midnight
from ulak.sandbox.settings import Settings
from ulak.sandbox.standin import Batch, StandIn, make_secret, poll_record, throttle
from ulak.sandbox.truth import Row, build_row, encode_part

PATH = "/v1/reporting/getcustomermessaginglist"
PAGE = 20
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d{2}) ([A-Z][a-z]{2}) (\d{4}) "
    r"(\d{2}):(\d{2}):(\d{2})(?: (GMT|UTC|[+-]\d{4}))?"
)
CREDENTIAL = re.compile(r"DLGA ([^:\s]+):([A-Za-z0-9+/=]+)")
HEADERS = (
    ("x-dlg-date", "date"),
    ("x-dlg-authorization", "x-authorization"),
    ("x-dlg-requester-userid", "x-requester-userid"),
)
LATE_CUSTOMER = 3
LATE_SECONDS = 240
"""How long after the start, at speed 1, the customer at that place is unknown to the server."""
STAFF = ("45186", "45%18:6", "70012", "70013", "70014")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one wrote to another on one day; the life holds the counts of that day."""

    customer: str
    sender: str
    receiver: str
    group: int
    day: int
    life: Life[int]
    batch: int


class Diyalog(StandIn):
    """The stand-in."""

    name = "diyalog"
    root = ""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.access_key_id = "AKDEMO" + make_secret("diyalog id", 14)
        self.secret = make_secret("diyalog secret", 40)
        self.conversations: list[Conversation] = []
        self.customers: dict[str, list[Conversation]] = {}
        self.known_from: dict[str, float] = {}

    @override
    def credentials(self) -> dict[str, str]:
        return {
            "access_key_id": self.access_key_id,
            "access_key_secret": self.settings.diyalog_access_key_secret or self.secret,
            "requester_userid": "ulak-demo",
        }

    @override
    def record(self) -> dict[str, Any]:
        return {"poll": poll_record(), "options": {}}

    @override
    def canaries(self) -> list[str]:
        return [self.secret, "Kanarya Gönderen", "Kanarya Alan", "kanarya-baglanti"]

    # What is sent -------------------------------------------------------------------------

    @override
    def add(self, batch: Batch) -> None:
        rng = batch.rng(self.name)
        if batch.size is None:
            customers, days = batch.count or 1, 1
        else:
            customers, days = batch.size.customers, batch.size.conversation_days
        for index in range(customers):
            customer = str(2_337_000 + batch.number * 10_000 + index)
            many = days * 3 if batch.size is not None and index == 1 else days
            if batch.size is not None and index == LATE_CUSTOMER:
                # Registered by the sender before the reporting server knows it: an error of one request, for a while.
                self.known_from[customer] = batch.at + LATE_SECONDS / batch.speed
            for conversation in self._draw(rng, batch, customer, (index, many)):
                self.conversations.append(conversation)
                self.customers.setdefault(customer, []).append(conversation)

    def _draw(self, rng: Random, batch: Batch, customer: str, place: tuple[int, int]) -> list[Conversation]:
        index, count = place
        seen: dict[tuple[str, str, int, int], Conversation] = {}
        while len(seen) < count:
            # A third customer talks with one member of staff only and is registered with them.
            staff = STAFF[2] if index == 2 else rng.choice(STAFF)
            grouped = rng.random() < 0.25
            group = rng.randint(4700, 4705) if grouped else 0
            pair = (customer, staff) if rng.random() < 0.8 else (staff, customer)
            back = 0 if batch.size is None or len(seen) < 2 else rng.randrange(9)
            day = utc_midnight(batch.at) - back * DAY_SECONDS
            key = (*pair, group, day)
            if key not in seen:
                late = len(seen) == 1
                life = self._life(rng, batch, day, back=back, late=late)
                seen[key] = Conversation(customer, *pair, group, day, life, batch.number)
        return list(seen.values())

    def _life(self, rng: Random, batch: Batch, day: int, *, back: int, late: bool) -> Life[int]:
        count = rng.randint(1, 30)
        if back > 1 or (back == 1 and rng.random() < 0.5):
            return build_life([(float(day), count)])
        start = batch.at + rng.uniform(40, 250) / batch.speed if late else batch.at - 1
        steps = [(start, count)]
        for _ in range(rng.randint(0, 4)):
            # The provider's count may be off by ten, so it may also go down again.
            count = max(1, count + rng.randint(-4, 12))
            start += rng.uniform(10, 85) / batch.speed
            steps.append((start, count))
        return build_life(steps)

    # What is answered ---------------------------------------------------------------------

    @override
    def identify(self, call: Call) -> bool:
        found = CREDENTIAL.fullmatch(read_header(call, HEADERS[1]) or "")
        return found is not None and found[1] == self.access_key_id

    @override
    def endpoint(self, call: Call) -> str:
        return "getcustomermessaginglist" if call.path == PATH else "?"

    @override
    def throttled(self, call: Call, n: int, why: str) -> Answer:
        del call, why
        return throttle(answer_text(429, "Too many requests"), n)

    @override
    def unauthorized(self, call: Call) -> Answer:
        del call
        return answer_text(401, "Authorization failed")

    @override
    def answer(self, call: Call) -> Answer:
        if call.path != PATH or call.method != "POST":
            return answer_text(404, "Not found")
        return self._authorize(call) or self._list(call)

    def _authorize(self, call: Call) -> Answer | None:
        date, given, user = (read_header(call, names) for names in HEADERS)
        if not date or not given or not user:
            return answer_text(400, "Required headers not found")
        credential = CREDENTIAL.fullmatch(given)
        if credential is None:
            return answer_text(400, "Authorization failed due to data format not valid")
        at = read_date(date)
        if at is None:
            return answer_text(400, "Authorization failed due to date not valid")
        if abs(at - call.now - call.clock) > self.settings.diyalog_max_skew_seconds:
            return answer_text(403, "Request time may not be correct.")
        secret = self.settings.diyalog_access_key_secret or self.secret
        wanted = sign(secret, call, date, newline=self.settings.diyalog_newline)
        same = hmac.compare_digest(wanted, credential[2])
        if credential[1] != self.access_key_id or not same:
            return self.unauthorized(call)
        return None

    def _find_fault(self, asked: Any, now: float) -> str | None:
        """What is wrong with a request, in the server's words."""
        if not isinstance(asked, dict):
            return "Request body could not be read"
        start, end = read_integer(asked.get("startDate")), read_integer(asked.get("endDate"))
        customer = asked.get("customerId")
        if start is None or end is None or not isinstance(customer, str) or not customer:
            return "startDate, endDate and customerId are required"
        if start > end:
            return "startDate must be before endDate"
        page, rows = read_integer(asked.get("pageNumber")), read_integer(asked.get("pageSize"))
        if page is None or rows is None or page < 1 or rows < 1:
            return "pageNumber and pageSize must start from 1"
        is_known = customer in self.customers and now >= self.known_from.get(customer, 0)
        return None if is_known or self.settings.diyalog_unknown_is_empty else "Customer not found in the system"

    def _list(self, call: Call) -> Answer:
        asked = call.json
        fault = self._find_fault(asked, call.now)
        if fault is not None:
            # "When the API hits an error it answers HTTP 500; the message is text": any error at all.
            return answer_text(500, fault)
        start, end = int(asked["startDate"]), int(asked["endDate"])
        page, rows = int(asked["pageNumber"]), int(asked["pageSize"])
        found = [
            one
            for one in self.customers.get(asked["customerId"], ())
            if start <= one.day * 1000 <= end
            and one.life.at(call.now) is not None
            and call.now >= self.known_from.get(one.customer, 0)
            and asked.get("staffId") in (None, "", one.sender, one.receiver)
            and asked.get("isGroupMessaging") in (None, one.group != 0)
        ]
        found.sort(key=lambda one: (one.day, one.life.times[0]), reverse=True)
        rows = min(rows, PAGE)
        first = max(0, (page - 1) * rows + call.shift)
        shown = found[first : first + rows]
        return answer_json(200, [tell(one, call.now) for one in shown])

    # Faults that only its own lists know ----------------------------------------------------

    @override
    def rows_at(self, call: Call) -> tuple[str, ...] | None:
        return ()

    @override
    def content(self, call: Call) -> Answer:
        return self._list(call)

    @override
    def is_list(self, call: Call) -> bool:
        return True

    @override
    def another(self, call: Call, rng: Random) -> Call | None:
        known = list(self.customers)
        return call.rewritten(lambda body: body.update(customerId=rng.choice(known), staffId=""))

    @override
    def another_page(self, call: Call, rng: Random) -> Call | None:
        page = read_integer(call.dig("pageNumber")) or 1
        return call.rewritten(lambda body: body.update(pageNumber=page - 1)) if page > 1 else None

    # What is true -------------------------------------------------------------------------

    @override
    def sends(self, now: float, since_batch: int = 0) -> list[dict[str, Any]]:
        rows = []
        for index, (customer, listed) in enumerate(self.customers.items()):
            if listed[0].batch < since_batch:
                continue
            ends = max(self.known_from.get(customer, 0), *(one.life.times[-1] for one in listed))
            alone = listed[0].batch == 0 and index == 2
            rows.append(
                {
                    "account": "demo-diyalog",
                    "kind": "customer",
                    "value": f"{customer}:{STAFF[2]}" if alone else customer,
                    "client_ref": None,
                    "recipient": None,
                    "expected": None,
                    "sent_at": min(one.day for one in listed),
                    "valid_until": ends + (self.settings.validity_seconds or 20),
                }
            )
        return rows

    @override
    def settles_at(self) -> float:
        return max([0, *self.known_from.values(), *(one.life.settles_at for one in self.conversations)])

    @override
    def truth(self, now: float, settings: Settings) -> list[Row]:
        del settings
        return [
            self._row(one, now)
            for one in self.conversations
            if one.life.at(now) is not None and now >= self.known_from.get(one.customer, 0)
        ]

    def _row(self, one: Conversation, now: float) -> Row:
        parts = (one.sender, one.receiver, str(one.group), utc_date(one.day))
        return build_row(
            self.name,
            "conversation",
            ":".join(map(encode_part, parts)),
            "sent",
            parent_key=one.sender,
            is_final=now >= one.day + 3 * DAY_SECONDS,
            recipient=one.receiver,
            total=one.life.at(now),
            settles_at=one.life.settles_at,
            ever={"sent": one.life.times[0]},
        )


def tell(one: Conversation, now: float) -> dict[str, Any]:
    """One object of the list."""
    digest = hashlib.sha256(f"{one.sender}{one.receiver}{one.day}".encode()).hexdigest()[:16]
    return {
        "conversationDetailLink": f"https://diyalog.example/kanarya-baglanti/{digest}",
        "groupId": one.group,
        "isGroupMessaging": one.group != 0,
        "messagingDate": one.day * 1000,
        "nameOfReceiver": "Kanarya Alan",
        "nameOfSender": "Kanarya Gönderen",
        "receiverId": one.receiver,
        "sendMessageCount": one.life.at(now),
        "senderId": one.sender,
    }


def read_header(call: Call, names: tuple[str, str]) -> str | None:
    """The header by its name of today, or by its older one."""
    return call.headers.get(names[0]) or call.headers.get(names[1])


def read_date(text: str) -> float | None:
    """Epoch seconds of `Tue, 09 Mar 2021 13:28:32 GMT` (also +0000, +0300, or no zone: GMT)."""
    found = DATE.fullmatch(text)
    if found is None or found[2] not in MONTHS:
        return None
    day, _, year, hour, minute, second, zone = found.groups()
    offset = timedelta()
    if zone and zone[0] in "+-":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:]))
        offset = -offset if zone[0] == "-" else offset
    month = MONTHS.index(found[2]) + 1
    try:
        moment = datetime(
            int(year),
            month,
            int(day),
            int(hour),
            int(minute),
            int(second),
            tzinfo=timezone(offset) if offset else UTC,
        )
    except ValueError:
        return None
    return moment.timestamp()


def sign(secret: str, call: Call, date: str, *, newline: bool) -> str:
    """The signature over the exact bytes that came in."""
    head = f"{call.method}\n{call.headers.get('content-type', '')}\n{date}\n".encode()
    text = head + call.body + (b"\n" if newline else b"") + call.path.encode()
    return base64.b64encode(hmac.new(secret.encode(), text, hashlib.sha256).digest()).decode()
