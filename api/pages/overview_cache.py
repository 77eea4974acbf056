"""The overview, refreshed at most every few seconds however many people watch: counting a big table is not free."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock

from sqlalchemy import Connection, Engine, text

from ulak.api.pages.alarms import STALLED_SECONDS, Alarm, find_alarms
from ulak.api.pages.formats import local_day
from ulak.core import clock
from ulak.models.account import AccountState, list_accounts
from ulak.models.backlog import read_backlog
from ulak.models.overview import AccountOverview, overview
from ulak.models.results import AccountResults, results_by_account
from ulak.models.snapshot import read_work
from ulak.models.transport import transport_fault

CACHE_SECONDS = 2.0
SHARE_OF_TIME = 10.0
"""A look lasts so many times as long as it took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one look found."""

    as_of: datetime
    accounts: Sequence[AccountOverview]
    alarms: Sequence[Alarm]
    results: Mapping[str, AccountResults] = field(default_factory=dict)
    """What became of each account's messages."""

    def account(self, account_id: str) -> AccountOverview | None:
        """The one account."""
        return next((each for each in self.accounts if each.id == account_id), None)


@dataclass(slots=True)
class OverviewCache:
    """Looks, and remembers what it saw for a moment. For any number of threads."""

    engine: Engine
    every_seconds: Mapping[str, float]
    """By provider, unless an account overrides it."""
    short_secrets: Callable[[Connection], Sequence[str]] = lambda _: ()
    """Names of secrets of ours that are too short."""
    receiver_faults: Sequence[str] = ()
    """What is wrong with the settings of those who are notified, since the process began."""
    _lock: Lock = field(default_factory=Lock, repr=False)
    _zones_lock: Lock = field(default_factory=Lock, repr=False)
    """Apart from that of looks: every page needs the zones, and a look at a big table can take long."""
    _last: Snapshot | None = None
    _valid_until: float = 0.0
    _zones: Mapping[str, str] = field(default_factory=dict)
    _zones_valid_until: float = 0.0
    _rested: dict[str, float] = field(default_factory=dict)
    """When each account was last seen resting, by the boot clock."""

    def look(self) -> Snapshot:
        """The current snapshot. Concurrent callers wait for a refresh in progress."""
        with self._lock:
            began = clock.boot()
            if self._last is None or began >= self._valid_until:
                self._last = self._see()
                ended = clock.boot()
                self._valid_until = ended + max(CACHE_SECONDS, (ended - began) * SHARE_OF_TIME)
            return self._last

    def zones(self) -> Mapping[str, str]:
        """The time zone of each account. Does not wait for a look."""
        with self._zones_lock:
            now = clock.boot()
            if now >= self._zones_valid_until:
                with self.engine.connect() as connection:
                    self._zones = {each.id: each.timezone for each in list_accounts(connection)}
                self._zones_valid_until = now + CACHE_SECONDS
            return self._zones

    def forget(self) -> None:
        """Refresh at the next call: a user has just changed something and expects to see it."""
        self._valid_until = 0.0

    def _note_rest(self, accounts: Sequence[AccountOverview]) -> set[str]:
        """The accounts that rest, or did so within the time in which work is expected to begin."""
        now = clock.boot()
        self._rested |= {account.id: now for account in accounts if account.state is not AccountState.OK}
        return {account for account, seen in self._rested.items() if now - seen < STALLED_SECONDS}

    def _see(self) -> Snapshot:
        with self.engine.connect() as connection:
            work = read_work(connection)
            accounts = overview(connection, work=work)
            zones = {each.id: each.timezone for each in list_accounts(connection)}
            found = find_alarms(
                accounts,
                read_backlog(connection, work),
                self.every_seconds,
                self._note_rest(accounts),
                transport=transport_fault(connection),
                short_secrets=self.short_secrets(connection),
                receiver_faults=self.receiver_faults,
            )
            today = {each.id: local_day(each.as_of, zones[each.id]) for each in accounts if each.id in zones}
            results = results_by_account(connection, accounts[0].as_of, today) if accounts else {}
            as_of = accounts[0].as_of if accounts else connection.execute(text("SELECT now()")).scalar_one()
        return Snapshot(as_of=as_of, accounts=accounts, alarms=found, results=results)
