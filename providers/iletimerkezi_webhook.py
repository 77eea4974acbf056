"""iletimerkezi's webhook: one statement about one recipient of an order, pushed to an address that holds a secret.

Source: the provider's page "Webhooks" (www.iletimerkezi.com/en/docs/api/webhooks). It names order and number but not
which of equal numbers it means, has no time and no signature, and carries the message text, dropped on receipt.
"""

from collections.abc import Mapping
from typing import Any, Final

from ulak.models.keys import join_key
from ulak.models.report import AmbiguousReport, DeliveryReport, TrackedKey, Unreadable
from ulak.models.vocabulary import Granularity, Source, Status
from ulak.providers.adapter import Account, Parsed
from ulak.providers.decoding import as_key, as_text, dump_item, scrub
from ulak.providers.ids import whole_number
from ulak.providers.iletimerkezi_orders import MESSAGE_ID, MESSAGE_STATUS, ORDER, code_text
from ulak.providers.phone_numbers import recipient
from ulak.providers.statuses import judge

WEBHOOK_SECRET: Final = "webhook_secret"  # noqa: S105 - the name of a credential
MESSAGE_TEXT: Final = "body"
WORDS: Final[Mapping[str, str]] = {"accepted": "110", "delivered": "111", "undelivered": "112"}
"""The webhook's words, as the codes that `get-report` uses for the same.

An official client library maps the numbers instead of the words, so both are taken.
"""

_STATED: Final = ("id", "packet_id", "status", "to")


def read_webhook(account: Account, body: Mapping[str, Any], *, details: bool) -> Parsed:
    """Parse a pushed body into an ambiguous report: only stored data show whether the number is the order's only one.

    Without `details` no recipient is ever stored or asked for, so there is nothing that a push could be about.
    """
    stated = body.get("report")
    item = stated if isinstance(stated, dict) else {}
    order = whole_number(as_key(item.get("packet_id")) or "")
    to, word = as_key(item.get("to")), code_text(item.get("status"))
    if order is None or to is None or word is None:
        # The names of other fields only: a changed form may carry the text under another name.
        kept = {**_statement(item), "fields": sorted(item or body)}
        reason = "The webhook lacks `packet_id` (a whole number), `to` or `status`."
        return Parsed(unreadable=(Unreadable(reason=reason, raw=dump_item({"report": kept})),))
    if not details:
        return Parsed()
    message = as_key(item.get("id"))
    code, number, ask = WORDS.get(word, word), recipient(to), TrackedKey(id_kind=ORDER, value=order)
    twin = join_key(order, number, 2)
    status, reason_word = judge(account, MESSAGE_STATUS, code)
    if status is Status.UNKNOWN:
        # Kept in the form in which it came, so that it can be read again.
        raw = dump_item({"report": _statement(item)})
        strange = Unreadable(reason="Unknown status word of the webhook.", raw=raw)
        return Parsed(ambiguous=(AmbiguousReport(report=None, twin_key=twin, ask=ask),), unreadable=(strange,))
    report = DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=join_key(order, number, 1),
        parent_key=order,
        recipient=number,
        status=status,
        reason=reason_word,
        provider_status=code,
        extra={} if message is None else {MESSAGE_ID: message},
        # It has no time, so it counts as made before everything else: its class decides, never its arrival.
        source=Source.CALLBACK,
        statement=_statement(item),
    )
    return Parsed(ambiguous=(AmbiguousReport(report=report, twin_key=twin, ask=ask),))


def _statement(item: Mapping[str, Any]) -> dict[str, Any]:
    return scrub({name: as_text(item[name]) for name in _STATED if name in item})
