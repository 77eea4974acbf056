"""Whether an id can be asked for at all, told before it is registered: a wrong one would only die later."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping

from ulak.core.zones import time_zone
from ulak.models.report import TrackedKey
from ulak.providers.adapter import Account, DueId, Fetch
from ulak.providers.errors import ProviderError
from ulak.providers.numbers import plain
from ulak.tasks.runtime import adapter_of
from ulak.tasks.steps.tracking import normal_id, validity_of


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
        if (why := self.why_no_kind(str(item["kind"]))) is not None:
            return why
        try:
            kind, value = normal_id(adapter, str(item["kind"]), str(item["value"]))
        except ProviderError as error:
            return error.message
        sent_at = item.get("sent_at") or self.row["now"]
        valid_until = item.get("valid_until") or sent_at + validity_of(self.row)
        if valid_until < sent_at:
            return "valid_until must not be before sent_at"
        if kind in self._attaching():
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

    def why_no_kind(self, kind: str) -> str | None:
        """Which kinds of ids the account's provider has; None where this is one of them."""
        record = adapter_of(self.row).record
        known = (*record.id_kinds, *self._attaching())
        if plain(kind) in known:
            return None
        return f"kind must be one of: {', '.join(known)}" if known else f"{record.title} needs no registered ids"

    def _attaching(self) -> tuple[str, ...]:
        return tuple(adapter_of(self.row).record.reference_kinds) if self.references else ()

    def _account(self) -> Account:
        """The account with nothing in the place of its credentials: the request made with them is thrown away."""
        record = adapter_of(self.row).record
        names = {name for names in record.credentials for name in names}
        return Account(
            id=self.row["id"],
            provider=self.row["provider"],
            base_url=self.row["base_url"],
            timezone=time_zone(self.row["timezone"]),
            credentials=dict.fromkeys(names, "none"),
            options=record.options.from_stored(self.row["options"]),
        )
