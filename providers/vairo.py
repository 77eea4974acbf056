"""Vairo SMS: one call per number of a send (`NumaraRaporu`), with a look at the whole send (`GonderimBilgisi`) first.

Sources: vairosms.com/api-destegi/numara-gonderim-raporu, …/gonderim-bilgisi, …/hata-mesajlari. A tracked id is of kind
`number` with the value `<send id>:<number>`. The key travels in the query string, so no URL may ever be printed.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from models.report import DeliveryReport, IdAnswer, TrackedKey, Unreadable
from models.vocabulary import Granularity, Reason, Status, is_final
from providers.adapter import (
    Account,
    Answer,
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
    as_count,
    as_int,
    as_key,
    as_text,
    check_http,
    dump_item,
    in_utf8,
    load_object,
    local_time,
    refuse_client_error,
    scrub,
)
from providers.errors import AnswerNotUnderstood, PauseAccount, ProviderError, RequestIsWrong
from providers.numbers import e164, national_number
from providers.pull_only import PullOnly

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

Verimor, whose words these are, knows six more (DOUBLE_SEND_ERROR, NOT_ALLOWED_BY_IYS, MISSING_TARIFF,
ROUTE_NOT_AVAILABLE, NETWORK_NOTCOVERED, INTERNATIONAL_DENIED). Vairo does not document them, so they are unknown words:
never final, raw word kept.
"""

ERROR: Final[Mapping[str, type[ProviderError]]] = {
    "INVALID_SOURCE_ADDRESS": RequestIsWrong,
    "MISSING_MESSAGE": RequestIsWrong,
    "MESSAGE_TOO_LONG": RequestIsWrong,
    "MISSING_DESTINATION_ADDRESS": RequestIsWrong,
    "INVALID_DESTINATION_ADDRESS": RequestIsWrong,
}
"""The documented words of `aciklama` beside `durum: false`. Of a *request* they say nothing about a delivery."""

GATE_STATE: Final[Mapping[int, str]] = {-1: "ended", 0: "running", 1: "ended"}
"""`paket_durum`: -1 not sent, 0 still running, 1 finished."""

GATE_ABOVE: Final = 5
"""A send with more due numbers than this is asked as a whole first: one call may save all of theirs."""

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
"""What is kept of a report as its statement: all that is documented but `mesaj`, the text. A field that is not known
may be a text or a name."""

_EMPTY: Final[tuple[Any, ...]] = (None, [], {})

RECORD: Final = ProviderRecord(
    name="vairo",
    title="Vairo SMS",
    base_url="https://vairosms.com/Panel/api/v1",
    credentials=(("api_key",),),
    limit=Limit(requests=20, per_seconds=60.0, concurrency=2),
    poll=PollNumbers(steps_seconds=(5.0, 20.0, 60.0), growth=1.6, max_seconds=1800.0),
    validity_hours=24.0,
    every_seconds=5.0,
    options=(
        OptionSpec(
            name="number_form",
            type=str,
            default="national",
            meaning="how numbers are written in requests: 5399999999, 905399999999 or +905399999999",
            choices=("national", "international", "plus"),
        ),
    ),
    id_kinds=("number",),
    number_part={"number": 1},
)


