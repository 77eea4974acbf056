"""Making one fetch: hold it, ask once, write what was said in one transaction."""

from dataclasses import dataclass, replace

from sqlalchemy import Connection, RowMapping, text

from core.logging import bind_context, get_logger, origin
from core.settings import CredentialError
from models.database import retry_transaction
from models.ledger import limiter
from models.ledger.dispatch import dispatch
from models.ledger.finishing import FencedError, lock_account
from models.ledger.walks import seen_in_chain
from models.report import TrackedKey
from models.tracked import ids_of_fetch
from providers.adapter import Fetch, FetchSpec, Parsed
from providers.errors import OurBug, ProviderError
from providers.http import PermitExpiredError, Sent
from providers.way_out import WayOutError
from tasks.messages import Message, messages_of
from tasks.runtime import Runtime, adapter_of
from tasks.steps import clocks
from tasks.steps.asking import Asked, Prepared
from tasks.steps.events import Events, commit
from tasks.steps.finishing import finish
from tasks.steps.pausing import pause_without_credentials
from tasks.steps.tracking import due_id
from tasks.steps.trouble import bury_unasked, return_unsent

log = get_logger(__name__)


_PEEK = text("""
    SELECT a.*, clock_timestamp() AS now, f.id AS fetch_id, f.poll_id AS fetch_poll_id, f.kind AS fetch_kind,
           f.params AS fetch_params, f.round AS fetch_round, f.label AS fetch_label, f.state AS fetch_state,
           EXISTS (SELECT FROM fetches d WHERE d.account_id = a.id AND d.state = 'dead') AS has_dead
    FROM fetches f JOIN accounts a ON a.id = f.account_id
    WHERE f.id = :fetch_id
""")


def make_fetch(runtime: Runtime, fetch_id: int) -> list[Message]:
    """Make one fetch if it is ready and its account may be asked now; returns what is to be published then.

    A repeated, late or lost hint does no harm: whoever finds the fetch not ready does nothing.
    """
    prepared = _prepare(runtime, fetch_id)
    if not isinstance(prepared, Prepared):
        return [] if prepared is None else _wake(runtime, prepared)
    bind_context(account=prepared.account.id, provider=prepared.account.provider)
    taken = retry_transaction(
        runtime.engine,
        lambda connection: limiter.take(
            connection,
            fetch_id,
            watch=runtime.watch,
            lease_margin_seconds=runtime.lease_margin_seconds,
            endpoint=prepared.request.endpoint,
        ),
    )
    if isinstance(taken, limiter.Gone):
        return []
    if isinstance(taken, limiter.Stepped):
        clocks.settle(runtime)
    if isinstance(taken, limiter.Taken):
        bind_context(poll=taken.poll_id)
        _ask_and_finish(runtime, prepared, taken)
    return _wake(runtime, prepared.account.id)


