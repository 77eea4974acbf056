"""Probes of whatever runs us."""

import logging
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import State

from ulak.api.problems import documented, problem
from ulak.core.logging import get_logger

log = get_logger(__name__)
router = APIRouter(tags=["probes"])


@router.get("/healthz", summary="The process answers")
async def healthz() -> dict[str, str]:
    """Liveness: depends on nothing else."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    responses=documented(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
    summary="Everything that is due moves",
)
async def readyz(
    request: Request,
    only: Annotated[
        Literal["callbacks"] | None,
        Query(description="`callbacks`: only whether this process can take requests, whatever the workers do."),
    ] = None,
) -> Response:
    """503 with reasons where the database is away, read-only or lacks a revision, or if due work is stalled.

    Balancers ask for `only=callbacks`: a push must not be turned away because a worker is down.
    """
    reasons = await request.app.state.readiness.reasons(progress=only is None)
    _respond(request.app.state, only, ready=not reasons, reasons=reasons)
    if not reasons:
        notes = request.app.state.readiness.notes if only is None else []
        return JSONResponse({"status": "ready"} | ({"notes": notes} if notes else {}))
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, " ".join(reasons), reasons=reasons)


def _respond(state: State, only: str | None, *, ready: bool, reasons: list[str]) -> None:
    """One line when it stops being ready and one when it is again, not one for every probe."""
    told: dict[str | None, bool] = getattr(state, "told_ready", {})
    if told.get(only, True) != ready:
        log.log(logging.INFO if ready else logging.WARNING, "api.ready" if ready else "api.not_ready", reasons=reasons)
    state.told_ready = {**told, only: ready}
