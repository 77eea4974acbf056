"""Accounts as a whole: applied from a file as a whole, paused and resumed by people and by trouble."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError

from ulak.models.account import (
    FOREVER,
    AccountSettings,
    PausedBy,
    StoredAccount,
    UnknownAccountError,
    list_accounts,
    lock,
)
from ulak.models.ledger.opening import cancel
from ulak.models.pseudonyms import check_key, key_check
from ulak.models.suppression import Suppressions
from ulak.models.tables import accounts, polls
from ulak.models.vocabulary import Recipients

_WHY_FIXED = {
    Recipients.HASHED: "its rows and their history are named by clear numbers already.",
    Recipients.CLEAR: "its rows are named by hashes, from which no number can be made again.",
}
"""Why an account cannot take this form later."""
_LOCK = 0x756C6163  # one advisory lock for all who apply a file


_NOW = func.clock_timestamp()
_RESUMED: Mapping[str, Any] = {
    "paused_until": None,
    "pause_reason": None,
    "paused_by": None,
    "refusals": 0,
    "pause_changed_at": _NOW,
    "breaker_state": "closed",
    "breaker_trips": 0,
    "breaker_until": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What applying a file did, as ids in order.

    `missing`: not in the file, kept running; `disabled`: pruned; `rezoned`: changed, with another time zone. The counts
    of these are to be moved to other days after the commit (`ulak.models.statistics_upkeep.recount_rezoned`).
    """

    created: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    disabled: list[str] = field(default_factory=list)
    rezoned: list[str] = field(default_factory=list)


class AccountsRefusedError(Exception):
    """The file is right in itself but clashes with the stored accounts; nothing was changed.

    `sentences`: one per clash, safe to show.
    """

    def __init__(self, sentences: Sequence[str]) -> None:
        """`sentences`: at least one."""
        super().__init__(" ".join(sentences))
        self.sentences = tuple(sentences)


