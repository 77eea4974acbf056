"""What a provider pushes to us, and what a sender hands over: into the same upsert, in one transaction."""

from dataclasses import dataclass, field, replace

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ulak.core.content_coding import ContentCodingError, ExpandedTooLargeError, UnsupportedCodingError, is_packed
from ulak.core.credentials import CredentialError
from ulak.core.logging import get_logger, origin
from ulak.core.secret_strength import is_example
from ulak.models.account import StoredAccount, find
from ulak.models.database import transaction
from ulak.models.quarantine import seal
from ulak.models.references import upsert_shared
from ulak.models.rejections import Rejection
from ulak.models.report import Unreadable
from ulak.providers.adapter import Account, Callback, Parsed
from ulak.providers.decoding import drop_fields, in_utf8
from ulak.providers.effective import adapter_of, record_of
from ulak.providers.errors import AnswerNotUnderstood, ProviderError
from ulak.providers.phone_numbers import trimmed
from ulak.tasks.effects import Effects, commit
from ulak.tasks.runtime import Runtime, account_without_credentials
from ulak.tasks.steps.ambiguous import ask_now, place
from ulak.tasks.steps.kept_bodies import MAX_BYTES, to_keep, unpacked
from ulak.tasks.steps.tracking import register_named

log = get_logger(__name__)


class CallbackRefusedError(Exception):
    """The request does not prove to come from the provider."""


class NoSuchCallbackError(Exception):
    """There is no such account of that provider, or it takes no such callback."""


class WrongAddressError(NoSuchCallbackError):
    """The address ends in another secret than the account's; answered like an address that does not exist."""


class NoRoomError(Exception):
    """Too many large bodies are being stored; nothing was done."""


class BodyRefusedError(Exception):
    """The body cannot be unpacked; it is kept in quarantine. `sentence` is safe to show."""

    def __init__(self, fault: ContentCodingError) -> None:
        """`fault`: why not."""
        self.sentence = fault.sentence("body")
        super().__init__(self.sentence)
        self.fault = fault


