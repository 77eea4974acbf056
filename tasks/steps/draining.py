"""Draining an account: one fetch after the other is taken, asked and finished, for as long as calls may be made.

The transaction that stores one response also takes the next fetch, so the thread goes on without a message. After about
`DRAIN_SECONDS` it hands over by one, so that no account keeps a thread for long. Whatever is out of the ordinary ends
the drain, and a message brings the account's next attempt.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from ulak.core import clock
from ulak.core.credentials import CredentialError
from ulak.core.logging import bind_context, get_logger, origin
from ulak.models.database import retry_transaction
from ulak.models.ledger.finishing import FencedError
from ulak.models.ledger.taking import Busy, NotYet, Stepped, Taken, Took, take
from ulak.models.report import TrackedKey
from ulak.providers.adapter import Fetch, FetchSpec, Parsed
from ulak.providers.errors import OurBug, ProviderError
from ulak.providers.http import PermitExpiredError, Sent
from ulak.providers.way_out import WayOutError
from ulak.tasks.effects import Effects
from ulak.tasks.messages import call_up
from ulak.tasks.runtime import Runtime, adapter_of
from ulak.tasks.steps import clocks
from ulak.tasks.steps.asking import Asked, Prepared
from ulak.tasks.steps.finishing import finish
from ulak.tasks.steps.tracking import due_id
from ulak.tasks.steps.trouble import bury_unasked, return_unsent, return_without_credentials

log = get_logger(__name__)

DRAIN_SECONDS = 1.5


def drain(runtime: Runtime, fetch_id: int) -> Generator[Effects]:
    """Make this fetch, or the best of its account if it is gone, and further ones while they may be made.

    Yields what is to be published and logged, after each commit and before the next request. A repeated, late or lost
    message does no harm: what may be made, and by whom, the ledger decides.
    """
    ends = clock.boot() + DRAIN_SECONDS
    found = _take(runtime, partial(take, holder=runtime.holder, fetch_id=fetch_id, by_message=True))
    while isinstance(found, Taken):
        yield Effects(messages=[*call_up(found.call_up)])
        effects = Effects()
        found = _make(runtime, effects, found, ends)
        yield effects
    if isinstance(found, NotYet):
        yield Effects(messages=[*call_up(found.call_up)])


def _take(runtime: Runtime, take_one: Callable[[Connection], Took]) -> Took:
    """Take in a transaction of its own; after a step of the clock is settled, once more."""
    found = retry_transaction(runtime.engine, take_one)
    if isinstance(found, Stepped):
        clocks.settle(runtime)
        found = retry_transaction(runtime.engine, take_one)
    return found


def _make(runtime: Runtime, effects: Effects, taken: Taken, ends: float) -> Took:
    """Make one fetch that is held, and give what comes next."""
    bind_context(account=taken.account_id, provider=taken.account["provider"], poll=taken.poll_id)
    follow = partial(take, holder=None, account_id=taken.account_id)
    found: Took | None = None
    try:
        asked = _ask(runtime, effects, taken)
        if asked is not None:
            if clock.boot() < ends and not runtime.stopping.is_set():
                follow = partial(follow, holder=runtime.holder)
            found = finish(asked, understood(asked.prepared, asked.sent), effects, partial(follow, may_wait=False))
    except FencedError:
        # Another holds or has finished this fetch; nothing was written.
        effects.warning("fetch.fenced", fetch=taken.fetch_id, label=taken.label)
    if found is None or isinstance(found, Stepped | Busy):
        return _take(runtime, follow)
    return found


def _ask(runtime: Runtime, effects: Effects, taken: Taken) -> Asked | None:
    """Send the one request that the take permits; None where none was sent: then the fetch is returned or ended."""
    try:
        prepared = prepare(runtime, taken)
        sent = runtime.door.send(prepared.request, taken.permit, prepared.way_out)
    except CredentialError as error:
        return_without_credentials(runtime, effects, taken, str(error))
    except (PermitExpiredError, WayOutError):
        effects.warning("fetch.too_late", fetch=taken.fetch_id, label=taken.label)
        return_unsent(runtime, taken)
    except _CannotBuildError as error:
        bury_unasked(runtime, effects, taken, str(error))
    else:
        return Asked(runtime=runtime, prepared=prepared, taken=taken, sent=sent)
    return None


class _CannotBuildError(Exception):
    """The request of a fetch cannot be built, now or ever."""


def prepare(runtime: Runtime, taken: Taken) -> Prepared:
    """Build the request. Raises `CredentialError`, or `_CannotBuildError` with a text that is safe to keep."""
    row = taken.account
    account, way_out = runtime.account(row), runtime.way_out(row)
    tracked = {TrackedKey(id_kind=each["id_kind"], value=each["value"]): each for each in taken.tracked}
    ids = {due.key: due for due in map(due_id, tracked.values())}
    spec = FetchSpec(kind=taken.kind, params=taken.params, ids=tuple(ids), round=taken.round, label=taken.label)
    fetch = Fetch(spec=spec, ids=ids, seen_before=taken.seen_before)
    adapter, behind = adapter_of(row), runtime.watch.behind
    try:
        request = adapter.request(account, fetch, taken.asked_at + behind)
    except ProviderError as error:
        raise _CannotBuildError(f"{type(error).__name__}: {error.message}") from None
    except Exception as error:  # noqa: BLE001 - a fetch that cannot be built must not be taken for ever
        # The exception's text may quote an id; its class is all that is safe to keep.
        log.error("fetch.build_failed", fetch=taken.fetch_id, error=origin(error))
        raise _CannotBuildError(f"OurBug: building the request failed with {type(error).__name__}.") from None
    return Prepared(
        row=row,
        account=account,
        adapter=adapter,
        fetch=fetch,
        request=request,
        way_out=way_out,
        tracked=tracked,
        hidden=runtime.hidden_people(row),
        behind=behind,
    )


def understood(prepared: Prepared, sent: Sent) -> Parsed | ProviderError:
    """What the response says, or the error in its place; a failure of our own is an error like any other."""
    answer = sent.outcome
    if isinstance(answer, ProviderError):
        return answer
    # Comparable with times of the provider, by the same clock as the request.
    if answer.asked_at is not None:
        answer = replace(answer, asked_at=answer.asked_at + prepared.behind)
    if answer.received_at is not None:
        answer = replace(answer, received_at=answer.received_at + prepared.behind)
    try:
        parsed = prepared.adapter.parse(prepared.account, prepared.fetch, answer)
        return parsed if prepared.hidden is None else prepared.hidden.parsed(parsed)
    except ProviderError as error:
        error.quote(prepared.adapter.error_text(answer))
        # Its frames hold all that was built of the answer, and the error lives until it is stored.
        return error.with_traceback(None)
    except Exception as error:  # noqa: BLE001 - whatever our reading does, the response is kept and the fetch goes on
        # The exception's text may quote the response; its class is all that is safe to keep.
        log.error("fetch.parse_failed", endpoint=prepared.request.endpoint, error=origin(error))
        return OurBug(f"Reading the answer failed with {type(error).__name__}.")
