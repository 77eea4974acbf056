"""The fast reader of plain answers and the tolerant reader say the same of every body, down to the stored bytes."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulak.models.facts import encode_facts
from ulak.models.merge import normalise, observe
from ulak.models.report import PlainReport, Report, TrackedKey
from ulak.providers import diyalog, iletimerkezi, organik
from ulak.providers.adapter import Account, Answer, DueId, Fetch, Parsed
from ulak.providers.errors import ProviderError
from ulak.providers.plain import NotPlainError
from ulak.providers.registry import ADAPTERS

DAY = date(2026, 3, 1)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ZONES = ("Europe/Istanbul", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC")

Pairs = list[tuple[str, str]]
"""The fields of a JSON object, each with its value as JSON text; a field may stand there twice."""

TIMES = (
    "2016-11-02 11:47:38",
    "2016-09-08 23:59:59",
    # Summer time ends (twice 03:30), begins (no 03:30), and moves by half an hour (Lord Howe).
    "2015-11-08 03:30:00",
    "2015-03-29 03:30:00",
    "2026-11-01 01:15:00",
    "2026-03-08 02:59:59",
    "2026-04-05 01:45:00",
    "2026-10-04 02:10:00",
    "2016-02-30 10:00:00",
    "2016-11-02 24:00:00",
    "2016-11-02 11:60:00",
    "2016-11-02 11:47:60",
    "1989-12-31 23:00:00",
    "2200-01-01 01:00:00",
    "0000-00-00 00:00:00",
    "0000-00-00 00:00:00 +03:00",
    "2016-11-02T11:47:38Z",
    "2016-11-02 11:47",
    "2016-11-02 11:47:38.5",
    "2016-11-02 11:47:38 +03:00",
    " 2016-11-02 11:47:38",
    "\u0662016-11-02 11:47:38",
    "",
)
NUMBERS = ("905301234567", "5301234567", "05301234567", "+905301234567", "0090 530 123 45 67", "9053XXXXXXXX", "4479")
ODD = (
    *("null", "true", "false", "0", "1", "-1", "-0", "1.0", "0.5", "1e2", "1E400", "1e999", "NaN", "Infinity", "01"),
    *("99", "2147483647", "2147483648", "9223372036854775807", "9223372036854775808", "9" * 30, "9" * 5000, "-0.0"),
    *('""', '" "', '"1"', '" 1 "', '"1.0"', '"0,0372"', '"x"', '" x "', '"\\u0000"', '"\\ud800"', '"a\\tb"', '"a\tb"'),
    *("114.0", "1e15", "1e16", '"01"', '"007"'),
    *(
        '"\\u0130"',
        '"İstanbul"',
        '"\u2003x"',
        '"\ufffd"',
        '"\x7f"',
        '"\\/"',
        '"a:b%c"',
        f'"{"k" * 201}"',
        f'"{"k" * 600}"',
    ),
    *("{}", "[]", "[1]", '{"a": 1}', "[" * 40 + "]" * 40, '"1e5"', '"{"'),
)
odd = st.sampled_from(ODD) | st.sampled_from(TIMES).map(json.dumps) | st.text(max_size=5).map(json.dumps)


def likely(*values: Any) -> st.SearchStrategy[str]:
    """One of these values, as JSON text."""
    return st.sampled_from([json.dumps(value, ensure_ascii=False) for value in values])


times = likely(*TIMES[:8], None)
EMPTY_LISTS = ("[]", "{}", '""', "null")
"""How providers write a list without items."""


_changes = st.sampled_from([0, 0, 1, 2])


@st.composite
def items(draw: st.DrawFn, most: int, fields: dict[str, st.SearchStrategy[str]], other: Sequence[str] = ()) -> Pairs:
    """An item with likely values, of which at most `most` are changed, dropped, repeated, moved or not known at all."""
    pairs = [(name, draw(value)) for name, value in fields.items()]
    for _ in range(draw(st.sampled_from([0, 0, 0, most // 2, most]))):
        act, place = (
            draw(st.sampled_from(["set", "set", "set", "drop", "repeat", "other", "move"])),
            draw(st.integers(0, len(pairs) - 1)),
        )
        name, value = pairs[place]
        if act == "set":
            pairs[place] = (name, draw(odd))
        elif act == "drop" and len(pairs) > 1:
            del pairs[place]
        elif act == "repeat":
            pairs.append((name, draw(st.just(value) | odd)))
        elif act == "other":
            pairs.insert(place, (draw(st.sampled_from(["other", *other])), draw(odd)))
        else:
            pairs.append(pairs.pop(place))
    return pairs


def write(pairs: Pairs) -> str:
    """The JSON text of an object."""
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in pairs) + "}"


def listed(texts: Sequence[str], *, as_object: bool = False) -> str:
    """The JSON text of a list, or of the object as which PHP writes a list with gaps."""
    if as_object:
        return write([(str(place), text) for place, text in enumerate(texts, 1)])
    return "[" + ",".join(texts) + "]"


@st.composite
def torn(draw: st.DrawFn, bodies: st.SearchStrategy[str]) -> bytes:
    """A body, sometimes with a piece of it replaced, a mark before it, or blanks around it."""
    body = draw(bodies).encode("utf-8", "surrogatepass")
    act = draw(st.sampled_from(["", "", "", "", "", "", "tear", "mark", "blanks"]))
    if act == "tear":
        start = draw(st.integers(0, len(body)))
        return body[:start] + draw(st.binary(max_size=2)) + body[start + draw(st.integers(0, 3)) :]
    return {"mark": b"\xef\xbb\xbf" + body, "blanks": b" \r\n" + body + b"\n\t"}.get(act, body)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of call of a provider."""

    module: ModuleType
    account: Account
    fetches: st.SearchStrategy[Fetch]
    bodies: st.SearchStrategy[bytes]


