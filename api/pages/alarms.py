"""What is late or broken, and what to do about it: a pure function of how the accounts stand and what waits."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ulak.models.account import AccountState, PausedBy
from ulak.models.backlog import Backlog
from ulak.models.overview import AccountOverview

STALLED_SECONDS = 60.0
"""Work that has waited this long, with room in the limit and no call meanwhile, means that polling has stalled."""
BEHIND_SECONDS = 600.0
FRUITLESS_SECONDS = 900.0

Severity = Literal["bad", "held", "warn"]
_ORDER = {"bad": 0, "held": 1, "warn": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One thing that a person should know. `kind` names its text (`alarm.<kind>`), `fix` the one of what to do."""

    kind: str
    severity: Severity
    values: Mapping[str, Any] = field(default_factory=dict)
    """What the text names; times as `datetime`."""
    account: str | None = None
    """The account whose page has details."""
    shared: Mapping[str, datetime] = field(default_factory=dict)
    """Where several accounts share the cause: each, with since when."""
    fix: str = ""
    can_resume: bool = False

    def __post_init__(self) -> None:
        """The advice of a kind is its own unless another one's is named."""
        if not self.fix:
            object.__setattr__(self, "fix", self.kind)


_NO_ACCOUNTS = Alarm(kind="no_accounts", severity="bad")


def find_alarms(
    accounts: Sequence[AccountOverview],
    waiting: Mapping[str, Backlog],
    every_seconds: Mapping[str, float],
    rested: Collection[str] = (),
    *,
    transport: str | None = None,
    short_secrets: Sequence[str] = (),
    receiver_faults: Sequence[str] = (),
) -> list[Alarm]:
    """Everything that is wrong, the broken before what is on hold before the late, each in the order of the accounts.

    `every_seconds`: by provider, for accounts without their own interval. `rested`: accounts that were blocked
    a moment ago, so that their waiting work is not stalled. `transport`: the result of `ulak.models.transport`.
    `short_secrets`: names of secrets of ours that are short. `receiver_faults`: what is wrong with the
    settings of those who are notified.
    """
    whole = list(_whole(transport, short_secrets, receiver_faults))
    enabled = [account for account in accounts if account.enabled]
    if not enabled:
        return [_NO_ACCOUNTS, *whole]
    found = [*whole, *_stalled([account for account in enabled if account.id not in rested], waiting, every_seconds)]
    for account in enabled:
        found += _state(account)
        found += _leftovers(account)
        found += _lateness(account, waiting.get(account.id))
        found += _burning(account)
    for account in accounts:
        found += _removal(account)
    return sorted(found, key=lambda alarm: _ORDER[alarm.severity])


def alarms_of(accounts: Sequence[AccountOverview], alarms: Sequence[Alarm]) -> list[Alarm]:
    """The alarms of these accounts only, for a viewer limited to them. None of them names another account."""
    if not any(account.enabled for account in accounts):
        return [_NO_ACCOUNTS]
    known = {account.id for account in accounts}
    found = []
    for alarm in alarms:
        shared = {account: since for account, since in alarm.shared.items() if account in known}
        if shared:
            found.append(_stalled_since(shared))
        elif alarm.account in known:
            found.append(alarm)
    return found


def _whole(transport: str | None, short_secrets: Sequence[str], receiver_faults: Sequence[str]) -> Iterator[Alarm]:
    """What concerns no account in particular."""
    if transport:
        yield Alarm(kind=f"database_{transport}", severity="warn", fix="database_transport")
    if receiver_faults:
        yield Alarm(kind="receivers_unusable", severity="bad", values={"reason": "; ".join(receiver_faults)})
    if short_secrets:
        yield Alarm(kind="short_secrets", severity="warn", values={"names": ", ".join(short_secrets)})


def _stalled(
    accounts: Sequence[AccountOverview], waiting: Mapping[str, Backlog], every_seconds: Mapping[str, float]
) -> Iterator[Alarm]:
    """One alarm for all stalled accounts: they share the cause."""
    since = {
        account.id: moment
        for account in accounts
        if account.id in waiting
        and (moment := _idle_since(account, waiting[account.id], every_seconds.get(account.provider)))
    }
    if since:
        yield _stalled_since(since)


def _stalled_since(since: Mapping[str, datetime]) -> Alarm:
    values = {"accounts": ", ".join(since), "since": min(since.values())}
    return Alarm(kind="stalled", severity="bad", values=values, shared=since)


def _idle_since(account: AccountOverview, waits: Backlog, provider_every: float | None) -> datetime | None:
    """Since when a request has been due; None if the account is blocked, being polled, or has nothing due."""
    since = waits.stalled_since(provider_every) if account.state is AccountState.OK else None
    return since if since is not None and _age(account, since) > STALLED_SECONDS else None


