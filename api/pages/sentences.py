"""A delivery summarised in one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ulak.api.pages.rendering import Show
from ulak.models.lookups import Statement
from ulak.models.meanings import Outcome, outcome_of
from ulak.models.vocabulary import Granularity, Source, Status
from ulak.providers.registry import ADAPTERS
from ulak.workers.audit_recording import Row


def title_of(provider: str) -> str:
    """The provider as people write it."""
    adapter = ADAPTERS.get(provider)
    return provider if adapter is None else adapter.record.title


@dataclass(frozen=True, slots=True)
class Sentences:
    """In one language."""

    show: Show

    def of(self, row: Row, statements: Sequence[Statement] = ()) -> Markup:
        """The sentence about this row, whose number is shown as the row has it. `statements`: the greatest first."""
        values = self._values(row)
        if row["granularity"] == Granularity.ORDER:
            return self._sentence("order", values | self._counts(row))
        if row["granularity"] == Granularity.CONVERSATION:
            return self._sentence("conversation", values | {"many": row["total"] or 0})
        return self._sentence(*self._of_message(row, values, statements))

    def _of_message(self, row: Row, values: dict[str, Any], statements: Sequence[Statement]) -> tuple[str, Any]:
        status, outcome = Status(row["status"]), outcome_of(Status(row["status"]))
        if outcome is Outcome.DELIVERED:
            return self._delivered(row), values
        if outcome is Outcome.FAILED:
            is_explained = row["reason"] not in {None, "other"}
            return ("failed" if is_explained else "failed_unexplained"), values
        if status is Status.UNREPORTED or (statements and statements[0].observation.source == Source.OURS):
            return "unreported", values
        known = {Status.SENT: "sent", Status.SCHEDULED: "scheduled", Status.UNKNOWN: "unknown"}
        return known.get(status, "enroute"), values

    def _delivered(self, row: Row) -> str:
        if row["done_at"] is None:
            return "delivered_sometime"
        is_timed = row["sent_at"] is not None and row["done_at"] >= row["sent_at"]
        return "delivered" if is_timed else "delivered_at"

    def _values(self, row: Row) -> dict[str, Any]:
        account = row["account_id"]
        done, sent = row["done_at"], row["sent_at"]
        reason = row["reason"]
        return {
            "who": Markup("<strong>{}</strong>").format(row["recipient"] or "–"),
            "provider": title_of(row["provider"]),
            "when": self.show.moment(done or row["changed_at"], account),
            "seen": self.show.moment(row["first_seen_at"], account),
            "sent": self.show.moment(row["message_time"] or row["first_seen_at"], account),
            "span": self.show.span((done - sent).total_seconds()) if done and sent and done >= sent else "",
            "reason": self.show.language.word("reason", reason) if reason else "",
            "status": self.show.language.word("status", row["status"]),
            "code": row["provider_status"],
        }

    def _counts(self, row: Row) -> dict[str, int]:
        total, delivered, failed = (row[name] or 0 for name in ("total", "delivered", "undelivered"))
        waiting = row["waiting"]
        pending = max(total - delivered - failed, 0) if waiting is None else waiting
        return {"total": total, "delivered": delivered, "failed": failed, "pending": pending}

    def _sentence(self, key: str, values: dict[str, Any]) -> Markup:
        return self.show.language.html(f"sentence.{key}", **values)
