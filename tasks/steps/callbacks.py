"""What a provider pushes to us, and what a sender hands over: into the same upsert, in one transaction."""

from dataclasses import dataclass, replace

from sqlalchemy import Connection, RowMapping

from core.logging import get_logger, origin
from models.database import retry_transaction, transaction
from models.deliveries import upsert
from models.quarantine import seal
from models.report import Unreadable
from models.tracked import account_of
from providers.adapter import Callback, Parsed
from providers.decoding import drop_fields
from providers.errors import AnswerNotUnderstood, ProviderError
from tasks.runtime import Runtime, adapter_of
from tasks.steps.hints import ask_now, place

log = get_logger(__name__)


class CallbackRefusedError(Exception):
    """The request does not prove to come from the provider."""


class NoSuchCallbackError(Exception):
    """There is no such account of that provider, or it takes no such callback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What a body changed."""

    reports: int
    new: int
    advanced: int
    unchanged: int
    quarantined: int
    asked: int = 0
    """Ids that were made due, since only a poll can tell what was meant."""


def receive(runtime: Runtime, provider: str, account_id: str, callback: Callback) -> Received:
    """Store a provider's push; committed when this returns. Raises one of the two errors above, or the database's.

    A body that is not understood is kept in quarantine and counts as received: pushing it again would not help.
    """
    with transaction(runtime.engine) as connection:
        row = account_of(connection, account_id)
    if row is None or row["provider"] != provider:
        raise NoSuchCallbackError
    record = adapter_of(row).record
    if record.callback_secret is None and callback.tail not in (record.callback_tails or ()):
        raise NoSuchCallbackError
    if not adapter_of(row).authorise_callback(runtime.account(row), callback):
        if record.callback_secret is None:
            raise CallbackRefusedError
        # A wrong secret is an address that does not exist. It is not logged: it may be yesterday's, or a typing slip.
        log.warning("callback.wrong_address", account=row["id"])
        raise NoSuchCallbackError
    if record.callback_secret is not None:
        # From here on the tail is told to logs and the quarantine's list.
        callback = replace(callback, tail="")
    return ingest(runtime, row, callback)


def ingest(runtime: Runtime, row: RowMapping, callback: Callback) -> Received:
    """Store a body that is known to be the provider's (a push that was authorised, a reply that the sender had)."""
    adapter = adapter_of(row)
    if adapter.record.callback_drops:
        callback = replace(callback, body=drop_fields(callback.body, adapter.record.callback_drops))
    try:
        parsed = adapter.parse_callback(runtime.account(row), callback)
    except AnswerNotUnderstood as error:
        parsed = Parsed(unreadable=(Unreadable(reason=error.message, raw=error.raw or callback.body),))
    except ProviderError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever our reading does, the answer is kept and the fetch goes on
        # The exception's text may quote the body.
        log.error("callback.parse_failed", tail=callback.tail, error=origin(error))  # noqa: TRY400
        reason = f"Reading the body failed with {type(error).__name__}."
        parsed = Parsed(unreadable=(Unreadable(reason=reason, raw=callback.body),))
    return retry_transaction(runtime.engine, lambda c: _store(c, runtime, row, callback, parsed))


def _store(connection: Connection, runtime: Runtime, row: RowMapping, callback: Callback, parsed: Parsed) -> Received:
    """One transaction: the deliveries, their history, and what was not understood."""
    placed = place(connection, row["id"], parsed.hints)
    reports = (*parsed.reports, *placed.reports)
    result = upsert(connection, row["id"], row["provider"], reports, asked_at=None)
    ask_now(connection, row, placed.ask)
    if parsed.unreadable:
        seal(
            connection,
            runtime.seal_key,
            account_id=row["id"],
            origin=f"callback:{callback.tail}",
            unreadable=parsed.unreadable,
            context={},
        )
        log.warning("quarantine.kept", account=row["id"], reasons=sorted({item.reason for item in parsed.unreadable}))
    log.info(
        "callback.stored",
        account=row["id"],
        tail=callback.tail,
        reports=len(reports),
        new=result.new,
        advanced=result.advanced,
        asked=len(placed.ask),
    )
    return Received(
        reports=len(reports),
        new=result.new,
        advanced=result.advanced,
        unchanged=result.unchanged,
        quarantined=len(parsed.unreadable),
        asked=len(placed.ask),
    )
