"""What tests about retention share: an account that does not keep everything, and the clock moved on."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from database_fixtures import add_account
from driving import make_runtime
from sqlalchemy import Engine, text

from ulak.models.database import transaction
from ulak.models.deliveries import UpsertResult, upsert
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status
from ulak.tasks.effects import Effects
from ulak.tasks.steps.retention import retain

NOW = datetime.now(UTC)
OLD, YOUNG = NOW - timedelta(days=40), NOW - timedelta(days=2)
KEEP_DAYS = 30


def said(key: str, **fields: Any) -> DeliveryReport:
    """A statement about one message."""
    values: dict[str, Any] = {
        "granularity": Granularity.MESSAGE,
        "status": Status.DELIVERED,
        "provider_status": "1",
        "recipient": "+905321112233",
    }
    return DeliveryReport(**{**values, "provider_key": key, **fields})


def order(key: str, sent_at: datetime | None, **fields: Any) -> DeliveryReport:
    """A statement about one order."""
    return said(key, granularity=Granularity.ORDER, sent_at=sent_at, recipient=None, total=2, delivered=2, **fields)


class World:
    """An account, and the upkeep that looks after it."""

    def __init__(self, engine: Engine, account: str = "brand", keep_days: int | None = KEEP_DAYS) -> None:
        self.engine, self.account = engine, account
        with transaction(engine) as connection:
            add_account(connection, account)
        self.configure(keep_days)
        self.runtime = make_runtime(engine)

    def configure(self, keep_days: int | None) -> None:
        """As `ulak accounts apply` does it."""
        self.execute("UPDATE accounts SET keep_days = :days WHERE id = :account", days=keep_days)

    def execute(self, statement: str, **values: Any) -> None:
        """In a transaction of its own."""
        with transaction(self.engine) as connection:
            connection.execute(text(statement), {"account": self.account, **values})

    def rows(self, statement: str) -> list[Any]:
        """What a query finds."""
        with self.engine.connect() as connection:
            return list(connection.execute(text(statement), {"account": self.account}))

    def store(self, *reports: DeliveryReport) -> UpsertResult:
        """In a transaction of its own, asked for now."""
        with transaction(self.engine) as connection:
            return upsert(connection, self.account, "vairo", reports, asked_at=datetime.now(UTC))

    def stored(self) -> list[str]:
        """Keys of what is stored."""
        return [
            key
            for (key,) in self.rows(
                "SELECT provider_key FROM delivery_status WHERE account_id = :account ORDER BY provider_key"
            )
        ]

    def upkeep(self) -> list[str]:
        """A minute's turn; the events that it logs."""
        effects = Effects()
        retain(self.runtime, effects)
        return [event for _, event, _ in effects.lines]

    def a_day_later(self) -> None:
        """The clock is moved, as far as an announced removal goes."""
        self.execute("UPDATE accounts SET removal_starts_at = removal_starts_at - interval '1 day' WHERE id = :account")

    def begin(self) -> None:
        """The notice is over, and what is old is removed."""
        self.upkeep()
        self.a_day_later()
        self.upkeep()

    def events(self) -> list[tuple[str, Mapping[str, Any]]]:
        """What was recorded."""
        return [(action, details) for action, details in self.rows("SELECT action, details FROM events ORDER BY id")]
