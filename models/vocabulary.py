"""The words of the shared table: statuses, reasons, granularities.

Statuses follow SMPP 3.4 `message_state` where it has a word (DELIVERED, UNDELIVERABLE, EXPIRED, REJECTED,
ENROUTE, SCHEDULED, UNKNOWN). Nothing here knows a provider or a database.
"""

from enum import StrEnum
from typing import Final

MAX_ACCOUNT_ID_LENGTH: Final = 100
ACCOUNT_ID: Final = rf"[a-z0-9][a-z0-9-]{{0,{MAX_ACCOUNT_ID_LENGTH - 1}}}"
"""The form of an account's id, for a match of the whole text."""


class Recipients(StrEnum):
    """How an account keeps whom its deliveries are about."""

    CLEAR = "clear"
    HASHED = "hashed"
    """As pseudonyms (`ulak.models.pseudonyms`)."""


class Granularity(StrEnum):
    """What one row of `delivery_status` is about."""

    MESSAGE = "message"
    ORDER = "order"
    CONVERSATION = "conversation"


class Status(StrEnum):
    """The state of one delivery in the shared vocabulary."""

    SCHEDULED = "scheduled"
    ENROUTE = "enroute"
    UNKNOWN = "unknown"
    UNREPORTED = "unreported"
    SENT = "sent"
    DELIVERED = "delivered"
    UNDELIVERABLE = "undeliverable"
    EXPIRED = "expired"
    REJECTED = "rejected"
    PARTIALLY_DELIVERED = "partially_delivered"
    READ = "read"


class Reason(StrEnum):
    """Why a message did not arrive, in a small fixed set that holds for every provider."""

    INVALID_NUMBER = "invalid_number"
    ABSENT = "absent"
    HANDSET = "handset"
    NETWORK = "network"
    CONTENT = "content"
    OPTED_OUT = "opted_out"
    BLACKLISTED = "blacklisted"
    QUOTA = "quota"
    SMS_BARRED = "sms_barred"
    EXPIRED = "expired"
    TEST = "test"
    OTHER = "other"


class Source(StrEnum):
    """How a statement reached us."""

    POLL = "poll"
    CALLBACK = "callback"
    SEND_REPLY = "send_reply"
    OURS = "ours"


STATUS_CLASS: dict[Status, int] = {
    Status.SCHEDULED: 1,
    Status.ENROUTE: 1,
    Status.UNKNOWN: 1,
    Status.UNREPORTED: 2,
    Status.SENT: 3,
    Status.DELIVERED: 4,
    Status.UNDELIVERABLE: 4,
    Status.EXPIRED: 4,
    Status.REJECTED: 4,
    Status.PARTIALLY_DELIVERED: 4,
    Status.READ: 5,
}
"""A higher class beats a lower one whatever the times say."""

FAILURES: frozenset[Status] = frozenset({Status.UNDELIVERABLE, Status.EXPIRED, Status.REJECTED})
"""Finals that contradict `read`."""

FINAL_CLASS = 2
"""From this class on no further report is expected (`unreported` may still be overruled)."""
_FINAL = frozenset(status for status, group in STATUS_CLASS.items() if group >= FINAL_CLASS)


def is_final(status: Status) -> bool:
    """Whether the provider is expected to say nothing more (conversations have a rule of their own)."""
    return status in _FINAL


def is_open(status: Status) -> bool:
    """Whether a further report is expected."""
    return not is_final(status)
