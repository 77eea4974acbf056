"""Packed answers on their whole way: from the provider's bytes to the rows, or to quarantine with the reason."""

import gzip
from collections.abc import Callable

import pytest
from cryptography.fernet import Fernet
from driving import Driver, make_runtime, scalar
from ledger_acts import add_account, deliveries
from private_ca import serving
from sqlalchemy import Engine, text

from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.kept_bodies import MAX_UNREADABLE
from ulak.tasks.steps.quarantine_retry import reread
from ulak.tasks.steps.tracking import track

HEAD = b'<?xml version="1.0" encoding="UTF-8"?>'
ITEM = (
    b"<item><gsm>9054453596%d</gsm><transaction_id>880</transaction_id><gsm_track_id>%d</gsm_track_id>"
    b"<delivery_track_id>d</delivery_track_id><finish_date>2016-11-02 12:47:42</finish_date><status>2</status></item>"
)
ONE, TWO = ITEM % (75, 1), ITEM % (76, 2)


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret")


def polled(runtime: Runtime, body: bytes, declared: str, until: Callable[[str], bool]) -> str:
    """An Organik account whose transaction 880 was asked for until then; its id."""
    with serving(None, lambda _: body, Content_Type="text/xml", Content_Encoding=declared) as url:
        retry = {"base_seconds": 0.05, "cap_seconds": 0.1, "max_attempts": 2}
        options = {"format": "xml"}
        account = add_account(
            runtime.engine, provider="organik", base_url=url, retry=retry, options=options, poll={"time_factor": 0.01}
        )
        with runtime.engine.begin() as connection:
            connection.execute(
                text('UPDATE accounts SET credentials = \'{"api_key": "env:K"}\' WHERE id = :id'), {"id": account}
            )
        track(runtime, account, [{"kind": "transaction", "value": "880"}])
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: until(account), seconds=60)
    return account


@pytest.mark.parametrize(
    ("declared", "body"),
    [
        ("gzip", gzip.compress(HEAD + ONE) + gzip.compress(TWO)),
        ("gzip", b"".join(gzip.compress(bytes([each])) for each in HEAD + ONE + TWO)),
        ("gzip, gzip", gzip.compress(gzip.compress(HEAD + ONE) + gzip.compress(TWO))),
    ],
    ids=["two members", "a member for each byte", "packed twice"],
)
def test_no_row_of_a_packed_answer_is_lost(runtime: Runtime, declared: str, body: bytes) -> None:
    """Both messages are stored before the transaction is closed as settled."""
    closed = "SELECT count(*) FROM tracked_ids WHERE account_id = :a AND closed_at IS NOT NULL"
    account = polled(runtime, body, declared, lambda account: scalar(runtime.engine, closed, a=account) == 1)
    assert sorted(deliveries(runtime.engine, account)) == [("1", "delivered"), ("2", "delivered")]
    assert scalar(runtime.engine, "SELECT count(*) FROM quarantine WHERE account_id = :a", a=account) == 0


@pytest.mark.parametrize(
    ("declared", "body", "reason"),
    [
        ("gzip", gzip.compress(HEAD + ONE) + TWO, "The packed answer is followed by bytes that do not belong to it."),
        ("gzip", gzip.compress(HEAD + ONE) + gzip.compress(TWO)[:-9], "The packed answer broke off."),
        ("br", HEAD + ONE + TWO, "The answer is packed as br; only gzip and deflate are supported."),
        ("gzip", HEAD + ONE + TWO, "The answer says that it is packed, but it is not."),
    ],
    ids=["followed", "cut off", "not asked for", "not packed"],
)
def test_a_packed_answer_that_is_not_whole_closes_nothing_and_is_kept(
    runtime: Runtime, declared: str, body: bytes, reason: str
) -> None:
    """All its bytes and the reason are in quarantine, from where a version that can read them reads them."""
    dead = "SELECT count(*) FROM fetches WHERE account_id = :a AND state = 'dead'"
    account = polled(runtime, body, declared, lambda account: scalar(runtime.engine, dead, a=account) == 1)
    with runtime.engine.connect() as connection:
        [entry] = connection.execute(
            text("SELECT id, reason, sealed, times FROM quarantine WHERE account_id = :a"), {"a": account}
        ).all()
        calls = connection.execute(
            text("SELECT DISTINCT outcome, http_status FROM calls WHERE account_id = :a"), {"a": account}
        ).all()
    assert (entry.reason, Fernet(runtime.seal_key).decrypt(entry.sealed), entry.times) == (reason, body, 2)
    assert [tuple(call) for call in calls] == [("unreadable", 200)]
    assert deliveries(runtime.engine, account) == []
    is_open = "SELECT count(*) FROM tracked_ids WHERE account_id = :a AND closed_at IS NULL"
    assert scalar(runtime.engine, is_open, a=account) == 1
    with runtime.engine.begin() as connection:
        connection.execute(
            text("UPDATE quarantine SET sealed = :whole, context = jsonb_set(context, '{headers}', :h) WHERE id = :id"),
            {
                "whole": Fernet(runtime.seal_key).encrypt(gzip.compress(HEAD + ONE) + gzip.compress(TWO)),
                "h": '{"content-encoding": "gzip", "content-type": "text/xml"}',
                "id": entry.id,
            },
        )
    told = reread(runtime, entry.id)
    assert told is not None
    assert (told.understood, told.reports) == (True, 2)


def test_an_answer_of_very_many_unreadable_rows_is_kept_whole_and_as_one(runtime: Runtime) -> None:
    """One sealed body in place of an entry for each row, packed, to be read again by a version that can."""
    row = ITEM.replace(b"<status>2</status>", b"<status>odd</status>")
    body = HEAD + b"".join(row % (n % 90 + 10, n) for n in range(MAX_UNREADABLE + 1))
    kept = "SELECT count(*) FROM quarantine WHERE account_id = :a"
    account = polled(runtime, gzip.compress(body), "gzip", lambda account: scalar(runtime.engine, kept, a=account) != 0)
    query = "SELECT sealed, reason, context FROM quarantine WHERE account_id = :a"
    with runtime.engine.connect() as connection:
        [entry] = connection.execute(text(query), {"a": account}).all()
    assert entry.reason.startswith(f"{MAX_UNREADABLE + 1} parts of it could not be read, the first of them: ")
    assert entry.context["headers"]["content-encoding"] == "gzip"
    assert gzip.decompress(Fernet(runtime.seal_key).decrypt(entry.sealed)) == body
