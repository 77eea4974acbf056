"""Accounts in a real PostgreSQL: applied as a whole, paused and resumed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text, update

from ulak.models.account import FOREVER, AccountSettings, UnknownAccountError, list_accounts, load
from ulak.models.accounts import AccountsRefusedError, Applied, apply, pause, resume
from ulak.models.database import make_engine, transaction
from ulak.models.ledger.opening import NewFetch, NewPoll, close_plan, insert_fetches, open_poll
from ulak.models.schema import migrate
from ulak.models.tables import accounts

SOON = datetime(2031, 1, 1, tzinfo=UTC)


@pytest.fixture
def engine(fresh_database: str) -> Iterator[Engine]:
    """A database with the newest schema."""
    made = make_engine(fresh_database)
    migrate(made)
    yield made
    made.dispose()


def _account(name: str, credentials_hash: str | None = None, provider: str = "vairo") -> AccountSettings:
    return AccountSettings(
        id=name,
        provider=provider,
        base_url="https://example.com",
        timezone="Europe/Istanbul",
        credentials={"api_key": f"env:{name.upper()}"},
        credentials_hash=credentials_hash or f"hash of {name}",
        limit_requests=20,
        limit_per_seconds=60.0,
        limit_concurrency=2,
        retry={"max_attempts": 8, "base_seconds": 0.1, "cap_seconds": 300.0},
        poll={"every_seconds": 30.0, "first_check_seconds": None},
        options={"number_form": "plus", "reporttypes": {"0": "delivered"}},
    )


def _apply(engine: Engine, *specs: AccountSettings, prune: bool = False) -> Applied:
    with transaction(engine) as connection:
        return apply(connection, specs, prune=prune)


def _stored(engine: Engine) -> list[tuple[str, str, bool]]:
    with transaction(engine) as connection:
        return [(each.id, each.credentials_hash, each.enabled) for each in list_accounts(connection)]


def test_a_file_is_applied_and_applied_again_without_effect(engine: Engine) -> None:
    """New accounts are created; the same file again changes nothing, and what is stored is what was said."""
    a, b = _account("a"), _account("b")
    first, again = _apply(engine, b, a), _apply(engine, a, b)
    assert (first, again) == (Applied(created=["b", "a"]), Applied(unchanged=["a", "b"]))
    with transaction(engine) as connection:
        record = load(connection, "a")
    assert (record.limit_requests, record.credentials, record.poll, record.options, record.enabled) == (
        20,
        {"api_key": "env:A"},
        a.poll,
        a.options,
        True,
    )
    assert (record.paused_until, record.breaker_state, record.learned) == (None, "closed", {})


def test_a_changed_account_keeps_what_it_has_learned(engine: Engine) -> None:
    """A new limit holds at once; pause, watermark and learned values stay."""
    _apply(engine, _account("a"), _account("b"))
    with transaction(engine) as connection:
        connection.execute(update(accounts).where(accounts.c.id == "a").values(learned={"offset": 3}))
        pause(connection, "a", SOON, "wrong key")
    assert _apply(engine, replace(_account("a"), limit_requests=5), _account("b")) == Applied(
        changed=["a"], unchanged=["b"]
    )
    with transaction(engine) as connection:
        record = load(connection, "a")
    assert (record.limit_requests, record.learned, record.paused_until, record.pause_reason, record.enabled) == (
        5,
        {"offset": 3},
        SOON,
        "wrong key",
        True,
    )


def test_new_credentials_end_the_pause_that_the_old_ones_earned(engine: Engine) -> None:
    """An automatic pause goes; one that a person ordered stays."""
    _apply(engine, _account("a"), _account("b"))
    with transaction(engine) as connection:
        pause(connection, "a", SOON, "wrong key")
        connection.execute(update(accounts).values(paused_by="automatic"))
        pause(connection, "b", None, "maintenance")
    _apply(engine, _account("a", "new"), _account("b", "newer"))
    with transaction(engine) as connection:
        pauses = [(each.paused_until, each.pause_reason) for each in list_accounts(connection)]
    assert pauses == [(None, None), (FOREVER, "maintenance")]


def test_a_missing_account_keeps_running_until_it_is_pruned(engine: Engine) -> None:
    """The file is not the place to stop an account by accident; a pruned one is switched on again by its return."""
    _apply(engine, _account("a"), _account("b"))
    results = [
        _apply(engine, _account("a")),
        _apply(engine, _account("a"), prune=True),
        _apply(engine, _account("a")),
        _apply(engine, _account("a"), _account("b")),
    ]
    assert results == [
        Applied(unchanged=["a"], missing=["b"]),
        Applied(unchanged=["a"], disabled=["b"]),
        Applied(unchanged=["a"]),
        Applied(changed=["b"], unchanged=["a"]),
    ]
    assert _stored(engine) == [("a", "hash of a", True), ("b", "hash of b", True)]


def test_two_accounts_may_swap_their_credentials(engine: Engine) -> None:
    """Between the two updates no moment counts as a clash."""
    _apply(engine, _account("a", "one"), _account("b", "two"))
    assert _apply(engine, _account("a", "two"), _account("b", "one")) == Applied(changed=["a", "b"])
    assert _stored(engine) == [("a", "two", True), ("b", "one", True)]


def test_credentials_of_a_running_account_outside_the_file_are_refused(engine: Engine) -> None:
    """A renamed account would double the limit; pruning the old one makes room, and one that is off needs none."""
    _apply(engine, _account("old", "one"))
    with pytest.raises(AccountsRefusedError) as caught:
        _apply(engine, _account("other"), _account("new", "one"))
    assert caught.value.sentences == (
        (
            "Account new has the credentials of old, which is not in the file and still runs; together they would "
            "double the limit: apply with --prune, or keep one of the two."
        ),
    )
    assert _stored(engine) == [("old", "one", True)]
    assert _apply(engine, _account("new", "one"), prune=True) == Applied(created=["new"], disabled=["old"])
    assert _stored(engine) == [("new", "one", True), ("old", "one", False)]
    spare = replace(_account("spare", "one"), enabled=False)
    assert _apply(engine, spare) == Applied(created=["spare"], missing=["new"])


def test_an_id_never_changes_its_provider(engine: Engine) -> None:
    """The deliveries of one provider must not be continued by another's."""
    _apply(engine, _account("a"))
    with pytest.raises(AccountsRefusedError) as caught:
        _apply(engine, _account("a", provider="organik"))
    assert caught.value.sentences == (
        "Account a belongs to vairo, and an id is never reused: give the account of organik an id of its own.",
    )


