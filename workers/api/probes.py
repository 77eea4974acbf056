"""Probes of whatever runs us."""

import logging
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import State

from core.logging import get_logger
from models.heartbeats import standstills
from models.ledger.clocksteps import last_step
from models.schema import schema_is_behind
from workers.api.means import Have
from workers.api.problems import documented, problem

log = get_logger(__name__)
router = APIRouter(tags=["probes"])


@router.get("/healthz", summary="The process answers")
async def healthz() -> dict[str, str]:
    """Asks nobody else."""
    return {"status": "ok"}


@router.get("/readyz", responses=documented(HTTPStatus.SERVICE_UNAVAILABLE), summary="Everything that is due moves")
def readyz(
    request: Request,
    means: Have,
    only: Annotated[
        Literal["callbacks"] | None,
        Query(description="`callbacks`: only whether this process can take requests, whatever the workers do."),
    ] = None,
) -> Response:
    """503 with reasons where the database does not answer or lacks a revision, or where work that is due stands still.

    Balancers ask for `only=callbacks`: a push must not be turned away because a worker is down.
    """
    reasons = unready(means.engine, progress=only is None)
    _tell(request.app.state, only, ready=not reasons, reasons=reasons)
    if not reasons:
        return JSONResponse({"status": "ready"} | (_notes(means.engine) if only is None else {}))
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, " ".join(reasons), reasons=reasons)


def _tell(state: State, only: str | None, *, ready: bool, reasons: list[str]) -> None:
    """One line when it stops being ready and one when it is again, not one for every probe."""
    told: dict[str | None, bool] = getattr(state, "told_ready", {})
    if told.get(only, True) != ready:
        log.log(logging.INFO if ready else logging.WARNING, "api.ready" if ready else "api.not_ready", reasons=reasons)
    state.told_ready = {**told, only: ready}


def _notes(engine: Engine) -> dict[str, list[str]]:
    """What has happened lately that people should know of, though everything moves."""
    try:
        with engine.connect() as connection:
            step = last_step(connection)
    except SQLAlchemyError:
        return {}
    return {"notes": [step]} if step else {}


def unready(engine: Engine, *, progress: bool) -> list[str]:
    """Why not, one sentence each; empty where all is well."""
    try:
        if schema_is_behind(engine):
            return ["The schema is older than this program: run `ulak migrate`."]
        if not progress:
            return []
        with engine.connect() as connection:
            return standstills(connection)
    except SQLAlchemyError:
        return ["The database does not answer."]
