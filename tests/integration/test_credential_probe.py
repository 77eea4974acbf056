"""`ulak check` asks a provider whether it accepts the credentials, where the provider has a call for that."""

from collections.abc import Iterator

import msgspec
import pytest
from command_line import Ulak, ulak
from driving import miscounted_polls, scalar
from ledger_acts import add_account, execute, fetches_of
from sqlalchemy import Engine
from tiny_provider import Reply, Request, TinyProvider

__all__ = ["ulak"]

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value behind the accounts' references."""
    monkeypatch.setenv("TEST_KEY", "secret-of-the-account")


def refusal(code: int, status: int | None = None) -> Reply:
    """An answer of iletimerkezi with nothing but its code."""
    return Reply(msgspec.json.encode({"response": {"status": {"code": code, "message": "…"}}}), status=status or code)


def line_of(ulak: Ulak, account_id: str) -> str:
    """What `ulak check` says about the account."""
    [line] = [line for line in ulak("check").out.splitlines() if line.startswith(f"account {account_id}: ")]
    return line.removeprefix(f"account {account_id}: ")


@pytest.fixture
def engine(ulak: Ulak, migrated_database: Engine) -> Iterator[Engine]:
    """The database of the commands; at its end no poll is miscounted and nothing is left to be asked."""
    assert ulak("status").code == 0
    yield migrated_database
    assert miscounted_polls(migrated_database) == []
    assert scalar(migrated_database, "SELECT count(*) FROM fetches WHERE state NOT IN ('done', 'cancelled')") == 0
    assert scalar(migrated_database, "SELECT count(*) FROM calls WHERE answered_at IS NULL") == 0


def test_accepted_credentials_are_asked_for_by_one_call_of_the_ledger(ulak: Ulak, engine: Engine) -> None:
    """No worker runs; a provider without such a call is not asked."""
    with TinyProvider(lambda _: refusal(200)) as tiny:
        account_id = add_account(engine, provider="iletimerkezi", base_url=tiny.address("im"), concurrency=2)
        other = add_account(engine, base_url=tiny.address("vairo"), concurrency=2)
        assert line_of(ulak, account_id) == "ok (credentials found, and accepted by the provider)"
        assert line_of(ulak, other) == "ok (credentials found)"
        paths = [request.path for request in tiny.requests("im")]
        assert tiny.requests("vairo") == []
    assert paths == ["/im/v1/get-balance/json"] * 2
    assert scalar(engine, "SELECT count(*) FROM calls WHERE endpoint = 'get-balance' AND outcome = 'ok'") == 2


def test_a_refusal_is_shown_as_a_sentence_and_pauses_the_account_like_any_other(ulak: Ulak, engine: Engine) -> None:
    """The second time the account is paused, so it is not asked, and the reason is shown."""
    with TinyProvider(lambda _: refusal(401)) as tiny:
        account_id = add_account(engine, provider="iletimerkezi", base_url=tiny.address("im"))
        first = line_of(ulak, account_id)
        assert "not asked, as it is paused until" in line_of(ulak, account_id)
        assert len(tiny.requests("im")) == 1
    assert first.startswith("iletimerkezi refuses key and hash")
    assert "secret-of-the-account" not in first
    assert scalar(engine, "SELECT paused_until > now() FROM accounts WHERE id = :a", a=account_id)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda _: refusal(404), "iletimerkezi does not know this method (base_url)"),
        (lambda _: Reply(b"", status=502), "The provider answered HTTP 502."),
        (lambda _: Reply(b"<html>", status=200), "The answer holds no response object."),
    ],
    ids=["wrong address", "out of service", "another server"],
)
def test_what_is_no_answer_is_said_and_leaves_no_dead_letter(
    ulak: Ulak, engine: Engine, answer: object, told: str
) -> None:
    """Nothing is asked again by itself: the person at the command reads it."""
    with TinyProvider(answer) as tiny:  # type: ignore[arg-type]
        account_id = add_account(engine, provider="iletimerkezi", base_url=tiny.address("im"))
        assert line_of(ulak, account_id).startswith(told)
        assert len(tiny.requests("im")) == 1
    assert fetches_of(engine, account_id, "dead", "ready") == []


def test_the_probe_keeps_to_the_limit(ulak: Ulak, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the account's only slot taken for an hour it is not asked, and the line says why."""
    monkeypatch.setattr("ulak.cli.checking.PROBE_SECONDS", 0.5)
    with TinyProvider(lambda _: refusal(200)) as tiny:
        account_id = add_account(
            engine, provider="iletimerkezi", base_url=tiny.address("im"), requests=1, per_seconds=3600
        )
        execute(
            engine,
            "INSERT INTO calls (account_id, asked_at, gives_up_at, answered_at, released_at, outcome)"
            " VALUES (:a, now(), now(), now(), now(), 'ok')",
            a=account_id,
        )
        assert line_of(ulak, account_id).startswith("no call was free in time")
        assert tiny.requests("im") == []


def test_a_provider_that_does_not_answer_costs_one_deadline(ulak: Ulak, engine: Engine) -> None:
    """The deadline is the account's own, as at any call."""

    def hang(request: Request) -> Reply:
        return Reply(b"", after_seconds=30 if request.path else 0)

    with TinyProvider(hang) as tiny:
        account_id = add_account(engine, provider="iletimerkezi", base_url=tiny.address("im"))
        assert line_of(ulak, account_id) == "The provider did not answer in time."
