"""Counts of deliveries as they are shown to people and programs: over which days, rounded, and what credits are."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from sqlalchemy import Connection

from ulak.models.account import list_accounts
from ulak.models.ledger.ending import database_now
from ulak.models.statistics import By, Figures, Group, latest_day
from ulak.providers.codes import explain_credits

USUAL_DAYS: Final = 7
COUNTED: Final = ("messages", "delivered", "failed", "pending", "delivery_rate", "conflicts", "segments", "timed")
FIGURES: Final = (*COUNTED, "mean_seconds", "median_seconds", "p95_seconds", "credits")


def days_of(connection: Connection, first: date | None, last: date | None) -> tuple[date, date]:
    """The first and the last day, both inclusive; by default the last seven, wherever the day begins first."""
    last = last or latest_day(database_now(connection))
    return first or last - timedelta(days=USUAL_DAYS - 1), last


@dataclass(frozen=True, slots=True, kw_only=True)
class Credits:
    """What credits are in a scope of accounts."""

    providers: Mapping[str, str]
    """Of each account."""
    meanings: Mapping[str, str]
    """By provider; without those that report no credits."""

    def may_be_added(self, account: str | None) -> bool:
        """Whether a sum of credits means something: of one account, or (None) of the whole scope."""
        return len(self.meanings) == 1 if account is None else self.providers.get(account) in self.meanings


def credits_of(connection: Connection, accounts: Collection[str] | None) -> Credits:
    """Of these accounts, or all."""
    providers = {
        record.id: record.provider for record in list_accounts(connection) if accounts is None or record.id in accounts
    }
    return Credits(providers=providers, meanings=explain_credits(providers.values()))


def figures_of(figures: Figures, priced: Credits, account: str | None = None) -> dict[str, Any]:
    """`FIGURES` by name. Seconds are rounded to a tenth: the bounds that are counted allow no more."""
    return {name: getattr(figures, name) for name in COUNTED} | {
        "mean_seconds": _rounded(figures.mean_seconds),
        "median_seconds": _rounded(figures.quantile_seconds(0.5)),
        "p95_seconds": _rounded(figures.quantile_seconds(0.95)),
        "credits": float(figures.credits) if priced.may_be_added(account) else None,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def group_of(each: Group, priced: Credits) -> dict[str, Any]:
    """What a group is, by the words of `By`, and its figures."""
    names = {by.value: each.account_id if by is By.ACCOUNT else getattr(each, by.value) for by in By}
    return names | figures_of(each.figures, priced, each.account_id)
