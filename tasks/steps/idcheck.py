"""Whether an id can be asked for at all, told before it is registered: a wrong one would only die later."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import RowMapping

from models.report import TrackedKey
from providers.adapter import Account, DueId, Fetch
from providers.errors import ProviderError
from tasks.runtime import adapter_of


@dataclass(frozen=True, slots=True)
class IdCheck:
    """Checks ids of one account, without network, credentials or database."""

    row: RowMapping
    """The account's row, with PostgreSQL's `now`."""
    references: bool = True
    """Whether an id may be one that only attaches a reference, and so can not be asked for."""

    def why_not(self, item: Mapping[str, Any]) -> str | None:
        """What is wrong with the id, and what would be right, without repeating it; None where it can be asked for."""
        adapter = adapter_of(self.row)
        kind, value = str(item["kind"]), str(item["value"])
        attaching = tuple(adapter.record.reference_kinds) if self.references else ()
        is_reference = kind in attaching
        if kind not in adapter.record.id_kinds and not is_reference:
            known = ", ".join((*adapter.record.id_kinds, *attaching))
            return f"kind must be one of: {known}" if known else f"{adapter.record.title} needs no registered ids"
        sent_at = item.get("sent_at") or self.row["now"]
        validity = timedelta(hours=float(self.row["options"].get("validity_hours", adapter.record.validity_hours)))
        valid_until = item.get("valid_until") or sent_at + validity
        if valid_until < sent_at:
            return "valid_until must not be before sent_at"
        if is_reference:
            # It is never asked for by this registration, so it needs no request.
            return None
        due = DueId(
            key=TrackedKey(id_kind=kind, value=value),
            client_ref=item.get("client_ref"),
            recipient=item.get("recipient"),
            expected=item.get("expected"),
            sent_at=sent_at,
            valid_until=valid_until,
        )
        try:
            for spec in adapter.plan_ids(self._account(), [due], self.row["now"].date()):
                adapter.request(self._account(), Fetch(spec=spec, ids={due.key: due}), self.row["now"])
        except ProviderError as error:
            return error.message
        return None

    def _account(self) -> Account:
        """The account with nothing in the place of its credentials: the request made with them is thrown away."""
        record = adapter_of(self.row).record
        options = {option.name: option.default for option in record.options} | self.row["options"]
        names = {name for names in record.credentials for name in names}
        return Account(
            id=self.row["id"],
            provider=self.row["provider"],
            base_url=self.row["base_url"],
            timezone=ZoneInfo(self.row["timezone"]),
            credentials=dict.fromkeys(names, "none"),
            options=options,
        )
