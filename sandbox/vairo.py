"""Vairo SMS: `NumaraRaporu` and `GonderimBilgisi`.

Sources: vairosms.com/api-destegi (numara-gonderim-raporu, gonderim-bilgisi, hata-mesajlari).
"""

import re
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from typing_extensions import override

from ulak.sandbox.http_types import Answer, Call, answer_json
from ulak.sandbox.outcomes import (
    COMMON_WEIGHTS,
    NEVER,
    Life,
    build_life,
    draw_delay,
    draw_number,
    draw_outcome,
    read_outcome,
)
from ulak.sandbox.provider_times import DAY_SECONDS, ZERO_DATE, iso, local_text
from ulak.sandbox.settings import Settings
from ulak.sandbox.standin import Batch, StandIn, make_secret, poll_record, throttle
from ulak.sandbox.truth import Row, allow_unreported, build_row, first_times, write_e164

ROOT = "/Panel/api/v1"
TEXT = "Ben bir ceviz ağacıyım kanaryametni parkında (Ş ş Ğ ğ ç ı İ)"
VALIDITY_SECONDS = DAY_SECONDS
"""The validity of a send at speed 1."""
SHORT_VALIDITY_SECONDS = 1080
"""The same for a send that holds a number without an end, so that the wait for it ends within a demo."""
BIG_SENDS = {
    3: (12, True),
    8: (25, False),
    9: (7, False),
    15: (40, True),
    21: (40, False),
    23: (6, True),
    28: (30, False),
    33: (18, True),
    41: (9, False),
}
"""The large sends of a world by their place (odd: sent that second): how many numbers, and whether one has no end."""
LAST_WORD = {
    "absent": "NOT_DELIVERED",
    "handset": "NOT_DELIVERED",
    "network": "NOT_DELIVERED",
    "barred": "NOT_DELIVERED",
    "expired": "EXPIRED",
    "invalid": "INVALID_DESTINATION_ADDRESS",
    "refused": "REJECTED",
    "opted_out": "REJECTED",
    "quota": "SEND_ERROR",
    "error": "SEND_ERROR",
    "test": "SEND_ERROR",
    "blacklisted": "BLACKLISTED_DESTINATION_ADDRESS",
    "sent": "SENT",
    "unknown_word": "QUEUED_AT_OPERATOR",
}
MEANING: dict[str, tuple[str, str | None]] = {
    "DEFAULT": ("scheduled", None),
    "SENDING": ("enroute", None),
    "WAITING": ("enroute", None),
    "DELIVERED": ("delivered", None),
    "SENT": ("sent", None),
    "NOT_DELIVERED": ("undeliverable", "absent"),
    "EXPIRED": ("expired", "expired"),
    "INVALID_DESTINATION_ADDRESS": ("undeliverable", "invalid_number"),
    "REJECTED": ("rejected", "content"),
    "SEND_ERROR": ("undeliverable", "other"),
    "BLACKLISTED_DESTINATION_ADDRESS": ("rejected", "blacklisted"),
    "QUEUED_AT_OPERATOR": ("unknown", None),
}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a send."""

    id: int
    number: str
    life: Life[str]
    segments: int


@dataclass(frozen=True)
class Send:
    """One send; `by_number` holds the last message to each number: only that one is shown."""

    id: int
    batch: int
    created: int
    valid_until: float
    failed: bool
    messages: tuple[Message, ...]
    by_number: dict[str, Message]

    @property
    def ends(self) -> float:
        """When the send is over: a failed one with its last message, any other with its validity and not before.

        The provider's sample of a finished send ends exactly 24 hours after it was created, though the sample of a
        number is delivered ten seconds after sending.
        """
        failed_at = max(one.life.settles_at for one in self.messages)
        return min(failed_at, self.valid_until) if self.failed else self.valid_until

    def state(self, now: float) -> int:
        """`paket_durum`: 0 running, 1 finished, -1 failed. 0 implies nothing about single numbers."""
        return 0 if now < self.ends else -1 if self.failed else 1

    def credits(self, now: float) -> int:
        """What the send costs: nothing where it failed."""
        return 0 if self.state(now) == -1 else sum(one.segments for one in self.messages)


class Vairo(StandIn):
    """The stand-in."""

    name = "vairo"
    root = ROOT

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.key = make_secret("vairo key", 40)
        self.by_id: dict[int, Send] = {}

    @override
    def credentials(self) -> dict[str, str]:
        return {"api_key": self.key}

    @override
    def record(self) -> dict[str, Any]:
        return {"poll": poll_record(), "options": {}}

    @override
    def canaries(self) -> list[str]:
        return [self.key, "kanaryametni"]

    # What is sent -------------------------------------------------------------------------

    @override
    def add(self, batch: Batch) -> None:
        rng = batch.rng(self.name)
        total = batch.size.vairo_sends if batch.size else 1 if batch.recipients else batch.count
        next_id = 3_000_000 + batch.number * 1_000_000
        for index in range(total or 1):
            numbers = self._numbers(rng, batch, index)
            send = self._draw(rng, batch, numbers, (index, next_id))
            next_id += len(send.messages)
            self.by_id[send.id] = send

    def _numbers(self, rng: Random, batch: Batch, index: int) -> list[str]:
        if batch.recipients:
            return list(batch.recipients)
        weights = COMMON_WEIGHTS | ({"never": 1} if batch.size else {})
        many, endless = BIG_SENDS.get(index) or (rng.choice((1, 1, 2, 2, 4)), False)
        many, endless = (many, endless) if batch.size is not None else (1, False)
        numbers = [draw_number(rng, batch.outcome or draw_outcome(rng, weights)) for _ in range(many)]
        if endless:
            # It must not keep the others of its send out of anybody's table.
            numbers[-1] = draw_number(rng, "never")
        if index % 25 == 4:
            numbers.append(numbers[0])
        return numbers

    def _draw(self, rng: Random, batch: Batch, numbers: list[str], place: tuple[int, int]) -> Send:
        index, next_id = place
        created = batch.at
        if batch.size is not None:
            # Old sends are over at the start of a demo: none of them reaches the end of its validity during the demo.
            created -= rng.uniform(0, 2) if index % 2 else rng.uniform(4_000, 20_000)
        failed = batch.size is not None and index % 27 == 7
        silent = any(read_outcome(number) == "never" for number in numbers)
        messages = tuple(
            Message(
                next_id + nth,
                number,
                self._life(rng, batch, created, "error" if failed else read_outcome(number)),
                rng.choice((1, 1, 1, 2, 3)),
            )
            for nth, number in enumerate(numbers)
        )
        # A message without an end gets a short validity, so the wait for it ends in a demo.
        valid = (SHORT_VALIDITY_SECONDS if silent else VALIDITY_SECONDS) / batch.speed
        ends = batch.at + batch.validity_seconds if batch.validity_seconds else created + valid
        key = 187_000 + batch.number * 10_000 + index
        by_number = {one.number: one for one in messages}
        return Send(key, batch.number, int(created), int(ends), failed, messages, by_number)

    def _life(self, rng: Random, batch: Batch, created: float, outcome: str) -> Life[str]:
        last = LAST_WORD.get(outcome, "DELIVERED")
        delay = draw_delay(rng, outcome)
        start, ends = int(created), outcome != "never"
        if delay < 10 and ends:
            return build_life([(start, "DEFAULT"), (start + delay / batch.speed, last)])
        steps = [(start + part * delay / batch.speed, word) for part, word in self._way(rng)]
        if ends:
            steps.append((start + delay / batch.speed, last))
        return build_life(steps, ends=ends and outcome != "unknown_word")

    def _way(self, rng: Random) -> list[tuple[float, str]]:
        return [(0, "DEFAULT"), (rng.uniform(0.01, 0.1), "SENDING"), (rng.uniform(0.1, 0.4), "WAITING")]

    # What is answered ---------------------------------------------------------------------

    @override
    def identify(self, call: Call) -> bool:
        return call.parameters.get("api_key") == self.key

    @override
    def endpoint(self, call: Call) -> str:
        found = re.fullmatch(rf"{ROOT}/+(NumaraRaporu|GonderimBilgisi)/([^/]*)/?", call.path)
        return found[1] if found else "?"

    @override
    def throttled(self, call: Call, n: int, why: str) -> Answer:
        del call, why
        return throttle(self._refuse(429, "Çok fazla istek gönderildi."), n)

    @override
    def unauthorized(self, call: Call) -> Answer:
        del call
        return self._refuse(401, "Gönderilen api_key bilgisi hatalı, lütfen kontrol edin.")

    @override
    def answer(self, call: Call) -> Answer:
        endpoint = self.endpoint(call)
        if endpoint == "?" or (endpoint == "NumaraRaporu" and call.method != "POST"):
            return Answer(404, b"<h1>404 Not Found</h1>", "text/html; charset=utf-8")
        if not self.identify(call):
            return self.unauthorized(call)
        key = call.path.rstrip("/").rpartition("/")[2]
        send = self.by_id.get(int(key)) if key.isdecimal() else None
        if send is None or send.created > call.now:
            return self._refuse(self.settings.vairo_unknown_status, "Gönderim bulunamadı.")
        if endpoint == "GonderimBilgisi":
            return self._tell(self._info(send, call.now))
        return self._report(send, call)

    def _tell(self, value: dict[str, Any]) -> Answer:
        return answer_json(200, {"durum": True, "aciklama": value}, ascii_only=True)

    def _refuse(self, status: int, text: str) -> Answer:
        return answer_json(status, {"durum": False, "aciklama": text}, ascii_only=True)

    def _report(self, send: Send, call: Call) -> Answer:
        given = call.dig("numara")
        if not isinstance(given, str | int) or not str(given):
            return self._refuse(400, "MISSING_DESTINATION_ADDRESS")
        number = read_number(str(given))
        if number is None:
            return self._refuse(400, "INVALID_DESTINATION_ADDRESS")
        message = send.by_number.get(number)
        if message is None:
            text = "Gönderimde bu numara bulunamadı."
            return self._refuse(self.settings.vairo_unknown_status, text)
        return self._tell(self._message(send, message, call.now))

    def _message(self, send: Send, message: Message, now: float) -> dict[str, Any]:
        word = message.life.at(now) or "DEFAULT"
        refunded = MEANING[word][0] in ("undeliverable", "rejected")
        return {
            "id": message.id,
            "sms_gonderim_id": send.id,
            "numara": message.number if message.id % 9 == 0 else message.number[2:],
            "mesaj": TEXT,
            "mesaj_boy": message.segments,
            "durum_gonderim": word,
            "durum_iade": int(refunded),
            "created_at": local_text(send.created),
            "updated_at": ZERO_DATE if word == "DEFAULT" else local_text(message.life.since(now)),
        }

    def _info(self, send: Send, now: float) -> dict[str, Any]:
        state = send.state(now)
        seconds = int(send.valid_until - send.created)
        info = {
            "id": send.id,
            "sms_baslik": "ULAKDEMO",
            "numara_toplam": len(send.messages),
            "kredi_toplam": send.credits(now),
            "sonlanma_zamani": local_text(send.ends) if state else ZERO_DATE,
            "ileri_tarih": ZERO_DATE,
            "gecerlilik_suresi": f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}",
            "paket_durum": state,
            "created_at": local_text(send.created),
        }
        return info | ({"log": {"hata": "SEND_ERROR"}} if state == -1 else {})

    # What is true -------------------------------------------------------------------------

    @override
    def sends(self, now: float, since_batch: int = 0) -> list[dict[str, Any]]:
        return [
            {
                "account": "demo-vairo",
                "kind": "number",
                "value": f"{send.id}:{number[2:]}",
                "client_ref": f"ref-{send.id}-{number[-4:]}",
                "recipient": write_e164(number),
                "expected": None,
                "sent_at": send.created,
                "valid_until": send.valid_until,
            }
            for send in self.by_id.values()
            if send.created <= now and send.batch >= since_batch
            for number in send.by_number
        ]

    @override
    def settles_at(self) -> float:
        ends = [one.life.settles_at for send in self.by_id.values() for one in send.by_number.values()]
        return max((end for end in ends if end != NEVER), default=0)

    @override
    def truth(self, now: float, settings: Settings) -> list[Row]:
        del settings
        rows: list[Row] = []
        for send in self.by_id.values():
            if send.created <= now:
                rows += [self._row(send, message, now) for message in send.by_number.values()]
                rows.append(self._send_row(send, now))
        return rows

    def _send_row(self, send: Send, now: float) -> Row:
        """The send as a whole. Optional: a reader owes the numbers, and asks about the send when that is worth it."""
        words = {0: "enroute", 1: "sent", -1: "rejected"}
        status = words[send.state(now)]
        reached = [(float(send.created), "enroute")] + ([(send.ends, status)] if send.state(now) else [])
        row = build_row(
            self.name,
            "order",
            str(send.id),
            status,
            reason="other" if status == "rejected" else None,
            total=len(send.messages),
            credits=send.credits(now),
            # A failed send was never sent.
            sent_at=None if status == "rejected" else send.created,
            done_at=int(send.ends) if send.state(now) else None,
            settles_at=send.ends,
            valid_until=send.valid_until,
            ever=first_times(reached),
            optional=True,
        )
        return allow_unreported(row, now, send.valid_until)

    # Faults that only its own numbers know --------------------------------------------------

    @override
    def rows_at(self, call: Call) -> tuple[str, ...] | None:
        return ("aciklama",)

    @override
    def another(self, call: Call, rng: Random) -> Call | None:
        sends = [send for send in self.by_id.values() if send.created <= call.now]
        if not sends:
            return None
        send = rng.choice(sends)
        head = call.path.rstrip("/").rpartition("/")[0]
        moved = replace(call, path=f"{head}/{send.id}")
        number = rng.choice(list(send.by_number))
        return moved.rewritten(lambda body: body.update(numara=number[2:])) if call.method == "POST" else moved

    def _row(self, send: Send, message: Message, now: float) -> Row:
        status, reason = MEANING[message.life.at(now) or "DEFAULT"]
        row = build_row(
            self.name,
            "message",
            str(message.id),
            status,
            parent_key=str(send.id),
            client_ref=f"ref-{send.id}-{message.number[-4:]}",
            recipient=write_e164(message.number),
            reason=reason,
            segments=message.segments,
            sent_at=None if status == "scheduled" else send.created,
            settles_at=message.life.settles_at,
            valid_until=send.valid_until,
            ever=first_times((at, MEANING[word][0]) for at, word in message.life.reached(now)),
        )
        if row["is_final"]:
            row["done_at"] = iso(int(message.life.since(now)))
        elif status == "enroute":
            row["status_any"] = ["enroute", "scheduled"]
        return allow_unreported(row, now, send.valid_until)


def read_number(text: str) -> str | None:
    """`905…` of any usual spelling, or None."""
    digits = re.sub(r"[\s+()-]", "", text).removeprefix("00")
    if re.fullmatch(r"5\d{9}", digits):
        return "90" + digits
    if re.fullmatch(r"05\d{9}", digits):
        return "9" + digits
    return digits if re.fullmatch(r"905\d{9}", digits) else None
