"""Accounts: how they stand, paused and resumed."""

from dataclasses import asdict
from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Path, Request
from pydantic import BaseModel, Field
from sqlalchemy import Connection

from core.logging import get_logger
from models.accounts import UnknownAccountError, pause, resume
from models.database import transaction
from models.ledger.finishing import database_now
from models.overview import AccountOverview, overview
from tasks.messages import dispatch_account
from workers.api.fields import AccountId, Given, Moment, Text
from workers.api.means import Have
from workers.api.problems import ProblemError, documented, wrong_fields

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


class Account(BaseModel):
    """How one account stands."""

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


class Accounts(BaseModel):
    """All accounts by id."""

    accounts: list[Account]


class Pause(Given):
    """Why and for how long."""

    reason: Annotated[Text, Field(max_length=200, description="What people are told.", examples=["maintenance"])] = (
        "paused through the API"
    )
    until: Annotated[Moment | None, Field(description="Absent: until somebody resumes it.")] = None


@router.get("/accounts", summary="How every account stands")
def show_all(means: Have) -> Accounts:
    """State, limit use, freshness and open work of every account. Counts rows: not for every second."""
    with means.engine.connect() as connection:
        return Accounts(accounts=[_view(each) for each in overview(connection)])


@router.post(
    "/accounts/{account}/pause",
    responses=documented(HTTPStatus.NOT_FOUND),
    summary="Ask the account nothing",
)
def pause_one(account: OneAccount, means: Have, request: Request, why: Pause | None = None) -> Account:
    """Takes the place of an automatic pause; an operator's pause that lasts longer already stays."""
    why = why or Pause()
    with transaction(means.engine) as connection:
        if why.until is not None and why.until <= database_now(connection):
            raise wrong_fields([("body.until", "lies in the past")])
        try:
            is_changed = pause(connection, account, why.until, why.reason)
        except UnknownAccountError:
            raise _unknown() from None
        found = _found(connection, account)
    if is_changed:
        caller = request.state.caller
        log.warning("account.paused", account=account, caller=caller, reason=why.reason, until=why.until)
    return found


@router.post(
    "/accounts/{account}/resume",
    responses=documented(HTTPStatus.NOT_FOUND),
    summary="Ask the account again",
)
def resume_one(account: OneAccount, means: Have, request: Request, later: BackgroundTasks) -> Account:
    """Ends a pause, an open breaker and throttling."""
    with transaction(means.engine) as connection:
        try:
            resume(connection, account)
        except UnknownAccountError:
            raise _unknown() from None
        found = _found(connection, account)
    log.warning("account.resumed", account=account, caller=request.state.caller)
    later.add_task(means.send, dispatch_account(account))
    return found


def _unknown() -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, "There is no such account: /v1/accounts lists the known ones.")


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
