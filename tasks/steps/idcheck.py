"""Whether an id can be asked for at all, told before it is registered: a wrong one would only die later."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ulak.models.account import StoredAccount
from ulak.models.report import TrackedKey
from ulak.providers import effective
from ulak.providers.adapter import Account, DueId, Fetch
from ulak.providers.effective import adapter_of, record_of
from ulak.providers.errors import ProviderError
from ulak.providers.phone_numbers import plain
from ulak.tasks.runtime import account_without_credentials
from ulak.tasks.steps.tracking import normal_id


@dataclass(frozen=True, slots=True)
class IdCheck:
    """Checks ids of one account, without network, credentials or database."""

    stored: StoredAccount
    references: bool = True
    """Whether an id may be one that only attaches a reference, and so can not be asked for."""

    def why_not(self, item: Mapping[str, Any]) -> str | None:
        """What is wrong with the id, and what would be right, without repeating it; None where it can be asked for."""
        adapter = adapter_of(self.stored)
        if (why := self.why_no_kind(str(item["kind"]))) is not None:
            return why
        try:
            kind, value = normal_id(adapter, str(item["kind"]), str(item["value"]))
        except ProviderError as error:
            return error.message
        sent_at = item.get("sent_at") or self.stored.now
        valid_until = item.get("valid_until") or sent_at + effective.validity(self.stored)
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
            for spec in adapter.plan_ids(self._account(), [due], self.stored.now.date()):
                adapter.request(self._account(), Fetch(spec=spec, ids={due.key: due}), self.stored.now)
        except ProviderError as error:
            return error.message
        return None

    def why_no_kind(self, kind: str) -> str | None:
        """Which kinds of ids the account's provider has; None where this is one of them."""
        record = record_of(self.stored)
        known = (*record.id_kinds, *self._attaching())
        if plain(kind) in known:
            return None
        return f"kind must be one of: {', '.join(known)}" if known else f"{record.title} needs no registered ids"

    def _attaching(self) -> tuple[str, ...]:
        return tuple(record_of(self.stored).reference_kinds) if self.references else ()

    def _account(self) -> Account:
        """The account with nothing in the place of its credentials: the request made with them is thrown away."""
        names = {name for names in record_of(self.stored).credentials for name in names}
        return replace(account_without_credentials(self.stored), credentials=dict.fromkeys(names, "none"))
