"""What every adapter keeps to, whatever its provider: one row per adapter of the registry."""

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulak import providers
from ulak.models.report import TrackedKey
from ulak.models.vocabulary import Reason, Status
from ulak.providers.adapter import Account, Adapter, Answer, Callback, DueId, Fetch, FetchSpec
from ulak.providers.errors import (
    AnswerNotUnderstood,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainSoon,
)
from ulak.providers.registry import ADAPTERS

ROOT = Path(__file__).parents[2]
TODAY, NOW = date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC)
EVERY = pytest.mark.parametrize("name", sorted(ADAPTERS))
ASKING = pytest.mark.parametrize(
    "name", sorted(name for name, adapter in ADAPTERS.items() if adapter.record.callback_paths is None)
)
MAX_DEADLINE_SECONDS = 75


def account(name: str) -> Account:
    """An account of the provider with every option at its default and a recognisable value for each secret."""
    record = ADAPTERS[name].record
    return Account(
        id=f"{name}-1",
        provider=name,
        base_url=record.base_url or "http://127.0.0.1:9400",
        timezone=ZoneInfo("Europe/Istanbul"),
        credentials={part: f"secret-{part}" for part in record.credentials[0]},
        options=record.options(),
        lookback_days=record.lookback_days,
    )


def fetches(name: str) -> list[Fetch]:
    """One fetch of each sort that the adapter plans: a window, and one id of each kind it names."""
    adapter = ADAPTERS[name]
    windows = adapter.plan_window(account(name), TODAY - timedelta(days=1), TODAY)
    found = [Fetch(spec=spec) for spec in windows]
    for kind in adapter.record.id_kinds:
        item = DueId(key=TrackedKey(id_kind=kind, value="187:5399999999" if kind == "number" else "187"))
        specs = adapter.plan_ids(account(name), [item], TODAY)
        found += [Fetch(spec=spec, ids={item.key: item}) for spec in specs]
    return found


def modules(name: str) -> list[ModuleType]:
    """The modules of one adapter: `providers/<name>.py` and what stands beside it as `<name>_….py`."""
    names = [info.name for info in pkgutil.iter_modules(providers.__path__)]
    return [
        importlib.import_module(f"ulak.providers.{one}") for one in names if one == name or one.startswith(f"{name}_")
    ]