SMALL_BYTES = 256 * 1024
"""Bodies up to this size, as nearly all are, need no room of the budget for large ones."""
ROOM_SECONDS = 20.0
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

    @property
    def is_unreadable(self) -> bool:
        """Whether nothing of the body was understood: all that came of it is in quarantine."""
        return bool(self.quarantined) and not (self.reports or self.asked or self.registered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A push whose head may come here; its body is not read yet."""

    stored: StoredAccount = field(repr=False)
    account: Account
    head: Callback
    """With the tail that the adapter knows, and no body."""
    is_proven: bool
    """Whether the head alone proves that the provider sends it; else the body has to."""


def admit(runtime: Runtime, provider: str, account_id: str, head: Callback) -> Admitted:
    """Whether a push may come here, by all that its head says. Raises one of the errors above, or the database's.

    What is rejected for a known account is counted. Empty segments of the address do not count: people write a slash
    too many into a provider's panel, and providers append to what they were given.
    """
    with transaction(runtime.engine) as connection:
        stored = find(connection, account_id)
    if stored is None:
        raise NoSuchCallbackError
    try:
        return _admitted(runtime, stored, provider, head)
    except NoSuchCallbackError:
        reject(runtime, stored, Rejection.NO_SUCH_ADDRESS)
        raise
    except _WrongSecretError:
        # An address that does not exist, as for a stranger. It is not logged: it may be yesterday's, or a typing slip.
        log.warning("callback.wrong_address", account=stored.id)
        reject(runtime, stored, Rejection.NOT_AUTHORISED)
        raise WrongAddressError from None
    except CallbackRefusedError:
        reject(runtime, stored, Rejection.NOT_AUTHORISED)
        raise
    except CredentialError:
        reject(runtime, stored, Rejection.CREDENTIAL_MISSING)
        raise


def receive(runtime: Runtime, admitted: Admitted, body: bytes) -> Received:
    """Store a push that was admitted; committed when this returns. Raises as `admit` does.

    A body that is not understood is kept in quarantine and counts as received: pushing it again would not help.
    """
    callback = replace(admitted.head, body=body)
    if not admitted.is_proven and not adapter_of(admitted.stored).authorise_callback(admitted.account, callback):
        reject(runtime, admitted.stored, Rejection.NOT_AUTHORISED)
        raise CallbackRefusedError
    return ingest(runtime, admitted.stored, callback)


def turn_away(runtime: Runtime, account_id: str, kind: Rejection) -> None:
    """Count a request that was rejected before it could be received, if there is such an account.

    A database that is away is no reason to fail: the request is rejected anyway.
    """
    try:
        with transaction(runtime.engine) as connection:
            stored = find(connection, account_id)
    except SQLAlchemyError as error:
        log.warning("rejections.not_counted", error=origin(error))
        return
    if stored is not None:
        reject(runtime, stored, kind)


class _WrongSecretError(Exception):
    """The last part of the address is not the account's secret."""


def _admitted(runtime: Runtime, stored: StoredAccount, provider: str, head: Callback) -> Admitted:
    """The push with the tail that its adapter knows, if it may come here."""
    record = record_of(stored)
    head = replace(head, tail=_plain(head.tail))
    secret = record.callback_secret
    if stored.provider != provider or (secret is None and head.tail not in (record.callback_paths or ())):
        raise NoSuchCallbackError
    account = runtime.account(stored)
    if secret is not None and secret in account.credentials:
        plain = _plain(account.credentials[secret])
        account = replace(account, credentials={**account.credentials, secret: plain})
    signature = record.callback_signature
    if signature is not None:
        if signature not in head.headers:
            raise CallbackRefusedError
        return Admitted(stored=stored, account=account, head=head, is_proven=False)
    is_open = secret is not None and is_example(account.credentials.get(secret, ""))
    if is_open or not adapter_of(stored).authorise_callback(account, head):
        raise CallbackRefusedError if secret is None else _WrongSecretError
    if secret is not None:
        # From here on the tail is shown in logs and the quarantine's list, so the secret is cut off.
        head = replace(head, tail=head.tail.removeprefix(account.credentials[secret]).strip("/"))
    return Admitted(stored=stored, account=account, head=head, is_proven=True)


def _plain(path: str) -> str:
    """The path without its empty segments, and without blanks and invisible marks around the others."""
    return "/".join(filter(None, map(trimmed, path.split("/"))))


def reject(runtime: Runtime, stored: StoredAccount, kind: Rejection) -> None:
    """Count a request that was rejected for this account."""
    runtime.rejections.note(runtime.engine, stored.id, kind)


def ingest(runtime: Runtime, stored: StoredAccount, callback: Callback) -> Received:
    """Store a body that is known to be the provider's (a push that was authorised, a reply that the sender had).

    Raises `BodyRefusedError`, or an error of `ulak.providers.errors` where the adapter takes no such body; both count.
    `NoRoomError` where too many large bodies are being stored already.
    """
    # What a packed body becomes is not known yet.
    size = MAX_BYTES if is_packed(callback.headers.get("content-encoding")) else len(callback.body)
    if size <= SMALL_BYTES:
        return _ingest(runtime, stored, callback)
    with runtime.room.holding(size, ROOM_SECONDS) as is_held:
        if not is_held:
            raise NoRoomError
        return _ingest(runtime, stored, callback)


def _ingest(runtime: Runtime, stored: StoredAccount, callback: Callback) -> Received:
    adapter = adapter_of(stored)
    fault: ContentCodingError | None = None
    try:
        callback = unpacked(callback)
    except ContentCodingError as error:
        fault = error
    if adapter.record.dropped_fields:
        try:
            callback = in_utf8(callback) if fault is None else callback
        except AnswerNotUnderstood as error:
            # Nothing of it is kept: what cannot be read may hold these fields anywhere.
            lost = Parsed(unreadable=(Unreadable(reason=error.message, raw=b""),))
            return _stored(runtime, stored, callback, lost)
        callback = replace(callback, body=drop_fields(callback.body, adapter.record.dropped_fields))
    if fault is not None:
        raise _refused(runtime, stored, callback, fault)
    try:
        parsed = adapter.parse_callback(account_without_credentials(stored), callback)
    except AnswerNotUnderstood as error:
        parsed = Parsed(unreadable=(Unreadable(reason=error.message, raw=error.raw or callback.body),))
    except ProviderError:
        reject(runtime, stored, Rejection.NOT_TAKEN)
        raise
    except Exception as error:  # noqa: BLE001 - whatever our reading does, the answer is kept and the fetch goes on
        # The exception's text may quote the body.
        log.error("callback.parse_failed", tail=callback.tail, error=origin(error))
        reason = f"Reading the body failed with {type(error).__name__}."
        parsed = Parsed(unreadable=(Unreadable(reason=reason, raw=callback.body),))
    return _stored(runtime, stored, callback, parsed)


def _refused(
    runtime: Runtime, stored: StoredAccount, callback: Callback, fault: ContentCodingError
) -> BodyRefusedError:
    """Keep a body that cannot be unpacked, count it, and return the error that says so."""
    refused = BodyRefusedError(fault)
    kept = Parsed(unreadable=(Unreadable(reason=refused.sentence, raw=callback.body),))
    _stored(runtime, stored, callback, kept)
    reject(runtime, stored, next(kind for error, kind in _CODING_FAULTS if isinstance(fault, error)))
    return refused


def _stored(runtime: Runtime, stored: StoredAccount, callback: Callback, parsed: Parsed) -> Received:
    """Store it, then say so in the log."""
    hidden = runtime.pseudonymiser_of(stored)
    if hidden is not None:
        parsed = hidden.parsed(parsed)
    effects = Effects()
    received = commit(runtime.engine, effects, lambda c, mine: _store(c, mine, runtime, stored, callback, parsed))
    effects.write_log()
    return received


def _store(  # noqa: PLR0917 - what `ingest` has found out
    connection: Connection,
    effects: Effects,
    runtime: Runtime,
    stored: StoredAccount,
    callback: Callback,
    parsed: Parsed,
) -> Received:
    """One transaction: the deliveries, their history, and what was not understood."""
    placed = place(connection, stored.id, parsed.ambiguous)
    kinds = record_of(stored).reference_kinds
    reports = runtime.without_echoes(stored, (*parsed.reports, *placed.reports))
    known = runtime.suppressions
    result = upsert_shared(connection, stored.id, stored.provider, reports, kinds, asked_at=None, suppressions=known)
    registered = register_named(connection, runtime, stored, parsed.discovered)
    ask_now(connection, stored, placed.ask)
    if parsed.unreadable:
        unreadable, context = to_keep(parsed.unreadable, callback)
        seal(
            connection,
            runtime.seal_key,
            account_id=stored.id,
            origin=f"callback:{callback.tail}",
            unreadable=unreadable,
            context=context,
        )
        effects.warning("quarantine.kept", account=stored.id, reasons=sorted({item.reason for item in unreadable}))
    effects.info(
        "callback.stored",
        account=stored.id,
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
