"""Reports that a sender hands over: a provider's synchronous reply to a send."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from ulak.api.authorization import NEEDS_OPERATE, Who
from ulak.api.body_limits import headers_of, not_unpacked, read_counted
from ulak.api.dependencies import Dependencies, Deps
from ulak.api.fields import AccountId
from ulak.api.problems import ProblemError, documented, existing_account
from ulak.core.logging import get_logger
from ulak.models.access import Role
from ulak.models.account import StoredAccount
from ulak.models.events import Action
from ulak.models.rejections import Rejection
from ulak.providers.adapter import Callback
from ulak.providers.errors import ProviderError
from ulak.tasks.steps.callbacks import BodyRefusedError, Received, ingest, reject

log = get_logger(__name__)
router = APIRouter(tags=["reports"])

SEND_REPLY = "send_reply"


class Stored(BaseModel):
    """What the reply changed; committed."""

    reports: int
    new: int
    advanced: int
    unchanged: int
    registered: Annotated[
        int, Field(description="Ids that the reply names and that are polled from now on; absent where there are none.")
    ] = 0
    quarantined: Annotated[int, Field(description="Parts that were not understood and are kept for a later reading.")]


@router.post(
    "/reports/{account}",
    dependencies=[NEEDS_OPERATE],
    response_model=Stored,
    response_model_exclude_defaults=True,
    responses=documented(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY),
    summary="Hand over a provider's reply to a send",
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The reply, byte for byte as the provider gave it.",
            "content": {"application/json": {"schema": {}}, "application/xml": {"schema": {}}},
        }
    },
)
async def hand_over(account: Annotated[AccountId, Path()], request: Request, deps: Deps, who: Who) -> Any:
    """Stores the reply. Submitting the same reply again changes nothing."""
    who.admit(Role.OPERATE, account)
    stored = await run_in_threadpool(_account, deps, account)
    body = await read_counted(request, deps.runtime, stored)
    given = Callback(tail=SEND_REPLY, body=body, headers=headers_of(request))
    await run_in_threadpool(deps.recorder.add_hourly, who.event(Action.REPORTS_HANDED_OVER, account=account))
    received = await run_in_threadpool(_store, deps, stored, given)
    return received if isinstance(received, Response) else Stored.model_validate(received, from_attributes=True)


def _account(deps: Dependencies, account: str) -> StoredAccount:
    with deps.engine.connect() as connection:
        return existing_account(connection, account)


def _store(deps: Dependencies, stored: StoredAccount, given: Callback) -> Received | Response:
    account = stored.id
    if not given.body.strip():
        reject(deps.runtime, stored, Rejection.NOT_TAKEN)
        detail = "The body is empty: send the reply, byte for byte as the provider gave it."
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
    try:
        return ingest(deps.runtime, stored, given)
    except BodyRefusedError as error:
        log.warning("callback.not_unpacked", account=account, tail=SEND_REPLY, why=error.sentence)
        return not_unpacked(type(error.fault), error.sentence)
    except ProviderError as error:
        log.warning("callback.wrong", account=account, tail=SEND_REPLY, why=error.message)
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, error.message) from error
