"""What the settings are made of: a description with its remedy, groups, and the types that several settings share."""

import re
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic.config import JsonDict
from pydantic_settings import BaseSettings, SettingsConfigDict

from ulak.core.environment import PREFIX
from ulak.core.secret_strength import is_example

# What Kubernetes sets in every pod for a Service: https://kubernetes.io/docs/concepts/services-networking/service/
SERVICE_PORT: Final = re.compile(r"(?i:tcp|udp|sctp)://")

FILES: Final = MappingProxyType(
    {
        "ulak.env": "every process; nothing secret",
        "database.env": "migrate, accounts, worker, api",
        "redis.env": "worker, api, beat, flower",
        "providers.env": "worker, api",
        "api.env": "api",
        "flower.env": "flower",
    }
)
"""The environment files of a production installation, each with the processes that read it."""
GIVE_SECRET_FILE: Final = "give the path of a secret file, or unset it to have one generated"  # noqa: S105 - advice
GIVE_CERTIFICATES: Final = "give the path of a PEM file with certificates, or unset it to trust the system's"
GENERATED: Final = "Unset: generated into `ULAK_HOME`."


def no_example(secret: SecretStr) -> SecretStr:
    """Refuse what our examples show."""
    if is_example(secret.get_secret_value()):
        raise ValueError(secret)
    return secret


def _unless_a_service(port: object) -> object:
    """Kubernetes sets `ULAK_API_PORT=tcp://10.0.0.1:8000` in every pod beside a Service `ulak-api`: no setting."""
    return None if isinstance(port, str) and SERVICE_PORT.match(port.strip()) else port


Port = Annotated[Annotated[int, Field(ge=1, le=65_535)] | None, BeforeValidator(_unless_a_service)]
AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


def setting(description: str, *, remedy: str, default: Any = None, example: str | None = None) -> Any:
    """A setting. `remedy` ends the sentence "ULAK_… is wrong: "; `env.example` shows `example`, or else the default."""
    extra: JsonDict = {"remedy": remedy, "example": example}
    return Field(default=default, validate_default=True, description=description, json_schema_extra=extra)


class Group(BaseSettings):
    """Settings that belong together."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )
    file: ClassVar[str] = "ulak.env"
    """Which environment file (`FILES`) holds them: no process gets a secret that it does not need. Empty: none does."""
