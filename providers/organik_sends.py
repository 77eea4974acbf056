"""Organik's reply to a send (`sendsms`, `smsviaget`): the refused numbers, and how the others are polled.

Source: the provider's pages SMS_SINGLE, SMS_SINGLE_POST and SMS_BULK. `data.deliveries[]` holds `track_id` (the
sender's own), `transaction_id` (null where the whole delivery failed), `valid[]`, `invalid[]` and perhaps `error`. A
refused number never gets a gsm id, so no report ever shows it: this reply is the only report about it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final
from xml.etree.ElementTree import Element
from zoneinfo import ZoneInfo

from ulak.models.keys import join_key
from ulak.models.report import DeliveryReport, Discovered, TrackedKey, Unreadable
from ulak.models.vocabulary import Granularity, Reason, Source, Status
from ulak.providers.adapter import Parsed
from ulak.providers.decoding import Fields, as_int, as_key, as_list, as_text, dump_item, load_object, scrub
from ulak.providers.errors import AnswerNotUnderstood
from ulak.providers.ids import bare
from ulak.providers.organik_replies import codes_of, parse_xml, text_of
from ulak.providers.phone_numbers import recipient
from ulak.providers.value_limits import is_xml

REFUSED: Final = "invalid"
"""The provider has no status word here; the name of the list that contains a number takes its place."""

REFUSAL: Final[Mapping[int, tuple[Status, Reason]]] = {
    102: (Status.UNDELIVERABLE, Reason.INVALID_NUMBER),  # "Couldn't found any valid GSM number"
    103: (Status.REJECTED, Reason.QUOTA),  # "Insufficient balance"
    105: (Status.REJECTED, Reason.CONTENT),  # "Message text was not found."
    106: (Status.REJECTED, Reason.CONTENT),  # "Message text is too long."
    108: (Status.REJECTED, Reason.QUOTA),  # "Insufficient TL balance"
    109: (Status.REJECTED, Reason.BLACKLISTED),  # "The GSM number is on the black list."
    110: (Status.UNDELIVERABLE, Reason.INVALID_NUMBER),  # "The number is incorrect."
    111: (Status.UNDELIVERABLE, Reason.INVALID_NUMBER),  # "The GSM number is too short or too long."
    112: (Status.REJECTED, Reason.CONTENT),  # "Message text is not in BASE64 format."
}
"""`error.number` of a refused number or delivery. Any other (sender name, contract) is `rejected`, `other`."""

_NAMED: Final = ("track_id", "transaction_id", "error")
_STATED: Final = ("request_gsm", "gsm", "error")
_TEXTS: Final = frozenset({"message"})
_MAX_DEPTH: Final = 8
_UTC: Final = ZoneInfo("UTC")


def read_send_reply(body: bytes) -> Parsed:
    """Rows of the refused numbers, and the ids under which the accepted ones are polled from now on.

    A reply that refuses the request as a whole names no number and no send, so it reports on no delivery.
    """
    reports: list[DeliveryReport] = []
    accepted: list[Discovered] = []
    unreadable: list[Unreadable] = []
    for delivery in _read_xml(body) if is_xml(body) else _read_json(body):
        if not isinstance(delivery, dict):
            unreadable.append(
                Unreadable(reason="A delivery of a send reply is not an object.", raw=dump_item(delivery))
            )
            continue
        refused, troubles = _read_refused(delivery)
        reports += refused
        unreadable += troubles
        found, troubles = _read_accepted(delivery)
        accepted += found
        unreadable += [*troubles, *_unreadable_ids(delivery)]
    return Parsed(reports=tuple(reports), discovered=tuple(accepted), unreadable=tuple(unreadable))


def _read_json(body: bytes) -> Sequence[Any]:
    response = load_object(body).get("response")
    if not isinstance(response, dict):
        raise AnswerNotUnderstood("The send reply lacks `response`.", raw=body)
    result, data = response.get("result"), response.get("data")
    verdict = int(result) if isinstance(result, bool) else as_int(result)
    if verdict == 0:
        return ()
    deliveries = as_list(data.get("deliveries")) if isinstance(data, dict) else None
    if verdict != 1 or deliveries is None:
        raise AnswerNotUnderstood("The send reply lacks `result` or `data.deliveries`.", raw=body)
    return deliveries


def _read_xml(body: bytes) -> Sequence[Any]:
    root = parse_xml(body)
    found = root.find(".//deliveries")
    results = {text_of(element) for element in root.iter("result")}
    if found is None and results == {"0"}:
        return ()
    if found is None:
        raise AnswerNotUnderstood("The send reply lacks `deliveries`.", raw=body)
    return [_plain(item, _MAX_DEPTH) for item in found if item.tag == "item"]


def _plain(element: Element, depth: int) -> Any:
    """An element as the JSON form has it: a list of its items, an object of its fields, or its text."""
    if not len(element) or depth == 0:
        return text_of(element)
    if all(child.tag == "item" for child in element):
        return [_plain(child, depth - 1) for child in element]
    return {
        child.tag: _listed(child, depth - 1) if child.tag in {"valid", "invalid"} else _plain(child, depth - 1)
        for child in element
    }


def _listed(element: Element, depth: int) -> list[Any]:
    return [_plain(child, depth - 1) for child in element]


def _read_refused(delivery: Mapping[str, Any]) -> tuple[list[DeliveryReport], list[Unreadable]]:
    """One row for each refused number; one for the whole delivery where it failed and names no number."""
    transaction, track = _transaction(delivery), as_key(delivery.get("track_id"))
    numbers = as_list(delivery.get("invalid") or [])
    if numbers is None:
        return [], [_unreadable("`invalid` of a send reply is not a list.", delivery)]
    if not numbers:
        return _read_failed(delivery, transaction, track)
    reports: list[DeliveryReport] = []
    unreadable: list[Unreadable] = []
    places: Counter[str] = Counter()
    before: dict[str, list[Any]] = {}
    for item in numbers:
        given = _number(item)
        send = transaction or track
        if given is None or send is None:
            reason = "A refused number of a send reply lacks `gsm`, or its send has no id."
            unreadable.append(_unreadable(reason, {**delivery, "valid": [], "invalid": [item]}))
            continue
        number = recipient(given)
        places[number] += 1
        before.setdefault(number, []).append(item)
        error = item.get("error") or delivery.get("error")
        unreadable += _without_code(error, {**delivery, "valid": [], "invalid": [item]})
        reports.append(
            _report(
                error,
                granularity=Granularity.MESSAGE,
                provider_key=join_key(send, number, places[number]),
                parent_key=transaction,
                client_ref=track,
                recipient=number,
                # A reply again, with the equal numbers before this one: it can be read like the whole.
                statement=_statement(delivery, before[number]),
            )
        )
    return reports, unreadable


def _read_failed(
    delivery: Mapping[str, Any], transaction: str | None, track: str | None
) -> tuple[list[DeliveryReport], list[Unreadable]]:
    """A delivery that names no refused number: a row of its own where it failed, else nothing."""
    error = delivery.get("error")
    if not error or delivery.get("valid"):
        return [], []
    send = track or transaction
    if send is None:
        return [], [_unreadable("A send failed as a whole, and its reply names no id of it.", delivery)]
    report = _report(
        error,
        granularity=Granularity.ORDER,
        provider_key=send,
        parent_key=transaction,
        client_ref=track,
        recipient=None,
        statement=_statement(delivery, []),
    )
    return [report], _without_code(error, delivery)


def _without_code(error: Any, delivery: Mapping[str, Any]) -> list[Unreadable]:
    """An error that is there and has no code: the refusal counts all the same."""
    if not error or codes_of(error):
        return []
    reason = "The `error` of a send reply has no code that can be read."
    return [Unreadable(reason=reason, raw=dump_item(_as_reply(delivery)), once=True)]


def _report(error: Any, **fields: Any) -> DeliveryReport:
    codes = codes_of(error)
    code = next((code for code in codes if code in REFUSAL), codes[0] if codes else None)
    status, reason = REFUSAL.get(code or 0, (Status.REJECTED, Reason.OTHER))
    return DeliveryReport(
        status=status,
        reason=reason,
        provider_status=REFUSED,
        provider_error=None if code is None else str(code),
        source=Source.SEND_REPLY,
        **fields,
    )


def _read_accepted(delivery: Mapping[str, Any]) -> tuple[list[Discovered], list[Unreadable]]:
    """The ids under which to poll the accepted numbers (the transaction, else one each), and what is unreadable."""
    given = delivery.get("valid") or []
    numbers = as_list(given)
    transaction, track = _transaction(delivery), as_text(delivery.get("track_id"))
    wrong: list[Unreadable] = []
    if numbers is not None:
        # By a slip of the provider's page, a delivery that failed may stand among the numbers.
        numbers = [item for item in numbers if _number(item) is not None or not _has_failed(item)]
        given = numbers
    else:
        wrong.append(_unreadable("`valid` of a send reply is not a list.", {**delivery, "invalid": []}))
    if transaction is not None and given:
        found = Discovered(
            key=TrackedKey(id_kind="transaction", value=transaction),
            client_ref=track,
            recipient=_recipient(numbers[0]) if numbers is not None and len(numbers) == 1 else None,
            # Also those that cannot be read here have a row in the reports.
            expected=None if numbers is None else len(numbers),
        )
        return [found], wrong
    accepted: list[Discovered] = []
    for item in numbers or ():
        key = as_key(item.get("gsm_track_id")) if isinstance(item, dict) else None
        if key is None:
            reason = "An accepted number of a send reply lacks `gsm_track_id`, and its send `transaction_id`."
            wrong.append(_unreadable(reason, {**delivery, "valid": [item], "invalid": []}))
            continue
        named = TrackedKey(id_kind="gsm_track", value=key)
        accepted.append(Discovered(key=named, client_ref=track, recipient=_recipient(item), expected=1))
    return accepted, wrong


def _has_failed(item: Any) -> bool:
    return isinstance(item, dict) and bool(item.get("error"))


def _transaction(delivery: Mapping[str, Any]) -> str | None:
    """The delivery's transaction, in the form of a registered one."""
    given = as_key(delivery.get("transaction_id"))
    return None if given is None else bare(given)


