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
from datetime import datetime
from typing import Any, Final

from ulak.models.report import DeliveryReport, Unreadable
from ulak.models.vocabulary import Granularity, Source, Status
from ulak.providers.adapter import Callback, Parsed
from ulak.providers.decoding import EMPTY, as_key, as_list, dump_item, epoch_milliseconds, scrub
from ulak.providers.errors import AnswerNotUnderstood

APP_SECRET: Final = "app_secret"  # noqa: S105 - the name of a credential
SIGNATURE: Final = "x-signature"
MESSAGE_TEXT: Final = "text"
EVENTS: Final[Mapping[str, Status]] = {
    "delivery": Status.DELIVERED,  # "All message ids in this array are delivered to the user."
    "reads": Status.READ,  # "All message ids in this array have been read by the user."
}
SILENT_EVENTS: Final = frozenset({"messageEcho", "message"})
"""Events that say nothing about a delivery: "This does not mean that the event has been delivered to the user"."""

_PERSON: Final = ("appCustomerId", "appStaffId", "id")
_PARTIES: Final = ("sender", "recipient")
_STATED: Final = (*_PARTIES, "timestamp")
_NO_TIME: Final = "An event has a `timestamp` or `watermark` that cannot be read."
_NO_PARTY: Final = "An event has a `sender` or `recipient` that cannot be read."
_OPTIONAL: Final = frozenset({_NO_TIME, _NO_PARTY})


def is_signed(secret: str, callback: Callback) -> bool:
    """Whether `X-Signature` proves that the sender of the body knows the secret; hex and base64 are read."""
    given = callback.headers.get(SIGNATURE, "").strip()
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
    entries = as_list(body.get("entry"))
    if entries is None:
        raise AnswerNotUnderstood("The webhook lacks `entry`.", raw=dump_item(dict(body)))
    reports: list[DeliveryReport] = []
    unreadable: list[Unreadable] = []
    for entry in entries:
        events = as_list(entry.get("messaging")) if isinstance(entry, dict) else None
        for event in [None] if events is None else events:
            found = _read_event(event) if isinstance(event, dict) else ([], ["An event is not an object."])
            kept = {**entry, "messaging": [event]} if isinstance(entry, dict) else entry
            # A body again, so that it can be read like the whole.
            raw = dump_item({"object": "dialog", "entry": [kept]})
            reports += found[0]
            unreadable += [Unreadable(reason=reason, raw=raw, once=reason in _OPTIONAL) for reason in found[1]]
    return Parsed(reports=tuple(reports), unreadable=tuple(unreadable))


def restate_event(event: Mapping[str, Any]) -> DeliveryReport | None:
    """The report of one stored event, which names one message; None where it cannot be read."""
    return next(iter(_read_event(event)[0]), None)


def _read_event(event: Mapping[str, Any]) -> tuple[list[DeliveryReport], list[str]]:
    """Parse an event; also returns which fields cannot be read, and why."""
    names = [name for name in EVENTS if name in event]
    if not names:
        return [], [] if SILENT_EVENTS & event.keys() else ["An event is of a kind that is not documented."]
    reports: list[DeliveryReport] = []
    wrong: list[str] = []
    for name in names:
        content = event[name]
        given = content.get("mids") if isinstance(content, dict) else False
        mids = [] if given in EMPTY else as_list(given)
        keys = [as_key(mid) for mid in mids or ()]
        if mids is None or None in keys:
            wrong.append(f"`{name}` of an event lacks `mids`, or one of them is no id.")
        if not isinstance(content, dict):
            continue
        times = event.get("timestamp"), content.get("watermark")
        if any(stamp is not None and epoch_milliseconds(stamp) is None for stamp in times):
            wrong.append(_NO_TIME)
        at = next((moment for stamp in times if (moment := epoch_milliseconds(stamp)) is not None), None)
        reports += [_report(event, name, key, at) for key in keys if key is not None]
    if reports and any(not isinstance(event.get(name), dict | None) for name in _PARTIES):
        wrong.append(_NO_PARTY)
    return reports, list(dict.fromkeys(wrong))


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
