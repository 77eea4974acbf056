"""Reading again what was not understood, with the code as it is today."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any

from sqlalchemy import Connection, text

from ulak.core.content_coding import ContentCodingError
from ulak.core.logging import get_logger
from ulak.models.account import StoredAccount, load
from ulak.models.database import retry_transaction
from ulak.models.ledger.deadletters import open_ids_of
from ulak.models.quarantine import Opened, open_sealed, resolve
from ulak.models.references import upsert_shared
from ulak.models.report import Report, TrackedKey
from ulak.models.tracked import TrackedId, close_answered
from ulak.models.vocabulary import Status
from ulak.providers.adapter import MAX_ANSWER_BYTES, Account, Adapter, Answer, Callback, Fetch, FetchSpec, Parsed
from ulak.providers.effective import adapter_of, record_of
from ulak.providers.errors import ProviderError
from ulak.tasks.runtime import Runtime, account_without_credentials
from ulak.tasks.steps.ambiguous import ask_now, place
from ulak.tasks.steps.kept_bodies import body_headers, unpacked
from ulak.tasks.steps.tracking import asked_by, due_id

log = get_logger(__name__)

CHAIN = "chain"
"""The parameter of pages that belong together: see `ulak.providers.adapter.Fetch`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reread:
    """What became of an entry."""

    entry_id: int
    understood: bool
    why: str
    """One sentence, safe to show."""
    reports: int = 0
    new: int = 0
    advanced: int = 0


def reread(runtime: Runtime, entry_id: int) -> Reread | None:
    """Parse an entry again, store what it says and resolve it, in one transaction; None where it is not open.

    It is resolved when it is understood whole, or when its delivery has got a known status since. Else it stays as it
    is. Raises `WrongQuarantineKeyError` where it was sealed with another key than this runtime's.
    """
    return retry_transaction(runtime.engine, lambda connection: _reread(connection, runtime, entry_id))


def _reread(connection: Connection, runtime: Runtime, entry_id: int) -> Reread | None:
    entry = open_sealed(connection, runtime.seal_key, entry_id)
    if entry is None:
        return None
    stored = load(connection, entry.account_id)
    asked = _asked_ids(connection, stored, entry)
    as_of = None if entry.origin.startswith("callback:") else _as_of(connection, entry)
    parsed, is_item = _parse(stored, entry, asked, as_of)
    if isinstance(parsed, Parsed) and (parsed.reports or parsed.ambiguous or is_item) and not parsed.unreadable:
        # An id that is split goes on as others, which only a fetch registers: it stays open, and is asked again.
        final = [answer.key for answer in parsed.answers if answer.settled and answer.close_reason is None]
        settled = [asked[key].id for key in final if key in asked]
        hidden = runtime.pseudonymiser_of(stored)
        if hidden is not None:
            parsed = hidden.parsed(parsed)
        placed = place(connection, stored.id, parsed.ambiguous)
        kinds = record_of(stored).reference_kinds
        reports = runtime.without_echoes(stored, (*parsed.reports, *placed.reports))
        known = runtime.suppressions
        result = upsert_shared(
            connection, stored.id, stored.provider, reports, kinds, asked_at=as_of, suppressions=known
        )
        if as_of is not None:
            close_answered(connection, settled, as_of)
        ask_now(connection, stored, placed.ask)
        resolve(connection, entry_id)
        return Reread(
            entry_id=entry_id,
            understood=True,
            why=_what_came_of_it(parsed, reports),
            reports=len(reports),
            new=result.new,
            advanced=result.advanced,
        )
    if _is_known_since(connection, entry):
        resolve(connection, entry_id)
        return Reread(entry_id=entry_id, understood=True, why="its delivery has got a known status since")
    return Reread(entry_id=entry_id, understood=False, why=_reason(parsed))


def _what_came_of_it(parsed: Parsed, reports: Sequence[Report]) -> str:
    if reports:
        return "understood and stored"
    if parsed.ambiguous:
        return "understood, but only asking tells whom it is about: asked now"
    return "understood: it says nothing about any delivery"


