"""The webhook of a Diyalog bot: which of its messages were delivered and which were read.

Source: the provider's page "Webhook" (diyalog.im/docs/webhook). A POST holds up to ten events in `entry`; each has the
bot (`sender`), the person (`recipient`, with the customer's number), a time in epoch milliseconds, and one of
`delivery`, `reads`, `messageEcho` (sent) and `message` (what the person wrote). `X-Signature` is the HMAC-SHA1 of the
body with the bot's `app_secret`; how it is written is not documented.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from models.report import DeliveryReport, Unreadable
from models.vocabulary import Granularity, Source, Status
from providers.adapter import Callback, Parsed
from providers.decoding import as_int, as_key, dump_item, scrub
from providers.errors import AnswerNotUnderstood

APP_SECRET: Final = "app_secret"  # noqa: S105 - the name of a credential
MESSAGE_TEXT: Final = "text"
EVENTS: Final[Mapping[str, Status]] = {
    "delivery": Status.DELIVERED,  # "All message ids in this array are delivered to the user."
    "reads": Status.READ,  # "All message ids in this array have been read by the user."
}
SILENT_EVENTS: Final = frozenset({"messageEcho", "message"})
"""Events that say nothing about a delivery: "This does not mean that the event has been delivered to the user"."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS: Final = 7_258_118_400_000
_PERSON: Final = ("appCustomerId", "appStaffId", "id")
_STATED: Final = ("sender", "recipient", "timestamp")


def is_signed(secret: str, callback: Callback) -> bool:
    """Whether `X-Signature` proves that the body comes from whoever knows the secret; hex and base64 are read."""
    given = callback.headers.get("x-signature", "").strip()
    prefix, _, rest = given.partition("=")
    given = rest if prefix.lower() == "sha1" else given
    wanted = hmac.digest(secret.encode(), callback.body, hashlib.sha1)
    return bool(secret) and any(hmac.compare_digest(one, wanted) for one in _digests(given))


def _digests(text: str) -> list[bytes]:
    found = []
    for read in (binascii.unhexlify, lambda given: base64.b64decode(given, validate=True)):
        try:
            found.append(read(text.encode("ascii")))
        except (ValueError, binascii.Error):
            continue
    return found


def read_webhook(body: Mapping[str, Any]) -> Parsed:
    """One row for each message id that an event names.

    A `watermark` alone ("all messages before this time") names no message, so nothing is derived from it.
    """
    entries = body.get("entry")
    if not isinstance(entries, list):
        raise AnswerNotUnderstood("The webhook lacks `entry`.", raw=dump_item(dict(body)))
    reports: list[DeliveryReport] = []
    unreadable: list[Unreadable] = []
    for entry in entries:
        events = entry.get("messaging") if isinstance(entry, dict) else None
        for event in events if isinstance(events, list) else [None]:
            found = _read_event(event) if isinstance(event, dict) else "An event is not an object."
            if isinstance(found, str):
                kept = {**entry, "messaging": [event]} if isinstance(entry, dict) else entry
                # A body again, so that it can be read like the whole.
                unreadable.append(Unreadable(reason=found, raw=dump_item({"object": "dialog", "entry": [kept]})))
            else:
                reports += found
    return Parsed(reports=tuple(reports), unreadable=tuple(unreadable))


def restate_event(event: Mapping[str, Any]) -> DeliveryReport | None:
    """The report of one stored event, which names one message; None where it cannot be read."""
    found = _read_event(event)
    return None if isinstance(found, str) else next(iter(found), None)


def _read_event(event: Mapping[str, Any]) -> list[DeliveryReport] | str:
    """What an event says, or why it cannot be read."""
    names = [name for name in EVENTS if name in event]
    if not names:
        return [] if SILENT_EVENTS & event.keys() else "An event is of a kind that is not documented."
    reports: list[DeliveryReport] = []
    for name in names:
        content = event[name]
        mids = content.get("mids") if isinstance(content, dict) else None
        keys = [as_key(mid) for mid in mids] if isinstance(mids, list) else []
        if not isinstance(content, dict) or not isinstance(mids, list | None) or None in keys:
            return f"`{name}` of an event lacks `mids`, or one of them is no id."
        at = _moment(event.get("timestamp")) or _moment(content.get("watermark"))
        reports += [_report(event, name, key, at) for key in keys if key is not None]
    return reports


def _report(event: Mapping[str, Any], name: str, mid: str, at: datetime | None) -> DeliveryReport:
    recipient = event.get("recipient")
    sender = event.get("sender")
    person = recipient if isinstance(recipient, dict) else {}
    bot = as_key(sender.get("id")) if isinstance(sender, dict) else None
    user = as_key(person.get("id"))
    stated = {key: event[key] for key in _STATED if key in event}
    return DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=mid,
        recipient=next((key for field in _PERSON if (key := as_key(person.get(field))) is not None), None),
        status=EVENTS[name],
        provider_status=name,
        done_at=at,
        extra={key: value for key, value in (("bot", bot), ("user_id", user)) if value is not None},
        source=Source.CALLBACK,
        as_of=at,
        provider_time=at,
        statement=scrub({**stated, name: {"mids": [mid], "watermark": event[name].get("watermark")}}),
    )


def _moment(value: Any) -> datetime | None:
    stamp = as_int(value, minimum=1, maximum=_LATEST_MS)
    return None if stamp is None else _EPOCH + timedelta(milliseconds=stamp)
