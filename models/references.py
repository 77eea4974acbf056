"""A sender's own references for deliveries by their keys: orders, messages, conversations. Nothing is polled for them.

A reference is a row of `tracked_ids`. Where nothing else has made it an id to be asked for, it is closed from the
start, with `REFERENCE` as the reason; a list that names the id opens it (`ulak.models.ledger.ending.discover`).

A writer of reports that lack a reference shares a lock from before their look-up until the commit, and a registration
of references holds it exclusively, so neither can miss what the other has not committed yet. Where the account has no
such reference, which the look-up of the reports finds out, that lock is the only cost.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from sqlalchemy import Connection, text

from ulak.models.database import execute, json_parameter
from ulak.models.deliveries import Complete, UpsertResult, restate_with_reference, upsert
from ulak.models.report import Report, TrackedKey
from ulak.models.suppression import Suppressions
from ulak.models.vocabulary import Granularity, Source

_LOCK = 0x756C6172  # the first half of the advisory lock of one account's references


def share_sql(account: str) -> str:
    """SQL that shares the lock of an account's references until the transaction ends; `account`: SQL for its id.

    It runs in a statement before those of the upsert: a look-up must see what the last holder committed.
    """
    return f"pg_advisory_xact_lock_shared({_LOCK}, hashtext({account}))"


_SHARE: Final = f"SELECT {share_sql('%(account)s')}"
_HOLD = text(f"SELECT pg_advisory_xact_lock({_LOCK}, hashtext(:account_id))")
_FIND = text("""
    SELECT t.id_kind, t.value, t.client_ref FROM tracked_ids t
    JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS g(id_kind text, value text) USING (id_kind, value)
    WHERE t.account_id = :account_id AND t.client_ref IS NOT NULL
""")
_WITHOUT = text("""
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS g(granularity text, value text, client_ref text)
    )
    SELECT d.id, d.granularity, g.client_ref FROM given g
    JOIN delivery_status d ON d.account_id = :account_id AND d.granularity = g.granularity AND d.provider_key = g.value
    WHERE d.client_ref IS NULL
    UNION
    SELECT d.id, d.granularity, g.client_ref FROM given g
    JOIN delivery_status d ON d.account_id = :account_id AND d.parent_key = g.value
    WHERE d.client_ref IS NULL AND g.granularity = 'order'
""")


def lack_references(kinds: Mapping[str, Granularity], reports: Iterable[Report]) -> bool:
    """Whether a report names no reference although one by its key may be registered.

    `kinds`: `ProviderRecord.reference_kinds`.
    """
    return bool(kinds) and any(map(_lacks_one, reports))


def upsert_shared(
    connection: Connection,
    account_id: str,
    provider: str,
    reports: Sequence[Report],
    kinds: Mapping[str, Granularity],
    *,
    asked_at: datetime | None,
    suppressions: Suppressions | None = None,
) -> UpsertResult:
    """`ulak.models.deliveries.upsert` with the sender's references; for transactions that do not share the lock yet."""
    if not lack_references(kinds, reports):
        return upsert(connection, account_id, provider, reports, asked_at=asked_at, suppressions=suppressions)
    execute(connection, _SHARE, {"account": account_id})
    complete = completing(connection, account_id, kinds)
    return upsert(
        connection, account_id, provider, reports, asked_at=asked_at, suppressions=suppressions, complete=complete
    )


def completing(connection: Connection, account_id: str, kinds: Mapping[str, Granularity]) -> Complete:
    """What fills in references for the upsert of a transaction that shares the lock."""
    return partial(_with_references, connection, account_id, kinds)


def _with_references(
    connection: Connection, account_id: str, kinds: Mapping[str, Granularity], given: Sequence[Report]
) -> Sequence[Report]:
    """The reports with the sender's references for their deliveries filled in, where they name none themselves."""
    wanted = {key for report in given if kinds and _lacks_one(report) for key in _keys(report, kinds)}
    found = find_references(connection, account_id, wanted) if wanted else {}
    if not found:
        return given
    return [
        report.completed(client_ref=next((found[key] for key in _keys(report, kinds) if key in found), None))
        if _lacks_one(report)
        else report
        for report in given
    ]


def _lacks_one(report: Report) -> bool:
    return report.client_ref is None and report.source is not Source.OURS


def _keys(report: Report, kinds: Mapping[str, Granularity]) -> list[TrackedKey]:
    """The references that a delivery would have: its own, then that of its parent."""
    own = [
        TrackedKey(id_kind=kind, value=report.provider_key)
        for kind, granularity in kinds.items()
        if granularity is report.granularity
    ]
    parents = [
        TrackedKey(id_kind=kind, value=report.parent_key)
        for kind, granularity in kinds.items()
        if granularity is Granularity.ORDER and report.parent_key is not None
    ]
    return own + parents


def find_references(connection: Connection, account_id: str, keys: Collection[TrackedKey]) -> dict[TrackedKey, str]:
    """Those of these ids for which a sender has given a reference, with it."""
    rows = [{"id_kind": key.id_kind, "value": key.value} for key in keys]
    found = connection.execute(_FIND, {"account_id": account_id, "rows": json_parameter(rows)})
    return {TrackedKey(id_kind=row.id_kind, value=row.value): row.client_ref for row in found}


def attach_references(
    connection: Connection, account_id: str, kinds: Mapping[str, Granularity], given: Mapping[TrackedKey, str]
) -> int:
    """Give references to the deliveries that are stored already and have none; returns how many rows changed.

    A reference that was registered before stays. Waits for whoever is writing reports of this account, and holds them
    off until the transaction ends: the caller registers the ids in the same transaction, after this (deliveries are
    locked before tracked ids by every writer).
    """
    if not given:
        return 0
    connection.execute(_HOLD, {"account_id": account_id})
    known = find_references(connection, account_id, given)
    rows = [
        {"granularity": kinds[key.id_kind], "value": key.value, "client_ref": known.get(key, reference)}
        for key, reference in given.items()
    ]
    found = connection.execute(_WITHOUT, {"account_id": account_id, "rows": json_parameter(rows)}).all()
    return len(
        restate_with_reference(connection, {row.id: (Granularity(row.granularity), row.client_ref) for row in found})
    )