# ------------------------------------------------------------------------------------------------------- providers

_ORGANIK_ROW = {
    "gsm": likely(*NUMBERS, 905445359675),
    "transaction_id": likely(1, "1", "2", 3),
    "gsm_track_id": likely(1, 2, 3, "4"),
    "delivery_track_id": likely("x", "y", None),
    "create_date": times,
    "start_date": times,
    "finish_date": times,
    "status": likely(0, 1, 2, 3, 4),
    "sms_count": likely(0, 1, 7),
    "credit_amount": likely(1, 0, 0.5, "1", "0,0372", None),
    "is_foreign_gsm": likely(0, 1),
    "errorcode": likely(0, 5, 23, 99, 777, None),
}
# A bare number, in the form of a text, in an object, and without any code that can be read.
_ORGANIK_ERRORS = likely(
    86, "96", 93.0, 777, {"number": 96, "code": "99"}, {"code": 84}, {"message": "bad"}, {}, [86], "bad", True, None, ""
)


@st.composite
def organik_bodies(draw: st.DrawFn) -> str:
    """Replies of `detailedreport`."""
    most = draw(_changes)
    rows = draw(st.lists(items(most, _ORGANIK_ROW, ("message",)).map(write), max_size=5))
    data = listed(rows, as_object=draw(st.integers(0, 9)) == 0) if rows else draw(st.sampled_from(EMPTY_LISTS))
    result = draw(st.sampled_from(["true"] * 8 + ["1", '"1"', "false", "0", "null"]))
    fields = {"result": st.just(result), "data": st.just(data)}
    if draw(st.integers(0, 19)) < (10 if result in ("false", "0") else 1):
        fields["error"] = _ORGANIK_ERRORS
    response = draw(items(most, fields, ("error",)))
    return write(draw(items(most, {"response": st.just(write(response))})))


def organik_fetches() -> st.SearchStrategy[Fetch]:
    """Calls for ids of each kind, and for gsm ids by their transactions."""
    ids = [("transaction", ["1", "2"]), ("delivery_track", ["x", "y"]), ("gsm_track", ["1", "2"]), ("gsm_track", ["1"])]
    ids += [("gsm_track", ["1-4-1"]), ("gsm_track", ["1-4-1", "1-4-2", "2-4-3"])]

    def fetch(chosen: tuple[str, list[str]], expected: int | None) -> Fetch:
        due = [DueId(key=TrackedKey(id_kind=chosen[0], value=value), expected=expected) for value in chosen[1]]
        spec = organik.ADAPTER.plan_ids(account("organik"), due, DAY)[0]
        return Fetch(spec=spec, ids={item.key: item for item in due})

    return st.builds(fetch, st.sampled_from(ids), st.sampled_from([None, 1, 3]))


_ORDER = {
    "id": likely(7, "7", 8, "007"),
    "status": likely(113, 114, 115, "114", "113"),
    "total": likely(0, 1, 2, 3, "2"),
    "delivered": likely(0, 1, 2, "1"),
    "undelivered": likely(0, 1, "0"),
    "waiting": likely(0, 1),
    "submitAt": times,
    "sendAt": times | likely("2026-03-01 23:00:00"),
    "sender": likely("eMarka", "MARKA", "İSTANBUL"),
    "price": likely("0,0372", 0.5, 1),
}
_RECIPIENT = {"number": likely(*NUMBERS[:3], 5301234567, 5301234568), "status": likely(110, 111, 112, "111", "112")}


