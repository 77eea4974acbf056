"""Vairo SMS: one call per number of a send (`NumaraRaporu`), and one about the whole send at its end.

Sources: vairosms.com/api-destegi/numara-gonderim-raporu, …/gonderim-bilgisi, …/hata-mesajlari. A tracked id is of kind
`number` with the value `<send id>:<number>`; its send is tracked beside it as `send`. A running send does not report
its numbers, so `GonderimBilgisi` is called only once they are closed or validity has ended. The key travels in the
query string, so no URL may ever be printed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, Literal
from urllib.parse import quote

from pydantic import Field

from ulak.models.keys import join_key
from ulak.models.report import DeliveryReport, IdAnswer, KeptStatement, Report, TrackedKey, Unreadable
from ulak.models.vocabulary import Granularity, Reason, Status, is_final
from ulak.providers.adapter import (
    REFERENCES_OF_MESSAGES,
    Account,
    Answer,
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
    EMPTY,
    Fields,
    as_int,
    as_key,
    as_text,
    check_http,
    dump_item,
    in_utf8,
    load_object,
    refuse_client_error,
    scrub,
)
from ulak.providers.errors import AnswerNotUnderstood, PauseAccount, ProviderError, RequestIsWrong
from ulak.providers.ids import bare, whole_id, whole_number
from ulak.providers.options import ValidityHours
from ulak.providers.phone_numbers import e164, national_number, person, plain
from ulak.providers.pull_only import PullOnly
from ulak.providers.statuses import MappedOptions, judge
from ulak.providers.vairo_codes import CODES, REQUEST_ERRORS

STATUS: Final[Mapping[str, tuple[Status, Reason | None]]] = {
    "DEFAULT": (Status.SCHEDULED, None),  # "Henüz işlem yapılmamış."
    "SENDING": (Status.ENROUTE, None),  # "Mesaj gönderiliyor."
    "WAITING": (Status.ENROUTE, None),  # "Mesaj gönderildi. Cevap bekleniyor."
    "DELIVERED": (Status.DELIVERED, None),
    # "Mesaj iletildi. Fakat operatör gönderim raporunu desteklemediği için teyit edilemiyor."
    "SENT": (Status.SENT, None),
    "NOT_DELIVERED": (Status.UNDELIVERABLE, Reason.ABSENT),  # "Genelde alıcı numaranın aktif olmamasından kaynaklanır."
    "EXPIRED": (Status.EXPIRED, Reason.EXPIRED),
    "INVALID_DESTINATION_ADDRESS": (Status.UNDELIVERABLE, Reason.INVALID_NUMBER),  # "Hiçbir operatöre kayıtlı değil."
    "REJECTED": (Status.REJECTED, Reason.CONTENT),  # "Genelde gsm operatörü tarafından içerik kontrolü sonucu oluşur."
    "SEND_ERROR": (Status.UNDELIVERABLE, Reason.OTHER),  # "Sebebi çeşitli olabilir."
    "BLACKLISTED_DESTINATION_ADDRESS": (Status.REJECTED, Reason.BLACKLISTED),
}
"""The eleven documented words of `durum_gonderim`, compared exactly.

