"""The shared table as the merge rule speaks of it, so that a test can compare whole rows."""

from sqlalchemy import Connection, text

from ulak.models.deliveries import Key
from ulak.models.merge import ROW_FIELDS, Row
from ulak.models.sanitize import iso_time
from ulak.models.vocabulary import Granularity


def stored_rows(connection: Connection, account_id: str) -> dict[Key, Row]:
    """Every row of an account by its key, without what is ours (ids, first_seen_at, changed_at)."""
    columns = ", ".join(ROW_FIELDS)
    query = text(f"SELECT granularity, provider_key, {columns} FROM delivery_status WHERE account_id = :account")
    rows = {}
    for granularity, provider_key, *values in connection.execute(query, {"account": account_id}):
        stored = dict(zip(ROW_FIELDS, values, strict=True))
        for name in ("sent_at", "done_at", "valid_until"):
            stored[name] = stored[name] and iso_time(stored[name])
        stored["credits"] = None if stored["credits"] is None else float(stored["credits"])
        rows[Granularity(granularity), provider_key] = Row(**stored)
    return rows