def _state(account: AccountOverview) -> Iterator[Alarm]:
    """Why an account is not polled, or polled without success."""
    named = {"account": account.id, "reason": account.reason or "–"}
    match account.state:
        case AccountState.PAUSED if account.until is None:
            yield Alarm(kind="paused", severity="held", values=named, account=account.id, can_resume=True)
        case AccountState.PAUSED if account.paused_by == PausedBy.AUTOMATIC:
            values = named | {"since": account.last_trouble_at, "until": account.until}
            yield Alarm(kind="resting", severity="bad", values=values, account=account.id, can_resume=True)
        case AccountState.PAUSED:
            values = named | {"until": account.until}
            yield Alarm(
                kind="paused_until", severity="held", values=values, account=account.id, fix="paused", can_resume=True
            )
        case AccountState.BREAKER_OPEN if _is_ahead(account) and account.last_trouble_at is not None:
            values = named | {"since": account.last_trouble_at, "until": account.until}
            yield Alarm(kind="breaker", severity="bad", values=values, account=account.id, can_resume=True)
        case AccountState.BREAKER_OPEN:
            yield Alarm(
                kind="probing", severity="bad", values=named, account=account.id, fix="breaker", can_resume=True
            )
        case AccountState.THROTTLED:
            values = named | {"until": account.until}
            yield Alarm(kind="throttled", severity="held", values=values, account=account.id)
        case AccountState.OK:
            yield from _fruitless(account)


def _fruitless(account: AccountOverview) -> Iterator[Alarm]:
    """Asked, and no good answer for a while."""
    trouble = account.last_trouble_at
    if account.calls_last_hour == 0 or trouble is None:
        return
    values: dict[str, Any] = {"account": account.id, "reason": account.last_trouble}
    fix = "bug" if (account.last_trouble or "").startswith("OurBug") else "fruitless"
    if account.freshness_seconds is None:
        yield Alarm(kind="fruitless_ever", severity="bad", values=values, account=account.id, fix=fix)
    elif account.freshness_seconds > FRUITLESS_SECONDS and _age(account, trouble) < account.freshness_seconds:
        values["span"] = account.freshness_seconds
        yield Alarm(kind="fruitless", severity="bad", values=values, account=account.id, fix=fix)


def _leftovers(account: AccountOverview) -> Iterator[Alarm]:
    """What was given up or not understood, and waits for a person."""
    counts: tuple[tuple[str, Severity, int], ...] = (
        ("dead", "bad", account.dead_fetches),
        ("quarantine", "warn", account.quarantined),
    )
    for kind, severity, many in counts:
        if many:
            yield Alarm(kind=kind, severity=severity, values={"account": account.id, "n": many}, account=account.id)


def _lateness(account: AccountOverview, waits: Backlog | None) -> Iterator[Alarm]:
    """What is late against its validity, or against the policy because the limit is too small."""
    if waits is None:
        return
    if waits.late_ids:
        values: dict[str, Any] = {"account": account.id, "n": waits.late_ids, "since": waits.late_ids_since}
        yield Alarm(kind="late_ids", severity="warn", values=values, account=account.id)
    if waits.late_deliveries:
        values = {"account": account.id, "n": waits.late_deliveries}
        yield Alarm(kind="late_deliveries", severity="warn", values=values, account=account.id)
    due = waits.work.due_since
    is_asked = account.state is AccountState.OK and account.calls_last_minute > 0
    if is_asked and due is not None and _age(account, due) > BEHIND_SECONDS:
        values = {"account": account.id, "since": due}
        yield Alarm(kind="behind", severity="warn", values=values, account=account.id)


def _burning(account: AccountOverview) -> Iterator[Alarm]:
    """The alarm for an objective whose error budget burns too fast."""
    objective = account.objective
    for each in objective.burning if objective is not None else ():
        values = {
            "account": account.id,
            "text": objective.text if objective is not None else "",
            "percent": f"{each.late_percent:.1f}",
            "span": each.window_seconds,
        }
        yield Alarm(
            kind="burning" if each.is_urgent else "burning_slowly",
            severity="bad" if each.is_urgent else "warn",
            values=values,
            account=account.id,
            fix="burning",
        )


def _removal(account: AccountOverview) -> Iterator[Alarm]:
    """That deliveries are going to be removed."""
    coming = account.removal
    if coming is not None and coming.deliveries:
        values = {
            "account": account.id,
            "n": coming.deliveries,
            "day": coming.before.date().isoformat(),
            "at": coming.starts_at,
        }
        yield Alarm(kind="removal", severity="warn", values=values, account=account.id)


def _is_ahead(account: AccountOverview) -> bool:
    return account.until is not None and account.until > account.as_of


def _age(account: AccountOverview, moment: datetime) -> float:
    return (account.as_of - moment).total_seconds()
