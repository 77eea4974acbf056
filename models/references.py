"""A sender's own references for deliveries that are found without being registered: orders of a list, conversations.

A reference is a row of `tracked_ids`. Where nothing else has made it an id to be asked for, it is closed from the
start, with `REFERENCE` as the reason; a list that names the id opens it (`models.ledger.finishing.discover`).
"""

from collections.abc import Collection, Iterable, Mapping

from sqlalchemy import Connection, text

from models.database import json_parameter
from models.deliveries import restate_with_reference
from models.report import Report, TrackedKey
from models.vocabulary import Granularity, Source

_LOCK = 0x756C6172  # the first half of the advisory lock of one account's references

_SHARE = text("SELECT pg_advisory_xact_lock_shared(:lock, hashtext(:account_id))")
_HOLD = text("SELECT pg_advisory_xact_lock(:lock, hashtext(:account_id))")
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
    WHERE d.client_ref IS NULL
""")


def with_references(
    connection: Connection, account_id: str, kinds: Mapping[str, Granularity], reports: Iterable[Report]
) -> list[Report]:
    """The reports with the sender's references for their deliveries filled in, where they name none themselves.

    `kinds`: `ProviderRecord.reference_kinds`. To be called in the transaction that writes the reports, before it: from
    here to its end no reference of the account is registered, so none can miss a delivery that is not committed yet.
    """
    given = list(reports)
    wanted = {key for report in given if kinds and _lacks_one(report) for key in _keys(report, kinds)}
    if not wanted:
        return given
    connection.execute(_SHARE, {"lock": _LOCK, "account_id": account_id})
    found = find_references(connection, account_id, wanted)
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
    parents = [TrackedKey(id_kind=kind, value=report.parent_key) for kind in kinds if report.parent_key is not None]
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
    connection.execute(_HOLD, {"lock": _LOCK, "account_id": account_id})
    known = find_references(connection, account_id, given)
    rows = [
        {"granularity": kinds[key.id_kind], "value": key.value, "client_ref": known.get(key, reference)}
        for key, reference in given.items()
    ]
    found = connection.execute(_WITHOUT, {"account_id": account_id, "rows": json_parameter(rows)}).all()
    return len(
        restate_with_reference(connection, {row.id: (Granularity(row.granularity), row.client_ref) for row in found})
    )
