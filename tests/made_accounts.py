"""Accounts as they would be read, for tests that store none."""

from datetime import UTC, datetime
from typing import Any

from ulak.models.account import StoredAccount

_LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
_PLAIN: dict[str, Any] = dict.fromkeys(StoredAccount.__dataclass_fields__) | {
    "id": "made",
    "base_url": "http://127.0.0.1",
    "timezone": "Europe/Istanbul",
    "credentials": {},
    "credentials_hash": "",
    "limit_requests": 1,
    "limit_per_seconds": 1.0,
    "limit_concurrency": 1,
    "retry": {},
    "poll": {},
    "options": {},
    "recipients": "clear",
    "enabled": True,
    "learned": {},
    "refusals": 0,
    "breaker_state": "closed",
    "breaker_failures": 0,
    "breaker_trips": 0,
    "throttles": 0,
    "created_at": _LONG_AGO,
    "poll_plan": {},
    "now": _LONG_AGO,
}


def made_account(provider: str = "vairo", **given: Any) -> StoredAccount:
    """An enabled account with nothing against it, but for what is given."""
    return StoredAccount(**{**_PLAIN, "provider": provider, **given})
