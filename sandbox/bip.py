"""Bipüssü (BiP): nothing to poll; the stand-in sends and pushes what the real one would.

Sources: bip.com Keşfet API pages rapor-alma, user-actions, error-handling.
"""

import base64
from dataclasses import dataclass, field
from random import Random
from typing import Any

from typing_extensions import override

from ulak.sandbox.http_types import Answer, Call, Event, answer_json
from ulak.sandbox.outcomes import NEVER, draw_delay, draw_number, draw_outcome, read_outcome
from ulak.sandbox.provider_times import dotted_text, iso
from ulak.sandbox.settings import Settings
from ulak.sandbox.standin import Batch, StandIn, make_secret
from ulak.sandbox.truth import Row, build_row, encode_part, first_times, write_e164

REFUSED = {
    "quota": (312,),
    "refused": (302, 307, 311),
    "blacklisted": (302,),
    "opted_out": (302,),
    "invalid": (301, 305, 306),
}
"""Outcomes that are refused at the door, and the result codes of the error page to draw from."""
FAILED = (308, 309, 310, 303, 304, 300, 301, 302, 305, 306, 307, 311)
"""Result codes of whole sends that failed, in turn."""
REASONS = {301: "invalid_number", 308: "quota", 312: "quota"}
PART = 6
"""Most items of one report."""
SILENT = frozenset({"never", "absent", "expired", "error", "handset", "network", "barred", "test"})


@dataclass(frozen=True, slots=True)
class Notice:
    """A delivered (0), read (1) or not documented (9) notice of a message, and its pushes: it may come repeatedly."""

    due: float
    sent: float
    kind: int
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Item:
    """One message of a send, or its refusal; `nth` is its place among the messages sent to that receiver.

    `posts` are the pushes of reports that hold it; a synchronous send has none.
    """

    receiver: str
    resultcode: int
    reportid: str | None
    nth: int
    notices: tuple[Notice, ...]
    posts: list[Event] = field(default_factory=list)


@dataclass
class Send:
    """One txnid."""

    txnid: str
    batch: int
    sync: bool
    at: float
    reported: float
    resultcode: int
    items: list[Item] = field(default_factory=list)
    posts: list[Event] = field(default_factory=list)

    def parts(self) -> list[list[Item]]:
        """The items of each report: a large send is reported in several."""
        each = PART if len(self.items) > PART else max(1, len(self.items))
        return [self.items[first : first + each] for first in range(0, len(self.items), each)] or [[]]

    def told_at(self, posts: list[Event], now: float) -> float | None:
        """When a receiver may have had one of these reports, or the reply of a synchronous send; None: not yet."""
        if self.sync:
            return self.reported if self.reported <= now else None
        return first_reached(posts, now)

    def body(self, part: int = 0) -> dict[str, Any]:
        """A report as in the reply or a callback; `reqid` distinguishes the reports of one send."""
        body: dict[str, Any] = {"txnid": self.txnid, "resultcode": self.resultcode}
        if len(self.txnid) % 2:
            body["resultcode"] = str(self.resultcode)
        if not self.sync:
            body = {"reqid": sum(self.txnid.encode()) % 997 * 10 + part, **body}
        if self.resultcode == 0:
            items = self.items if self.sync else self.parts()[part]
            body["list"] = [
                {
                    "receiver": item.receiver,
                    "resultcode": item.resultcode,
                    "reportid": item.reportid,
                    "numberofmessage": item.nth if item.resultcode == 0 else None,
                    "totalnumberofmessage": item.nth,
                }
                for item in items
            ]
        return body