def test_files_applied_at_the_same_time_take_turns(engine: Engine) -> None:
    """The second waits for the first's commit and then finds nothing to do."""
    with ThreadPoolExecutor(1) as pool:
        with transaction(engine) as connection:
            first = apply(connection, [_account("a"), _account("b")], prune=False)
            second = pool.submit(_apply, engine, _account("a"), _account("b"))
            with pytest.raises(TimeoutError):
                second.result(timeout=0.3)
        assert (first, second.result()) == (Applied(created=["a", "b"]), Applied(unchanged=["a", "b"]))


def test_a_pause_is_never_shortened(engine: Engine) -> None:
    """Trouble that rests an account for half an hour does not end the pause of a person; a longer pause prevails."""
    _apply(engine, _account("a"))
    with transaction(engine) as connection:
        changes = [
            pause(connection, "a", SOON, "wrong key"),
            pause(connection, "a", SOON - timedelta(hours=1), "again"),
            pause(connection, "a", None, "maintenance"),
            pause(connection, "a", SOON, "wrong key"),
        ]
        record = load(connection, "a")
    assert changes == [True, False, True, False]
    assert (record.paused_until, record.pause_reason) == (FOREVER, "maintenance")


def test_resuming_ends_every_rest(engine: Engine) -> None:
    """Pause, breaker and throttling are gone at once."""
    _apply(engine, _account("a"))
    with transaction(engine) as connection:
        before = load(connection, "a")
        pause(connection, "a", None, "maintenance")
        connection.execute(
            update(accounts).values(
                breaker_state="open",
                breaker_failures=5,
                breaker_trips=2,
                breaker_until=SOON,
                throttles=3,
                not_before=SOON,
            )
        )
        resume(connection, "a")
        after = load(connection, "a")
    assert after.pause_changed_at is not None
    assert replace(after, pause_changed_at=None) == before


def test_an_unknown_account_is_an_error(engine: Engine) -> None:
    """Neither a look-up nor a command passes silently."""
    with transaction(engine) as connection:
        for act in (load, resume, lambda c, i: pause(c, i, None, "why")):
            with pytest.raises(UnknownAccountError):
                act(connection, "nobody")


def test_an_account_that_is_switched_off_leaves_no_poll_open(engine: Engine) -> None:
    """Nobody would ever make its fetches: its running polls are cancelled with it."""
    spec = _account("switched-off")
    _apply(engine, spec)
    with transaction(engine) as connection:
        poll_id, _ = open_poll(connection, NewPoll(account_id=spec.id, trigger="cli"))
        assert poll_id is not None
        fetch = NewFetch(kind="page", params={"page": 1}, label="page 1", priority=10)
        close_plan(connection, poll_id, insert_fetches(connection, poll_id, spec.id, [fetch]))
    _apply(engine, replace(spec, enabled=False))
    with engine.connect() as connection:
        states = connection.execute(text("SELECT p.state, f.state FROM polls p JOIN fetches f ON f.poll_id = p.id"))
        assert [tuple(row) for row in states] == [("cancelled", "cancelled")]


def test_a_zone_that_postgresql_does_not_know_is_refused(engine: Engine) -> None:
    """Its files may be older than ours, and it counts by the account's days with every write. Nothing is applied."""
    with pytest.raises(AccountsRefusedError, match=r"old: this PostgreSQL does not know the time zone Europe/Ulak"):
        _apply(engine, _account("fine"), replace(_account("old"), timezone="Europe/Ulak"))
    with engine.connect() as connection:
        assert list_accounts(connection) == []