def tables(name: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """The tables at the top of an adapter's modules, by name."""
    for module in modules(name):
        for title, value in vars(module).items():
            if title.isupper() and isinstance(value, Mapping) and value and title != "ADAPTERS":
                yield title, value


def test_the_registry_knows_every_adapter_by_its_own_name() -> None:
    """A module that exports an adapter is registered, under the name of its record and of its module."""
    exporting = {
        info.name
        for info in pkgutil.iter_modules(providers.__path__)
        if hasattr(importlib.import_module(f"ulak.providers.{info.name}"), "ADAPTER")
    }
    assert set(ADAPTERS) == exporting == {adapter.record.name for adapter in ADAPTERS.values()}


@EVERY
def test_its_record_is_complete(name: str) -> None:
    """Credentials, limit, poll numbers and times are there and make sense."""
    record = ADAPTERS[name].record
    assert record.title
    assert record.base_url is None or (record.base_url.startswith("https://") and not record.base_url.endswith("/"))
    assert record.credentials
    assert all(parts and len(set(parts)) == len(parts) for parts in record.credentials)
    assert record.limit.requests >= 1
    assert record.limit.per_seconds > 0
    assert 1 <= record.limit.concurrency <= record.limit.requests
    assert record.poll.steps_seconds
    assert list(record.poll.steps_seconds) == sorted(record.poll.steps_seconds)
    assert record.poll.steps_seconds[-1] <= record.poll.max_seconds
    assert record.poll.growth > 1
    assert record.every_seconds > 0
    assert record.options().validity_hours > 0
    assert 0 < record.options().deadline_seconds <= MAX_DEADLINE_SECONDS
    assert len(set(record.id_kinds)) == len(record.id_kinds)
    assert record.callback_paths or record.id_kinds or record.sweep_window_days
    assert record.callback_secret is None or record.callback_secret in record.optional_credentials
    assert not (record.callback_paths and record.callback_secret)
    assert not set(record.optional_credentials) & {part for parts in record.credentials for part in parts}


@EVERY
def test_every_option_has_a_meaning_and_a_fitting_default(name: str) -> None:
    """No option without a sentence, none whose default it would refuse itself."""
    options = ADAPTERS[name].record.options
    assert [option for option, field in options.model_fields.items() if not field.description] == []
    assert options.model_validate(options().model_dump()) == options()


@EVERY
def test_its_docs_page_names_all_that_an_account_may_say(name: str) -> None:
    """Every credential, option, id kind and callback route stands on the page."""
    page = (ROOT / "docs" / "reference" / "providers" / f"{name}.md").read_text(encoding="utf-8")
    record = ADAPTERS[name].record
    words = {part for parts in record.credentials for part in parts} | set(record.options.own_names())
    words |= (
        set(record.optional_credentials) | set(record.id_kinds) | {tail for tail in record.callback_paths or () if tail}
    )
    assert {word for word in words if f"`{word}`" not in page and f"`{word}=" not in page} == set()


@EVERY
def test_its_docs_page_shows_every_row_of_its_status_tables(name: str) -> None:
    """The page's table and the module's table hold the same raw words."""
    page = (ROOT / "docs" / "reference" / "providers" / f"{name}.md").read_text(encoding="utf-8")
    rows = {
        (str(raw), str(value[0] if isinstance(value, tuple) else value))
        for title, table in tables(name)
        if "STATUS" in title
        for raw, value in table.items()
    }
    lines = page.splitlines()
    missing = {
        (raw, status)
        for raw, status in rows
        if not any(f"`{raw}`" in line and f"`{status}`" in line for line in lines if line.startswith("|"))
    }
    assert missing == set()


@EVERY
def test_its_docs_page_names_every_code_of_its_error_tables(name: str) -> None:
    """Whoever meets a code of the provider finds on the page what Ulak does about it."""
    page = (ROOT / "docs" / "reference" / "providers" / f"{name}.md").read_text(encoding="utf-8")
    codes = {
        str(raw)
        for title, table in tables(name)
        if any(word in title for word in ("ERROR", "REASON", "RESULT"))
        for raw in table
    }
    assert {code for code in codes if not re.search(rf"(?<!\w){re.escape(code)}(?!\w)", page)} == set()


@EVERY
def test_its_tables_speak_the_shared_vocabulary(name: str) -> None:
    """Statuses and reasons are ours; no provider word means `unreported`, which only we may say."""
    for title, table in tables(name):
        for value in table.values():
            if "STATUS" in title and isinstance(value, tuple):
                status, reason = value
                assert isinstance(status, Status)
                assert status not in {Status.UNREPORTED, Status.UNKNOWN}
                assert reason is None or isinstance(reason, Reason)
            if "REASON" in title:
                assert isinstance(value, Reason)


@EVERY
def test_it_has_recorded_samples(name: str) -> None:
    """Its fixture folder holds at least one body."""
    folder = ROOT / "tests" / "fixtures" / name
    assert [path for path in folder.iterdir() if path.stat().st_size]


@EVERY
def test_it_plans_nothing_for_nobody_and_speaks_of_no_person(name: str) -> None:
    """No due ids, no fetches; what it plans is canonical JSON, named in a few words without a number."""
    adapter = ADAPTERS[name]
    assert tuple(adapter.plan_ids(account(name), [], TODAY)) == ()
    for fetch in fetches(name):
        assert fetch.spec.kind in {"page", "batch"}
        assert json.loads(json.dumps(fetch.spec.params, allow_nan=False)) == fetch.spec.params
        assert "5399999999" not in fetch.spec.label
    windows = adapter.plan_window(account(name), TODAY - timedelta(days=1), TODAY)
    assert bool(windows) == (adapter.record.sweep_window_days is not None)
    for spec in windows:
        assert (spec.params["window"], spec.params["page"]) == (["2026-01-01", "2026-01-02"], 1)


@ASKING
def test_its_requests_stay_at_home_and_hide_their_secrets(name: str) -> None:
    """Every request goes to the account's own address, the same again for the same fetch; no repr shows a secret."""
    mine = account(name)
    assert fetches(name)
    for fetch in fetches(name):
        request = ADAPTERS[name].request(mine, fetch, NOW)
        assert request == ADAPTERS[name].request(mine, fetch, NOW)
        assert request.url.startswith(mine.base_url + "/")
        assert request.method in {"GET", "POST"}
        assert request.endpoint
        assert "secret-" not in repr(request)
        assert "secret-" not in repr(mine)


@ASKING
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(status=429, headers={"retry-after": "7"}, body=b"{}"), SlowDown),
        (Answer(status=500, body=b"oops"), TryAgainSoon),
        (Answer(status=502, body=b"<html>"), TryAgainSoon),
        (Answer(status=503), TryAgainSoon),
        (Answer(status=302, headers={"location": "http://elsewhere/"}), TryAgainSoon),
        (Answer(status=401), PauseAccount),
        (Answer(status=200, body=b"<html><body>Bakim</body></html>"), AnswerNotUnderstood),
        (Answer(status=200), AnswerNotUnderstood),
        (Answer(status=200, body=b"[" * 100_000), AnswerNotUnderstood),
    ],
)
def test_what_http_itself_says_means_the_same_everywhere(name: str, answer: Answer, error: type[ProviderError]) -> None:
    """Throttled, broken, moved, refused or nonsense: the same error at every provider, telling no secret."""
    for fetch in fetches(name):
        with pytest.raises(error) as caught:
            ADAPTERS[name].parse(account(name), fetch, answer)
        assert "secret-" not in caught.value.message
        if isinstance(caught.value, SlowDown):
            assert caught.value.retry_after_seconds == 7.0
        if isinstance(caught.value, AnswerNotUnderstood):
            assert caught.value.raw == answer.body


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)
BODIES = st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode())
STATUSES = st.integers(100, 599)


