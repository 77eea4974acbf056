"""A Celery app for processes that are no workers and publish messages."""

from typing import Any

from pydantic import SecretStr

from ulak.core.settings import Settings
from ulak.workers.connections import redis_url


def app_for(settings: Settings) -> Any:
    """A Celery app that publishes to the Redis that `redis_url` finds."""
    # Importing the app reads the environment and costs half a second, which most commands need not pay.
    from ulak.workers.app import make_app  # noqa: PLC0415 - loaded only where it is needed: start-up time

    return make_app(settings.model_copy(update={"redis_url": SecretStr(redis_url(settings))}))
