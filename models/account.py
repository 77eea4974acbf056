"""One account: what is configured, how it stands, and whether it may be polled. The one place that reads its row."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection

from ulak.models.database import Record, execute_named
from ulak.models.permit import DEFAULT_DEADLINE_SECONDS, MAX_DEADLINE_SECONDS
from ulak.models.vocabulary import Recipients

FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
"""`paused_until` of a pause that only a person ends."""

BLOCKED_UNTIL = """
    greatest(a.paused_until, a.not_before, CASE WHEN a.breaker_state <> 'closed' THEN a.breaker_until END)
"""
"""SQL: until when the account `a` is blocked, as `StoredAccount.blocked_until`; may lie in the past."""
IS_PAUSED = "coalesce(a.paused_until > statement_timestamp(), false)"
"""SQL: `StoredAccount.is_paused` of the account `a`."""
IS_ADAPTIVE = "coalesce(CAST(a.poll ->> 'adaptive' AS boolean), true)"
"""SQL: `AccountSettings.is_adaptive` of the account `a`."""
TIME_FACTOR = "coalesce(CAST(a.poll ->> 'time_factor' AS double precision), 1)"
"""SQL: `AccountSettings.time_factor` of the account `a`."""


class PausedBy(StrEnum):
    """Who paused an account. Rows of the previous version do not say (`StoredAccount.pauser`)."""

    OPERATOR = "operator"
    """A person: the pause ends at its time or by `resume`, is never shortened and never probed."""
    AUTOMATIC = "automatic"
    """Refused or missing credentials: the account is probed by one call when the pause is over."""


class AccountState(StrEnum):
    """One word for what keeps an account from being polled; the strongest reason wins, in this order."""

    DISABLED = "disabled"
    PAUSED = "paused"
    BREAKER_OPEN = "breaker open"
    THROTTLED = "throttled"
    OK = "ok"


class Standing(NamedTuple):
    """The state of an account, why (safe to show), and until when (None: until an operator acts, or it is ok)."""

    state: AccountState
    reason: str | None
    until: datetime | None


class UnknownAccountError(LookupError):
    """There is no account of this id."""

    def __init__(self, account_id: str) -> None:
        """`account_id`: as it was asked for."""
        super().__init__(f"There is no account {account_id!r}: `ulak accounts list` shows the known ones.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """One account of `accounts.toml`, complete with defaults. Credentials are references, never values."""

    id: str
    provider: str
    base_url: str
    timezone: str
    credentials: Mapping[str, str]
    credentials_hash: str
    """Equal for two accounts that would share one limit at the provider."""
    limit_requests: int
    limit_per_seconds: float
    limit_concurrency: int
    retry: Mapping[str, Any]
    poll: Mapping[str, Any]
    options: Mapping[str, Any]
    ca_file: str | None = None
    """A PEM file of certificates that are trusted instead of the public ones."""
    recipients: str = Recipients.CLEAR.value
    """How whom deliveries are about is kept, as `ulak.models.vocabulary.Recipients`; never changes."""
    proxy: str | None = None
    """`http://host:port`, or a reference to an address that may hold a password."""
    objective: str | None = None
    """How fresh the account's deliveries are to be, in the form of `ulak.models.objectives`."""
    keep_days: int | None = None
    """How many days its deliveries are kept, by `message_time`; None: forever."""
    enabled: bool = True

    @property
    def calls_per_second(self) -> float:
        """What the limit allows in the long run."""
        return self.limit_requests / self.limit_per_seconds

    @property
    def time_factor(self) -> float:
        """What multiplies every wait of the poll policy."""
        return float(self.poll.get("time_factor", 1.0))

    @property
    def is_adaptive(self) -> bool:
        """Whether the account is polled by what it has learned."""
        return bool(self.poll.get("adaptive", True))

    @property
    def first_check_seconds(self) -> float | None:
        """The configured wait before an id's first check; None: the provider's."""
        return self.poll.get("first_check_seconds")

    @property
    def max_check_seconds(self) -> float | None:
        """The configured longest wait between checks; None: the provider's."""
        return self.poll.get("max_check_seconds")

    @property
    def every_seconds(self) -> float | None:
        """The configured interval of its lists; None where there is none (`ulak.models.sweep_intervals`)."""
        return self.poll.get("every_seconds")

    @property
    def deadline_seconds(self) -> float:
        """Within which a request has been answered or is given up."""
        return float(min(self.options.get("deadline_seconds") or DEFAULT_DEADLINE_SECONDS, MAX_DEADLINE_SECONDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAccount(AccountSettings):
    """One account as it stood at `now`: its settings, and all that is known of it."""

    learned: Mapping[str, Any] = field(repr=False)
    paused_until: datetime | None
    pause_reason: str | None
    paused_by: str | None
    refusals: int
    """Automatic pauses in a row; a successful response begins anew."""
    pause_changed_at: datetime | None
    """When the account was last paused or resumed: calls made before say nothing about its credentials any more."""
    breaker_state: Literal["closed", "open", "probing"]
    breaker_failures: int
    breaker_trips: int
    breaker_until: datetime | None
    throttles: int
    not_before: datetime | None
    wake_at: datetime | None
    last_asked_at: datetime | None
    planned_at: datetime | None
    closed_swept_at: datetime | None
    swept_through: date | None
    last_trouble: str | None
    last_trouble_at: datetime | None
    created_at: datetime
    crowded_at: datetime | None
    last_as_of: datetime | None
    poll_plan: Mapping[str, Any] = field(repr=False)
    """When ids are checked, by kind, where it was learned (`ulak.models.latencies`)."""
    recipients_key: bytes | None = field(repr=False)
    """Identifies the person key that hashed recipients are made with (`ulak.models.pseudonyms.key_check`)."""
    sweep_seconds: float | None
    """How often its lists are swept, where they say so (`ulak.models.sweep_intervals`)."""
    keep_days_in_force: int | None
    """This and the next three as `ulak.models.keeping.Keeping`."""
    removal_days: int | None
    removal_starts_at: datetime | None
    kept_from: datetime | None
    now: datetime = field(compare=False)
    """PostgreSQL's clock when the account was read."""

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force."""
        return self.paused_until is not None and self.paused_until > self.now

    @property
    def pauser(self) -> PausedBy:
        """Who paused an account that is paused. A row of the previous version does not say; its reason does."""
        if self.paused_by is not None:
            return PausedBy(self.paused_by)
        trouble, reason = self.last_trouble or "", self.pause_reason or ""
        is_refusal = trouble.startswith("PauseAccount: ") and reason.startswith(trouble.removeprefix("PauseAccount: "))
        return PausedBy.AUTOMATIC if is_refusal else PausedBy.OPERATOR

    @property
    def standing(self) -> Standing:
        """Whether the account may be polled, and the reason where it may not."""
        if not self.enabled:
            return Standing(AccountState.DISABLED, "switched off in the accounts file", None)
        if self.paused_until is not None and self.is_paused:
            until = self.paused_until if self.paused_until < FOREVER else None
            return Standing(AccountState.PAUSED, self.pause_reason, until)
        if self.breaker_state != "closed":
            return Standing(AccountState.BREAKER_OPEN, self.last_trouble, self.breaker_until)
        if self.not_before is not None and self.not_before > self.now:
            return Standing(AccountState.THROTTLED, self.last_trouble, self.not_before)
        return Standing(AccountState.OK, None, None)

    def blocked_until(self, now: datetime) -> datetime | None:
        """Until when pause, throttling or breaker forbid every call; None where they forbid none any more.

        An open breaker whose time has come lets one call at a time through.
        """
        breaker_until = self.breaker_until if self.breaker_state != "closed" else None
        waits = (each for each in (self.paused_until, self.not_before, breaker_until) if each is not None)
        return max((each for each in waits if each > now), default=None)

    def pause_changes(self, until: datetime, reason: str, by: PausedBy) -> dict[str, Any]:
        """Columns that change when the account is to be paused; none where the pause in force stays.

        An operator's pause is never shortened, but replaces an automatic one. An automatic pause replaces none that is
        in force.
        """
        if by is PausedBy.AUTOMATIC:
            stays = self.is_paused
        else:
            is_longer = self.paused_until is not None and self.paused_until >= until
            stays = is_longer and self.paused_by != PausedBy.AUTOMATIC
        if stays:
            return {}
        return {"paused_until": until, "pause_reason": reason, "paused_by": by, "pause_changed_at": self.now}


COLUMNS = ", ".join(f"a.{each.name}" for each in fields(StoredAccount) if each.name != "now")
_SELECT = f"SELECT {COLUMNS}, clock_timestamp() AS now FROM accounts a"
_FIND = f"{_SELECT} WHERE a.id = %(id)s"
_LIST = f"{_SELECT} ORDER BY a.id"


def locked_sql(account_id: str) -> str:
    """SQL: the account with this id (an expression), locked; a row for `stored_account`."""
    return f"{_SELECT} WHERE a.id = {account_id} FOR NO KEY UPDATE"


_LOCK = locked_sql("%(id)s")
_LOCK_UNLESS_BUSY = f"{_LOCK} SKIP LOCKED"


def stored_account(row: Record) -> StoredAccount:
    """The account of a row with `COLUMNS` and `now`."""
    return StoredAccount(**row)


def find(connection: Connection, account_id: str) -> StoredAccount | None:
    """The account; None where there is none."""
    # PostgreSQL takes no such text, and addresses of callbacks are whatever strangers write.
    return None if "\0" in account_id else _one(connection, _FIND, account_id)


def load(connection: Connection, account_id: str) -> StoredAccount:
    """The account; `UnknownAccountError` where there is none."""
    return _known(find(connection, account_id), account_id)


def lock(connection: Connection, account_id: str) -> StoredAccount:
    """The account, its row locked until the transaction ends; `UnknownAccountError` where there is none."""
    return _known(try_lock(connection, account_id, may_wait=True), account_id)


def try_lock(connection: Connection, account_id: str, *, may_wait: bool) -> StoredAccount | None:
    """As `lock`, but None where there is none, or (without `may_wait`) where another transaction holds it."""
    return _one(connection, _LOCK if may_wait else _LOCK_UNLESS_BUSY, account_id)


def list_accounts(connection: Connection, *, lock: bool = False) -> list[StoredAccount]:
    """All accounts by id; with `lock`, their rows are held until the transaction ends."""
    statement = f"{_LIST} FOR NO KEY UPDATE" if lock else _LIST
    return [stored_account(row) for row in execute_named(connection, statement)]


def _one(connection: Connection, statement: str, account_id: str) -> StoredAccount | None:
    row = execute_named(connection, statement, {"id": account_id}).fetchone()
    return None if row is None else stored_account(row)


def _known(account: StoredAccount | None, account_id: str) -> StoredAccount:
    if account is None:
        raise UnknownAccountError(account_id)
    return account
