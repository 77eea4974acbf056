"""What a provider pushes to us, and what a sender hands over: into the same upsert, in one transaction."""

from dataclasses import dataclass, replace

from sqlalchemy import Connection, RowMapping
from sqlalchemy.exc import SQLAlchemyError

from core.content_coding import ContentCodingError, ExpandedTooLargeError, UnsupportedCodingError
from core.logging import get_logger, origin
from core.settings import CredentialError
from models.database import transaction
from models.deliveries import upsert
from models.quarantine import seal
from models.references import with_references
from models.rejections import Rejection
from models.report import Unreadable
from models.tracked import account_of
from providers.adapter import Callback, Parsed
from providers.decoding import drop_fields, in_utf8
from providers.errors import AnswerNotUnderstood, ProviderError
from providers.numbers import trimmed
from tasks.effects import Effects, commit
from tasks.runtime import Runtime, account_without_credentials, adapter_of
from tasks.steps.bodies import body_context, unpacked
from tasks.steps.hints import ask_now, place
from tasks.steps.tracking import register_named

log = get_logger(__name__)


class CallbackRefusedError(Exception):
    """The request does not prove to come from the provider."""


class NoSuchCallbackError(Exception):
    """There is no such account of that provider, or it takes no such callback."""


class BodyRefusedError(Exception):
    """The body cannot be unpacked; it is kept in quarantine. `sentence` is safe to show."""

    def __init__(self, fault: ContentCodingError) -> None:
        """`fault`: why not."""
        self.sentence = fault.sentence("body")
        super().__init__(self.sentence)
        self.fault = fault


_CODING_FAULTS: tuple[tuple[type[ContentCodingError], Rejection], ...] = (
    (UnsupportedCodingError, Rejection.UNSUPPORTED_CODING),
    (ExpandedTooLargeError, Rejection.TOO_LARGE),
    (ContentCodingError, Rejection.NOT_UNPACKED),
)


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
    registered: int = 0
    """Ids that the body named and that were not known before: they are polled from now on."""


def receive(runtime: Runtime, provider: str, account_id: str, callback: Callback) -> Received:
    """Store a provider's push; committed when this returns. Raises one of the errors above, or the database's.

    A body that is not understood is kept in quarantine and counts as received: pushing it again would not help. What
    is rejected for a known account is counted. Empty segments of the address do not count: people write a slash too
    many into a provider's panel, and providers append to what they were given.
    """
    with transaction(runtime.engine) as connection:
        row = account_of(connection, account_id)
    if row is None:
        raise NoSuchCallbackError
    try:
        return ingest(runtime, row, _admitted(runtime, row, provider, callback))
    except NoSuchCallbackError:
        _count(runtime, row, Rejection.NO_SUCH_ADDRESS)
        raise
    except _WrongSecretError:
        # An address that does not exist, as for a stranger. It is not logged: it may be yesterday's, or a typing slip.
        log.warning("callback.wrong_address", account=row["id"])
        _count(runtime, row, Rejection.NOT_AUTHORISED)
        raise NoSuchCallbackError from None
    except CallbackRefusedError:
        _count(runtime, row, Rejection.NOT_AUTHORISED)
        raise
    except CredentialError:
        _count(runtime, row, Rejection.CREDENTIAL_MISSING)
        raise


def turn_away(runtime: Runtime, account_id: str, kind: Rejection) -> None:
    """Count a request that was rejected before it could be received, if there is such an account.

    A database that is away is no reason to fail: the request is rejected anyway.
    """
    try:
        with transaction(runtime.engine) as connection:
            row = account_of(connection, account_id)
    except SQLAlchemyError as error:
        log.warning("rejections.not_counted", error=origin(error))
        return
    if row is not None:
        _count(runtime, row, kind)


class _WrongSecretError(Exception):
    """The last part of the address is not the account's secret."""


def _admitted(runtime: Runtime, row: RowMapping, provider: str, callback: Callback) -> Callback:
    """The callback with the tail that its adapter knows, if it may come here."""
    record = adapter_of(row).record
    callback = replace(callback, tail=_plain(callback.tail))
    secret = record.callback_secret
    if row["provider"] != provider or (secret is None and callback.tail not in (record.callback_tails or ())):
        raise NoSuchCallbackError
    account = runtime.account(row)
    if secret is not None and secret in account.credentials:
        plain = _plain(account.credentials[secret])
        account = replace(account, credentials={**account.credentials, secret: plain})
    if not adapter_of(row).authorise_callback(account, callback):
        raise CallbackRefusedError if secret is None else _WrongSecretError
    if secret is None:
        return callback
    # From here on the tail is shown in logs and the quarantine's list, so the secret is cut off.
    return replace(callback, tail=callback.tail.removeprefix(account.credentials[secret]).strip("/"))


