"""The normalised statement of a report: what two reports must agree on to be the same observation."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec

from ulak.models.vocabulary import Reason, Status


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A normalised statement: JSON values only, None where nothing was said. Times are ISO 8601 in UTC.

    The fields are declared in the order of their names, and None is left out, so the encoded form is canonical without
    sorting. Stored hashes depend on it: a new field goes to its place in the order and is None by default.
    """

    client_ref: str | None = None
    credits: float | None = None
    day: str | None = None
    delivered: int | None = None
    done_at: str | None = None
    extra: Mapping[str, Any] | None = None
    """Never empty."""
    parent_key: str | None = None
    provider_error: str | None = None
    provider_status: str
    reason: Reason | None = None
    recipient: str | None = None
    segments: int | None = None
    sent_at: str | None = None
    status: Status
    total: int | None = None
    undelivered: int | None = None
    valid_until: str | None = None
    waiting: int | None = None


encode_facts = msgspec.json.Encoder(order="deterministic").encode
"""Facts as canonical JSON: names sorted at every depth, no blanks."""


def content_hash(facts: Facts) -> bytes:
    """SHA-256 of the facts as canonical JSON."""
    return sha256(encode_facts(facts)).digest()