@st.composite
def iletimerkezi_bodies(draw: st.DrawFn) -> str:
    """Answers of get-reports and get-report."""
    most = draw(_changes)
    code = draw(st.sampled_from(["200"] * 9 + ['"200"', "455", "456", "429"]))
    stated = write(draw(items(most, {"code": st.just(code), "message": likely("İşlem başarılı", "OK")})))
    fields = {"status": st.just(stated)}
    if draw(st.booleans()):
        orders = draw(st.lists(items(most, _ORDER).map(write), max_size=4))
        fields |= {
            "count": likely(0, 2, 31, 90),
            "orders": st.just(listed(orders, as_object=draw(st.integers(0, 9)) == 0))
            if orders
            else st.sampled_from(EMPTY_LISTS),
        }
    else:
        rows = draw(st.lists(items(most, _RECIPIENT).map(write), max_size=4))
        people = listed(rows, as_object=draw(st.integers(0, 9)) == 0) if rows else draw(st.sampled_from(EMPTY_LISTS))
        few = {name: value for name, value in _ORDER.items() if name in ("id", "status") or draw(st.booleans())}
        order = draw(items(most, few | {"message": st.just(people)}, ("text",)))
        fields["order"] = st.just(write(order))
    return write(draw(items(most, {"response": st.just(write(draw(items(most, fields))))})))


def iletimerkezi_fetches() -> st.SearchStrategy[Fetch]:
    """A page of a window, and pages of an order with and without what was read before."""
    adapter, asked, key = iletimerkezi.ADAPTER, account("iletimerkezi"), TrackedKey(id_kind="order", value="7")
    page = Fetch(spec=adapter.plan_window(asked, DAY, DAY)[0])

    def fetch(expected: int | None, before: bool) -> Fetch:
        due = DueId(key=key, expected=expected)
        spec = adapter.plan_ids(asked, [due], DAY)[0]
        seen = {"+905301234567:111:tn": 1} if before else {}
        return Fetch(spec=spec, ids={key: due}, seen_before=seen)

    return st.just(page) | st.builds(fetch, st.sampled_from([None, 1, 2, 3]), st.booleans())


# The first and the last that are believed, their neighbours, seconds, and other forms of one.
_EPOCHS = (
    *(631151999999, 631152000000, 7258118399999, 7258118400000, 1617667200, 0),
    *("1617667200000", " 1617667200000 ", 1617667200000.0, 1617667200000.5, None),
)
_DAY = {
    "conversationDetailLink": likely("http://localhost/x", None),
    "groupId": likely(0, 0, 909267850),
    "isGroupMessaging": likely(False, False, True),
    "messagingDate": likely(*[1617667200000, 1617580800001] * 20, *_EPOCHS),
    "nameOfReceiver": likely("Agent", "Ayşe"),
    "nameOfSender": likely("Cust 1", None),
    "receiverId": likely("45188", 45186, "a:b"),
    "sendMessageCount": likely(0, 5, 7),
    "senderId": likely("113377", 113377),
}


@st.composite
def diyalog_bodies(draw: st.DrawFn) -> str:
    """Pages of conversation-days, some of them full."""
    few = draw(st.lists(items(draw(_changes), _DAY).map(write), max_size=4))
    if not few:
        return draw(st.sampled_from(EMPTY_LISTS))
    return listed(few * draw(st.sampled_from([1, 1, 7])), as_object=draw(st.integers(0, 9)) == 0)


def diyalog_fetches() -> st.SearchStrategy[Fetch]:
    """Page one of a customer, with and without what was read before."""
    due = DueId(key=TrackedKey(id_kind="customer", value="113377"))
    spec = diyalog.ADAPTER.plan_ids(account("diyalog"), [due], DAY)[0]
    seen = st.sampled_from([{}, {"113377:45188:0:2021-04-06": 1}])
    return seen.map(lambda before: Fetch(spec=spec, ids={due.key: due}, seen_before=before))


def account(provider: str, **options: Any) -> Account:
    """An account of a provider; `status_map` gives a code that is not documented a meaning."""
    kind = ADAPTERS[provider].record.options
    return Account(
        id=provider,
        provider=provider,
        base_url="http://127.0.0.1",
        timezone=ZoneInfo("Europe/Istanbul"),
        credentials={"api_key": "k", "key": "k", "hash": "h"},
        options=kind.from_stored({"status_map": {"7": "delivered", "119": "expired"}, **options}),
    )


CASES = {
    "organik": Case(
        module=organik, account=account("organik"), fetches=organik_fetches(), bodies=torn(organik_bodies())
    ),
    "iletimerkezi": Case(
        module=iletimerkezi,
        account=account("iletimerkezi"),
        fetches=iletimerkezi_fetches(),
        bodies=torn(iletimerkezi_bodies()),
    ),
    "diyalog": Case(
        module=diyalog, account=account("diyalog"), fetches=diyalog_fetches(), bodies=torn(diyalog_bodies())
    ),
}


# ------------------------------------------------------------------------------------------------------- the law


