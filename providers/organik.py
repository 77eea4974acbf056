"""Organik API v2, `detailedreport`: many ids per call, one kind of id per call.

A gsm id in the text form of the send reply is polled by the transaction it names (`organik_through`). Send replies
that the sender hands over are read in `organik_sends`; of what Organik pushes only the address counts.

Source: organikapi.com/documents/reports_detailed; error codes and the key's making from the provider's public API
documents (README, ERROR_CODES). The key is part of the URL's path, so no URL may ever be printed.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from http import HTTPStatus
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec
from pydantic import Field

from ulak.models.report import AmbiguousReport, Discovered, IdAnswer, KeptStatement, Report, TrackedKey, Unreadable
from ulak.models.vocabulary import is_final
from ulak.providers.adapter import (
    MAX_ANSWER_BYTES,
    REFERENCES_OF_MESSAGES,
    Account,
    Answer,
    Callback,
    DueId,
    Fetch,
    FetchSpec,
    Limit,
    Parsed,
    PollSchedule,
    ProviderRecord,
    Request,
)
from ulak.providers.decoding import (
    KEY_LIMIT,
    as_int,
    as_key,
    check_http,
    dump_item,
    in_utf8,
    load_json,
    refuse_client_error,
)
from ulak.providers.errors import (
    AnswerNotUnderstood,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainSoon,
)
from ulak.providers.ids import bare, text_id, whole_id, whole_number
from ulak.providers.options import DeadlineSeconds, ValidityHours
from ulak.providers.organik_attribution import attribute
from ulak.providers.organik_codes import CODES, REPLY_ERRORS
from ulak.providers.organik_replies import Reply, read_reply
from ulak.providers.organik_requests import (
    MIN_THROUGH_TRANSACTION,
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
from ulak.providers.organik_rows import STATUS, read_plain_rows, read_row, report_plain_row
from ulak.providers.organik_sends import read_send_reply
from ulak.providers.phone_numbers import plain
from ulak.providers.plain import NotPlainError, plain_text
from ulak.providers.statuses import MappedOptions

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
MAX_VALUES: Final = 2_000_000
"""Of an answer. There are no pages: a transaction comes whole, at some 310 bytes and 25 values a row."""
SPLIT_ABOVE_ROWS: Final = 200
"""A transaction with more rows than this and few open ones is polled by its open rows from then on."""

_GSM_ID: Final = re.compile(r"[0-9A-Za-z]+(-[0-9A-Za-z]+)*")


def gsm_id(value: str) -> str:
    """A whole number, or the text form that `sendsms` returns; `RequestIsWrong` for any other text."""
    text = plain(value)
    if whole_number(text) is None and not (_GSM_ID.fullmatch(text) and len(text) <= KEY_LIMIT):
        raise RequestIsWrong("A gsm id must be a whole number, or a text such as 16502030-4730-63032793.")
    return bare(text)


class OrganikOptions(MappedOptions):
    """What an account of Organik may set."""

    validity_hours: ValidityHours = 48.0
    deadline_seconds: DeadlineSeconds = 60.0
    format: Literal["json", "xml"] = Field(
        default="json", description="Form of requests: `json` or `xml`. Replies are read in either form."
    )
    batch_size: int = Field(default=100, ge=1, le=1000, description="The most ids in one call, 1 to 1000.")

    @property
    def ids_per_call(self) -> int:
        """As configured."""
        return self.batch_size


RECORD: Final = ProviderRecord(
    user_names=("username",),
    derived_secret=sent_key,
    name="organik",
    title="Organik Haberleşme",
    credits_mean="Credits calculated for each message, not what was spent: 0 before the sending begins and for numbers "
    "abroad, and credits that were given back are still in it.",
    base_url="https://organikapi.com",
    credentials=(("api_key",), ("username", "password")),
    limit=Limit(requests=1, per_seconds=1.0, concurrency=1),
    poll=PollSchedule(steps_seconds=(10.0, 30.0, 60.0), growth=1.6, max_seconds=1800.0),
    options=OrganikOptions,
    every_seconds=10.0,
    meanings=CODES,
    id_kinds=KINDS,
    message_kinds=frozenset({"gsm_track"}),
    id_forms={"transaction": whole_id, "gsm_track": gsm_id, "delivery_track": text_id, "order": whole_id},
    person_fields=frozenset({"gsm", "request_gsm"}),
    reference_kinds=REFERENCES_OF_MESSAGES,
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

        Gsm ids in their text form, of which two or more name the same transaction, are polled by it.
        """
        del today
        size = OrganikOptions.of(account.options).batch_size
        grouped = by_transaction(item.key for item in due)
        through = {name: keys for name, keys in grouped.items() if len(keys) >= MIN_THROUGH_TRANSACTION}
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
        form = OrganikOptions.of(account.options).format
        kind = str(fetch.spec.params["by"])
        field, ids = f"{kind}_ids", list(dict.fromkeys(one_form(kind, value) for value in fetch.spec.params["ids"]))
        return Request(
            method="POST",
            url=f"{account.base_url.rstrip('/')}/v2/{quote(api_key(account), safe='')}/detailedreport/{form}/",
            headers={"accept": f"application/{form}", "content-type": f"application/{form}"},
            body=xml_body(field, ids) if form == "xml" else json_body(field, ids),
            endpoint="detailedreport",
            largest_bytes=MAX_ANSWER_BYTES,
            most_values=MAX_VALUES,
        )

    def parse(self, account: Account, fetch: Fetch, answer: Answer) -> Parsed:
        """The rows of the answer and what they settle; ids without a row stay open."""
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            check_http(answer)
        answer = in_utf8(answer)
        if answer.status == HTTPStatus.OK:
            try:
                return _parse_plain(account, fetch, answer)
            except NotPlainError:
                pass
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
        if is_through(fetch):
            return _parse_through(fetch, [read_row(account, row, None) for row in reply.rows])
        owned = ((_owner(fetch, named, row), row) for named in (_named(fetch),) for row in reply.rows)
        return _parse_rows(account, fetch, ((owner, *read_row(account, row, owner)) for owner, row in owned))

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
        report, troubles = read_row(account, row := load_json(item), None)
        if report is not None and not is_through(fetch):
            report = msgspec.structs.replace(report, tracked=_owner(fetch, _named(fetch), row))
        return Parsed(reports=(report,) if report else (), unreadable=troubles)

    def parse_callback(self, account: Account, callback: Callback) -> Parsed:
        """A send reply submitted by the sender; or a push, whose address alone identifies what is due now.

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
        return Parsed(
            ambiguous=(AmbiguousReport(report=None, twin_key="", ask=ask),), unreadable=(kept,) if callback.body else ()
        )

    def authorise_callback(self, account: Account, callback: Callback) -> bool:
        """Whether the first part of the address is the account's secret: nothing else signs a push."""
        secret = account.credentials.get(WEBHOOK_SECRET, "")
        given = callback.tail[: len(secret)].encode("utf-8", "surrogatepass")
        is_whole = callback.tail[len(secret) :][:1] in {"", "/"}
        return bool(secret) and hmac.compare_digest(given, secret.encode()) and is_whole

    def restate(self, account: Account, kept: KeptStatement) -> Report | None:
        """One row of a report, or a refused number or send of a send reply."""
        if "response" not in kept.statement:
            return read_row(account, kept.statement, None)[0]
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
        first_code = str(reply.codes[0]) if reply.codes else None
        raise AnswerNotUnderstood("Organik answered an unknown error.", raw=answer.body, code=first_code)
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
    """No transaction has a row, or one of them is refused: ids missing from their transaction are polled alone."""
    groups, ids = by_transaction(keys_of(fetch)), fetch.spec.params["ids"]
    if code in MAY_BE_ONE_ID and len(ids) > 1:
        halves = (ids[: len(ids) // 2], ids[len(ids) // 2 :])
        return Parsed(children=tuple(batch_through({name: groups[name] for name in half}) for half in halves))
    return Parsed(children=tuple(batch_of("gsm_track", [key.value]) for key in keys_of(fetch)))


def _parse_through(fetch: Fetch, read: Sequence[tuple[Report | None, tuple[Unreadable, ...]]]) -> Parsed:
    """The rows of transactions that were asked for in the place of gsm ids, and what they settle of these.

    An id that is not among its transaction's rows is polled alone.
    """
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
        reports=tuple(msgspec.structs.replace(report, tracked=owners.get(report.provider_key)) for report in reports),
        children=tuple(batch_of("gsm_track", [key.value]) for key in lacking),
        answers=tuple(answers),
        unreadable=tuple(trouble for _, troubles in read for trouble in troubles),
    )


def _parse_plain(account: Account, fetch: Fetch, answer: Answer) -> Parsed:
    """What `Organik.parse` gives for an answer in which everything is plain."""
    rows = read_plain_rows(answer.body)
    if is_through(fetch):
        return _parse_through(fetch, [(report_plain_row(account, row, None), ()) for row in rows])
    kind, named = fetch.spec.params["by"], _named(fetch)
    if _sole_owner(fetch) is not None:
        raise NotPlainError
    field, read = f"{kind}_id", []
    owners: dict[Any, TrackedKey | None] = {}
    for row in rows:
        given = getattr(row, field)
        if given not in owners:
            value = plain_text(given)
            owners[given] = None if value is None else named.get(one_form(kind, value))
        owner = owners[given]
        read.append((owner, report_plain_row(account, row, owner), ()))
    return _parse_rows(account, fetch, read)


def _parse_rows(
    account: Account,
    fetch: Fetch,
    read: Iterable[tuple[TrackedKey | None, Report | None, tuple[Unreadable, ...]]],
) -> Parsed:
    """What rows settle: each with the id asked for that it answers, its report, and what could not be understood."""
    reports: dict[TrackedKey | None, list[Report]] = {}
    unreadable: list[Unreadable] = []
    spoiled: set[TrackedKey | None] = set()
    for owner, report, troubles in read:
        unreadable += troubles
        if report is not None:
            reports.setdefault(owner, []).append(report)
        else:
            spoiled.add(owner)
    named = _named(fetch)
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
    """The ids asked for, by the one form in which ids are compared.

    Of two spellings of one id, both stored by an earlier version, both are answered.
    """
    return {one_form(key.id_kind, key.value): key for key in keys_of(fetch)}


def _sole_owner(fetch: Fetch) -> TrackedKey | None:
    """The id that went alone because rows name it differently: every row answers it."""
    kind, ids = fetch.spec.params["by"], fetch.spec.params["ids"]
    is_alone = kind == "gsm_track" and len(ids) == 1 and as_int(ids[0], minimum=0) is None
    return TrackedKey(id_kind=kind, value=ids[0]) if is_alone else None


def _owner(fetch: Fetch, named: Mapping[str, TrackedKey], row: Any) -> TrackedKey | None:
    """The id asked for that this row answers; None where the row names none of them."""
    sole = _sole_owner(fetch)
    if sole is not None:
        return sole
    kind = fetch.spec.params["by"]
    value = as_key(row.get(f"{kind}_id")) if isinstance(row, dict) else None
    return named.get(one_form(kind, value)) if value is not None else None


def _settle(
    account: Account,
    fetch: Fetch,
    key: TrackedKey,
    rows: Sequence[Report],
    spoiled: set[TrackedKey | None],
) -> tuple[list[Discovered], IdAnswer]:
    """What the rows of one id settle: closed when all are final, split when few of a big transaction are still open.

    If the number of rows of an id is unknown, a row may be missing, or appear in the place of another, without
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
    few = len(open_keys) <= OrganikOptions.of(account.options).batch_size
    is_split = key.id_kind == "transaction" and len(distinct) > SPLIT_ABOVE_ROWS and few
    if open_keys and not is_split:
        return [], IdAnswer(key=key, found=True, fingerprint=fingerprint)
    if not is_counted and (due is None or due.fingerprint != fingerprint):
        return [], IdAnswer(key=key, found=True, is_incomplete=True, fingerprint=fingerprint)
    if not open_keys:
        return [], IdAnswer(key=key, found=True, settled=True, fingerprint=fingerprint)
    stragglers = [_straggler(row, due) for row in open_keys.values()]
    return stragglers, IdAnswer(key=key, found=True, settled=True, close_reason="split", fingerprint=fingerprint)


def _fingerprint(rows: Sequence[Report]) -> str:
    """Distinguishes one multiset of rows from another."""
    return hashlib.sha256("\n".join(sorted(row.provider_key for row in rows)).encode()).hexdigest()


def _straggler(row: Report, due: DueId | None) -> Discovered:
    return Discovered(
        key=TrackedKey(id_kind="gsm_track", value=row.provider_key),
        client_ref=row.client_ref or (due.client_ref if due else None),
        recipient=row.recipient,
        sent_at=(due.sent_at if due else None) or row.sent_at,
        valid_until=due.valid_until if due else None,
    )
