"""Acts on the ledger for tests: accounts, tracked ids and polls as rows, and the parts of a fetch step one by one."""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import msgspec
from driving import scalar
from sqlalchemy import Engine, RowMapping, text

from ulak.core import clock
from ulak.models import tracked
from ulak.models.ledger import opening, taking
from ulak.models.ledger.clockwatch import ClockWatch
from ulak.models.report import NewId
from ulak.providers.adapter import Answer, Parsed
from ulak.providers.errors import ProviderError, TryAgainSoon
from ulak.providers.http import Sent
from ulak.tasks.effects import Effects
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps import upkeep
from ulak.tasks.steps.attempt_records import Asked
from ulak.tasks.steps.draining import parse_response, prepare
from ulak.tasks.steps.failures import return_unsent
from ulak.tasks.steps.finishing import finish
from ulak.tasks.steps.planning import _plan_scheduled

REFERENCES: Mapping[str, Mapping[str, str]] = {
    "vairo": {"api_key": "env:TEST_KEY"},
    "iletimerkezi": {"key": "env:TEST_KEY", "hash": "env:TEST_KEY"},
    "organik": {"api_key": "env:TEST_KEY"},
    "diyalog": dict.fromkeys(("access_key_id", "access_key_secret", "requester_userid"), "env:TEST_KEY"),
    "bip": {"callback_user": "env:TEST_KEY", "callback_password": "env:TEST_KEY"},
}


def add_account(
    engine: Engine,
    *,
    provider: str = "vairo",
    requests: int = 1000,
    per_seconds: float = 1.0,
    concurrency: int = 100,
    base_url: str = "http://127.0.0.1:9",
    poll: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    retry: Mapping[str, Any] | None = None,
) -> str:
    """An account of its own credentials; its limit is wide unless the test is about it. Returns its id."""
    account_id = f"a-{uuid4().hex[:12]}"
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO accounts (id, provider, base_url, timezone, credentials, credentials_hash, limit_requests,"
                " limit_per_seconds, limit_concurrency, poll, options, retry) VALUES (:id, :provider, :base_url, 'UTC',"
                " CAST(:credentials AS jsonb), :id, :requests, :per_seconds, :concurrency, CAST(:poll AS jsonb),"
                " CAST(:options AS jsonb), CAST(:retry AS jsonb))"
            ),
            {
                "id": account_id,
                "provider": provider,
                "base_url": base_url,
                "credentials": msgspec.json.encode(REFERENCES[provider]).decode(),
                "requests": requests,
                "per_seconds": per_seconds,
                "concurrency": concurrency,
                "poll": msgspec.json.encode(poll or {}).decode(),
                "options": msgspec.json.encode({"deadline_seconds": 1.0, **(options or {})}).decode(),
                "retry": msgspec.json.encode(retry or {}).decode(),
            },
        )
    return account_id


def fetch(number: int, /, *, ids: Sequence[int] = (), priority: int = 50, **params: Any) -> opening.NewFetch:
    """A fetch of no provider, for the ledger alone."""
    params = {"n": number, **params}
    return opening.NewFetch(kind="batch", params=params, label=f"n {number}", priority=priority, ids=tuple(ids))


def add_poll(
    engine: Engine, account_id: str, fetches: Sequence[opening.NewFetch], **values: Any
) -> tuple[int, list[int]]:
    """A planned poll with these fetches: its id and theirs."""
    with engine.begin() as connection:
        sweep_through = values.pop("sweep_through", None)
        new = opening.NewPoll(account_id=account_id, trigger="api", **values)
        poll_id, _ = opening.open_poll(connection, new)
        assert poll_id is not None
        inserted = opening.insert_fetches(connection, poll_id, account_id, fetches)
        opening.close_plan(connection, poll_id, inserted, sweep_through=sweep_through)
        ids = connection.execute(
            text("SELECT id FROM fetches WHERE poll_id = :poll ORDER BY id"), {"poll": poll_id}
        ).scalars()
        return poll_id, list(ids)


def add_ids(engine: Engine, account_id: str, values: Sequence[str], kind: str = "number", **given: Any) -> list[int]:
    """Registered ids, due since a second ago; `given`: other columns."""
    now = clock.now()
    row = {
        "id_kind": kind,
        "client_ref": None,
        "recipient": None,
        "expected": None,
        "sent_at": now - timedelta(minutes=1),
        "valid_until": now + timedelta(days=1),
        "next_check_at": now - timedelta(seconds=1),
        **given,
    }
    with engine.begin() as connection:
        tracked.register(connection, account_id, [NewId(**row, value=value) for value in values])
        found = tracked.find(connection, account_id, [(kind, value) for value in values])
        by_value = {each.value: each.id for each in found}
        return [by_value[value] for value in values]


def take(engine: Engine, fetch_id: int, watch: ClockWatch | None = None) -> taking.TakeResult:
    """Take the best fetch of this one's account, this one among equals; `watch`: of the process that does so."""
    holder = taking.LeaseHolder(watch=watch or ClockWatch(), lease_margin_seconds=1.0)
    with engine.begin() as connection:
        return taking.take(connection, holder, fetch_id=fetch_id)


def take_next(engine: Engine, account_id: str) -> taking.TakeResult:
    """Take the account's best fetch."""
    holder = taking.LeaseHolder(watch=ClockWatch(), lease_margin_seconds=1.0)
    with engine.begin() as connection:
        return taking.take(connection, holder, account_id=account_id)


def woken(engine: Engine, account_id: str, *, by_message: bool = True) -> taking.WakeUp | None:
    """The message with which the account goes on."""
    with engine.begin() as connection:
        return taking.wake(connection, account_id, by_message=by_message)


