"""The HTTP process: the task API, the feed of changes, providers' callbacks and the probes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Security
from fastapi.security import HTTPBearer

from core.settings import Settings, load_settings
from tasks.runtime import Runtime
from workers.api import (
    accounts,
    callbacks,
    changes,
    deliveries,
    lookups,
    manual,
    metrics,
    polls,
    probes,
    problems,
    registered,
    reports,
    summaries,
    tracked,
)
from workers.api.auth import GUARDED, BearerGuard
from workers.api.bodies import BodyCap, JsonBodies, PackedBodies
from workers.api.doorway import Doorway
from workers.api.hosts import KnownHosts
from workers.api.means import Means, Publish
from workers.api.readiness import PATIENCE_SECONDS, Readiness

DESCRIPTION = """One truthful delivery-status table over all messaging providers.

Everything under `/v1` needs `Authorization: Bearer <token>`. Every error is `application/problem+json`. Times have an
offset; unknown fields and parameters are refused. Send `X-Request-Id` to find your request in the log."""


def make_api(
    runtime: Runtime,
    *,
    token: str | None = None,
    publish: Publish | None = None,
    probe_seconds: float = PATIENCE_SECONDS,
    settings: Settings | None = None,
) -> FastAPI:
    """The application over this runtime.

    `token`: accepted beside those of `ulak tokens`. `publish`: tells the workers what was committed; without it they
    find it by themselves within seconds. `probe_seconds`: how long `/readyz` may take. `settings`: where it is reached.
    """
    settings = settings or load_settings()
    means = Means(runtime=runtime, token=token, publish=publish)

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
    api.state.means = means
    api.state.readiness = readiness
    api.state.metrics = metrics.registry_for(runtime.engine)
    problems.register(api)
    api.include_router(_guarded())
    api.include_router(callbacks.router)
    api.include_router(probes.router)
    api.include_router(metrics.router)
    api.include_router(manual.router)
    _document_problems(api)
    # The last one added is the outermost.
    api.add_middleware(PackedBodies)
    api.add_middleware(JsonBodies)
    api.add_middleware(BodyCap)
    api.add_middleware(BearerGuard, means=means)
    api.add_middleware(callbacks.CallbackPaths)
    if settings.listens_on_loopback:
        api.add_middleware(KnownHosts, public_url=settings.public_url)
    api.add_middleware(Doorway, is_https=settings.is_https)
    return api


def _guarded() -> APIRouter:
    """Everything under `/v1`. The guard before the routes refuses strangers; here it only stands in the document."""
    bearer = HTTPBearer(auto_error=False, description="`ULAK_API_TOKEN`, or one of `ulak tokens create NAME`.")
    every = problems.documented(
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
    router = APIRouter(prefix=GUARDED, dependencies=[Security(bearer)], responses=every)
    for part in (polls, tracked, registered, deliveries, lookups, summaries, changes, accounts, reports):
        router.include_router(part.router)
    return router


def _document_problems(api: FastAPI) -> None:
    """Put the form of all errors into the OpenAPI document in place of FastAPI's own, which is never sent."""
    make = api.openapi

    def openapi() -> dict[str, Any]:
        document = make()
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
