"""Organik's ids, items and bodies as its documents write them, JSON and XML."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import ParseError
from xml.sax.saxutils import escape

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ulak.sandbox.http_types import Answer, Call
from ulak.sandbox.outcomes import Life
from ulak.sandbox.provider_times import local_text

KINDS = ("transaction_ids", "delivery_track_ids", "gsm_track_ids")
FOREIGN = "61491570156"

REASONS = {
    **dict.fromkeys((1, 2, 99), "invalid_number"),
    **dict.fromkeys((3, 4, 7), "absent"),
    **dict.fromkeys((5, 23), "opted_out"),
    **dict.fromkeys((9, 12, 14, 16, 17), "handset"),
    **dict.fromkeys((10, 11, 13, 15, 18, 19, 20, 21), "network"),
    6: "content",
    8: "sms_barred",
    22: "other",
    88: "test",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One message; its states are (status, errorcode)."""

    gsm: str
    track: int
    life: Life[tuple[int, int]]
    segments: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """One sending task."""

    id: int
    batch: int
    delivery_track: str
    created: int
    start: int
    valid_until: float
    registered_by: str
    items: tuple[Item, ...]


def register(transaction: Transaction) -> list[tuple[str, str, int, str | None]]:
    """(kind, value, expected, recipient) of what the sender would register for it."""
    if transaction.registered_by == "gsm_track":
        # The send reply's form of the id is text with dashes, the report's is a number.
        return [
            ("gsm_track", write_track(transaction, item) if nth % 2 else str(item.track), 1, f"+{item.gsm}")
            for nth, item in enumerate(transaction.items)
        ]
    if transaction.registered_by == "delivery_track":
        return [("delivery_track", transaction.delivery_track, len(transaction.items), None)]
    return [("transaction", str(transaction.id), len(transaction.items), None)]


def write_track(transaction: Transaction, item: Item) -> str:
    """A `gsm_track_id` the way send replies write it."""
    return f"{transaction.id}-{item.track % 1000}-{item.track}"


def tell_item(transaction: Transaction, item: Item, now: float) -> dict[str, Any]:
    """One report item in JSON."""
    status, code = item.life.at(now) or (0, 0)
    foreign = item.gsm == FOREIGN
    return {
        "gsm": int(item.gsm),
        "transaction_id": transaction.id,
        "gsm_track_id": item.track,
        "delivery_track_id": transaction.delivery_track,
        "create_date": local_text(transaction.created),
        "start_date": local_text(transaction.start),
        "finish_date": local_text(item.life.since(now)) if status in (2, 3, 4) else None,
        "status": status,
        "sms_count": item.segments if status else 0,
        "credit_amount": item.segments if status and not foreign else 0,
        "is_foreign_gsm": int(foreign),
        "errorcode": code,
    }


def write_item(item: dict[str, Any], *, errorcode: bool = True) -> str:
    """The same in XML. The JSON sample has an errorcode, the older XML sample has none."""
    return (
        "<item>"
        + "".join(
            f"<{name} />" if value is None else f"<{name}>{escape(str(value))}</{name}>"
            for name, value in item.items()
            if errorcode or name != "errorcode"
        )
        + "</item>\n"
    )


def tell_xml(inner: str) -> Answer:
    """An XML answer; `inner` with or without a root."""
    text = f'<?xml version="1.0" encoding="UTF-8" ?>\n{inner}'
    return Answer(200, text.encode(), "application/xml")


def explain(status: int, code: int) -> tuple[str, str | None]:
    """Status and reason; code 0 means no code here."""
    if status in (0, 1, 2):
        return ("scheduled", "enroute", "delivered")[status], None
    if status not in (3, 4):
        return "unknown", None
    default = "invalid_number" if status == 3 else "expired"
    reason = REASONS.get(code, default)
    if code in (5, 6, 8, 23):
        return "rejected", reason
    return ("undeliverable" if status == 3 else "expired"), reason


def read_json(call: Call) -> dict[str, list[str]] | None:
    """The three id lists as text, or None where the body has another form."""
    data = call.dig("data")
    if not isinstance(data, dict):
        return None
    wanted: dict[str, list[str]] = {}
    for kind in KINDS:
        ids = data.get(kind) or []
        if not isinstance(ids, list):
            return None
        # The official ASP client joins several ids to one text with commas.
        wanted[kind] = [part.strip() for one in ids for part in str(one).split(",") if part.strip()]
    return wanted


def read_xml(body: bytes) -> dict[str, list[str]] | None:
    """The same of `<document><data><transaction_ids> id </transaction_ids>…`."""
    try:
        root = fromstring(body)
    except (ParseError, DefusedXmlException, ValueError):
        return None
    data = root.find("data")
    if data is None:
        return None
    return {kind: list(texts(element.text for element in data.findall(kind))) for kind in KINDS}


def texts(values: Iterable[str | None]) -> Iterable[str]:
    """What is left of texts that are neither absent nor blank."""
    return (value.strip() for value in values if value and value.strip())