Verimor, whose words these are, knows six more (`VERIMOR_WORDS`). Vairo does not document them, so they are unknown
words: never final, raw word kept, unless the account's `status_map` names their status.
"""

ERROR: Final[Mapping[str, type[ProviderError]]] = {
    "INVALID_SOURCE_ADDRESS": RequestIsWrong,
    "MISSING_MESSAGE": RequestIsWrong,
    "MESSAGE_TOO_LONG": RequestIsWrong,
    "MISSING_DESTINATION_ADDRESS": RequestIsWrong,
    "INVALID_DESTINATION_ADDRESS": RequestIsWrong,
}
"""The documented words of `aciklama` with `durum: false`. They concern the *request*, not a delivery."""

SEND_STATUS: Final[Mapping[str, tuple[Status, Reason | None]]] = {
    "-1": (Status.REJECTED, Reason.OTHER),  # failed: nothing was sent, no credit was taken; `log` has the reason
    "0": (Status.ENROUTE, None),  # still running; `scheduled` while its planned time (`ileri_tarih`) is in the future
    "1": (Status.SENT, None),  # finished: it does not report how many arrived, so it is never `delivered`
}
"""`paket_durum` of a whole send, as text."""

VERIMOR_WORDS: Final = frozenset(
    {
        "DOUBLE_SEND_ERROR",
        "NOT_ALLOWED_BY_IYS",
        "MISSING_TARIFF",
        "ROUTE_NOT_AVAILABLE",
        "NETWORK_NOTCOVERED",
        "INTERNATIONAL_DENIED",
    }
)
"""Words of Verimor that Vairo does not document: unknown in `durum_gonderim`, but kept as causes."""

_STATED: Final = (
    "id",
    "sms_gonderim_id",
    "numara",
    "mesaj_boy",
    "durum_gonderim",
    "durum_iade",
    "created_at",
    "updated_at",
)
"""The fields of a report that are stored: all documented ones except `mesaj`, the text. An undocumented field
may contain a text or a name."""

_SEND_STATED: Final = (
    "id",
    "sms_baslik",
    "numara_toplam",
    "kredi_toplam",
    "sonlanma_zamani",
    "ileri_tarih",
    "gecerlilik_suresi",
    "paket_durum",
    "created_at",
)
"""The same for a send: all documented fields except `log`, of which only documented words are kept."""

_VALIDITY: Final = re.compile(r"([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])")
_LOG_DEPTH: Final = 4
_FORM: Final = "The tracked id is not <send id>:<number>."
_NUMBER: Final = re.compile(r"\+?[0-9]{1,20}")

NUMBER: Final = "number"
SEND: Final = "send"


def number_id(value: str) -> str:
    """`<send id>:<number>` as it is stored; `RequestIsWrong` for any other text.

    A number that is written as digits alone stays as it is, so that what senders have registered before is the same id;
    two spellings of a number are one call all the same. Any other spelling becomes E.164.
    """
    send, colon, number = plain(value).partition(":")
    whole, digits = whole_number(send), number.strip()
    if not _NUMBER.fullmatch(digits):
        digits = person(digits)
    if not colon or not send.strip() or not digits:
        raise RequestIsWrong(_FORM)
    if whole is None:
        raise RequestIsWrong("The send id must be the whole number that SmsGonder returned, as in 187:5399999999.")
    if not _NUMBER.fullmatch(digits):
        raise RequestIsWrong("Behind the send id must stand a phone number, as in 187:5399999999.")
    return join_key(whole, digits)


class VairoOptions(MappedOptions):
    """What an account of Vairo may set."""

    validity_hours: ValidityHours = 24.0
    number_form: Literal["national", "international", "plus"] = Field(
        default="national",
        description="Numbers in requests: `national` 5399999999 (as in the samples), `international` 905399999999, "
        "`plus` +905399999999.",
    )


RECORD: Final = ProviderRecord(
    name="vairo",
    title="Vairo SMS",
    credits_mean="Credits of each send as a whole, counted with the orders; Vairo gives none for its messages.",
    base_url="https://vairosms.com/Panel/api/v1",
    credentials=(("api_key",),),
    limit=Limit(requests=20, per_seconds=60.0, concurrency=2),
    poll=PollSchedule(steps_seconds=(5.0, 20.0, 60.0), growth=1.6, max_seconds=1800.0),
    options=VairoOptions,
    every_seconds=5.0,
    meanings=CODES,
    id_kinds=(NUMBER,),
    id_forms={NUMBER: number_id, SEND: whole_id, "order": whole_id},
    phone_key_part={NUMBER: 1},
    person_fields=frozenset({"numara"}),
    message_kinds=frozenset({NUMBER}),
    wholes={NUMBER: SEND},
    reference_kinds=REFERENCES_OF_MESSAGES,
    status_codes=frozenset({*STATUS, *SEND_STATUS}),
)


class Vairo(PullOnly):
    """The adapter of Vairo."""

    record = RECORD

    def plan_window(self, account: Account, start: date, end: date) -> tuple[FetchSpec, ...]:
        """Empty: Vairo has no list of sent messages."""
        del account, start, end
        return ()

    def plan_ids(self, account: Account, due: Sequence[DueId], today: date) -> tuple[FetchSpec, ...]:
        """One call per (send, number), and one per whole send."""
        del account, today
        specs: dict[tuple[str, str, str], list[TrackedKey]] = {}
        for item in due:
            if item.key.id_kind == SEND:
                call = ("GonderimBilgisi", bare(item.key.value), "")
            else:
                call = ("NumaraRaporu", *split_value(item.key.value))
            specs.setdefault(call, []).append(item.key)
        return tuple(_spec(*call, keys) for call, keys in specs.items())

    def request(self, account: Account, fetch: Fetch, now: datetime) -> Request:
        """`POST NumaraRaporu/<send id>` with the number, or `GET GonderimBilgisi/<send id>`.

        Raises `RequestIsWrong` for a tracked id that is not `<send id>:<number>`.
        """
        del now
        params = fetch.spec.params
        call, send, number = params["call"], params["send"], params.get("number", "")
        if not send or (call == "NumaraRaporu" and not number):
            raise RequestIsWrong(_FORM)
        root = account.base_url.rstrip("/")
        url = f"{root}/{call}/{quote(send, safe='')}?api_key={quote(account.credentials['api_key'], safe='')}"
        headers = {"accept": "application/json"}
        if call == "GonderimBilgisi":
            return Request(method="GET", url=url, headers=headers, endpoint=call)
        body = json.dumps({"numara": written(number, VairoOptions.of(account.options).number_form)}).encode()
        headers["content-type"] = "application/json"
        return Request(method="POST", url=url, headers=headers, body=body, endpoint=call)

    def parse(self, account: Account, fetch: Fetch, answer: Answer) -> Parsed:
        """Parse the report about the number, or about the whole send."""
        answer = in_utf8(answer)
        if fetch.spec.params["call"] == "GonderimBilgisi":
            return _parse_send(account, fetch, answer)
        return _parse_number(account, fetch, answer)

    def error_text(self, answer: Answer) -> str | None:
        """`aciklama` beside `durum: false`: a documented word, or free text."""
        try:
            envelope = load_object(in_utf8(answer).body)
        except ProviderError:
            return None
        verdict = envelope.get("durum")
        return as_text(envelope.get("aciklama")) if verdict is False or as_int(verdict) == 0 else None

    def parse_item(self, account: Account, fetch: Fetch, item: bytes) -> Parsed | None:
        """The object in `aciklama`, all that an answer holds: about a number, or about a whole send."""
        call = fetch.spec.params.get("call")
        if call == "GonderimBilgisi":
            return _read_send(account, fetch, load_object(item))
        return _read_number(account, fetch, load_object(item)) if call == "NumaraRaporu" else None

    def restate(self, account: Account, kept: KeptStatement) -> Report | None:
        """One number of a send, or the send itself."""
        fields = Fields(kept.statement, account.timezone)
        if kept.granularity is Granularity.ORDER:
            code = _int_or_text(kept.statement.get("paket_durum"))
            spec = _spec("GonderimBilgisi", kept.provider_key, "", ())
            return None if code is None else _send_report(account, Fetch(spec=spec), fields, str(code), kept.as_of)
        word = as_text(kept.statement.get("durum_gonderim"), limit=100)
        if word is None or kept.parent_key is None or kept.recipient is None:
            return None
        spec = _spec("NumaraRaporu", kept.parent_key, kept.recipient, ())
        return _report(account, Fetch(spec=spec), fields, kept.provider_key, word)


ADAPTER: Final = Vairo()


def split_value(value: str) -> tuple[str, str]:
    """(send id, number in E.164 if it can be normalised) of a tracked value; ("", value) where it has another form."""
    send, _, number = value.partition(":")
    send, number = send.strip(), number.strip()
    if not (send.isascii() and send.isalnum()):
        return "", value
    return bare(send), e164(number) or e164(number, foreign=True) or number


def written(number: str, form: str) -> str:
    """The number in the form of the option `number_form`; other values are unchanged."""
    if not number.startswith("+"):
        return number
    return {"plus": number, "international": number[1:]}.get(form, national_number(number))


def _spec(call: str, send: str, number: str, keys: Sequence[TrackedKey]) -> FetchSpec:
    params = {"call": call, "send": send} | ({"number": number} if number else {})
    label = f"send {send}, one number" if number else f"send {send} as a whole"
    return FetchSpec(kind="batch", params=params, ids=tuple(keys), label=label)


def _asked(fetch: Fetch) -> tuple[TrackedKey, ...]:
    return fetch.spec.ids or tuple(fetch.ids)


def _read(answer: Answer) -> tuple[bool, Any]:
    """(`durum`, `aciklama`) of an answer; raises the error of the HTTP status if the body has none."""
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        check_http(answer)
    try:
        envelope = load_object(answer.body)
    except AnswerNotUnderstood:
        check_http(answer)
        refuse_client_error(answer)
        raise
    check_http(answer)
    verdict = as_int(int(durum)) if isinstance(durum := envelope.get("durum"), bool) else as_int(durum)
    if verdict not in {0, 1}:
        refuse_client_error(answer)
        raise AnswerNotUnderstood("The answer lacks `durum`.", raw=answer.body)
    return verdict == 1, envelope.get("aciklama")


def _refuse(answer: Answer, reported: Any) -> None:
    """Raise the error of `durum: false`; return if the provider merely does not know the requested id.

    Errors beyond the documented words are free text in any HTTP status; of those only the one about the key is
    recognised, by the name of the parameter that it quotes.
    """
    text = as_text(reported) or ""
    if answer.status in {401, 403} or "api_key" in text:
        raise PauseAccount("Vairo refuses the api_key.", code=str(answer.status))
    if text in ERROR:
        raise ERROR[text](f"Vairo refuses the request: {REQUEST_ERRORS[text]}.", code=text)


def _parse_number(account: Account, fetch: Fetch, answer: Answer) -> Parsed:
    verdict, item = _read(answer)
    if not verdict:
        _refuse(answer, item)
    if not verdict or item in EMPTY:
        return Parsed(answers=tuple(IdAnswer(key=key, found=False) for key in _asked(fetch)))
    if not isinstance(item, dict):
        raise AnswerNotUnderstood("`aciklama` is not an object.", raw=answer.body)
    return _read_number(account, fetch, item)


def _read_number(account: Account, fetch: Fetch, item: Mapping[str, Any]) -> Parsed:
    """Parse the object in `aciklama`."""
    key, word = as_key(item.get("id")), as_text(item.get("durum_gonderim"), limit=100)
    if key is None or word is None:
        return _unreadable(fetch, "The report lacks `id` or `durum_gonderim`.", item)
    if not _is_about(item, fetch.spec.params):
        return _unreadable(fetch, "The report is about another send or number than was asked for.", item)
    fields = Fields(item, account.timezone)
    report = _report(account, fetch, fields, key, word)
    strange = (_unknown_word(key, item),) if report.status is Status.UNKNOWN else ()
    settled = is_final(report.status)
    answers = tuple(IdAnswer(key=asked, found=True, settled=settled) for asked in _asked(fetch))
    return Parsed(reports=(report,), answers=answers, unreadable=(*strange, *fields.unreadable("A report")))


def _report(account: Account, fetch: Fetch, fields: Fields, key: str, word: str) -> DeliveryReport:
    status, reason = judge(account, STATUS, word)
    refunded = fields.read("durum_iade", _int_or_text)
    asked = _asked(fetch)
    created_at = fields.time("created_at")
    return DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=key,
        parent_key=fetch.spec.params["send"],
        recipient=fetch.spec.params["number"],
        status=status,
        reason=reason,
        provider_status=word,
        segments=fields.count("mesaj_boy"),
        # Nothing was sent yet while the message is only scheduled.
        sent_at=created_at if status is not Status.SCHEDULED else None,
        done_at=fields.time("updated_at") if is_final(status) else None,
        extra={} if refunded is None else {"durum_iade": refunded},
        statement=scrub({name: fields.item[name] for name in _STATED if name in fields.item}),
        tracked=asked[0] if asked else None,
    )


def _int_or_text(value: Any) -> int | str | None:
    whole = as_int(value)
    return whole if whole is not None else as_text(value)


def _is_about(item: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
    """Whether the report is about the requested send and number."""
    number, given = params["number"], as_text(item.get("numara")) or ""
    known = e164(given, foreign=number.startswith("+") and not number.startswith("+90")) or given
    send = as_key(item.get("sms_gonderim_id"))
    return send is not None and bare(send) == bare(params["send"]) and known == number


def _parse_send(account: Account, fetch: Fetch, answer: Answer) -> Parsed:
    """Parse the report about a whole send. If it is refused or unknown, its numbers are still polled."""
    unknown = Parsed(answers=tuple(IdAnswer(key=key, found=False) for key in _asked(fetch)))
    try:
        verdict, item = _read(answer)
        if not verdict:
            _refuse(answer, item)
    except RequestIsWrong:
        return unknown
    if not verdict or item in EMPTY:
        return unknown
    if not isinstance(item, dict):
        raise AnswerNotUnderstood("`aciklama` is not an object.", raw=answer.body)
    return _read_send(account, fetch, item, answer.asked_at)


def _read_send(account: Account, fetch: Fetch, item: Mapping[str, Any], asked_at: datetime | None = None) -> Parsed:
    """Parse the object in `aciklama` into the send's `order` row. It settles the send and never a number."""
    key, code = as_key(item.get("id")), _int_or_text(item.get("paket_durum"))
    if code is None or key is None or bare(key) != bare(fetch.spec.params["send"]):
        return _unreadable(fetch, "The answer about a send lacks its `paket_durum` or names another send.", item)
    fields = Fields(item, account.timezone)
    report = _send_report(account, fetch, fields, str(code), asked_at)
    troubles = list(fields.unreadable("An answer about a send"))
    if report.status is Status.UNKNOWN:
        troubles.append(Unreadable(reason="Unknown `paket_durum`.", raw=dump_item(item), provider_key=bare(key)))
    if report.status is Status.REJECTED and report.provider_error is None and item.get("log") not in EMPTY:
        reason = "The `log` of a failed send holds no documented word."
        troubles.append(Unreadable(reason=reason, raw=dump_item(item), once=True))
    settled = is_final(report.status)
    answers = tuple(IdAnswer(key=asked, found=True, settled=settled) for asked in _asked(fetch))
    return Parsed(reports=(report,), answers=answers, unreadable=tuple(troubles))


