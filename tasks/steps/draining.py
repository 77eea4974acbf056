"""Draining an account: fetches are taken, requested and finished one after the other while calls are allowed.

The transaction that stores one response also takes the next fetch, so the thread needs no further message. After
about `DRAIN_SECONDS` it hands over by a message, so that no account keeps a thread for long. Any exception ends the
drain, and a message triggers the account's next attempt.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from ulak.core import clock
from ulak.core.credentials import CredentialError
from ulak.core.logging import bind_context, get_logger, origin
from ulak.models.database import retry_transaction
from ulak.models.ledger.ending import FencedError
from ulak.models.ledger.taking import Busy, NotYet, Stepped, Taken, TakeResult, take
from ulak.models.report import TrackedKey
from ulak.providers.adapter import Fetch, FetchSpec, Parsed
from ulak.providers.effective import adapter_of
from ulak.providers.egress import EgressError
from ulak.providers.errors import OurBug, ProviderError
from ulak.providers.http import PermitExpiredError, Sent
from ulak.tasks.effects import Effects
from ulak.tasks.messages import wake_up
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps import clock_watching
from ulak.tasks.steps.attempt_records import Asked, Prepared
from ulak.tasks.steps.failures import dead_letter_unsendable, return_unsent, return_without_credentials
from ulak.tasks.steps.finishing import finish
from ulak.tasks.steps.tracking import due_id

log = get_logger(__name__)

DRAIN_SECONDS = 1.5


def drain(runtime: Runtime, fetch_id: int) -> Generator[Effects]:
    """Execute this fetch, or the best one of its account if it is gone, then further ones while calls are allowed.

    Yields what is to be published and logged, after each commit and before the next request. A repeated, late or lost
    message is harmless: the ledger decides which calls may be made, and by whom.
    """
    ends = clock.boot() + DRAIN_SECONDS
    found = _take(runtime, partial(take, holder=runtime.holder, fetch_id=fetch_id, by_message=True))
    while isinstance(found, Taken):
        yield Effects(messages=[*wake_up(found.wake_up)])
        effects = Effects()
        found = _make(runtime, effects, found, ends)
        yield effects
    if isinstance(found, NotYet):
        yield Effects(messages=[*wake_up(found.wake_up)])


def _take(runtime: Runtime, take_one: Callable[[Connection], TakeResult]) -> TakeResult:
    """Take in a separate transaction; if the clock was stepped, settle that and take again."""
    found = retry_transaction(runtime.engine, take_one)
    if isinstance(found, Stepped):
        clock_watching.settle(runtime)
        found = retry_transaction(runtime.engine, take_one)
    return found


def _make(runtime: Runtime, effects: Effects, taken: Taken, ends: float) -> TakeResult:
    """Execute one leased fetch; returns the next take."""
    bind_context(account=taken.account_id, provider=taken.account.provider, poll=taken.poll_id)
    follow = partial(take, holder=None, account_id=taken.account_id)
    found: TakeResult | None = None
    try:
        asked = _send_request(runtime, effects, taken)
        if asked is not None:
            if clock.boot() < ends and not runtime.stopping.is_set():
                follow = partial(follow, holder=runtime.holder)
            found = finish(asked, parse_response(asked.prepared, asked.sent), effects, partial(follow, may_wait=False))
    except FencedError:
        # Another worker holds or has finished this fetch; nothing was written.
        effects.warning("fetch.fenced", fetch=taken.fetch_id, label=taken.label)
    if found is None or isinstance(found, Stepped | Busy):
        return _take(runtime, follow)
    return found


def _send_request(runtime: Runtime, effects: Effects, taken: Taken) -> Asked | None:
    """Send the permitted request; None if none was sent: then the fetch is returned or ended."""
    try:
        prepared = prepare(runtime, taken)
        sent = runtime.door.send(prepared.request, taken.permit, prepared.egress)
    except CredentialError as error:
        return_without_credentials(runtime, effects, taken, str(error))
    except (PermitExpiredError, EgressError):
        effects.warning("fetch.too_late", fetch=taken.fetch_id, label=taken.label)
        return_unsent(runtime, taken)
    except _CannotBuildError as error:
        dead_letter_unsendable(runtime, effects, taken, str(error))
    else:
        return Asked(runtime=runtime, prepared=prepared, taken=taken, sent=sent)
    return None


class _CannotBuildError(Exception):
    """The request of a fetch cannot be built, now or ever."""


def prepare(runtime: Runtime, taken: Taken) -> Prepared:
    """Build the request. Raises `CredentialError`, or `_CannotBuildError` with a text that is safe to keep."""
    stored = taken.account
    account, egress = runtime.account(stored), runtime.egress(stored)
    tracked = {TrackedKey(id_kind=each.id_kind, value=each.value): each for each in taken.tracked}
    ids = {due.key: due for due in map(due_id, tracked.values())}
    spec = FetchSpec(kind=taken.kind, params=taken.params, ids=tuple(ids), round=taken.round, label=taken.label)
    fetch = Fetch(spec=spec, ids=ids, seen_before=taken.seen_before)
    adapter, behind = adapter_of(stored), runtime.watch.behind
    try:
        request = adapter.request(account, fetch, taken.asked_at + behind)
    except ProviderError as error:
        raise _CannotBuildError(f"{type(error).__name__}: {error.message}") from None
    except Exception as error:  # noqa: BLE001 - a fetch that cannot be built must not be retried forever
        # The exception's text may quote an id; its class is all that is safe to keep.
        log.error("fetch.build_failed", fetch=taken.fetch_id, error=origin(error))
        raise _CannotBuildError(f"OurBug: building the request failed with {type(error).__name__}.") from None
    return Prepared(
        stored=stored,
        account=account,
        adapter=adapter,
        fetch=fetch,
        request=request,
        egress=egress,
        tracked=tracked,
        hidden=runtime.pseudonymiser_of(stored),
        behind=behind,
    )


def parse_response(prepared: Prepared, sent: Sent) -> Parsed | ProviderError:
    """The parsed response, or an error; a failure of our own code becomes an error, too."""
    answer = sent.outcome
    if isinstance(answer, ProviderError):
        return answer
    # By the same clock as the request, so that they are comparable with the provider's times.
    if answer.asked_at is not None:
        answer = replace(answer, asked_at=answer.asked_at + prepared.behind)
    if answer.received_at is not None:
        answer = replace(answer, received_at=answer.received_at + prepared.behind)
    try:
        parsed = prepared.adapter.parse(prepared.account, prepared.fetch, answer)
        return parsed if prepared.hidden is None else prepared.hidden.parsed(parsed)
    except ProviderError as error:
        error.quote(prepared.adapter.error_text(answer))
        # Its frames reference everything parsed from the response, and the error lives until it is stored.
        return error.with_traceback(None)
    except Exception as error:  # noqa: BLE001 - whatever parsing raises, the response is kept and the fetch continues
        # The exception's text may quote the response; its class is all that is safe to keep.
        log.error("fetch.parse_failed", endpoint=prepared.request.endpoint, error=origin(error))
        return OurBug(f"Reading the answer failed with {type(error).__name__}.")