class Vairo(PullOnly):
    """Plans, asks and reads Vairo's reports."""

    record = RECORD

    def plan_window(self, account: Account, start: date, end: date) -> tuple[FetchSpec, ...]:
        """Nothing: Vairo has no list of what was sent."""
        del account, start, end
        return ()

    def plan_ids(self, account: Account, due: Sequence[DueId], today: date) -> tuple[FetchSpec, ...]:
        """One call per (send, number); for a send with many due numbers whose gate is shut, one call for the send."""
        del account, today
        gated: dict[str, list[TrackedKey]] = {}
        for item in due:
            if not item.gate_open:
                gated.setdefault(split_value(item.key.value)[0], []).append(item.key)
        gated = {send: keys for send, keys in gated.items() if _count_numbers(keys) > GATE_ABOVE}
        specs = {("GonderimBilgisi", send, ""): keys for send, keys in gated.items()}
        for item in due:
            send, number = split_value(item.key.value)
            if item.gate_open or send not in gated:
                specs.setdefault(("NumaraRaporu", send, number), []).append(item.key)
        return tuple(_spec(*call, keys) for call, keys in specs.items())

    def request(self, account: Account, fetch: Fetch, now: datetime) -> Request:
        """`POST NumaraRaporu/<send id>` with the number, or `GET GonderimBilgisi/<send id>`.

        Raises `RequestIsWrong` for a tracked id that is not `<send id>:<number>`.
        """
        del now
        params = fetch.spec.params
        call, send, number = params["call"], params["send"], params.get("number", "")
        if not send or (call == "NumaraRaporu" and not number):
            raise RequestIsWrong("The tracked id is not <send id>:<number>.")
        root = account.base_url.rstrip("/")
        url = f"{root}/{call}/{quote(send, safe='')}?api_key={quote(account.credentials['api_key'], safe='')}"
        headers = {"accept": "application/json"}
        if call == "GonderimBilgisi":
            return Request(method="GET", url=url, headers=headers, endpoint=call)
        body = json.dumps({"numara": written(number, account.options.get("number_form", "national"))}).encode()
        headers["content-type"] = "application/json"
        return Request(method="POST", url=url, headers=headers, body=body, endpoint=call)

    def parse(self, account: Account, fetch: Fetch, answer: Answer) -> Parsed:
        """What the answer says about the number, or when its send has ended."""
        answer = in_utf8(answer)
        if fetch.spec.params["call"] == "GonderimBilgisi":
            return _parse_gate(fetch, answer)
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
        """The object in `aciklama`, all that an answer holds: about a number, or about a whole send and no delivery."""
        call = fetch.spec.params.get("call")
        if call == "GonderimBilgisi":
            return _read_gate(fetch, load_object(item))
        return _read_number(account, fetch, load_object(item)) if call == "NumaraRaporu" else None


ADAPTER: Final = Vairo()


def split_value(value: str) -> tuple[str, str]:
    """(send id, number in E.164 where the rules know it) of a tracked value; ("", value) where it has another form."""
    send, _, number = value.partition(":")
    send, number = send.strip(), number.strip()
    if not (send.isascii() and send.isalnum()):
        return "", value
    return send, e164(number) or e164(number, foreign=True) or number


def written(number: str, form: str) -> str:
    """The number as the option `number_form` wants it written; what is no number stays as it is."""
    if not number.startswith("+"):
        return number
    return {"plus": number, "international": number[1:]}.get(form, national_number(number))


def _count_numbers(keys: Sequence[TrackedKey]) -> int:
    return len({split_value(key.value)[1] for key in keys})


def _spec(call: str, send: str, number: str, keys: Sequence[TrackedKey]) -> FetchSpec:
    params = {"call": call, "send": send} | ({"number": number} if number else {})
    label = f"send {send}, one number" if number else f"send {send}, {len(keys)} numbers"
    return FetchSpec(kind="batch", params=params, ids=tuple(keys), label=label)


def _asked(fetch: Fetch) -> tuple[TrackedKey, ...]:
    return fetch.spec.ids or tuple(fetch.ids)


def _read(answer: Answer) -> tuple[bool, Any]:
    """(`durum`, `aciklama`) of an answer; raises what the HTTP status says where the body says nothing."""
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


def _refuse(answer: Answer, said: Any) -> None:
    """Raise what `durum: false` means; return where the provider just does not know what was asked for.

    Errors beyond the documented words are free text in any HTTP status; of those only the one about the key is told
    apart, by the name of the parameter that it quotes.
    """
    text = as_text(said) or ""
    if answer.status in {401, 403} or "api_key" in text:
        raise PauseAccount("Vairo refuses the api_key.", code=str(answer.status))
    if text in ERROR:
        raise ERROR[text](f"Vairo refuses the request ({text}).", code=text)


def _parse_number(account: Account, fetch: Fetch, answer: Answer) -> Parsed:
    verdict, item = _read(answer)
    if not verdict:
        _refuse(answer, item)
    if not verdict or item in _EMPTY:
        return Parsed(answers=tuple(IdAnswer(key=key, found=False) for key in _asked(fetch)))
    if not isinstance(item, dict):
        raise AnswerNotUnderstood("`aciklama` is not an object.", raw=answer.body)
    return _read_number(account, fetch, item)


