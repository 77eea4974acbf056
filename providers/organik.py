"""Organik API v2, `detailedreport`: many ids per call, one kind of id per call.

A gsm id in the text form of the send reply is asked for by the transaction it names (`organik_through`). Send replies
that the sender hands over are read in `organik_sends`; of what Organik pushes only the address counts.

Source: organikapi.com/documents/reports_detailed; error codes and the key's making from the provider's public API
documents (README, ERROR_CODES). The key stands in the URL's path, so no URL may ever be printed.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from models.report import DeliveryReport, Discovered, Hint, IdAnswer, KeptStatement, TrackedKey, Unreadable
from models.vocabulary import Granularity, Reason, Status, is_final
from providers.adapter import (
    Account,
    Answer,
    Callback,
    DueId,
    Fetch,
    FetchSpec,
    Limit,
    OptionSpec,
    Parsed,
    PollNumbers,
    ProviderRecord,
    Request,
)
from providers.decoding import (
    KEY_LIMIT,
    Fields,
    as_int,
    as_key,
    as_text,
    check_http,
    dump_item,
    in_utf8,
    load_json,
    refuse_client_error,
    scrub,
)
from providers.errors import (
    AnswerNotUnderstood,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainSoon,
)
from providers.ids import bare, text_id, whole_id, whole_number
from providers.numbers import plain, recipient
from providers.organik_codes import CODES, REPLY_ERRORS
from providers.organik_replies import Reply, read_reply
from providers.organik_requests import (
    FEWEST_THROUGH,
    api_key,
    batch_of,
    batch_through,
    by_transaction,
    fill_batches,
    goes_alone,
    is_through,
    json_body,
    keys_of,
    one_form,
    sent_key,
    xml_body,
)
from providers.organik_sends import read_send_reply
from providers.organik_through import attribute
from providers.statuses import judge_unlisted

STATUS: Final[Mapping[int, tuple[Status, Reason | None]]] = {
    0: (Status.SCHEDULED, None),  # "henüz gönderilmedi"
    1: (Status.ENROUTE, None),  # "operatöre iletildi"
    2: (Status.DELIVERED, None),  # "alıcıya iletildi"
    3: (Status.UNDELIVERABLE, Reason.INVALID_NUMBER),  # "hatalı numara"; an errorcode knows better
    4: (Status.EXPIRED, Reason.EXPIRED),  # "zaman aşımı"; an errorcode knows better
}
"""`status` of a row, with the reason that holds where no errorcode gives another."""

REASON: Final[Mapping[int, Reason]] = {
    1: Reason.INVALID_NUMBER,
    2: Reason.INVALID_NUMBER,  # "Operator numarası hatalı"
    3: Reason.ABSENT,
    4: Reason.ABSENT,  # "Pasif Numara"
    5: Reason.OPTED_OUT,  # "Kampanya smslerine kapalı numara"
    6: Reason.CONTENT,  # "Operator Kriterlerine uymayan mesaj içeriği"
    7: Reason.ABSENT,
    8: Reason.SMS_BARRED,  # "SMS alımına kapalı."
    9: Reason.HANDSET,
    10: Reason.NETWORK,
    11: Reason.NETWORK,
    12: Reason.HANDSET,
    13: Reason.NETWORK,
    14: Reason.HANDSET,
    15: Reason.NETWORK,
    16: Reason.HANDSET,
    17: Reason.HANDSET,
    18: Reason.NETWORK,
    19: Reason.NETWORK,
    20: Reason.NETWORK,
    21: Reason.NETWORK,
    22: Reason.OTHER,  # "Operator işlemi onaylayamadı."
    23: Reason.OPTED_OUT,  # "İYS Retli numara listesinde": the national consent register
    88: Reason.TEST,
    99: Reason.INVALID_NUMBER,  # "Hatalı numara"; it stands beside status 4 in the documents' own sample
}
"""`errorcode` of a row: explains status 3 and 4 and never touches 0, 1, 2. An unknown one is `other`."""

_STATED: Final = (
    "gsm",
    "transaction_id",
    "gsm_track_id",
    "delivery_track_id",
    "create_date",
    "start_date",
    "finish_date",
    "status",
    "sms_count",
    "credit_amount",
    "is_foreign_gsm",
    "errorcode",
)
"""The documented fields of a row, kept as its statement. A field that is not known may be a text or a name."""

REFUSALS: Final = frozenset({5, 6, 8, 23})
"""Errorcodes that turn status 3 or 4 into `rejected`: the message was refused, it did not fail to reach the phone."""

ERROR: Final[Mapping[int, type[ProviderError]]] = {
    1: TryAgainSoon,  # unknown fault
    84: TryAgainSoon,  # database
    85: TryAgainSoon,  # database
    88: PauseAccount,  # unsupported request_name
    89: PauseAccount,  # user not found or inactive
    90: PauseAccount,  # the key must be 32 characters
    91: RequestIsWrong,  # unsupported response type
    92: RequestIsWrong,  # unsupported request type
    93: SlowDown,  # too many requests at the same time
    94: TryAgainSoon,  # temporarily unavailable
    95: TryAgainSoon,  # server fault
    96: RequestIsWrong,  # parameters
    97: RequestIsWrong,  # form of the body
    98: PauseAccount,  # IP address not allowed
    99: PauseAccount,  # authorization
}
"""`error` of a whole reply (`result` false). Not the errorcodes of rows: 88 and 99 mean something else there."""

NO_ROWS: Final = frozenset({86, 87})
"""Errors that mean: none of these ids has a row (yet)."""

MAY_BE_ONE_ID: Final = frozenset({96, 97})
"""Errors that one bad id, or one id too many, may bring upon a whole batch."""

KINDS: Final = ("transaction", "delivery_track", "gsm_track")
PUSHED: Final = ("transaction", "delivery_track")
"""Kinds of id that the address of a push may name: those that a sender knows when it gives Organik the address."""
WEBHOOK_SECRET: Final = "webhook_secret"  # noqa: S105 - the name of a credential
SEND_REPLY: Final = "send_reply"
SPLIT_ABOVE_ROWS: Final = 200
"""A transaction with more rows than this and few open ones is asked by its open rows from then on."""

_GSM_ID: Final = re.compile(r"[0-9A-Za-z]+(-[0-9A-Za-z]+)*")


def gsm_id(value: str) -> str:
    """A whole number, or the text form that `sendsms` returns; `RequestIsWrong` for any other text."""
    text = plain(value)
    if whole_number(text) is None and not (_GSM_ID.fullmatch(text) and len(text) <= KEY_LIMIT):
        raise RequestIsWrong("A gsm id must be a whole number, or a text such as 16502030-4730-63032793.")
    return bare(text)


RECORD: Final = ProviderRecord(
    derived_secret=sent_key,
    name="organik",
    title="Organik Haberleşme",
    base_url="https://organikapi.com",
    credentials=(("api_key",), ("username", "password")),
    limit=Limit(requests=1, per_seconds=1.0, concurrency=1),
    poll=PollNumbers(steps_seconds=(10.0, 30.0, 60.0), growth=1.6, max_seconds=1800.0),
    validity_hours=48.0,
    every_seconds=10.0,
    deadline_seconds=60.0,
    options=(
        OptionSpec(
            name="format", type=str, default="json", meaning="form of requests and replies", choices=("json", "xml")
        ),
        OptionSpec(name="batch_size", type=int, default=100, meaning="most ids in one call", minimum=1, maximum=1000),
    ),
    meanings=CODES,
    id_kinds=KINDS,
    id_forms={"transaction": whole_id, "gsm_track": gsm_id, "delivery_track": text_id},
    status_codes=frozenset(map(str, STATUS)),
    optional_credentials=(WEBHOOK_SECRET,),
    callback_secret=WEBHOOK_SECRET,
)


class Organik:
    """Plans, asks and reads Organik's detailed reports; reads send replies; is woken by pushes."""

    record = RECORD

    def plan_window(self, account: Account, start: date, end: date) -> tuple[FetchSpec, ...]:
        """Nothing: Organik has no list of what was sent."""
        del account, start, end
        return ()

    def plan_ids(self, account: Account, due: Sequence[DueId], today: date) -> tuple[FetchSpec, ...]:
        """Batches of one id kind, filled to the brim: up to `batch_size` ids and `ROWS_PER_CALL` expected rows each.

        Gsm ids in their text form, of which two or more name the same transaction, are asked for by it.
        """
        del today
        size = int(account.options.get("batch_size", 100))
        grouped = by_transaction(item.key for item in due)
        through = {name: keys for name, keys in grouped.items() if len(keys) >= FEWEST_THROUGH}
        held = {key for keys in through.values() for key in keys}
        weights = [(name, len(keys)) for name, keys in through.items()]
        specs = [batch_through({name: through[name] for name in names}) for names in fill_batches(weights, size)]
        for kind in KINDS:
            mine = [item for item in due if item.key.id_kind == kind and item.key not in held]
            specs += [batch_of(kind, [item.key.value]) for item in mine if goes_alone(item)]
            together = [(item.key.value, max(item.expected or 1, 1)) for item in mine if not goes_alone(item)]
            specs += [batch_of(kind, ids) for ids in fill_batches(together, size)]
        return tuple(specs)

    def request(self, account: Account, fetch: Fetch, now: datetime) -> Request:
        """`POST /v2/<key>/detailedreport/<format>/` with the ids as texts, as the provider's own client sends them."""
        del now
        form = str(account.options.get("format", "json"))
        kind = str(fetch.spec.params["by"])
        field, ids = f"{kind}_ids", list(dict.fromkeys(one_form(kind, value) for value in fetch.spec.params["ids"]))
        return Request(
            method="POST",
            url=f"{account.base_url.rstrip('/')}/v2/{quote(api_key(account), safe='')}/detailedreport/{form}/",
            headers={"accept": f"application/{form}", "content-type": f"application/{form}"},
            body=xml_body(field, ids) if form == "xml" else json_body(field, ids),
            endpoint="detailedreport",
        )

    def parse(self, account: Account, fetch: Fetch, answer: Answer) -> Parsed:
        """The rows of the answer and what they settle; ids without a row stay open."""
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            check_http(answer)
        answer = in_utf8(answer)
        try:
            reply = read_reply(answer.body)
        except AnswerNotUnderstood:
            check_http(answer)
            refuse_client_error(answer)
            raise
        if not reply.ok:
            return _parse_error(fetch, answer, reply)
        check_http(answer)
        refuse_client_error(answer)
        return (
            _parse_through(account, fetch, reply.rows) if is_through(fetch) else _parse_rows(account, fetch, reply.rows)
        )

    def error_text(self, answer: Answer) -> str | None:
        """`error.message` of a reply that refuses."""
        try:
            return read_reply(in_utf8(answer).body).said
        except ProviderError:
            return None

    def parse_item(self, account: Account, fetch: Fetch, item: bytes) -> Parsed | None:
        """One row of `data`; a row of an XML answer is kept as JSON too, its fields as texts.

        An id may have further rows, so one of them settles nothing.
        """
        report, troubles = _report(account, row := load_json(item), None)
        if report is not None and not is_through(fetch):
            report = replace(report, tracked=_owner(fetch, _named(fetch), row))
        return Parsed(reports=(report,) if report else (), unreadable=troubles)

    def parse_callback(self, account: Account, callback: Callback) -> Parsed:
        """A send reply that the sender hands over; or a push, whose address alone says what is due now.

        What a push holds is not documented, so it is kept and nothing is derived from it.
        """
        del account
        if callback.tail == SEND_REPLY:
            return read_send_reply(in_utf8(callback).body)
        ask = _pushed_id(callback.tail)
        if ask is None:
            right = "…/<webhook_secret>/<transaction id>, or delivery_track=<your track id> as its last part"
            reason = f"The address of a push names no id: it must end in {right}."
            return Parsed(unreadable=(Unreadable(reason=reason, raw=callback.body),))
        kept = Unreadable(reason="A push of Organik, whose form is not documented.", raw=callback.body, is_open=False)
        return Parsed(hints=(Hint(report=None, twin_key="", ask=ask),), unreadable=(kept,) if callback.body else ())

    def authorise_callback(self, account: Account, callback: Callback) -> bool:
        """Whether the first part of the address is the account's secret: nothing else signs a push."""
        secret = account.credentials.get(WEBHOOK_SECRET, "")
        given = callback.tail[: len(secret)].encode("utf-8", "surrogatepass")
        is_whole = callback.tail[len(secret) :][:1] in {"", "/"}
        return bool(secret) and hmac.compare_digest(given, secret.encode()) and is_whole

    def restate(self, account: Account, kept: KeptStatement) -> DeliveryReport | None:
        """One row of a report, or what a send reply said about a refused number or send."""
        if "response" not in kept.statement:
            return _report(account, kept.statement, None)[0]
        reply = read_send_reply(dump_item(kept.statement))
        return next((report for report in reply.reports if report.provider_key == kept.provider_key), None)