def _plain(path: str) -> str:
    """The path without its empty segments, and without blanks and invisible marks around the others."""
    return "/".join(filter(None, map(trimmed, path.split("/"))))


def _count(runtime: Runtime, row: RowMapping, kind: Rejection) -> None:
    runtime.rejections.note(runtime.engine, row["id"], kind)


def ingest(runtime: Runtime, row: RowMapping, callback: Callback) -> Received:
    """Store a body that is known to be the provider's (a push that was authorised, a reply that the sender had).

    Raises `BodyRefusedError`, or an error of `providers.errors` where the adapter takes no such body; both are counted.
    """
    adapter = adapter_of(row)
    fault: ContentCodingError | None = None
    try:
        callback = unpacked(callback)
    except ContentCodingError as error:
        fault = error
    if adapter.record.callback_drops:
        try:
            callback = in_utf8(callback) if fault is None else callback
        except AnswerNotUnderstood as error:
            # Nothing of it is kept: what cannot be read may hold these fields anywhere.
            lost = Parsed(unreadable=(Unreadable(reason=error.message, raw=b""),))
            return _stored(runtime, row, callback, lost)
        callback = replace(callback, body=drop_fields(callback.body, adapter.record.callback_drops))
    if fault is not None:
        raise _refused(runtime, row, callback, fault)
    try:
        parsed = adapter.parse_callback(account_without_credentials(row), callback)
    except AnswerNotUnderstood as error:
        parsed = Parsed(unreadable=(Unreadable(reason=error.message, raw=error.raw or callback.body),))
    except ProviderError:
        _count(runtime, row, Rejection.NOT_TAKEN)
        raise
    except Exception as error:  # noqa: BLE001 - whatever our reading does, the answer is kept and the fetch goes on
        # The exception's text may quote the body.
        log.error("callback.parse_failed", tail=callback.tail, error=origin(error))  # noqa: TRY400
        reason = f"Reading the body failed with {type(error).__name__}."
        parsed = Parsed(unreadable=(Unreadable(reason=reason, raw=callback.body),))
    return _stored(runtime, row, callback, parsed)


def _refused(runtime: Runtime, row: RowMapping, callback: Callback, fault: ContentCodingError) -> BodyRefusedError:
    """Keep a body that cannot be unpacked, count it, and return the error that says so."""
    refused = BodyRefusedError(fault)
    kept = Parsed(unreadable=(Unreadable(reason=refused.sentence, raw=callback.body),))
    _stored(runtime, row, callback, kept)
    _count(runtime, row, next(kind for error, kind in _CODING_FAULTS if isinstance(fault, error)))
    return refused


def _stored(runtime: Runtime, row: RowMapping, callback: Callback, parsed: Parsed) -> Received:
    """Store it, then say so in the log."""
    effects = Effects()
    received = commit(runtime.engine, effects, lambda c, mine: _store(c, mine, runtime, row, callback, parsed))
    effects.write_log()
    return received


def _store(  # noqa: PLR0917 - what `ingest` has found out
    connection: Connection, effects: Effects, runtime: Runtime, row: RowMapping, callback: Callback, parsed: Parsed
) -> Received:
    """One transaction: the deliveries, their history, and what was not understood."""
    placed = place(connection, row["id"], parsed.hints)
    kinds = adapter_of(row).record.reference_kinds
    said = runtime.without_echoes(row, (*parsed.reports, *placed.reports))
    reports = with_references(connection, row["id"], kinds, said)
    result = upsert(connection, row["id"], row["provider"], reports, asked_at=None)
    registered = register_named(connection, row, parsed.discovered)
    ask_now(connection, row, placed.ask)
    if parsed.unreadable:
        seal(
            connection,
            runtime.seal_key,
            account_id=row["id"],
            origin=f"callback:{callback.tail}",
            unreadable=parsed.unreadable,
            context=body_context(callback),
        )
        effects.warning(
            "quarantine.kept", account=row["id"], reasons=sorted({item.reason for item in parsed.unreadable})
        )
    effects.info(
        "callback.stored",
        account=row["id"],
        tail=callback.tail,
        reports=len(reports),
        new=result.new,
        advanced=result.advanced,
        asked=len(placed.ask),
        registered=registered,
    )
    return Received(
        reports=len(reports),
        new=result.new,
        advanced=result.advanced,
        unchanged=result.unchanged,
        quarantined=len(parsed.unreadable),
        asked=len(placed.ask),
        registered=registered,
    )