def row(engine: Engine, table: str, row_id: object) -> RowMapping:
    """One row of a table by its id."""
    with engine.connect() as connection:
        return connection.execute(text(f"SELECT * FROM {table} WHERE id = :id"), {"id": row_id}).mappings().one()


def execute(engine: Engine, statement: str, **values: object) -> int:
    """One statement, committed; how many rows it touched."""
    with engine.begin() as connection:
        return connection.execute(text(statement), values).rowcount


class Held:
    """A fetch that a worker holds: prepared and taken; `answer` finishes it as if the provider had said that."""

    def __init__(self, runtime: Runtime, fetch: int | taking.Taken) -> None:
        """`fetch`: its id, or what was taken."""
        taken = take(runtime.engine, fetch, runtime.watch) if isinstance(fetch, int) else fetch
        assert isinstance(taken, taking.Taken), taken
        assert fetch == taken.fetch_id or fetch is taken
        self.runtime, self.prepared, self.taken = runtime, prepare(runtime, taken), taken

    def answer(self, body: bytes | ProviderError, *, status: int = 200) -> None:
        """Finish with an answer of these bytes, or with an error in its place."""
        outcome = body if isinstance(body, ProviderError) else Answer(status=status, body=body)
        sent = Sent(outcome=outcome, duration_seconds=0.01, answered_boot=clock.boot())
        self._finish(sent, parse_response(self.prepared, sent))

    def finish(self, parsed: Parsed) -> None:
        """Finish with what an answer is taken to say."""
        sent = Sent(outcome=Answer(status=200), duration_seconds=0.01, answered_boot=clock.boot())
        self._finish(sent, parsed)

    def _finish(self, sent: Sent, said: Parsed | ProviderError) -> None:
        """Finish, and take nothing further."""
        asked = Asked(runtime=self.runtime, prepared=self.prepared, taken=self.taken, sent=sent)
        effects = Effects()
        finish(asked, said, effects, lambda _, **__: taking.Gone())
        effects.write_log()


def vairo_body(value: str, word: str, key: int = 1) -> bytes:
    """Vairo's report about the tracked id `<send>:<number>`."""
    send, number = value.split(":")
    said = {"id": key, "sms_gonderim_id": send, "numara": number.removeprefix("+90"), "durum_gonderim": word}
    return msgspec.json.encode({"durum": True, "aciklama": said})


def expire_lease(engine: Engine, fetch_id: int) -> None:
    """Let the lease of a fetch, and the deadline of its call, lie in the past."""
    execute(
        engine,
        "UPDATE fetches SET lease_until = now() - interval '1 second' WHERE id = :id AND state = 'sending'",
        id=fetch_id,
    )
    execute(
        engine,
        "UPDATE calls SET asked_at = asked_at - interval '1 hour', gives_up_at = gives_up_at - interval '1 hour',"
        " released_at = released_at - interval '1 hour' WHERE fetch_id = :id AND answered_at IS NULL",
        id=fetch_id,
    )


def plan(runtime: Runtime, account_id: str) -> list[int]:
    """Plan the account's tick as beat would; the ids of its ready fetches, the most valuable first."""
    # The ticks before lie behind us.
    past = "UPDATE polls SET scheduled_for = to_timestamp(id) WHERE account_id = :a AND trigger = 'schedule'"
    execute(runtime.engine, past, a=account_id)
    _plan_scheduled(runtime, account_id)
    return fetches_of(runtime.engine, account_id, "ready")


def fetches_of(engine: Engine, account_id: str, *states: str) -> list[int]:
    """Ids of the account's fetches in these states."""
    with engine.connect() as connection:
        query = "SELECT id FROM fetches WHERE account_id = :a AND state = ANY(:states) ORDER BY priority, id"
        return list(connection.execute(text(query), {"a": account_id, "states": list(states)}).scalars())


def held_fetch(runtime: Runtime, value: str = "s1:+905321234567", **account: Any) -> tuple[str, int, Held]:
    """An account with one due id, whose fetch a worker holds: (account, tracked id, held)."""
    account_id = add_account(runtime.engine, **account)
    [tracked_id] = add_ids(runtime.engine, account_id, [value])
    [fetch_id] = plan(runtime, account_id)
    return account_id, tracked_id, Held(runtime, fetch_id)


def deliveries(engine: Engine, account_id: str) -> list[tuple[str, str]]:
    """(key, status) of the account's rows."""
    with engine.connect() as connection:
        query = "SELECT provider_key, status FROM delivery_status WHERE account_id = :a ORDER BY provider_key"
        return [tuple(each) for each in connection.execute(text(query), {"a": account_id})]


def free_ids(engine: Engine, account_id: str) -> int:
    """How many of the account's ids no fetch holds."""
    query = "SELECT count(*) FROM tracked_ids WHERE account_id = :a AND fetch_id IS NULL"
    return int(str(scalar(engine, query, a=account_id)))


def give_back_failed(held: Held) -> None:
    """The worker got no answer."""
    held.answer(TryAgainSoon("The connection broke."))


def give_back_unsent(held: Held) -> None:
    """The worker was too slow to send."""
    return_unsent(held.runtime, held.taken)


def give_back_expired(held: Held) -> None:
    """The worker died, and the reconciler finds its lease."""
    expire_lease(held.runtime.engine, held.taken.fetch_id)
    upkeep.reconcile(held.runtime)


def run_at_once(acts: list[Callable[[], Any]]) -> None:
    """Run each in a thread of its own; raise the first failure."""
    failures: list[BaseException] = []

    def run(act: Callable[[], Any]) -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