def _unreadable_ids(delivery: Mapping[str, Any]) -> tuple[Unreadable, ...]:
    """The ids of a delivery that are there and cannot be read."""
    fields = Fields(delivery, _UTC)
    fields.read("transaction_id", as_key)
    fields.read("track_id", as_key)
    return fields.unreadable("A delivery of a send reply", _as_reply({**delivery, "valid": [], "invalid": []}))


def _number(item: Any) -> str | None:
    """The number as Organik wrote it, else as the sender had."""
    return (as_key(item.get("gsm")) or as_key(item.get("request_gsm"))) if isinstance(item, dict) else None


def _recipient(item: Any) -> str | None:
    given = _number(item)
    return None if given is None else recipient(given)


def _statement(delivery: Mapping[str, Any], refused: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    named = {name: delivery[name] for name in _NAMED if name in delivery}
    items = [{name: item[name] for name in _STATED if name in item} for item in refused]
    return scrub(_as_reply({**named, "invalid": items}), drop=_TEXTS)


def _unreadable(reason: str, delivery: Mapping[str, Any]) -> Unreadable:
    return Unreadable(reason=reason, raw=dump_item(_as_reply(delivery)))


def _as_reply(delivery: Mapping[str, Any]) -> dict[str, Any]:
    """One delivery as a reply of its own, so that it can be read again like any."""
    return {"response": {"result": True, "data": {"deliveries": [dict(delivery)]}}}
