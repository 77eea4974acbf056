"""Accounts: how they stand, paused and resumed."""

from dataclasses import asdict
from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Path
from pydantic import BaseModel, Field
from sqlalchemy import Connection

from ulak.api.authorization import NEEDS_OPERATE, NEEDS_READ, Who
from ulak.api.dependencies import Deps
from ulak.api.fields import AccountId, Given, Moment, Text
from ulak.api.problems import documented, unknown_account, wrong_fields
from ulak.core.logging import get_logger
from ulak.core.redaction import redact_text
from ulak.models.access import Role
from ulak.models.account import UnknownAccountError
from ulak.models.accounts import pause, resume
from ulak.models.database import transaction
from ulak.models.events import Action, record
from ulak.models.ledger.ending import database_now
from ulak.models.overview import AccountOverview, overview
from ulak.tasks.messages import dispatch_account

log = get_logger(__name__)

router = APIRouter(tags=["accounts"])
OneAccount = Annotated[AccountId, Path()]


class AccountLimit(BaseModel):
    """What is never exceeded."""

    requests: int
    per_seconds: float
    concurrency: int
    busy: Annotated[int, Field(description="Of `requests`, how many are taken now.")]


class RejectedRequests(BaseModel):
    """Requests (callbacks, handed-over replies) that were rejected for one reason."""

    kind: str
    sentence: str
    times: int
    first_at: datetime
    last_at: datetime


class BurningBudget(BaseModel):
    """A rule that holds: the error budget is spent too fast."""

    factor: Annotated[float, Field(description="At least so many times as fast as allowed.")]
    window: Annotated[str, Field(description="1h, 6h or 3d.")]
    window_seconds: float
    late_percent: Annotated[float, Field(description="Of what became final within the window.")]
    is_urgent: bool


class AccountObjective(BaseModel):
    """How an account meets its objective."""

    text: Annotated[str, Field(description="As written in accounts.toml.", examples=["95 % within 60 s"])]
    percent: float
    seconds: float
    finals: Annotated[float, Field(description="Deliveries that became final within three days.")]
    good_percent: Annotated[
        float | None, Field(description="Of these, how many were known in time; null where there were none.")
    ]
    budget_left: Annotated[
        float | None, Field(description="Part of the error budget of three days; negative where more was spent.")
    ]
    burn_rates: Annotated[
        dict[str, float],
        Field(description="How many times as fast as allowed the budget is spent: 5m, 30m, 1h, 6h, 3d."),
    ]
    burning: list[BurningBudget]


class AnnouncedRemoval(BaseModel):
    """What `keep_days` is going to remove."""

    starts_at: datetime
    before: Annotated[datetime, Field(description="Deliveries that were sent before (`message_time`) are removed.")]
    deliveries: Annotated[
        int, Field(description="How many these are, orders and conversation-days included, by whole local days.")
    ]


class Account(BaseModel):
    """The state of one account."""

    id: str
    provider: str
    enabled: bool
    state: Annotated[str, Field(description="ok, throttled, breaker open, paused, disabled")]
    reason: str | None
    until: Annotated[
        datetime | None, Field(description="When the state ends; of an automatic pause, the time of the next attempt.")
    ]
    paused_by: Annotated[
        str | None,
        Field(description="operator (until its time or a resume), automatic (probed at `until`), or null."),
    ]
    as_of: datetime
    limit: AccountLimit
    open_deliveries: int
    final_deliveries: int
    open_tracked: int
    oldest_unanswered: datetime | None
    freshness_seconds: Annotated[float | None, Field(description="Since the last call that was answered well.")]
    calls_last_minute: int
    calls_last_hour: int
    ready_fetches: int
    sending_fetches: int
    dead_fetches: int
    running_polls: int
    quarantined: int
    last_trouble: Annotated[
        str | None, Field(description="The last error of a call; null once a later call has succeeded.")
    ]
    last_trouble_at: datetime | None
    rejected: Annotated[
        list[RejectedRequests], Field(description="Requests that were rejected for it lately, by kind, latest first.")
    ] = []
    objective: AccountObjective | None = None
    keep_days: Annotated[
        int | None, Field(description="How many days deliveries are kept, by `message_time`; null: forever.")
    ] = None
    kept_from: Annotated[
        datetime | None,
        Field(description="What was sent before is removed, and not stored any more; null: everything is kept."),
    ] = None
    removal: Annotated[AnnouncedRemoval | None, Field(description="A removal that is announced and has not begun.")] = (
        None
    )


