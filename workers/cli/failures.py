"""What went wrong, as one sentence that says what to do, and the exit code it stands for."""

import ssl

import redis.exceptions
import sqlalchemy.exc
from sqlalchemy import make_url

from core.settings import CredentialError, SettingsError
from models.accounts import AccountsRefusedError
from models.erasure import NoPersonError
from models.quarantine import WrongQuarantineKeyError
from providers.accounts import AccountsFileError
from providers.errors import ProviderError
from tasks.steps.ondemand import WrongPollError
from tasks.steps.tracking import UnknownIdKindError
from workers.cli.session import FAILED, WRONG_USAGE, CommandError, Session, UsageError
from workers.connections import NothingRunningError
from workers.demo import SandboxError
from workers.embedded.server import EmbeddedServerError
from workers.home import HomeBusyError
from workers.ports import PortBusyError

_OURS = (
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
)
_USAGE = (UsageError, NoPersonError, WrongPollError, UnknownIdKindError)
_UNDEFINED = ("42P01", "42703", "3F000")  # no such table, column, schema
_SERVER_IS_AWAY = ("08", "57P", "28", "3D", "53")  # classes of SQLSTATE: connection, shutdown, login, database, full


def sentence_of(error: Exception, session: Session) -> tuple[str, int] | None:
    """The sentence and the exit code for an error that is not a bug; None for one that is."""
    if isinstance(error, _USAGE):
        return str(error), WRONG_USAGE
    if isinstance(error, sqlalchemy.exc.SQLAlchemyError):
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
    if isinstance(error, redis.exceptions.RedisError):
        away = "Redis cannot be reached: see that it runs and that ULAK_REDIS_URL is right."
        return _certificate_fault(error) or away
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be read or written: {error.strerror}."
    return str(error) if isinstance(error, _OURS) else None


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


def _database_sentence(error: sqlalchemy.exc.SQLAlchemyError, session: Session) -> str | None:
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if state in _UNDEFINED:
        return "The database's schema is not the newest: run `ulak migrate`."
    is_away = state is None or state.startswith(_SERVER_IS_AWAY)
    if isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.TimeoutError) and is_away:
        where = f" at {database_place(session)}" if session.settings.database_url else ""
        return f"PostgreSQL{where} cannot be reached{_why(state)}: see that it runs and that its address is right."
    return None


def _why(state: str | None) -> str:
    """What the class of the error tells, where it is something that the person can change."""
    if state is None:
        return ""
    known = {"28": " (it refuses the user or the password)", "3D": " (there is no such database)"}
    return known.get(state[:2], f" (SQLSTATE {state})")


def database_place(session: Session) -> str:
    """Host and port of the configured database, without the password."""
    if session.settings.database_url is None:
        return "the embedded server"
    url = make_url(session.settings.database_url.get_secret_value())
    # What stands before an @ would be a piece of a password.
    host = (url.host or "").rpartition("@")[2]
    return f"{host or 'the local socket'}:{url.port or 5432}"
