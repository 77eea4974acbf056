"""`ulak check`: settings, servers, clocks, accounts; one line each: ok, or what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import typer
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from ulak.cli.error_messages import sentence_of
from ulak.cli.output import counted, moment, write_line
from ulak.cli.session import FAILED, Session, report, session
from ulak.core import clock
from ulak.core.credentials import CredentialError, resolve_reference
from ulak.core.redaction import redact_text
from ulak.core.redis import connect
from ulak.core.secret_strength import ADVICE, MIN_LENGTH
from ulak.core.settings import SettingsError, ignored_variables, trusted_proxies_before
from ulak.core.time_zones import host_differs, zone_rules
from ulak.models.account import AccountState, StoredAccount, list_accounts, load
from ulak.models.keeping import ADVISED_DAYS
from ulak.models.ledger.clocksteps import last_step
from ulak.models.schema import NEWER, UnfitDatabaseError, check_encoding, schema_is_current, schema_is_newer
from ulak.models.transport import transport_fault
from ulak.providers.account_tables import DEFAULT_TIMEZONE
from ulak.providers.accounts import AccountsFileError, read_accounts
from ulak.providers.base_urls import is_readable_on_the_way
from ulak.providers.egress import check_egress
from ulak.providers.errors import as_sentence
from ulak.providers.registry import adapter_for
from ulak.tasks.steps.probing import probe
from ulak.workers.connections import NothingRunningError, redis_url
from ulak.workers.weak_secrets import REPORTED, has_example_path, has_short_password, short_path_secrets, short_settings

OLDEST_POSTGRES = 15
OLDEST_REDIS = 6
MAX_SKEW_SECONDS = 5.0
_TAKES_NO_WRITES = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'"
PROBE_SECONDS = 40.0
"""How long an account is waited for: a slot of its limit, and its answer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check."""

    what: str
    problem: str | None
    """What is wrong and what to do; None where it is ok."""
    detail: str = ""
    warning: str = ""
    """What works and should still be put right; it does not count as wrong."""

    @property
    def text(self) -> str:
        """What is printed behind the name."""
        if self.problem or self.warning:
            return self.problem or f"warning: {self.warning}"
        return f"ok ({self.detail})" if self.detail else "ok"


def register(app: typer.Typer) -> None:
    """Add `check`."""
    app.command()(check)


def check(context: typer.Context) -> None:
    """Check settings, servers, clocks and accounts.

    One line each: ok, a warning, or what to do. The exit code is 1 if anything is wrong.
    """
    run = session(context)
    failed = 0
    for finding in _findings(run):
        failed += finding.problem is not None
        write_line(f"{finding.what}: {finding.text}")
    if failed:
        report(f"{failed} of these need attention.")
        raise typer.Exit(FAILED)


def _findings(run: Session) -> Iterator[Finding]:
    yield Finding("settings", None, "; ".join([f"home {run.settings.home}", *_without_effect()]))
    where = run.settings.public_url or ("on this host" if run.settings.listens_on_loopback else "behind a proxy")
    yield Finding("status page", None, where, warning=_exposure(run))
    if run.settings.oidc_issuer is not None:
        yield _guarded("single sign-on", run, _sign_on)
    yield _guarded("notifications", run, _notifications)
    if short := short_settings(run.settings):
        yield Finding("secrets", None, warning=f"{' and '.join(short)}: {REPORTED}; {ADVICE}")
    yield Finding("time zones", None, _time_zones())
    database = _guarded("PostgreSQL", run, _postgres)
    yield database
    if database.problem is None:
        yield _guarded("database session", run, _database_session)
        yield _transport(run)
        yield _guarded("schema", run, _schema)
        yield _guarded("clocks", run, _clocks)
    yield _guarded("Redis", run, _redis)
    yield _guarded("accounts file", run, _accounts_file)
    if database.problem is None:
        yield from _retention(run)
        yield from _accounts(run)


def _guarded(what: str, run: Session, look: Callable[[Session], tuple[str | None, str]]) -> Finding:
    """What a look found; an error of it is a problem like any other."""
    try:
        problem, detail = look(run)
    except (NothingRunningError, UnfitDatabaseError, SQLAlchemyError, RedisError, AccountsFileError) as error:
        known = sentence_of(error, run)
        return Finding(what, known[0] if known else f"failed with {type(error).__name__}")
    return Finding(what, problem, detail)


def _without_effect() -> Iterator[str]:
    """Variables that look like settings and are none, or only for one version more."""
    if ignored := ignored_variables():
        yield f"ignored: {', '.join(f'{name} ({reason})' for name, reason in ignored.items())}"
    if trusted_proxies_before():
        yield "FORWARDED_ALLOW_IPS is called ULAK_TRUSTED_PROXIES now, and read for one version more"


def _postgres(run: Session) -> tuple[str | None, str]:
    with run.engine.connect() as connection:
        version = connection.execute(text("SHOW server_version")).scalar_one()
        takes_no_writes = connection.execute(text(_TAKES_NO_WRITES)).scalar_one()
        check_encoding(connection)
    if int(version.partition(".")[0]) < OLDEST_POSTGRES:
        return f"version {version} is too old: use {OLDEST_POSTGRES} or newer", ""
    if takes_no_writes:
        return "it takes no writes (a standby, or read-only): let ULAK_DATABASE_URL lead to the primary", ""
    return None, version.split()[0]


def _database_session(run: Session) -> tuple[str | None, str]:
    """Whether what a session asks for at its start has arrived: poolers drop it, or refuse the connection."""
    names = ("TimeZone", "statement_timeout", "idle_in_transaction_session_timeout")
    asked = ", ".join(f"current_setting('{name}')" for name in names)
    with run.engine.connect() as connection:
        zone, statement, idle = connection.execute(text(f"SELECT {asked}")).one()
    if zone != "UTC" or idle == "0":
        problem = (
            f"sessions begin with TimeZone {zone} and idle_in_transaction_session_timeout {idle}, so a pooler drops"
            " what we ask for: ALTER ROLE … SET timezone = 'UTC', SET statement_timeout = '60s' and"
            " SET idle_in_transaction_session_timeout = '60s'"
        )
        return problem, ""
    return None, f"UTC, statements end after {statement}"


def _transport(run: Session) -> Finding:
    """Whether the way to the database is encrypted and its end verified."""
    with run.engine.connect() as connection:
        fault = transport_fault(connection)
    remedy = "add ?sslmode=verify-full&sslrootcert=FILE to ULAK_DATABASE_URL"
    warnings = {
        None: "",
        "unencrypted": f"numbers and the password travel unencrypted to another host: {remedy}",
        "unverified": f"the server's certificate is not verified, so another could stand in for it: {remedy}",
    }
    return Finding("database transport", None, "verified, or on this host", warning=warnings[fault])


def _exposure(run: Session) -> str:
    """What is missing where the status page is reached from elsewhere."""
    known = run.settings
    if known.listens_on_loopback or known.public_url or known.trusted_proxies:
        return ""
    where = "it listens beyond this host, and neither ULAK_PUBLIC_URL nor ULAK_TRUSTED_PROXIES is set"
    return f"{where}: behind https its cookies get no Secure"


def _sign_on(run: Session) -> tuple[str | None, str]:
    """Whether the settings are whole, and the provider answers with what a log-in needs."""
    from ulak.api.pages.sign_on import SignOnError, sign_on_for

    try:
        sign_on = sign_on_for(run.settings)
        if sign_on is not None:
            sign_on.check()
    except (SettingsError, SignOnError) as error:
        return str(error), ""
    except CredentialError as error:
        return f"ULAK_OIDC_CA_FILE: {error}", ""
    return None, run.settings.oidc_issuer or ""


def _notifications(run: Session) -> tuple[str | None, str]:
    """Whether the receivers' settings are whole. Nothing is sent: `ulak notify test` does."""
    from ulak.api.notify.receivers import receivers_for

    try:
        names = [receiver.name for receiver in receivers_for(run.settings)]
    except SettingsError as error:
        return str(error), ""
    return None, f"{' and '.join(names)}; `ulak notify test` sends one" if names else "no receiver is configured"


