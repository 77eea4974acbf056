"""Secrets that are generated in the home folder when they are not configured."""

import secrets

from ulak.core.credentials import generated_secret
from ulak.core.settings import Settings

API_TOKEN = "api_token"  # noqa: S105 - the name of a file
FLOWER_AUTH = "flower_auth"


def api_token(settings: Settings) -> str:
    """The bearer token of the task API: the configured one, or the home's."""
    if settings.api_token is not None:
        return settings.api_token.get_secret_value()
    return generated_secret(settings.home, API_TOKEN, lambda: secrets.token_urlsafe(32))


def flower_auth(settings: Settings) -> str:
    """Flower's `user:password`: the configured one, or the home's."""
    if settings.flower_auth is not None:
        return settings.flower_auth.get_secret_value()
    return generated_secret(settings.home, FLOWER_AUTH, lambda: f"ulak:{secrets.token_urlsafe(18)}")