def _wake(runtime: Runtime, account_id: str) -> list[Message]:
    """Look which fetches may go next: the wake at the end of every fetch."""
    return messages_of(retry_transaction(runtime.engine, lambda connection: dispatch(connection, account_id)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Peeked:
    """A ready fetch, as it was read without a lock."""

    row: RowMapping
    tracked: dict[TrackedKey, RowMapping]
    seen_before: dict[str, int]


def _peek(connection: Connection, fetch_id: int) -> _Peeked | str | None:
    """Read the fetch; where it is not ready, what `_prepare` gives."""
    row = connection.execute(_PEEK, {"fetch_id": fetch_id}).mappings().one_or_none()
    if row is None:
        return None
    if row["fetch_state"] != "ready":
        # A hint of a cancelled fetch held a slot that another waits for.
        account_id: str = row["id"]
        return account_id if row["fetch_state"] == "cancelled" else None
    return _Peeked(
        row=row,
        tracked={TrackedKey(id_kind=r["id_kind"], value=r["value"]): r for r in ids_of_fetch(connection, fetch_id)},
        seen_before=seen_in_chain(connection, row["fetch_poll_id"], row["fetch_params"], row["fetch_round"]),
    )


def _prepare(runtime: Runtime, fetch_id: int) -> Prepared | str | None:
    """Read the fetch and build its request, so that nothing slow stands between holding it and sending it.

    The account's id where this fetch can not be made and another may go in its place; None where nothing is to be done.
    """
    peeked = retry_transaction(runtime.engine, lambda connection: _peek(connection, fetch_id))
    if not isinstance(peeked, _Peeked):
        return peeked
    row, tracked = peeked.row, peeked.tracked
    try:
        account = runtime.account(row)
        way_out = runtime.way_out(row)
    except CredentialError as error:
        _pause(runtime, row["id"], str(error))
        return None
    spec = FetchSpec(
        kind=row["fetch_kind"],
        params=row["fetch_params"],
        ids=tuple(tracked),
        round=row["fetch_round"],
        label=row["fetch_label"],
    )
    fetch = Fetch(spec=spec, ids={key: due_id(r) for key, r in tracked.items()}, seen_before=peeked.seen_before)
    adapter, behind = adapter_of(row), runtime.watch.behind
    try:
        request = adapter.request(account, fetch, row["now"] + behind)
    except ProviderError as error:
        bury_unasked(runtime, row, fetch_id, f"{type(error).__name__}: {error.message}")
        return account.id
    except Exception as error:  # noqa: BLE001 - a fetch that cannot be built must not be hinted for ever
        # The exception's text may quote an id; its class is all that is safe to keep.
        log.error("fetch.build_failed", fetch=fetch_id, error=origin(error))  # noqa: TRY400
        bury_unasked(runtime, row, fetch_id, f"OurBug: building the request failed with {type(error).__name__}.")
        return account.id
    return Prepared(
        row=row,
        account=account,
        adapter=adapter,
        fetch=fetch,
        request=request,
        way_out=way_out,
        tracked=tracked,
        behind=behind,
    )


def _pause(runtime: Runtime, account_id: str, reason: str) -> None:
    """Pause an account whose credentials cannot be found; nothing was asked and nothing counted."""

    def run(connection: Connection, events: Events) -> None:
        pause_without_credentials(connection, lock_account(connection, account_id), events, reason)

    commit(runtime.engine, run)


def _ask_and_finish(runtime: Runtime, prepared: Prepared, taken: limiter.Taken) -> None:
    """One HTTP request, then the one finishing transaction. A lost lease writes nothing: the fetch is another's now."""
    try:
        _ask(runtime, prepared, taken)
    except FencedError:
        log.warning("fetch.fenced", fetch=taken.fetch_id, endpoint=prepared.request.endpoint)


def _ask(runtime: Runtime, prepared: Prepared, taken: limiter.Taken) -> None:
    """Ask and finish, or give back what could not be asked in time; FencedError where the lease was lost."""
    try:
        sent = runtime.door.send(prepared.request, taken.permit, prepared.way_out)
    except (PermitExpiredError, WayOutError):
        log.warning("fetch.too_late", fetch=taken.fetch_id, endpoint=prepared.request.endpoint)
        return_unsent(runtime, taken)
        return
    outcome = _understand(prepared, _corrected(prepared, sent))
    finish(Asked(runtime=runtime, prepared=prepared, taken=taken, sent=sent), outcome)


def _corrected(prepared: Prepared, sent: Sent) -> Sent:
    """The response with the moment of its receipt as the adapter may compare it with times of the provider."""
    outcome = sent.outcome
    if isinstance(outcome, ProviderError) or outcome.received_at is None:
        return sent
    return replace(sent, outcome=replace(outcome, received_at=outcome.received_at + prepared.behind))


def _understand(prepared: Prepared, sent: Sent) -> Parsed | ProviderError:
    """What the answer says, or the error that stands in its place; our own failure is an error like any other."""
    if isinstance(sent.outcome, ProviderError):
        return sent.outcome
    try:
        return prepared.adapter.parse(prepared.account, prepared.fetch, sent.outcome)
    except ProviderError as error:
        error.quote(prepared.adapter.error_text(sent.outcome))
        return error
    except Exception as error:  # noqa: BLE001 - whatever our reading does, the answer is kept and the fetch goes on
        # The exception's text may quote the answer; its class is all that is safe to keep.
        log.error("fetch.parse_failed", endpoint=prepared.request.endpoint, error=origin(error))  # noqa: TRY400
        return OurBug(f"Reading the answer failed with {type(error).__name__}.")