class Accounts(BaseModel):
    """All accounts by id."""

    accounts: list[Account]


class Pause(Given):
    """Why and for how long."""

    reason: Annotated[
        Text, Field(max_length=200, description="Reason shown to operators.", examples=["maintenance"])
    ] = "paused through the API"
    until: Annotated[Moment | None, Field(description="Absent: until the account is resumed.")] = None


@router.get("/accounts", dependencies=[NEEDS_READ], summary="State of every account")
def show_all(deps: Deps, who: Who) -> Accounts:
    """State, limit use, freshness and open work of every account. Counts rows: not for every second."""
    with deps.engine.connect() as connection:
        return Accounts(accounts=[_view(each) for each in overview(connection) if who.access.may(Role.READ, each.id)])


@router.post(
    "/accounts/{account}/pause",
    dependencies=[NEEDS_OPERATE],
    responses=documented(HTTPStatus.NOT_FOUND),
    summary="Ask the account nothing",
)
def pause_one(account: OneAccount, deps: Deps, who: Who, why: Pause | None = None) -> Account:
    """Takes the place of an automatic pause; an operator's pause that lasts longer already stays."""
    why = why or Pause()
    who.admit(Role.OPERATE, account)
    with transaction(deps.engine) as connection:
        if why.until is not None and why.until <= database_now(connection):
            raise wrong_fields([("body.until", "lies in the past")])
        try:
            is_changed = pause(connection, account, why.until, why.reason)
        except UnknownAccountError:
            raise unknown_account() from None
        if is_changed:
            details = {"reason": redact_text(why.reason), "until": why.until and why.until.isoformat()}
            record(connection, who.event(Action.ACCOUNT_PAUSED, account=account, details=details))
        found = _found(connection, account)
    if is_changed:
        caller = who.actor.caller
        log.warning("account.paused", account=account, caller=caller, reason=why.reason, until=why.until)
    return found


@router.post(
    "/accounts/{account}/resume",
    dependencies=[NEEDS_OPERATE],
    responses=documented(HTTPStatus.NOT_FOUND),
    summary="Ask the account again",
)
def resume_one(account: OneAccount, deps: Deps, who: Who, later: BackgroundTasks) -> Account:
    """Ends a pause, an open breaker and throttling."""
    who.admit(Role.OPERATE, account)
    with transaction(deps.engine) as connection:
        try:
            resume(connection, account)
        except UnknownAccountError:
            raise unknown_account() from None
        record(connection, who.event(Action.ACCOUNT_RESUMED, account=account))
        found = _found(connection, account)
    log.warning("account.resumed", account=account, caller=who.actor.caller)
    later.add_task(deps.send, dispatch_account(account))
    return found


def _found(connection: Connection, account: str) -> Account:
    return _view(overview(connection, account)[0])


def _view(each: AccountOverview) -> Account:
    limit = AccountLimit(
        requests=each.limit_requests,
        per_seconds=each.limit_per_seconds,
        concurrency=each.limit_concurrency,
        busy=each.busy_slots,
    )
    same = {name: value for name, value in asdict(each).items() if name in Account.model_fields}
    same["rejected"] = [asdict(rejected) | {"sentence": rejected.sentence} for rejected in each.rejected]
    return Account(**same, limit=limit)
