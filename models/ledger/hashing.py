"""Two fetches with equal params are the same call: the hash by which the ledger knows it."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

_CANONICAL = msgspec.json.Encoder(order="deterministic")


def params_hash(kind: str, params: Mapping[str, Any], walk: int | None = None) -> str:
    """SHA-256 of the canonical JSON of a fetch's params, in hex.

    `walk` is the poll of a fetch that continues another one (page two of a window): such a fetch belongs to its walk,
    and the same page asked for by another walk is a different piece of work.
    """
    return hashlib.sha256(_CANONICAL.encode([kind, params, walk])).hexdigest()