ADAPTER: Final = Organik()


def _pushed_id(tail: str) -> TrackedKey | None:
    """The id that the address of a push ends in: `<transaction>`, `transaction=<id>` or `delivery_track=<id>`."""
    kind, is_named, value = tail.partition("=")
    kind, value = (kind, value) if is_named else (PUSHED[0], tail)
    if kind not in PUSHED or "/" in value:
        return None
    try:
        return TrackedKey(id_kind=kind, value=RECORD.id_forms[kind](value))
    except RequestIsWrong:
        return None


def _parse_error(fetch: Fetch, answer: Answer, reply: Reply) -> Parsed:
    """What `result: false` means. Errors come with HTTP 200; the table's number is believed before the HTTP status."""
    code = next((code for code in reply.codes if code in ERROR or code in NO_ROWS), None)
    if code is None:
        check_http(answer)
        refuse_client_error(answer)
        said = str(reply.codes[0]) if reply.codes else None
        raise AnswerNotUnderstood("Organik answered an unknown error.", raw=answer.body, code=said)
    if is_through(fetch) and (code in NO_ROWS or code in MAY_BE_ONE_ID):
        return _parse_error_through(fetch, code)
    if code in NO_ROWS:
        return Parsed(answers=tuple(IdAnswer(key=key, found=False) for key in keys_of(fetch)))
    ids = fetch.spec.params["ids"]
    if code in MAY_BE_ONE_ID and len(ids) > 1:
        kind, half = fetch.spec.params["by"], len(ids) // 2
        return Parsed(children=(batch_of(kind, ids[:half]), batch_of(kind, ids[half:])))
    raise ERROR[code](REPLY_ERRORS[code], code=str(code))