def _send_report(
    account: Account, fetch: Fetch, fields: Fields, code: str, asked_at: datetime | None
) -> DeliveryReport:
    status, reason = judge(account, SEND_STATUS, code)
    created_at, planned_at = fields.time("created_at"), fields.time("ileri_tarih")
    if status is Status.ENROUTE and planned_at is not None and asked_at is not None and planned_at > asked_at:
        status = Status.SCHEDULED
    begins_at, lasts = planned_at or created_at, fields.read("gecerlilik_suresi", _validity)
    cause = _cause(fields.item.get("log"), _LOG_DEPTH) if status is Status.REJECTED else None
    if cause is not None and cause in STATUS:
        reason = STATUS[cause][1] or reason
    extra = {"sender": fields.text("sms_baslik"), "planned_at": planned_at.isoformat() if planned_at else None}
    asked = _asked(fetch)
    return DeliveryReport(
        granularity=Granularity.ORDER,
        provider_key=bare(fetch.spec.params["send"]),
        status=status,
        reason=reason,
        provider_status=code,
        provider_error=cause,
        total=fields.count("numara_toplam"),
        credits=fields.amount("kredi_toplam"),
        # A failed send was not sent, a scheduled one not yet.
        sent_at=begins_at if status not in {Status.SCHEDULED, Status.REJECTED} else None,
        done_at=fields.time("sonlanma_zamani") if is_final(status) else None,
        valid_until=begins_at + lasts if begins_at is not None and lasts is not None else None,
        extra={name: value for name, value in extra.items() if value is not None},
        statement=scrub(_stated_send(fields.item, cause)),
        tracked=asked[0] if asked else None,
    )


