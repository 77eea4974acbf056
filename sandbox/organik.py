"""Organik API v2: `detailedreport`, JSON and XML.

Sources: organikapi.com/documents/reports_detailed and the provider's own documents on GitHub (README, ERROR_CODES).
Errors come with HTTP 200; ids are text or numbers. XML rows have no root, as in the sample; XML errors have the one
that the README shows.
"""

import hashlib
import json
import re
import time
from dataclasses import replace
from random import Random
from typing import Any
from xml.sax.saxutils import escape

from typing_extensions import override

from ulak.sandbox.http_types import Answer, Call, answer_json
from ulak.sandbox.organik_forms import (
    FOREIGN,
    KINDS,
    Item,
    Transaction,
    explain,
    read_json,
    read_xml,
    register,
    tell_item,
    tell_xml,
    write_item,
    write_track,
)
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
from ulak.sandbox.provider_times import DAY_SECONDS, local_text
from ulak.sandbox.settings import Settings
from ulak.sandbox.standin import Batch, StandIn, make_secret, poll_record, throttle
from ulak.sandbox.truth import Row, allow_unreported, build_row, first_times, write_e164

VALIDITY_SECONDS = 2 * DAY_SECONDS
PATH = re.compile(r"/v2/([^/]*)/([^/]+)(?:/([^/]+))?(?:/([^/]+))?/?")
# Outcome: (status, errorcodes to draw from).
LAST: dict[str, tuple[int, tuple[int, ...]]] = {
    "absent": (4, (3, 4, 7)),
    "expired": (4, (0, 99)),
    "invalid": (3, (1, 2, 99)),
    "refused": (3, (6,)),
    "blacklisted": (3, (5,)),
    "error": (3, (16, 22)),
    "quota": (3, (22,)),
    "opted_out": (3, (23,)),
    "handset": (4, (9, 12, 14, 17)),
    "network": (4, (10, 11, 13, 15, 18, 19, 20, 21)),
    "barred": (3, (8,)),
    "test": (3, (88,)),
    "unknown_word": (7, (0,)),
}
ERRORS = {
    1: "An unknown error has occurred.",
    84: "Database operation failed.",
    85: "The database could not be registered.",
    86: "No valid registration data was found.",
    87: "No records were found.",
    88: "Unsupported request_name",
    89: "User not found.",
    90: "API KEY must be 32 characters.",
    91: "Unsupported response type.",
    92: "Unsupported request type.",
    93: "Too much request.",
    94: "Server temporary unavailable.",
    95: "Server fault.",
    96: "Invalid request parameters.",
    97: "Invalid request body format.",
    98: "Unauthorize IP address.",
    99: "Authorization error.",
}


