"""The only opener of secrets: references to them (`env:NAME`, `file:PATH`), and those that are generated once."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ulak.core.environment import inherited_environment
from ulak.core.redaction import register_secret
from ulak.core.secret_strength import create_home

MAX_SECRET_BYTES: Final = 65_536


class CredentialError(Exception):
    """A credential reference cannot be resolved; the text never contains a value."""


def is_reference(text: str) -> bool:
    """Whether it has the form that `resolve_reference` takes."""
    kind, colon, place = text.partition(":")
    return bool(colon) and kind in {"env", "file"} and bool(place)


def resolve_reference(reference: str, *, secret: bool = True) -> str:
    """The value behind `env:NAME` or `file:PATH`, whitespace at its ends removed.

    Raises `CredentialError` with a sentence that names the reference's kind and place, never a
    value; a literal in place of a reference is refused without being repeated. The value becomes
    known to the redaction of logs unless `secret` is false (a user name).
    """
    kind, _, place = reference.partition(":")
    if not is_reference(reference):
        raise CredentialError(
            "A credential must be a reference, env:NAME or file:PATH, and not the value itself.",
        )
    value = (_read_variable(place) if kind == "env" else _read_secret_file(Path(place))).strip()
    if not value:
        raise CredentialError(f"The credential {kind}:{place} is empty: give it a value.")
    if secret:
        register_secret(value)
    return value


def generated_secret(home: Path, name: str, make: Callable[[], str]) -> str:
    """The secret kept in `home/secrets/name`; created once, by the first process that needs it.

    Of any number of processes that ask at the same moment, all get the same value: the file
    appears whole, under its name, at most once. Mode 0600 in a folder of mode 0700.
    """
    create_home(home)
    folder = home / "secrets"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    if not path.exists():
        _create_once(path, make())
    value = path.read_text(encoding="utf-8").strip()
    register_secret(value)
    return value


def _read_variable(name: str) -> str:
    try:
        return inherited_environment()[name]
    except KeyError:
        raise CredentialError(
            f"The credential env:{name} is missing: set the environment variable {name}.",
        ) from None


def _read_secret_file(path: Path) -> str:
    try:
        with path.expanduser().open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise CredentialError(
            f"The credential file:{path} cannot be read ({error.strerror}): "
            "create the file or give this user the right to read it.",
        ) from None
    if len(content) > MAX_SECRET_BYTES:
        raise CredentialError(f"The credential file:{path} is too large to be a secret.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise CredentialError(f"The credential file:{path} is not UTF-8 text.") from None


def _create_once(path: Path, value: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(value + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link, unlike a rename, refuses to replace what another process put there meanwhile.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    except OSError:
        # Some mounted folders know no hard links; there the first start must not be run twice.
        draft.rename(path)
        return
    draft.unlink()