def _parse_error_through(fetch: Fetch, code: int) -> Parsed:
    """No transaction has a row, or one of them is refused: whatever is not shown by its transaction is asked alone."""
    groups, ids = by_transaction(keys_of(fetch)), fetch.spec.params["ids"]
    if code in MAY_BE_ONE_ID and len(ids) > 1:
        halves = (ids[: len(ids) // 2], ids[len(ids) // 2 :])
        return Parsed(children=tuple(batch_through({name: groups[name] for name in half}) for half in halves))
    return Parsed(children=tuple(batch_of("gsm_track", [key.value]) for key in keys_of(fetch)))


def _parse_through(account: Account, fetch: Fetch, rows: Sequence[Any]) -> Parsed:
    """The rows of transactions that were asked for in the place of gsm ids, and what they settle of these.

    An id that is not among its transaction's rows is asked for alone.
    """
    read = [_report(account, row, None) for row in rows]
    reports = [report for report, _ in read if report is not None]
    # A row that cannot be read may be any of them.
    is_whole = len(reports) == len(read)
    answers: list[IdAnswer] = []
    lacking: list[TrackedKey] = []
    owners: dict[str, TrackedKey] = {}
    for transaction, keys in by_transaction(keys_of(fetch)).items():
        mine = {report.provider_key: report for report in reports if report.parent_key == transaction}
        found = attribute([fetch.ids.get(key) or DueId(key=key) for key in keys], list(mine.values()))
        owners |= found.owners
        lacking += found.lacking
        for key, shown in found.shown.items():
            settled = all(is_final(report.status) for report in shown)
            is_sure = is_whole or key in found.sure
            answers.append(
                IdAnswer(key=key, found=True, settled=settled and is_sure, is_incomplete=settled and not is_sure)
            )
    return Parsed(
        reports=tuple(replace(report, tracked=owners.get(report.provider_key)) for report in reports),
        children=tuple(batch_of("gsm_track", [key.value]) for key in lacking),
        answers=tuple(answers),
        unreadable=tuple(trouble for _, troubles in read for trouble in troubles),
    )


def _parse_rows(account: Account, fetch: Fetch, rows: Sequence[Any]) -> Parsed:
    reports: dict[TrackedKey | None, list[DeliveryReport]] = {}
    unreadable: list[Unreadable] = []
    spoiled: set[TrackedKey | None] = set()
    # Ids are compared in one form; of two spellings of one id, both stored by an earlier version, both are answered.
    named = _named(fetch)
    for row in rows:
        owner = _owner(fetch, named, row)
        report, troubles = _report(account, row, owner)
        unreadable += troubles
        if report is not None:
            reports.setdefault(owner, []).append(report)
        else:
            spoiled.add(owner)
    answers: list[IdAnswer] = []
    discovered: list[Discovered] = []
    for key in keys_of(fetch):
        open_rows, answer = _settle(
            account, fetch, key, reports.get(named[one_form(key.id_kind, key.value)], []), spoiled
        )
        answers.append(answer)
        discovered += open_rows
    return Parsed(
        reports=tuple(report for found in reports.values() for report in found),
        answers=tuple(answers),
        discovered=tuple(discovered),
        unreadable=tuple(unreadable),
    )


def _named(fetch: Fetch) -> dict[str, TrackedKey]:
    """The ids asked for, by the one form in which ids are compared."""
    return {one_form(key.id_kind, key.value): key for key in keys_of(fetch)}


def _owner(fetch: Fetch, named: Mapping[str, TrackedKey], row: Any) -> TrackedKey | None:
    """The id asked for that this row answers; None where the row names none of them."""
    kind, ids = fetch.spec.params["by"], fetch.spec.params["ids"]
    if kind == "gsm_track" and len(ids) == 1 and as_int(ids[0], minimum=0) is None:
        return TrackedKey(id_kind=kind, value=ids[0])
    value = as_key(row.get(f"{kind}_id")) if isinstance(row, dict) else None
    return named.get(one_form(kind, value)) if value is not None else None


def _report(
    account: Account, row: Any, owner: TrackedKey | None
) -> tuple[DeliveryReport | None, tuple[Unreadable, ...]]:
    """The report of one row, and what of it could not be understood."""
    key = as_key(row.get("gsm_track_id")) if isinstance(row, dict) else None
    number = as_int(row.get("status")) if key is not None else None
    word = str(number) if number is not None else (as_text(row.get("status"), limit=100) if key is not None else None)
    if key is None or word is None:
        return None, (Unreadable(reason="A row lacks `gsm_track_id` or `status`.", raw=dump_item(row)),)
    fields = Fields(row, account.timezone)
    status, reason, error = _judge(account, number, word, fields)
    foreign = fields.whole("is_foreign_gsm")
    gsm = fields.text("gsm", limit=100)
    report = DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=key,
        parent_key=fields.read("transaction_id", as_key),
        client_ref=fields.text("delivery_track_id"),
        recipient=recipient(gsm, foreign=foreign == 1) if gsm else None,
        status=status,
        reason=reason,
        provider_status=word,
        provider_error=error,
        segments=fields.count("sms_count"),
        credits=fields.amount("credit_amount"),
        # While it is only scheduled, the start is a plan.
        sent_at=None if status is Status.SCHEDULED else fields.time("start_date"),
        done_at=fields.time("finish_date") if is_final(status) else None,
        extra=_extra(fields, foreign),
        statement=scrub({name: row[name] for name in _STATED if name in row}),
        tracked=owner,
    )
    troubles = fields.unreadable("A row")
    if status is Status.UNKNOWN:
        unknown = Unreadable(reason="Unknown value in `status`.", raw=dump_item(row), provider_key=key)
        troubles = (unknown, *troubles)
    return report, troubles


def _extra(fields: Fields, foreign: int | None) -> dict[str, Any]:
    created = fields.time("create_date")
    extra = {"is_foreign_gsm": foreign, "create_date": None if created is None else created.isoformat()}
    return {name: value for name, value in extra.items() if value is not None}


def _judge(account: Account, number: int | None, word: str, fields: Fields) -> tuple[Status, Reason | None, str | None]:
    """(status, reason, raw errorcode) of a row. An errorcode that is absent (XML) is not 0: it just says nothing."""
    given = fields.text("errorcode", limit=100)
    code = as_int(given)
    # 0 says that there is no error.
    raw = None if code == 0 else str(code) if code is not None else given
    if number is None or number not in STATUS:
        return *judge_unlisted(account, word), raw
    status, reason = STATUS[number]
    if status not in {Status.UNDELIVERABLE, Status.EXPIRED} or raw is None:
        return status, reason, raw
    explained = REASON.get(code, Reason.OTHER) if code is not None else Reason.OTHER
    return (Status.REJECTED if code in REFUSALS else status), explained, raw


def _settle(
    account: Account,
    fetch: Fetch,
    key: TrackedKey,
    rows: Sequence[DeliveryReport],
    spoiled: set[TrackedKey | None],
) -> tuple[list[Discovered], IdAnswer]:
    """What the rows of one id settle: closed when all are final, split when few of a big transaction are still open.

    Where nobody knows how many rows the id has, a row may be missing, or stand there in the place of another, without
    being missed: nothing is settled then unless the answer before held the same rows.
    """
    due = fetch.ids.get(key)
    expected = due.expected if due is not None else None
    distinct = {row.provider_key for row in rows}
    open_keys = {row.provider_key: row for row in rows if not is_final(row.status)}
    is_counted = expected is not None or key.id_kind == "gsm_track"
    fingerprint = None if is_counted or not rows else _fingerprint(rows)
    # A row that names no id might belong to any of them, so only a known number of rows can show that none is missing.
    whole = key not in spoiled and (None not in spoiled if expected is None else len(distinct) >= expected)
    if not rows or not whole:
        # Among final rows a missing one is not one that is still to come.
        lacks_some = key in spoiled or (bool(rows) and not open_keys)
        return [], IdAnswer(key=key, found=bool(rows), is_incomplete=lacks_some)
    few = len(open_keys) <= int(account.options.get("batch_size", 100))
    is_split = key.id_kind == "transaction" and len(distinct) > SPLIT_ABOVE_ROWS and few
    if open_keys and not is_split:
        return [], IdAnswer(key=key, found=True, fingerprint=fingerprint)
    if not is_counted and (due is None or due.fingerprint != fingerprint):
        return [], IdAnswer(key=key, found=True, is_incomplete=True, fingerprint=fingerprint)
    if not open_keys:
        return [], IdAnswer(key=key, found=True, settled=True, fingerprint=fingerprint)
    stragglers = [_straggler(row, due) for row in open_keys.values()]
    return stragglers, IdAnswer(key=key, found=True, settled=True, close_reason="split", fingerprint=fingerprint)


def _fingerprint(rows: Sequence[DeliveryReport]) -> str:
    """Distinguishes one multiset of rows from another."""
    return hashlib.sha256("\n".join(sorted(row.provider_key for row in rows)).encode()).hexdigest()


def _straggler(row: DeliveryReport, due: DueId | None) -> Discovered:
    return Discovered(
        key=TrackedKey(id_kind="gsm_track", value=row.provider_key),
        client_ref=row.client_ref or (due.client_ref if due else None),
        recipient=row.recipient,
        sent_at=(due.sent_at if due else None) or row.sent_at,
        valid_until=due.valid_until if due else None,
    )