@ASKING
@settings(max_examples=60)
@given(body=BODIES, status=STATUSES)
def test_no_body_makes_it_fail_or_say_something_final(name: str, body: bytes, status: int) -> None:
    """Bytes that are no sample of the provider never become a report, nor an exception from outside the tree."""
    for fetch in fetches(name):
        try:
            parsed = ADAPTERS[name].parse(
                account(name), fetch, Answer(status=status, body=body, asked_at=NOW, received_at=NOW)
            )
        except ProviderError as error:
            told = error.message
        else:
            told = ""
            assert (parsed.reports, [answer for answer in parsed.answers if answer.settled]) == ((), [])
        assert "secret-" not in told


@EVERY
@settings(max_examples=60)
@given(body=BODIES, header=st.text(max_size=20))
def test_no_stranger_is_let_in_and_no_pushed_body_makes_it_fail(name: str, body: bytes, header: str) -> None:
    """Without the right credentials nobody is authorised; a pushed body parses or raises an error of the tree."""
    adapter: Adapter = ADAPTERS[name]
    tails = ("",) if adapter.record.callback_secret else adapter.record.callback_paths
    for tail in tails or ("",):
        callback = Callback(tail=tail, body=body, headers={"authorization": header}, client_ip="127.0.0.1")
        assert adapter.authorise_callback(account(name), callback) is False
        try:
            parsed = adapter.parse_callback(account(name), callback)
        except RequestIsWrong:
            assert tails is None
        except AnswerNotUnderstood:
            assert tails is not None
        else:
            assert tails is not None
            assert parsed.reports == ()


def test_adapters_import_neither_task_queue_nor_database_nor_network() -> None:
    """An adapter is pure: nothing it imports could talk to anybody."""
    forbidden = ("celery", "sqlalchemy", "psycopg", "httpx", "redis", "socket", "core.")
    for name in ADAPTERS:
        for module in modules(name):
            source = Path(module.__file__ or "").read_text(encoding="utf-8")
            lines = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
            assert [line for line in lines if any(line.split()[1].startswith(word) for word in forbidden)] == []


def test_a_fetch_without_tracked_rows_is_understood_too() -> None:
    """A tracked row may be gone (erased) when its answer comes: an error stays an error of the tree."""
    for name in ADAPTERS:
        for fetch in fetches(name):
            bare = Fetch(spec=FetchSpec(kind=fetch.spec.kind, params=fetch.spec.params, ids=fetch.spec.ids))
            with pytest.raises(ProviderError):
                ADAPTERS[name].parse(account(name), bare, Answer(status=200, body=b"<html>"))


@EVERY
def test_every_code_that_a_delivery_may_hold_has_a_meaning(name: str) -> None:
    """A row that is added to a status or reason table is explained to people, too; nothing else is."""
    meanings = ADAPTERS[name].record.meanings
    explained = {code for table in meanings.status.values() for code in table}
    by_title = dict(tables(name))
    codes = {str(raw) for title, table in by_title.items() if "STATUS" in title or title == "EVENTS" for raw in table}
    causes = {str(raw) for title in ("REASON", "REFUSAL", "RESULT") for raw in by_title.get(title, ())}
    assert codes - explained == set()
    assert causes - meanings.error.keys() == set()
    assert ADAPTERS[name].record.status_codes - {"accepted", "delivered", "undelivered"} - explained == set()
    texts = [*meanings.error.values(), *(text for table in meanings.status.values() for text in table.values())]
    assert [text for text in texts if text != text.strip() or text.endswith(".") or not text] == []


@EVERY
def test_every_error_that_a_table_lists_is_a_sentence(name: str) -> None:
    """What people read of a refused request is no bare code."""
    by_title = dict(tables(name))
    for title in ("REPLY_ERRORS", "REQUEST_ERRORS"):
        assert by_title.get(title, by_title.get("ERROR", {})).keys() == by_title.get("ERROR", {}).keys()
    sentences = [*by_title.get("REPLY_ERRORS", {}).values(), *(text for _, text in by_title.get("ERRORS", {}).values())]
    assert [text for text in sentences if not text.endswith(".") or not text[:1].isalpha()] == []