def _schema(run: Session) -> tuple[str | None, str]:
    with run.engine.connect() as connection:
        if schema_is_newer(connection):
            return NEWER, ""
    return (None, "newest") if schema_is_current(run.engine) else ("not the newest: run `ulak migrate`", "")


def _clocks(run: Session) -> tuple[str | None, str]:
    """The database's clock beside ours, the way there and back taken out."""
    with run.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        began, before = clock.boot(), clock.now()
        theirs = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        way = clock.boot() - began
        step = last_step(connection) if schema_is_current(run.engine) else None
    skew = (theirs - before).total_seconds() - way / 2
    if abs(skew) > MAX_SKEW_SECONDS:
        return f"the database's clock and ours are {abs(skew):.1f} s apart: let both follow NTP", ""
    return None, f"{abs(skew):.3f} s apart{f'; {step}' if step else ''}"


def _redis(run: Session) -> tuple[str | None, str]:
    with connect(redis_url(run.settings), retries=0) as client:
        facts: dict[str, Any] = client.info("server")
        policy = _eviction(client)
    name = "Valkey" if "valkey_version" in facts else "Redis"
    version = str(facts.get("valkey_version") or facts["redis_version"])
    if int(version.partition(".")[0]) < OLDEST_REDIS:
        return f"version {version} is too old: use {OLDEST_REDIS} or newer", ""
    if policy not in {None, "noeviction"}:
        return f"maxmemory-policy is {policy}, which throws messages away: set it to noeviction", ""
    return None, f"{name} {version}, {policy or 'maxmemory-policy cannot be read here'}"