def _read_number(account: Account, fetch: Fetch, item: Mapping[str, Any]) -> Parsed:
    """What the object in `aciklama` says."""
    key, word = as_key(item.get("id")), as_text(item.get("durum_gonderim"), limit=100)
    if key is None or word is None:
        return _unreadable("The report lacks `id` or `durum_gonderim`.", item)
    if not _is_about(item, fetch.spec.params):
        return _unreadable("The report is about another send or number than was asked for.", item)
    report = _report(account, fetch, item, key, word)
    strange = () if word in STATUS else (_unknown_word(key, item),)
    settled = is_final(report.status)
    answers = tuple(IdAnswer(key=asked, found=True, settled=settled) for asked in _asked(fetch))
    return Parsed(reports=(report,), answers=answers, unreadable=strange)


def _report(account: Account, fetch: Fetch, item: Mapping[str, Any], key: str, word: str) -> DeliveryReport:
    status, reason = STATUS.get(word, (Status.UNKNOWN, None))
    refunded = item.get("durum_iade")
    whole = as_int(refunded)
    kept = whole if whole is not None else as_text(refunded)
    asked = _asked(fetch)
    return DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=key,
        parent_key=fetch.spec.params["send"],
        recipient=fetch.spec.params["number"],
        status=status,
        reason=reason,
        provider_status=word,
        segments=as_count(item.get("mesaj_boy")),
        sent_at=local_time(item.get("created_at"), account.timezone),
        done_at=local_time(item.get("updated_at"), account.timezone) if is_final(status) else None,
        extra={} if kept is None else {"durum_iade": kept},
        statement=scrub({name: item[name] for name in _STATED if name in item}),
        tracked=asked[0] if asked else None,
    )


def _is_about(item: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
    """Whether the report names the send and the number that were asked for."""
    number, given = params["number"], as_text(item.get("numara")) or ""
    known = e164(given, foreign=number.startswith("+") and not number.startswith("+90")) or given
    return bool(as_key(item.get("sms_gonderim_id")) == params["send"] and known == number)


def _parse_gate(fetch: Fetch, answer: Answer) -> Parsed:
    """Running: the numbers wait for their next step. Ended, refused or an unknown word: each number is asked itself.

    The gate only saves calls; what Vairo says about a send never closes a number, nor keeps one from being asked.
    """
    opened = tuple(IdAnswer(key=key, found=True, make_due=True) for key in _asked(fetch))
    try:
        verdict, item = _read(answer)
        if not verdict:
            _refuse(answer, item)
    except RequestIsWrong:
        return Parsed(answers=opened)
    if not verdict or item in _EMPTY:
        return Parsed(answers=opened)
    if not isinstance(item, dict):
        raise AnswerNotUnderstood("`aciklama` is not an object.", raw=answer.body)
    return _read_gate(fetch, item)


def _read_gate(fetch: Fetch, item: Mapping[str, Any]) -> Parsed:
    """What the object in `aciklama` says of the send."""
    keys = _asked(fetch)
    opened = tuple(IdAnswer(key=key, found=True, make_due=True) for key in keys)
    state = GATE_STATE.get(number) if (number := as_int(item.get("paket_durum"))) is not None else None
    if as_key(item.get("id")) != fetch.spec.params["send"] or state is None:
        reason = "The answer about the send names another send or an unknown `paket_durum`."
        return Parsed(answers=opened, unreadable=(Unreadable(reason=reason, raw=dump_item(item)),))
    if state == "running":
        return Parsed(answers=tuple(IdAnswer(key=key, found=True, postpone=True) for key in keys))
    return Parsed(answers=opened)


def _unreadable(reason: str, item: Mapping[str, Any]) -> Parsed:
    return Parsed(unreadable=(Unreadable(reason=reason, raw=dump_item(item)),))


def _unknown_word(key: str, item: Mapping[str, Any]) -> Unreadable:
    return Unreadable(reason="Unknown word in `durum_gonderim`.", raw=dump_item(item), provider_key=key)
