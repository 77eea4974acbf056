"""Requests to Organik: ids in batches, and their encoding."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

from ulak.models.report import TrackedKey
from ulak.providers.adapter import Account, DueId, Fetch, FetchSpec
from ulak.providers.decoding import as_int
from ulak.providers.ids import bare

ROWS_PER_CALL: Final = 5000
"""A call asks for ids with at most so many expected rows together: there is no paging."""
OPEN_BATCHES: Final = 16
"""Batches that are looked through for room; the oldest beyond that is taken as it is, so that planning stays quick."""

MIN_THROUGH_TRANSACTION: Final = 2
"""This many gsm ids of a transaction are polled by it; one alone costs the same call without the other rows."""
_SEND_FORM: Final = re.compile(r"([0-9]{1,11})-[0-9]{1,6}-[0-9]{1,20}")


def transaction_of(key: TrackedKey) -> str | None:
    """The transaction that the text form of a gsm id begins with; None for every other id."""
    match = _SEND_FORM.fullmatch(key.value) if key.id_kind == "gsm_track" else None
    return match and match[1]


def by_transaction(keys: Iterable[TrackedKey]) -> dict[str, list[TrackedKey]]:
    """Gsm ids in their text form by the transaction they name; others are left out."""
    found: dict[str, list[TrackedKey]] = {}
    for key in keys:
        transaction = transaction_of(key)
        if transaction is not None:
            found.setdefault(transaction, []).append(key)
    return found


def goes_alone(item: DueId) -> bool:
    """Whether an id must not share a call.

    The text form of a gsm id (16502030-4730-63032793) comes back as another, whole number, so only the call itself can
    say which row is whose; and an id that cannot be right would bring error 96 upon all others.
    """
    return item.key.id_kind != "delivery_track" and as_int(item.key.value, minimum=0) is None


def fill_batches(items: Iterable[tuple[str, int]], size: int) -> list[list[str]]:
    """The ids in batches, each into the first batch with room, so that the earliest stay the most valuable.

    `items`: each id with the number of rows that are expected of it, at least one.
    """
    batches: list[list[str]] = []
    rows: list[int] = []
    open_ones: list[int] = []
    for value, weight in items:
        place = next((index for index in open_ones if rows[index] + weight <= ROWS_PER_CALL), None)
        if place is None:
            place = len(batches)
            batches.append([])
            rows.append(0)
            open_ones = [*open_ones, place][-OPEN_BATCHES:]
        batches[place].append(value)
        rows[place] += weight
        if len(batches[place]) >= size or rows[place] >= ROWS_PER_CALL:
            open_ones.remove(place)
    return batches


def batch_of(kind: str, values: Sequence[str]) -> FetchSpec:
    """The call for these ids; the same ids in any order are the same call."""
    ids = sorted(values)
    keys = tuple(TrackedKey(id_kind=kind, value=value) for value in ids)
    return FetchSpec(kind="batch", params={"by": kind, "ids": ids}, ids=keys, label=f"{len(ids)} {kind} ids")


def one_form(kind: str, value: str) -> str:
    """An id as it is sent and compared: whole numbers without leading zeros, the sender's own texts as they are."""
    return value.strip() if kind == "delivery_track" else bare(value)


def batch_through(transactions: Mapping[str, Sequence[TrackedKey]]) -> FetchSpec:
    """The call that asks for gsm ids by their transactions: a call costs the same for one id and for all of them."""
    keys = tuple(sorted((key for keys in transactions.values() for key in keys), key=lambda key: key.value))
    params = {"by": "transaction", "ids": sorted(transactions), "gsm": [key.value for key in keys]}
    return FetchSpec(kind="batch", params=params, ids=keys, label=f"{len(keys)} gsm_track ids by transaction")


def is_through(fetch: Fetch) -> bool:
    """Whether a call asks for gsm ids by their transactions."""
    return "gsm" in fetch.spec.params


def keys_of(fetch: Fetch) -> tuple[TrackedKey, ...]:
    """The ids that a call asks for."""
    if is_through(fetch):
        return tuple(TrackedKey(id_kind="gsm_track", value=value) for value in fetch.spec.params["gsm"])
    return tuple(TrackedKey(id_kind=fetch.spec.params["by"], value=value) for value in fetch.spec.params["ids"])


def api_key(account: Account) -> str:
    """The key as given, or MD5 of user name and password, as the provider makes it (32 lower-case hex digits)."""
    return sent_key(account.credentials)


def sent_key(credentials: Mapping[str, str]) -> str:
    """The key contained in every path."""
    given = credentials.get("api_key")
    if given:
        return given
    joined = credentials["username"] + credentials["password"]
    return hashlib.md5(joined.encode(), usedforsecurity=False).hexdigest()


def json_body(field: str, ids: Sequence[str]) -> bytes:
    """The JSON form of a request, ids as texts, as the provider's own client sends them."""
    return json.dumps({"data": {field: list(ids)}}, ensure_ascii=False).encode()


def xml_body(field: str, ids: Sequence[str]) -> bytes:
    """The XML form of a request: one element per id."""
    lines = "".join(f"<{field}>{escape(value)}</{field}>\n" for value in ids)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<document>\n<data>\n{lines}</data>\n</document>\n'.encode()