def _time_zones() -> str:
    """Whose rules count, and whether this host's own would put some time elsewhere."""
    used = f"tzdata {zone_rules()}"
    differing = host_differs(DEFAULT_TIMEZONE)
    return f"{used}; this host's own files differ for {DEFAULT_TIMEZONE} and are not used" if differing else used


def _eviction(client: Any) -> str | None:
    """What the server does when its memory is full; None if it does not reveal it (hosted ones refuse CONFIG)."""
    try:
        return str(client.config_get("maxmemory-policy")["maxmemory-policy"])
    except (ResponseError, KeyError):
        return None


def _accounts_file(run: Session) -> tuple[str | None, str]:
    path = run.settings.accounts_path()
    if path is None:
        return None, "none given"
    return None, f"{counted(len(read_accounts(path)), 'account')} in {path}"


def _accounts(run: Session) -> Iterator[Finding]:
    """Whether each enabled account's credentials can be found from here."""
    try:
        with run.engine.connect() as connection:
            records = [record for record in list_accounts(connection) if record.enabled]
    except SQLAlchemyError:
        return  # The schema is not there: reported already.
    for record in records:
        what, missing = f"account {record.id}", missing_credentials(record)
        if missing:
            yield Finding(what, missing)
            continue
        if has_example_path(record):
            yield Finding(
                what, f"the secret of its callback address is an example, and its callbacks are refused; {ADVICE}"
            )
            continue
        yield from _warnings(record)
        yield _guarded(what, run, lambda run, record=record: _asked(run, record))  # type: ignore[misc]


def _retention(run: Session) -> Iterator[Finding]:
    """Which accounts keep everything forever: advice, since that is what they are configured to do."""
    try:
        with run.engine.connect() as connection:
            records = [record.id for record in list_accounts(connection) if record.enabled and record.keep_days is None]
    except SQLAlchemyError:
        return
    if records:
        yield Finding(
            "retention",
            None,
            f"kept forever: {', '.join(records)}; advice: keep_days = {ADVISED_DAYS} in the accounts file"
            " (docs/reference/retention.md)",
        )


def _warnings(record: StoredAccount) -> Iterator[Finding]:
    """What works in this account and could be read or guessed."""
    what = f"account {record.id}"
    if is_readable_on_the_way(record.base_url):
        yield Finding(what, None, warning="its base_url is plain http: the credentials can be read on the way")
    if short_path_secrets([record]):
        yield Finding(what, None, warning=f"the secret of its callback address is {REPORTED}; {ADVICE}")
    if has_short_password(record):
        advice = "choose a longer one if the panel takes it"
        yield Finding(what, None, warning=f"its callback password has fewer than {MIN_LENGTH} characters: {advice}")


def _asked(run: Session, record: StoredAccount) -> tuple[str | None, str]:
    """Whether the provider accepts the credentials, where it can be asked for nothing else, and they can be used."""
    crowding = _crowding(run, record.limit_concurrency)
    with run.engine.connect() as connection:
        state, reason, until = load(connection, record.id).standing
    if state is not AccountState.OK and adapter_for(record.provider).record.probe is not None:
        ends = "" if until is None else f" until {moment(until)}"
        return (
            None,
            f"credentials found; not asked, as it is {state.value}{ends}: {redact_text(as_sentence(reason))}{crowding}",
        )
    probed = probe(run.runtime, record.id, patience_seconds=PROBE_SECONDS)
    if probed is None:
        return None, f"credentials found{crowding}"
    if probed.messages:
        run.publish(*probed.messages)
    if probed.problem is not None:
        return redact_text(probed.problem), ""
    return None, f"credentials found, and accepted by the provider{crowding}"


def missing_credentials(record: StoredAccount) -> str | None:
    """What is wrong with the account's references and egress settings, seen from here; None where all is well."""
    problems: list[str] = []
    for reference in record.credentials.values():
        try:
            resolve_reference(reference)
        except CredentialError as error:
            problems.append(str(error))
    try:
        check_egress(record.ca_file, record.proxy)
    except CredentialError as error:
        problems.append(str(error))
    return " ".join(problems) or None


def _crowding(run: Session, concurrency: int) -> str:
    """A word where the threads of one worker never allow what the limit does; it works, so it is no failure."""
    threads = run.settings.worker_threads
    allowed = threads - threads // 4
    if concurrency <= allowed:
        return ""
    return (
        f"; but one worker of {threads} threads never makes more than {allowed} calls of an account at once, and its"
        f" concurrency is {concurrency}: start more workers, or give them more threads, to use it whole"
    )