def apply(
    connection: Connection,
    specs: Iterable[AccountSettings],
    *,
    prune: bool,
    person_key: Callable[[], bytes] | None = None,
) -> Applied:
    """Make the stored accounts equal to `specs`, all or (with `AccountsRefusedError`) none.

    An account that is not among `specs` keeps running and is listed as missing; `prune` disables it. What an account
    has learned, its pause, breaker and watermark stay, except that new credentials or a new address end an automatic
    pause. Processes that apply at the same time take turns.

    `person_key` gives the key of new accounts with hashed recipients (`ulak.core.credentials.CredentialError` where
    there is none); without it they are refused.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    wanted = {spec.id: spec for spec in specs}
    stored = {record.id: record for record in list_accounts(connection, lock=True)}
    absent = [record for record in stored.values() if record.id not in wanted and record.enabled]
    _refuse_clashes(wanted, stored, [] if prune else absent)
    _refuse_zones(connection, wanted, stored)
    result = Applied()
    if prune:
        result.disabled.extend(record.id for record in absent)
        _disable(connection, result.disabled)
    else:
        result.missing.extend(record.id for record in absent)
    for spec in wanted.values():
        old = stored.get(spec.id)
        kind = result.created if old is None else result.unchanged if _settings(old) == spec else result.changed
        kind.append(spec.id)
        if old is not None and old.timezone != spec.timezone:
            result.rezoned.append(spec.id)
    # Two accounts may swap their credentials: all that change step aside before any takes its new place.
    _disable(connection, result.changed)
    for account_id in result.created + result.changed:
        spec, old = wanted[account_id], stored.get(account_id)
        if old is None and spec.recipients == Recipients.HASHED:
            if person_key is None:
                raise AccountsRefusedError([f"Account {account_id} has hashed recipients, and there is no person key."])
            _store(connection, spec, old, _check_of(connection, stored.values(), person_key()))
        else:
            _store(connection, spec, old)
    _end_polls(connection, result.disabled + [spec.id for spec in wanted.values() if not spec.enabled])
    return result


def pause(connection: Connection, account_id: str, until: datetime | None, reason: str) -> bool:
    """Pause the account on an operator's order until `until`, or (None) until resumed; whether that changed anything.

    It takes the place of an automatic pause; a longer pause of an operator stays. `reason` is shown to people.
    `UnknownAccountError` where there is no such account.
    """
    stored = lock(connection, account_id)
    changes = stored.pause_changes(until or FOREVER, reason, PausedBy.OPERATOR)
    if changes:
        connection.execute(update(accounts).where(accounts.c.id == account_id).values(changes))
    return bool(changes)


def resume(connection: Connection, account_id: str) -> None:
    """End pause, open breaker and throttling at once. `UnknownAccountError` where there is no account."""
    changed = connection.execute(
        update(accounts)
        .where(accounts.c.id == account_id)
        .values(**_RESUMED, breaker_failures=0, throttles=0, not_before=None)
    )
    if changed.rowcount == 0:
        raise UnknownAccountError(account_id)


def _refuse_clashes(
    wanted: Mapping[str, AccountSettings], stored: Mapping[str, StoredAccount], running: Sequence[StoredAccount]
) -> None:
    """Refuse an id that changes its provider, and credentials that a running account outside the file holds."""
    sentences = [
        f"Account {spec.id} belongs to {stored[spec.id].provider}, and an id is never reused: give the account of "
        f"{spec.provider} an id of its own."
        for spec in wanted.values()
        if spec.id in stored and stored[spec.id].provider != spec.provider
    ]
    sentences += [
        f'Account {spec.id} was created with recipients = "{stored[spec.id].recipients}", which is fixed: '
        f"{_WHY_FIXED[Recipients(spec.recipients)]} Give an account with the other form an id of its own."
        for spec in wanted.values()
        if spec.id in stored and stored[spec.id].recipients != spec.recipients
    ]
    holders = {(record.provider, record.credentials_hash): record.id for record in running}
    sentences += [
        f"Account {spec.id} has the credentials of {holder}, which is not in the file and still runs; together they "
        f"would double the limit: apply with --prune, or keep one of the two."
        for spec in wanted.values()
        if spec.enabled and (holder := holders.get((spec.provider, spec.credentials_hash))) is not None
    ]
    if sentences:
        raise AccountsRefusedError(sentences)


def _refuse_zones(
    connection: Connection, wanted: Mapping[str, AccountSettings], stored: Mapping[str, StoredAccount]
) -> None:
    """Refuse a zone that PostgreSQL does not know: the statistics could not store any write of the account."""
    known = {record.timezone for record in stored.values()}
    sentences = [
        f"Account {spec.id}: this PostgreSQL does not know the time zone {spec.timezone}, since its zone files are "
        f"older than Ulak's. Update them, or name a zone with the same rules that it knows."
        for spec in wanted.values()
        if spec.timezone not in known and not _is_zone(connection, spec.timezone)
    ]
    if sentences:
        raise AccountsRefusedError(sentences)


def _is_zone(connection: Connection, name: str) -> bool:
    try:
        with connection.begin_nested():
            connection.execute(text("SELECT now() AT TIME ZONE :name"), {"name": name})
    except DataError:
        return False
    return True


def _check_of(connection: Connection, stored: Iterable[StoredAccount], key: bytes) -> bytes:
    """The check of this key, which must be that of all other accounts and of the list of erased people.

    Raises `ulak.core.credentials.CredentialError`: a key that was generated a moment ago, in the home of a process that
    has not been given the right one, would keep every other process from the account.
    """
    for record in stored:
        if record.recipients_key is not None:
            check_key(key, bytes(record.recipients_key))
    Suppressions(lambda: key).current(connection)
    return key_check(key)


def _store(
    connection: Connection, spec: AccountSettings, old: StoredAccount | None, recipients_key: bytes | None = None
) -> None:
    """Write the settings of one account, new or known."""
    values = asdict(spec)
    if recipients_key is not None:
        values["recipients_key"] = recipients_key
    if old is not None and _is_elsewhere(spec, old):
        values |= _RESUMED
    statement = insert(accounts).values(values)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[accounts.c.id], set_={name: value for name, value in values.items() if name != "id"}
        )
    )


def _is_elsewhere(spec: AccountSettings, old: StoredAccount) -> bool:
    """Whether an automatic pause was about credentials, an address or a route to it that are no more."""
    route_differs = (spec.ca_file, spec.proxy) != (old.ca_file, old.proxy)
    return old.paused_by == PausedBy.AUTOMATIC and (spec.credentials_hash != old.credentials_hash or route_differs)


def _disable(connection: Connection, ids: Sequence[str]) -> None:
    """Switch accounts off."""
    if ids:
        connection.execute(update(accounts).where(accounts.c.id.in_(ids)).values(enabled=False))


def _end_polls(connection: Connection, ids: Sequence[str]) -> None:
    """Cancel what runs over accounts that are switched off: nobody would ever make those fetches."""
    running = select(polls.c.id).where(polls.c.account_id.in_(ids), polls.c.state == "running").order_by(polls.c.id)
    for poll_id in connection.execute(running).scalars().all() if ids else ():
        cancel(connection, poll_id)


def _settings(stored: StoredAccount) -> AccountSettings:
    """The part of a stored account that the file decides."""
    return AccountSettings(**{each.name: getattr(stored, each.name) for each in fields(AccountSettings)})
