"""The HTTP process: the task API, the feed of changes, providers' callbacks and the probes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Security
from fastapi.security import HTTPBearer

from ulak.api import (
    accounts,
    callbacks,
    changes,
    deliveries,
    events,
    lookups,
    metrics,
    polls,
    probes,
    problems,
    registration,
    reports,
    statistics,
    summaries,
    swagger,
    tracked_ids,
)
from ulak.api.auth import GUARDED, BearerGuard
from ulak.api.authorization import roles_of
from ulak.api.body_limits import ALL_BODIES_BYTES, BODY_SECONDS, BodyCap, JsonBodies, PackedBodies
from ulak.api.dependencies import Dependencies, Publish
from ulak.api.header_checks import HeaderChecks
from ulak.api.hosts import KnownHosts
from ulak.api.readiness import PATIENCE_SECONDS, Readiness
from ulak.api.request_log import RequestLog
from ulak.core.memory_budget import Budget
from ulak.core.settings import Settings, load_settings
from ulak.tasks.runtime import Runtime, person_key
from ulak.workers.audit_recording import Recorder

_PARTS: Final = (
    polls,
    registration,
    tracked_ids,
    deliveries,
    lookups,
    summaries,
    statistics,
    changes,
    accounts,
    reports,
    events,
)

DESCRIPTION = """One truthful delivery-status table over all messaging providers.

Everything under `/v1` needs `Authorization: Bearer <token>`, with the role that the operation names. Every error is
`application/problem+json`. Times have an offset; unknown fields and parameters are refused. Send `X-Request-Id` to find
your request in the log."""


def make_api(
    runtime: Runtime,
    *,
    token: str | None = None,
    publish: Publish | None = None,
    probe_seconds: float = PATIENCE_SECONDS,
    body_seconds: float = BODY_SECONDS,
    bodies: Budget | None = None,
    settings: Settings | None = None,
) -> FastAPI:
    """The application over this runtime.

    `token`: accepted beside those of `ulak tokens`. `publish`: announces committed work to the workers; without it they
    find it by themselves within seconds. `probe_seconds`: how long `/readyz` may take. `body_seconds`: how long a body
    may take to come. `bodies`: what those of all requests may hold together. `settings`: where it is reached.
    """
    settings = settings or load_settings()
    recorder = Recorder(runtime.engine, lambda: person_key(settings))
    deps = Dependencies(runtime=runtime, token=token, publish=publish, recorder=recorder)

    readiness = Readiness.beside(runtime.engine, probe_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        readiness.close()
        runtime.rejections.flush(runtime.engine)
        runtime.engine.dispose()

    api = FastAPI(
        title="Ulak",
        description=DESCRIPTION,
        version="1",
        lifespan=lifespan,
        # FastAPI's own pages load their scripts from another host.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.deps = deps
    api.state.readiness = readiness
    api.state.metrics = metrics.registry_for(runtime.engine)
    problems.register(api)
    api.include_router(_guarded())
    api.include_router(callbacks.router)
    api.include_router(probes.router)
    api.include_router(metrics.router)
    api.include_router(swagger.router)
    _document_problems(api)
    room = bodies or Budget(ALL_BODIES_BYTES)
    # The last one added is the outermost.
    api.add_middleware(PackedBodies, room=room)
    api.add_middleware(JsonBodies)
    api.add_middleware(BodyCap, room=room, seconds=body_seconds)
    api.add_middleware(BearerGuard, deps=deps)
    api.add_middleware(callbacks.CallbackPaths)
    if settings.listens_on_loopback:
        api.add_middleware(KnownHosts, public_url=settings.public_url)
    api.add_middleware(HeaderChecks)
    api.add_middleware(RequestLog, is_https=settings.is_https)
    return api


def _guarded() -> APIRouter:
    """Everything under `/v1`. The middleware enforces the token; declared here only for the OpenAPI document."""
    bearer = HTTPBearer(auto_error=False, description="`ULAK_API_TOKEN`, or one of `ulak tokens create NAME`.")
    every = problems.documented(
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
    router = APIRouter(prefix=GUARDED, dependencies=[Security(bearer)], responses=every)
    for part in _PARTS:
        router.include_router(part.router)
    return router


def _document_problems(api: FastAPI) -> None:
    """Put the form of all errors (in place of FastAPI's own, which is never sent) and the roles into the document."""
    make = api.openapi
    roles = {
        (GUARDED + route.path, method.lower()): role
        for part in _PARTS
        for route, role in roles_of(part.router.routes)
        for method in route.methods or ()
    }

    def openapi() -> dict[str, Any]:
        is_new = api.openapi_schema is None
        document = make()
        if not is_new:
            return document
        for (path, method), role in roles.items():
            operation = document["paths"][path][method]
            operation["x-ulak-role"] = role.value
            operation["description"] += f"\n\nNeeds the role `{role.value}`."
        schemas = document["components"].setdefault("schemas", {})
        schemas["Problem"] = dict(problems.SCHEMA)
        for never_sent in ("HTTPValidationError", "ValidationError"):
            schemas.pop(never_sent, None)
        [(wrong, ours)] = problems.documented(HTTPStatus.UNPROCESSABLE_ENTITY).items()
        for operations in document["paths"].values():
            for operation in operations.values():
                if str(wrong) in operation["responses"]:
                    operation["responses"][str(wrong)] = ours
        return document

    api.openapi = openapi  # type: ignore[method-assign]