def _stated_send(item: Mapping[str, Any], cause: str | None) -> dict[str, Any]:
    """The stored fields of a send: the documented ones, and of `log` only the recognised word."""
    return {name: item[name] for name in _SEND_STATED if name in item} | ({} if cause is None else {"log": cause})


def _validity(value: Any) -> timedelta | None:
    """`gecerlilik_suresi`, such as "24:00:00"."""
    match = _VALIDITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    hours, minutes, seconds = map(int, match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def _cause(log: Any, depth: int) -> str | None:
    """The first documented word in `log`, whose format is undocumented: other text may name a person."""
    if isinstance(log, str):
        word = log.strip()
        return word if word in STATUS or word in ERROR or word in VERIMOR_WORDS else None
    inner = log.values() if isinstance(log, dict) else log if isinstance(log, list) else ()
    found = (_cause(item, depth - 1) for item in inner) if depth else iter(())
    return next((word for word in found if word is not None), None)


def _unreadable(fetch: Fetch, reason: str, item: Mapping[str, Any]) -> Parsed:
    """A response that cannot be read settles nothing; its id is polled again soon."""
    answers = tuple(IdAnswer(key=key, found=False, is_incomplete=True) for key in _asked(fetch))
    return Parsed(answers=answers, unreadable=(Unreadable(reason=reason, raw=dump_item(item)),))


def _unknown_word(key: str, item: Mapping[str, Any]) -> Unreadable:
    return Unreadable(reason="Unknown word in `durum_gonderim`.", raw=dump_item(item), provider_key=key)