class Organik(StandIn):
    """The stand-in."""

    name = "organik"
    root = ""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.login = ("OrganikDemo", make_secret("organik password", 16))
        self.key = hashlib.md5("".join(self.login).encode(), usedforsecurity=False).hexdigest()
        self.transactions: dict[int, Transaction] = {}
        self.index: dict[str, dict[str, list[tuple[Transaction, Item]]]] = {kind: {} for kind in KINDS}

    @override
    def credentials(self) -> dict[str, str]:
        return {"api_key": self.key}

    @override
    def record(self) -> dict[str, Any]:
        username, password = self.login
        return {
            "poll": poll_record(),
            "options": {"format": "json"},
            "other_credentials": {"username": username, "password": password},
        }

    @override
    def canaries(self) -> list[str]:
        return [self.key, self.login[1]]

    # What is sent -------------------------------------------------------------------------

    @override
    def add(self, batch: Batch) -> None:
        rng = batch.rng(self.name)
        first = 14_000_000 + batch.number * 100_000
        total = 1 if batch.recipients else batch.count or 1
        total = batch.size.organik_transactions if batch.size else total
        track = ""
        for index in range(total):
            # Now and then one delivery track id covers two transactions.
            if not track or index % 9 != 5:
                track = f"{rng.getrandbits(120):030x}"
            transaction = self._draw(rng, batch, first + index, track, index)
            self.transactions[transaction.id] = transaction
            for item in transaction.items:
                self._index(transaction, item)

    def _index(self, transaction: Transaction, item: Item) -> None:
        entry = (transaction, item)
        for kind, key in (
            ("transaction_ids", str(transaction.id)),
            ("delivery_track_ids", transaction.delivery_track),
            ("gsm_track_ids", str(item.track)),
            ("gsm_track_ids", write_track(transaction, item)),
        ):
            self.index[kind].setdefault(key, []).append(entry)

    def _draw(self, rng: Random, batch: Batch, key: int, track: str, index: int) -> Transaction:
        young = batch.size is None or index % 2 == 1
        created = int(
            batch.at - (0 if batch.size is None else rng.uniform(0, 2) if young else rng.uniform(700, 40_000))
        )
        start = created
        if batch.size is not None and index in (3, 6):
            created = int(batch.at - 3600)
            start = int(batch.at + (180 / batch.speed if index == 3 else DAY_SECONDS))
        numbers = self._numbers(rng, batch, index)
        # A message without an end gets a short validity, so the wait for it ends in a demo.
        silent = any(read_outcome(number) == "never" for number in numbers)
        valid = start + (1080 / batch.speed if silent else VALIDITY_SECONDS)
        if batch.validity_seconds:
            valid = batch.at + batch.validity_seconds
        base = 410_000_000 + (key - 14_000_000) * 1_000
        items = tuple(
            Item(number, base + nth, self._life(rng, batch, created, start, number), segments)
            for nth, (number, segments) in enumerate((number, rng.choice((1, 1, 2))) for number in numbers)
        )
        how = ("transaction", "transaction", "delivery_track", "gsm_track")[index // 2 % 4]
        if index % 9 in (4, 5):
            how = "delivery_track"
        if len(items) > 20:
            how = "transaction"
        return Transaction(key, batch.number, track, created, start, int(valid), how, items)

    def _numbers(self, rng: Random, batch: Batch, index: int) -> list[str]:
        if batch.recipients:
            return list(batch.recipients)
        weights = COMMON_WEIGHTS | ({"never": 1} if batch.size else {})
        count = 1
        if batch.size is not None:
            count = rng.randint(1, batch.size.organik_recipients)
            if index == 1 and batch.size.big_transaction:
                count = batch.size.big_transaction
        numbers = [draw_number(rng, batch.outcome or draw_outcome(rng, weights)) for _ in range(count)]
        if batch.size is not None and index % 5 == 2:
            numbers.append(FOREIGN)
        if batch.size is not None and index % 7 == 3:
            numbers.append(numbers[0])
        return numbers

    def _life(self, rng: Random, batch: Batch, created: int, start: int, number: str) -> Life[tuple[int, int]]:
        outcome = "delivered" if number == FOREIGN else read_outcome(number)
        status, codes = LAST.get(outcome, (2, (0,)))
        delay = draw_delay(rng, outcome) / batch.speed
        handed = start + (delay * rng.uniform(0.02, 0.3) if start == created else 0)
        steps = [(float(created), (0, 0)), (handed, (1, 0))]
        if outcome != "never":
            steps.append((start + delay, (status, rng.choice(codes))))
        return build_life(steps, ends=outcome not in ("never", "unknown_word"))

    # What is answered ---------------------------------------------------------------------

    @override
    def identify(self, call: Call) -> bool:
        found = PATH.fullmatch(call.path)
        return bool(found) and found is not None and found[1] == self.key

    @override
    def endpoint(self, call: Call) -> str:
        found = PATH.fullmatch(call.path)
        return found[2] if found and re.fullmatch(r"[a-z]+", found[2]) else "?"

    @override
    def throttled(self, call: Call, n: int, why: str) -> Answer:
        if why == "rate" and n % 2:
            return throttle(self._refuse(93, self._form(call)), n // 2)
        return self._refuse(93, self._form(call))

    @override
    def unauthorized(self, call: Call) -> Answer:
        return self._refuse(99, self._form(call))

    def _form(self, call: Call) -> str:
        found = PATH.fullmatch(call.path)
        asked = (found[4] or found[3] or "json").lower() if found else "json"
        return "xml" if asked == "xml" else "json"

    @override
    def answer(self, call: Call) -> Answer:
        found = PATH.fullmatch(call.path)
        form = self._form(call)
        if found is None or call.method != "POST":
            return Answer(404, b"<h1>404 Not Found</h1>", "text/html; charset=utf-8")
        asked = (found[3] or "json").lower()
        refusal = self._judge(found, asked)
        if refusal:
            return self._refuse(refusal, form)
        wanted = read_json(call) if asked == "json" else read_xml(call.body)
        if wanted is None:
            return self._refuse(97, form)
        return self._report(wanted, form, call.now)

    def _judge(self, found: re.Match[str], asked: str) -> int | None:
        if len(found[1]) != 32:
            return 90
        if found[1] != self.key:
            # A well-formed key belongs to a user or to nobody; anything else cannot be a key.
            return 89 if re.fullmatch(r"[0-9a-f]{32}", found[1]) else 99
        if found[2] != "detailedreport":
            return 88
        if asked not in ("json", "xml"):
            return 92
        return 91 if (found[4] or asked).lower() not in ("json", "xml") else None

    def _report(self, wanted: dict[str, list[str]], form: str, now: float) -> Answer:
        asked = sum(len(ids) for ids in wanted.values())
        if not 0 < asked <= self.settings.organik_batch_cap:
            return self._refuse(96, form)
        found = {
            item.track: (transaction, item)
            for kind, ids in wanted.items()
            for key in ids
            for transaction, item in self.index[kind].get(key, ())
            if transaction.created <= now
        }
        if not found:
            return self._refuse(87, form)
        items = [tell_item(transaction, item, now) for transaction, item in found.values()]
        if form == "json":
            return answer_json(200, {"response": {"result": True, "data": items}})
        rows = "".join(write_item(item, errorcode=not self.settings.organik_xml_no_errorcode) for item in items)
        if self.settings.organik_xml_wrapped:
            rows = f"<response><result>1</result><data>{rows}</data></response>"
        return tell_xml(rows)

    def _refuse(self, code: int, form: str) -> Answer:
        where = self.settings.organik_error_field
        error = {
            "message": ERRORS[code],
            "number": str(code) if where != "code" else "",
            "time": local_text(time.time()),
            "code": code if where != "number" else 0,
        }
        if form == "json":
            return answer_json(200, {"response": {"result": False, "error": error}})
        fields = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in error.items())
        inner = f"<result>0</result><error>{fields}</error>"
        return tell_xml(inner if self.settings.organik_xml_bare_errors else f"<response>{inner}</response>")

    # Faults that only its own transactions know ---------------------------------------------

    @override
    def rows_at(self, call: Call) -> tuple[str, ...] | None:
        return ("data",)

    @override
    def another(self, call: Call, rng: Random) -> Call | None:
        known = [one.id for one in self.transactions.values() if one.created <= call.now]
        found = PATH.fullmatch(call.path)
        if not known or found is None:
            return None
        body = json.dumps({"data": {"transaction_ids": [rng.choice(known)]}}).encode()
        return replace(call, path=f"/v2/{found[1]}/{found[2]}/json/{self._form(call)}", body=body)

    # What is true -------------------------------------------------------------------------

    @override
    def sends(self, now: float, since_batch: int = 0) -> list[dict[str, Any]]:
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for transaction in self.transactions.values():
            if transaction.created > now or transaction.batch < since_batch:
                continue
            for kind, value, expected, recipient in register(transaction):
                row = rows.setdefault(
                    (kind, value),
                    {
                        "account": "demo-organik",
                        "kind": kind,
                        "value": value,
                        "client_ref": transaction.delivery_track,
                        "recipient": recipient,
                        "expected": 0,
                        "sent_at": transaction.created,
                        "valid_until": transaction.valid_until,
                    },
                )
                row["expected"] += expected
                row["valid_until"] = max(row["valid_until"], transaction.valid_until)
        return list(rows.values())

    @override
    def settles_at(self) -> float:
        ends = [
            item.life.settles_at
            for transaction in self.transactions.values()
            if transaction.start < transaction.created + 40_000
            for item in transaction.items
        ]
        return max((end for end in ends if end != NEVER), default=0)

    @override
    def truth(self, now: float, settings: Settings) -> list[Row]:
        del settings
        return [
            self._row(transaction, item, now)
            for transaction in self.transactions.values()
            if transaction.created <= now
            for item in transaction.items
        ]

    def _row(self, transaction: Transaction, item: Item, now: float) -> Row:
        shown = tell_item(transaction, item, now)
        status, reason = explain(shown["status"], shown["errorcode"])
        plain, plain_reason = explain(shown["status"], 0)
        done = shown["finish_date"] is not None
        # A reader of XML without errorcodes may say what the status alone means.
        said = [(at, explain(*state)[0]) for at, state in item.life.reached(now)]
        said += [(at, explain(state[0], 0)[0]) for at, state in item.life.reached(now)]
        row = build_row(
            self.name,
            "message",
            str(item.track),
            status,
            parent_key=str(transaction.id),
            client_ref=transaction.delivery_track,
            recipient=write_e164(item.gsm),
            reason=reason,
            segments=shown["sms_count"],
            credits=shown["credit_amount"],
            sent_at=transaction.start if shown["status"] else None,
            done_at=int(item.life.since(now)) if done else None,
            settles_at=item.life.settles_at,
            valid_until=transaction.valid_until,
            ever=first_times(said),
            xml={"status": plain, "reason": plain_reason},
        )
        return allow_unreported(row, now, transaction.valid_until)
