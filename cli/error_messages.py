"""Errors as one sentence that says what to do, with their exit codes."""

import ssl

import kombu.exceptions
import psycopg
import redis.exceptions
import sqlalchemy.exc
from sqlalchemy import make_url

from ulak.cli.session import FAILED, WRONG_USAGE, CommandError, Session, UsageError
from ulak.core.credentials import CredentialError
from ulak.core.plain_text import one_line
from ulak.core.redaction import redact_text
from ulak.core.settings import SettingsError
from ulak.local.demo import SandboxError
from ulak.local.embedded.server import EmbeddedServerError
from ulak.local.home_lock import HomeBusyError
from ulak.local.ports import PortBusyError
from ulak.local.supervisor import ChildFailedError
from ulak.models.accounts import AccountsRefusedError
from ulak.models.database_errors import READ_ONLY, is_unavailable, sqlstate_of, took_too_long
from ulak.models.erasure import NoPersonError
from ulak.models.quarantine import WrongQuarantineKeyError
from ulak.models.schema import UnfitDatabaseError
from ulak.providers.accounts import AccountsFileError
from ulak.providers.errors import ProviderError
from ulak.tasks.steps.ondemand import WrongPollError
from ulak.tasks.steps.tracking import UnknownIdKindError
from ulak.workers.connections import NothingRunningError

_OURS = (
    ChildFailedError,
    CommandError,
    CredentialError,
    NothingRunningError,
    EmbeddedServerError,
    HomeBusyError,
    PortBusyError,
    SandboxError,
    WrongQuarantineKeyError,
    ProviderError,
    AccountsFileError,
    SettingsError,
    UnfitDatabaseError,
)
_USAGE = (UsageError, NoPersonError, WrongPollError, UnknownIdKindError)
_BEHIND = "The database's schema is not the newest: run `ulak migrate`."
_BY_SQLSTATE = {
    "42P01": _BEHIND,  # no such table
    "42703": _BEHIND,  # no such column
    "3F000": "{server} has no schema to create tables in: let the role's search_path name one that exists.",
    "42501": "{server} refuses this to the role: let it own the database, or GRANT it the right to create and write.",
    READ_ONLY: "{server} takes no writes (a standby, or read-only): let ULAK_DATABASE_URL lead to the primary.",
}


def sentence_of(error: Exception, session: Session) -> tuple[str, int] | None:
    """The sentence and the exit code for an error that is not a bug; None for one that is."""
    if isinstance(error, _USAGE):
        return str(error), WRONG_USAGE
    if isinstance(error, sqlalchemy.exc.SQLAlchemyError | psycopg.Error):
        sentence = _database_sentence(error, session)
    else:
        sentence = _other_sentence(error)
    return None if sentence is None else (sentence, FAILED)


def _other_sentence(error: Exception) -> str | None:
    if isinstance(error, AccountsRefusedError):
        return "\n".join(error.sentences)
    if isinstance(error, LookupError) and not isinstance(error, KeyError | IndexError):
        return str(error)
    if isinstance(error, redis.exceptions.AuthenticationError):
        return "Redis refuses the login: see that user and password in ULAK_REDIS_URL are right."
    if isinstance(error, redis.exceptions.RedisError | kombu.exceptions.OperationalError):
        away = "Redis cannot be reached: see that it runs and that ULAK_REDIS_URL is right."
        return _certificate_fault(error) or away
    if isinstance(error, OSError) and error.strerror is not None:
        what = (
            "The operating system refuses" if error.filename is None else f"{error.filename} cannot be read or written"
        )
        return f"{what}: {error.strerror}."
    return _sentence_of_ours(error) if isinstance(error, _OURS) else None


def _sentence_of_ours(error: Exception) -> str:
    """As it is; what may quote a provider is masked and kept from making lines of its own."""
    return one_line(redact_text(str(error))) if isinstance(error, ProviderError) else str(error)


def _certificate_fault(error: BaseException) -> str | None:
    """What is wrong with the certificates of `rediss://`; None where it is something else."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "Redis's TLS certificate is not trusted: add ?ssl_ca_certs=FILE to ULAK_REDIS_URL."
        if isinstance(cause, FileNotFoundError | PermissionError):
            return "A certificate file that ULAK_REDIS_URL names cannot be read: see that it exists and may be read."
        cause = cause.__cause__ or cause.__context__
    return None


def _database_sentence(error: sqlalchemy.exc.SQLAlchemyError | psycopg.Error, session: Session) -> str | None:
    state = sqlstate_of(error)
    server = f"PostgreSQL at {database_place(session)}" if session.settings.database_url else "PostgreSQL"
    if state in _BY_SQLSTATE:
        return _BY_SQLSTATE[state].format(server=server)
    if took_too_long(error):
        return f"{server} took too long (SQLSTATE {state}): try again when it has less to do."
    if is_unavailable(error):
        return f"{server} cannot be reached{_why(state)}: see that it runs and that its address is right."
    return None


def _why(state: str | None) -> str:
    """A sentence by the class of the error, if it is something the user can fix."""
    if state is None:
        return ""
    known = {
        "28": " (it refuses the user or the password)",
        "3D": " (there is no such database)",
        "53": " (it is out of disk, memory or connections)",
    }
    return known.get(state[:2], f" (SQLSTATE {state})")


def database_place(session: Session) -> str:
    """Host and port of the configured database, without the password."""
    if session.settings.database_url is None:
        return "the embedded server"
    url = make_url(session.settings.database_url.get_secret_value())
    # The part before an @ could be part of a password.
    host = (url.host or "").rpartition("@")[2]
    return f"{host or 'the local socket'}:{url.port or 5432}"