def _asked_ids(connection: Connection, stored: StoredAccount, entry: Opened) -> Mapping[TrackedKey, TrackedId]:
    """The ids, still open, that the fetch of this entry asked for: those that the adapter would ask for in that way.

    None for one page of several: only all of them together settle an id.
    """
    params = entry.context.get("params", {})
    if not params or CHAIN in params:
        return {}
    candidates = open_ids_of(connection, entry.account_id, params)
    return {
        due_id(tracked).key: tracked
        for tracked in asked_by(adapter_of(stored), account_without_credentials(stored), candidates, params, stored.now)
    }


def _parse(
    stored: StoredAccount, entry: Opened, asked: Mapping[TrackedKey, TrackedId], asked_at: datetime | None
) -> tuple[Parsed | str, bool]:
    """What the adapter makes of the bytes now, or a sentence why it makes nothing of them; whether they are an item."""
    adapter, account = adapter_of(stored), account_without_credentials(stored)
    source, _, kind = entry.origin.partition(":")
    try:
        if source == "callback":
            callback = Callback(tail=kind, body=entry.raw, headers=body_headers(entry.context))
            return adapter.parse_callback(account, unpacked(callback)), False
        spec = FetchSpec(kind=kind, params=entry.context.get("params", {}), ids=tuple(asked))
        fetch = Fetch(spec=spec, ids={key: due_id(tracked) for key, tracked in asked.items()})
        # What lay ahead when the response was given may be past now.
        headers = body_headers(entry.context)
        answer = Answer(status=HTTPStatus.OK, headers=headers, body=entry.raw, asked_at=asked_at, received_at=asked_at)
        return _parse_polled(adapter, account, fetch, unpacked(answer, MAX_ANSWER_BYTES))
    except ContentCodingError as error:
        return error.sentence("body"), False
    except ProviderError as error:
        return error.message, False
    except Exception as error:  # noqa: BLE001 - an item cut out of its answer may fail anywhere in the adapter
        log.warning("quarantine.parse_failed", entry=entry.id, error=type(error).__name__)
        return f"Reading it failed with {type(error).__name__}.", False


def _parse_polled(adapter: Adapter, account: Account, fetch: Fetch, answer: Answer) -> tuple[Parsed, bool]:
    """The whole answer to a fetch, or one item that was cut out of it; which of them was kept is told by its form."""
    try:
        return adapter.parse(account, fetch, answer), False
    except ProviderError:
        found = adapter.parse_item(account, fetch, answer.body)
        if found is None:
            raise
        return found, True


def _reason(parsed: Parsed | str) -> str:
    if isinstance(parsed, str):
        return parsed
    return parsed.unreadable[0].reason if parsed.unreadable else "It says nothing about any delivery."


# Of an entry that an older version kept without its as_of: the statement was made when it was first asked for, never
# later than the entry came to be. One that was resolved and came again belongs to a fetch that is younger than itself.
_ASKED_AT = text("""
    SELECT coalesce(max(c.asked_at) FILTER (WHERE c.asked_at <= q.first_seen_at), min(c.asked_at))
    FROM calls c JOIN quarantine q ON q.account_id = c.account_id AND q.fetch_id = c.fetch_id
    WHERE q.id = :entry_id
""")
_STATUSES = text("""
    SELECT count(*) AS many, count(*) FILTER (WHERE status = :unknown) AS unknown FROM delivery_status
    WHERE account_id = :account_id AND granularity IN ('message', 'order', 'conversation') AND provider_key = :key
""")


def _as_of(connection: Connection, entry: Opened) -> datetime | None:
    """When the answer that the entry belongs to was asked for first, in the order of the account's questions."""
    kept = entry.context.get("as_of")
    if kept is not None:
        return datetime.fromisoformat(kept)
    found: datetime | None = connection.execute(_ASKED_AT, {"entry_id": entry.id}).scalar_one()
    return found


def _is_known_since(connection: Connection, entry: Opened) -> bool:
    """Whether the delivery that the entry belongs to is stored with a status that we know."""
    parameters: dict[str, Any] = {"account_id": entry.account_id, "key": entry.provider_key, "unknown": Status.UNKNOWN}
    found = connection.execute(_STATUSES, parameters).one()
    return bool(found.many) and not found.unknown