def read(case: Case, asked: Account, fetch: Fetch, answer: Answer) -> Parsed | tuple[Any, ...]:
    """What the adapter makes of it; an error of the tree as a value."""
    try:
        return case.module.ADAPTER.parse(asked, fetch, answer)  # type: ignore[no-any-return]
    except ProviderError as error:
        return type(error), str(error), error.code, getattr(error, "raw", None)


def stored(report: Report) -> tuple[bytes, bytes, bytes]:
    """What of a report reaches the database: facts and hash as they are made, and the raw item."""
    seen = observe(report, asked_at=NOW)
    statement = msgspec.json.encode(seen.statement, order="sorted")
    return encode_facts(seen.facts), seen.content_hash, statement


def refuse(*_: object) -> None:
    """Stands for the fast reader of an answer in which nothing is plain."""
    raise NotPlainError


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=1500, deadline=None)
@given(data=st.data())
def test_both_readers_say_the_same(name: str, data: st.DataObject) -> None:
    """Reports, answers, children, quarantine and errors are equal, and so is every byte that is stored of a report."""
    case = CASES[name]
    asked = data.draw(st.sampled_from(ZONES).map(lambda zone: with_zone(case.account, zone)))
    fetch, body = data.draw(case.fetches), data.draw(case.bodies)
    answer = Answer(status=data.draw(st.sampled_from([200] * 9 + [500, 404])), body=body, asked_at=NOW, received_at=NOW)
    fast = both(case, asked, fetch, answer)
    if isinstance(fast, Parsed):
        both(case, asked, confirming(fetch, fast), answer)


def both(case: Case, asked: Account, fetch: Fetch, answer: Answer) -> Parsed | tuple[Any, ...]:
    """What both readers make of an answer."""
    fast = read(case, asked, fetch, answer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case.module, "_parse_plain", refuse)
        slow = read(case, asked, fetch, answer)
    assert fast == slow
    if isinstance(fast, Parsed) and isinstance(slow, Parsed):
        assert [stored(report) for report in fast.reports] == [stored(report) for report in slow.reports]
        for report in fast.reports:
            full = report.completed(client_ref="r\0", recipient="n")
            for one in (report, full):
                assert normalise(one.in_full()) == normalise(one)
    return fast


def confirming(fetch: Fetch, parsed: Parsed) -> Fetch:
    """The next call for the same ids, which remembers this answer: where it says the same again, it is believed."""
    said = {one.key: one.fingerprint for one in parsed.answers}
    ids = {key: dataclasses.replace(due, fingerprint=said.get(key)) for key, due in fetch.ids.items()}
    return dataclasses.replace(fetch, ids=ids)


def with_zone(asked: Account, zone: str) -> Account:
    """The same account in another time zone."""
    values = {name: getattr(asked, name) for name in asked.__slots__}
    return Account(**{**values, "timezone": ZoneInfo(zone)})


FIXTURES = Path(__file__).parents[1] / "fixtures"
WINDOW = Fetch(spec=iletimerkezi.ADAPTER.plan_window(account("iletimerkezi"), DAY, DAY)[0])


def asked(module: ModuleType, kind: str, *values: str) -> Fetch:
    """The call for these ids."""
    due = [DueId(key=TrackedKey(id_kind=kind, value=value)) for value in values]
    spec = module.ADAPTER.plan_ids(account(module.ADAPTER.record.name), due, DAY)[0]
    return Fetch(spec=spec, ids={item.key: item for item in due})


@pytest.mark.parametrize(
    ("module", "fetch", "sample"),
    [
        (organik, asked(organik, "transaction", "14094857", "16334701"), "organik/reply.json"),
        (iletimerkezi, WINDOW, "iletimerkezi/get-reports.json"),
        (iletimerkezi, WINDOW, "iletimerkezi/get-reports.text-typed.json"),
        (iletimerkezi, WINDOW, "iletimerkezi/get-reports.empty.json"),
        (iletimerkezi, asked(iletimerkezi, "order", "428"), "iletimerkezi/get-report.2024.json"),
        (iletimerkezi, asked(iletimerkezi, "order", "247155523"), "iletimerkezi/get-report.text-typed.json"),
        (diyalog, asked(diyalog, "customer", "113377"), "diyalog/getcustomermessaginglist.json"),
    ],
)
def test_documented_samples_are_plain(module: ModuleType, fetch: Fetch, sample: str) -> None:
    """Otherwise the law above would hold although nothing is ever read the fast way."""
    answer = Answer(status=200, body=(FIXTURES / sample).read_bytes(), asked_at=NOW, received_at=NOW)
    fast = module._parse_plain(account(module.__name__.rpartition(".")[2]), fetch, answer)
    # The order of a detail answer, one beside all its recipients, is read the tolerant way.
    assert any(isinstance(report, PlainReport) for report in fast.reports) == ("empty" not in sample)