class Bip(StandIn):
    """The stand-in."""

    name = "bip"
    root = ""
    pushes = True

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.password = make_secret("bip password", 24)
        self.list: list[Send] = []

    @override
    def credentials(self) -> dict[str, str]:
        return {"callback_user": "bipdemo", "callback_password": self.password}

    @override
    def record(self) -> dict[str, Any]:
        return {"poll": {}, "options": {}}

    @override
    def canaries(self) -> list[str]:
        return [self.password, "kanarya-mesaji"]

    # What is sent -------------------------------------------------------------------------

    @override
    def add(self, batch: Batch) -> None:
        rng = batch.rng(self.name)
        total = 1 if batch.recipients else batch.count or 1
        total = batch.size.bip_sends if batch.size else total
        for index in range(total):
            send = self._draw(rng, batch, index)
            self.list.append(send)
            if not send.sync:
                self._report(rng, batch, send)
            for item in send.items:
                self._schedule(rng, batch, item)
        if batch.size is not None:
            self._add_noise(rng, batch)

    def _report(self, rng: Random, batch: Batch, send: Send) -> None:
        for number, items in enumerate(send.parts()):
            due = send.reported + (rng.uniform(0, 20) / batch.speed if number else 0)
            posts = [Event(due, "/report", send.body(number))]
            if rng.random() < 0.2:
                posts.append(Event(due + rng.uniform(1, 60) / batch.speed, "/report", send.body(number)))
            self.events += posts
            send.posts += posts
            for item in items:
                item.posts.extend(posts)

    def _draw(self, rng: Random, batch: Batch, index: int) -> Send:
        # A sender of one batch asks for sync and async in turn.
        sync = index % 3 == 0 and not batch.recipients
        at = batch.at
        if batch.size is not None:
            at += (-rng.uniform(0, 2)) if sync else rng.uniform(0, 150) / batch.speed
        txnid = f"Tx{batch.number}-{index}-{'Content' if index % 2 else 'Broadcast'}"
        reported = at if sync else at + rng.uniform(2, 120) / batch.speed
        failed = batch.size is not None and index % 8 == 5
        code = FAILED[index // 8 % len(FAILED)] if failed else 0
        send = Send(txnid, batch.number, sync, at, reported, code)
        if code == 0:
            send.items = self._items(rng, batch, send, index)
        return send

    def _items(self, rng: Random, batch: Batch, send: Send, index: int) -> list[Item]:
        numbers = list(batch.recipients)
        if not numbers:
            count = rng.randint(1, batch.size.bip_receivers) if batch.size else 1
            numbers = [draw_number(rng, batch.outcome or draw_outcome(rng)) for _ in range(count)]
        total = 2 if batch.size is not None and index % 7 == 2 else 1
        items = []
        counted: dict[str, int] = {}
        for place, number in enumerate(numbers):
            receiver = number
            if batch.size is not None and index % 6 == 4:
                receiver = base64.b64encode(rng.randbytes(16)).decode()
            for message in range(1, total + 1):
                nth = counted[receiver] = counted.get(receiver, 0) + 1
                outcome = "quota" if message == 2 and place % 3 == 1 else read_outcome(number)
                if outcome in REFUSED:
                    items.append(Item(receiver, rng.choice(REFUSED[outcome]), None, nth, ()))
                    continue
                reportid = f"{rng.getrandbits(30):06x}-{len(self.list)}{nth}{rng.randrange(10_000):04d}"
                notices = self._notices(rng, batch, send.at, outcome)
                items.append(Item(receiver, 0, reportid, nth, notices))
        return items

    def _notices(self, rng: Random, batch: Batch, at: float, outcome: str) -> tuple[Notice, ...]:
        if outcome in SILENT:
            return ()
        delivered = round(at + draw_delay(rng, outcome) * 0.6 / batch.speed, 3)
        jitter = rng.uniform(0, 60) / batch.speed
        first = Notice(delivered + jitter, delivered, 9 if outcome == "unknown_word" else 0)
        read = outcome == "read" or (outcome == "delivered" and rng.random() < 0.6)
        if not read:
            return (first,)
        seen = round(delivered + rng.uniform(1, 120) / batch.speed, 3)
        second = Notice(seen + rng.uniform(0, 60) / batch.speed, seen, 1)
        # Some delivered notices are lost; the read notice implies them.
        return (second,) if rng.random() < 0.1 else (first, second)

    def _schedule(self, rng: Random, batch: Batch, item: Item) -> None:
        for notice in item.notices:
            body = {
                "sender": item.receiver,
                "type": "R",
                "msgid": rng.randrange(10**8),
                "sendtime": dotted_text(notice.sent),
                "txnid": f"Gp{rng.randrange(10**6)}-{rng.randrange(100)}",
                "report": {"reportid": item.reportid, "reporttype": notice.kind},
            }
            notice.events.append(Event(notice.due, "", body))
            while rng.random() < 0.12:
                notice.events.append(Event(notice.due + rng.uniform(0, 80) / batch.speed, "", body))
            self.events += notice.events

    def _add_noise(self, rng: Random, batch: Batch) -> None:
        for _ in range(6):
            due = batch.at + rng.uniform(0, 400) / batch.speed
            body: dict[str, Any] = {
                "sender": draw_number(rng, "delivered"),
                "msgid": rng.randrange(10**8),
                "sendtime": dotted_text(due),
                "txnid": f"Gp{rng.randrange(10**6)}-{rng.randrange(100)}",
            }
            if rng.random() < 0.5:
                body |= {"type": "M", "ctype": "T", "content": "kanarya-mesaji"}
            else:
                body |= {"type": "E", "event": rng.choice("SU")}
            self.events.append(Event(due, "", body))

    # What is answered ---------------------------------------------------------------------

    @override
    def identify(self, call: Call) -> bool:
        del call
        return False

    @override
    def endpoint(self, call: Call) -> str:
        del call
        return "?"

    @override
    def throttled(self, call: Call, n: int, why: str) -> Answer:
        del n, why
        return self.answer(call)

    @override
    def unauthorized(self, call: Call) -> Answer:
        return self.answer(call)

    @override
    def answer(self, call: Call) -> Answer:
        """There is no endpoint to pull reports from."""
        del call
        return answer_json(404, {"resultcode": 311})

    # What is true -------------------------------------------------------------------------

    @override
    def sends(self, now: float, since_batch: int = 0) -> list[dict[str, Any]]:
        """None to register: the reports come by themselves."""
        del now, since_batch
        return []

    def replies(self, now: float, since_batch: int = 0) -> list[dict[str, Any]]:
        """What the sender got as the reply to its synchronous sends."""
        return [
            {"account": "demo-bip", "sent_at": send.at, "body": send.body()}
            for send in self.list
            if send.sync and send.at <= now and send.batch >= since_batch
        ]

    @override
    def settles_at(self) -> float:
        return max((event.due for event in self.events if event.due != NEVER), default=0)

    @override
    def truth(self, now: float, settings: Settings) -> list[Row]:
        del settings
        return [row for send in self.list for row in self._rows(send, now)]

    def _rows(self, send: Send, now: float) -> list[Row]:
        if send.resultcode:
            at = send.told_at(send.posts, now)
            return [] if at is None else [self._failed_send(send, at)]
        rows: list[Row] = []
        for item in send.items:
            at = send.told_at(item.posts, now)
            if item.reportid is None:
                rows += [] if at is None else [self._failed_item(send, item, at)]
            elif at is not None or any(event.reached(now) for one in item.notices for event in one.events):
                rows.append(self._message(send, item, now, at))
        return rows

    def _failed_send(self, send: Send, at: float) -> Row:
        row = build_row(self.name, "order", send.txnid, "rejected", settles_at=send.reported, ever={"rejected": at})
        row |= {"parent_key": send.txnid, "client_ref": send.txnid}
        row["reason"] = REASONS.get(send.resultcode, "other")
        return row

    def _failed_item(self, send: Send, item: Item, at: float) -> Row:
        receiver = write_e164(item.receiver)
        key = ":".join(map(encode_part, (send.txnid, receiver, str(item.nth))))
        row = build_row(self.name, "message", key, "rejected", settles_at=send.reported, ever={"rejected": at})
        row |= {"parent_key": send.txnid, "client_ref": send.txnid}
        return row | {"recipient": receiver, "reason": REASONS.get(item.resultcode, "other")}

    def _message(self, send: Send, item: Item, now: float, reported_at: float | None) -> Row:
        words = {0: "delivered", 1: "read", 9: "unknown"}
        seen = [(one, at) for one in item.notices if (at := first_reached(one.events, now)) is not None]
        best = max((one for one, _ in seen), key=lambda one: (one.kind % 9, one.sent), default=None)
        status = words[best.kind] if best else "enroute"
        ends = max((one.due for one in item.notices), default=NEVER)
        ever = first_times([(send.at, "enroute"), *((at, words[one.kind]) for one, at in seen)])
        row = build_row(self.name, "message", str(item.reportid), status, settles_at=ends, ever=ever)
        row["recipient"] = write_e164(item.receiver)
        if reported_at is not None:
            row |= {"parent_key": send.txnid, "client_ref": send.txnid}
        if best and status != "unknown":
            row["done_at"] = iso(best.sent)
        return row


def first_reached(events: list[Event], now: float) -> float | None:
    """When the first of some pushes may have been received, or None."""
    return min((event.due for event in events if event.reached(now)), default=None)
