"""`accounts.toml`, read against what each provider's record says.

A wrong file is refused whole, with every mistake in it: line, account, what is wrong and what would be right. No
sentence repeats a value that may be a secret.
"""

import hashlib
import json
import posixpath
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulak.core.zones import time_zone, zone_names
from ulak.models.accounts import AccountSettings
from ulak.models.objectives import FORM, read_objective
from ulak.models.permit import DEFAULT_DEADLINE_SECONDS, LONGEST_DEADLINE_SECONDS
from ulak.models.vocabulary import Recipients
from ulak.providers.account_values import Mistake, Section
from ulak.providers.adapter import Adapter, OptionSpec, ProviderRecord
from ulak.providers.addresses import fault_of
from ulak.providers.registry import ADAPTERS
from ulak.providers.retry import RetryPolicy
from ulak.providers.statuses import MAPPABLE, STATUS_MAP, read_meaning
from ulak.providers.toml_lines import LineIndex
from ulak.providers.way_out import WayOutError, has_login, proxy_of, trusting

DEFAULT_TIMEZONE = "Europe/Istanbul"
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]*")
_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:\S(?:.*\S)?")
_TABLES = ("credentials", "limit", "retry", "poll", "options")
_SYNTAX_LINE = re.compile(r"at line (\d+)")
# Of a character that is quoted only the line's end is among them, which is what an open quote runs into.
_PARSER_SENTENCE = re.compile(
    r"(?P<words>Cannot overwrite a value|Expected '=' after a key in a key/value pair"
    r"|Expected '\]' at the end of a table declaration|Expected '\]\]' at the end of an array declaration"
    r"|Expected newline or end of document after a statement|Illegal character '\\n'|Invalid date or datetime"
    r"|Invalid hex value|Invalid initial character for a key part|Invalid statement|Invalid value|Unclosed array"
    r"|Unclosed inline table|Unescaped '\\' in a string|Unterminated string)"
    r" \(at (?:line \d+, column (?P<column>\d+)|end of document)\)"
)
_YEAR_SECONDS = 366 * 86400.0


class AccountsFileError(Exception):
    """The file is refused. `mistakes`: all of them, by line; the text has one a line, as `FILE:LINE: sentence`.

    That is the form in which compilers report, so editors and CI link to the line.
    """

    def __init__(self, mistakes: Sequence[Mistake], file: str) -> None:
        """`mistakes`: at least one. `file`: its name as it was given."""
        self.mistakes = sorted(mistakes, key=lambda mistake: mistake.line)
        super().__init__("\n".join(f"{file}:{mistake.line}: {mistake}" for mistake in self.mistakes))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One `[[account]]` of the file: its place from 1, and its settings where they could be read."""

    place: int
    settings: AccountSettings


def read_accounts(path: Path, adapters: Mapping[str, Adapter] = ADAPTERS) -> list[AccountSettings]:
    """The accounts of a file, in its order; `AccountsFileError` where anything in it is wrong."""
    try:
        # Editors on Windows begin a file with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        problem = f"the accounts file cannot be read ({error.strerror})"
        right = "the path of a file that exists and may be read; docs/reference/configuration.md shows the smallest one"
        raise AccountsFileError([_whole(1, problem, right)], str(path)) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        mistake = _whole(line, "the accounts file is not UTF-8 text", "a file saved as UTF-8")
        raise AccountsFileError([mistake], str(path)) from None
    return parse_accounts(text, adapters, file=str(path))


def parse_accounts(
    text: str, adapters: Mapping[str, Adapter] = ADAPTERS, *, file: str = "accounts.toml"
) -> list[AccountSettings]:
    """The accounts of a file's text, in its order; `AccountsFileError`, which names `file`, if anything is wrong."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _SYNTAX_LINE.search(str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        problem = "this is not TOML" + _told_by_the_parser(str(error))
        raise AccountsFileError([_whole(line, problem, "quotes closed, no key twice in a table")], file) from None
    lines = LineIndex(text)
    mistakes = [
        _whole(lines.line_outside(name), f"{name!r} is not known here", "only [[account]] tables")
        for name in tables
        if name != "account"
    ]
    listed = tables.get("account", [])
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        mistakes.append(_whole(lines.line_outside("account"), "account is not a list of tables", "[[account]]"))
    elif not listed:
        mistakes.append(_whole(1, "there is no account in the file", "at least one [[account]]"))
    else:
        entries = [
            _Entry(
                place=place, settings=_account(Section(table, place=place, lines=lines, mistakes=mistakes), adapters)
            )
            for place, table in enumerate(listed, 1)
        ]
        _check_together(entries, lines, mistakes)
    if mistakes:
        raise AccountsFileError(mistakes, file)
    return [entry.settings for entry in entries]


def _told_by_the_parser(sentence: str) -> str:
    """What the parser says, and the column, where its words are fixed: others quote what stands there, maybe a key."""
    told = _PARSER_SENTENCE.fullmatch(sentence)
    if told is None:
        return ""
    return f" ({told['words']}, column {told['column']})" if told["column"] else f" ({told['words']})"


def _whole(line: int, problem: str, right: str) -> Mistake:
    """A mistake of the file itself."""
    return Mistake(line=line, account="", where="", problem=problem, right=right)


def _account(table: Section, adapters: Mapping[str, Adapter]) -> AccountSettings:
    """One account. What is wrong is noted in the section's mistakes, and a default stands in its place."""
    account_id = _id(table)
    provider = table.word("provider", choices=tuple(adapters))
    record = adapters[provider].record if provider in adapters else None
    base_url = _base_url(table, record)
    timezone = _timezone(table)
    enabled = table.flag("enabled", default=True)
    ca_file, proxy = _ca_file(table), _proxy(table)
    recipients = _recipients(table)
    objective = _objective(table)
    sections = {name: table.section(name) for name in _TABLES}
    table.refuse_others()
    credentials = _credentials(sections["credentials"], record)
    settings = AccountSettings(
        id=account_id,
        provider=provider,
        base_url=base_url,
        timezone=timezone,
        credentials=credentials,
        credentials_hash=_credentials_hash(provider, base_url, _telling(credentials, record)),
        ca_file=ca_file,
        recipients=recipients,
        proxy=proxy,
        objective=objective,
        enabled=enabled,
        **_limit(sections["limit"], record),
        retry=_retry(sections["retry"]),
        poll=_poll(sections["poll"], record),
        options=_options(sections["options"], record),
    )
    for section in sections.values():
        section.refuse_others()
    return settings


def _id(table: Section) -> str:
    """The account's slug."""
    account_id = table.take("id", "")
    if not isinstance(account_id, str) or not _SLUG.fullmatch(account_id):
        table.wrong("id", "it is no slug", 'id = "marka-sms": a-z, 0-9 and -, beginning with a letter or digit')
        return ""
    return account_id


def _base_url(table: Section, record: ProviderRecord | None) -> str:
    """The address without a slash at its end; the provider's public one by default."""
    default = record.base_url if record else ""
    allow_plain_http = table.flag("allow_plain_http", default=False)
    url = table.take("base_url", default)
    if url is None:
        table.wrong("base_url", "it is missing", "the address of your account at this provider, it has no public one")
        return ""
    if record is None and url == "":
        return ""
    if (fault := fault_of(url, allow_plain_http=allow_plain_http)) is not None:
        table.wrong("base_url", *fault)
        return ""
    return str(url).rstrip("/")


def _timezone(table: Section) -> str:
    """The zone of the provider's bare local times and of days that people name."""
    name = table.take("timezone", DEFAULT_TIMEZONE)
    try:
        return time_zone(name).key
    except (OSError, ValueError, TypeError, LookupError):
        table.wrong("timezone", "there is no such time zone", table.nearest(name, sorted(zone_names())))
        return DEFAULT_TIMEZONE


def _recipients(table: Section) -> str:
    """How the account keeps numbers: clear by default."""
    if "recipients" not in table.names():
        return Recipients.CLEAR.value
    return table.word("recipients", choices=tuple(word.value for word in Recipients)) or Recipients.CLEAR.value


def _ca_file(table: Section) -> str | None:
    """The file of certificates, by its absolute path: whoever asks may run elsewhere than who applies the file."""
    given = table.take("ca_file", None)
    if given is None:
        return None
    if not isinstance(given, str) or not given.strip():
        table.wrong("ca_file", "it is not a path", 'ca_file = "/etc/ssl/company-ca.pem"')
        return None
    path = str(Path(given).expanduser().absolute())
    try:
        trusting(path)
    except WayOutError as error:
        table.wrong("ca_file", error.problem, error.right)
    return path


def _proxy(table: Section) -> str | None:
    """The proxy's address; only as a reference where it holds a password."""
    given = table.take("proxy", None)
    if given is None:
        return None
    if isinstance(given, str) and _REFERENCE.fullmatch(given):
        return given
    if isinstance(given, str) and has_login(given):
        right = 'proxy = "env:NAME" or "file:PATH", with the whole address kept there'
        table.wrong("proxy", "it holds a user or password, and secrets do not belong into this file", right)
        return None
    try:
        proxy_of(given if isinstance(given, str) else "")
    except WayOutError as error:
        table.wrong("proxy", error.problem, error.right)
        return None
    return str(given)


def _objective(table: Section) -> str | None:
    """How fresh deliveries are to be, in one form."""
    given = table.take("objective", None)
    if given is None:
        return None
    try:
        return str(read_objective(given if isinstance(given, str) else ""))
    except ValueError:
        table.wrong("objective", "it is no objective", f"objective = {FORM}")
        return None


def _credentials(section: Section, record: ProviderRecord | None) -> dict[str, str]:
    """References under one of the accepted sets of names."""
    references: dict[str, str] = {}
    for name in section.names():
        reference = section.take(name, "")
        if isinstance(reference, str) and _REFERENCE.fullmatch(reference):
            references[name] = reference
        else:
            right = f'{name} = "env:NAME" or "file:PATH", with the value kept there'
            section.wrong(name, "it is not a reference, and secrets do not belong into this file", right)
            references[name] = ""
    if record is not None:
        _check_names(section, set(references), record)
    return references


def _check_names(section: Section, given: set[str], record: ProviderRecord) -> None:
    """Refuse names that the provider does not have, and a set that is neither one nor the other."""
    sets, optional = record.credentials, set(record.optional_credentials)
    known = sorted({name for names in sets for name in names} | optional)
    unknown = [name for name in given if name not in known]
    for name in unknown:
        section.wrong(name, "this provider has no such credential", section.nearest(name, known))
    if not unknown and not any(set(names) == given - optional for names in sets):
        section.wrong("", "these credentials are not complete", " or ".join(" + ".join(names) for names in sets))


def _telling(credentials: Mapping[str, str], record: ProviderRecord | None) -> dict[str, str]:
    """The credentials that the provider's limit hangs on: a webhook's secret does not make another account."""
    optional = record.optional_credentials if record else ()
    return {name: reference for name, reference in credentials.items() if name not in optional}


def _credentials_hash(provider: str, base_url: str, credentials: Mapping[str, str]) -> str:
    """The same for two accounts that name the same secrets at the same address."""
    canonical = {
        name: f"file:{posixpath.normpath(place)}" if kind == "file" else reference
        for name, reference in credentials.items()
        for kind, _, place in [reference.partition(":")]
    }
    text = json.dumps([provider, base_url.lower(), canonical], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _limit(section: Section, record: ProviderRecord | None) -> dict[str, Any]:
    """The provider's default limit, or what the file says instead."""
    limit = record.limit if record else None
    return {
        "limit_requests": section.whole("requests", limit.requests if limit else 1, minimum=1, maximum=100_000),
        "limit_per_seconds": section.number(
            "per_seconds", limit.per_seconds if limit else 1.0, above=0, maximum=_YEAR_SECONDS
        ),
        "limit_concurrency": section.whole("concurrency", limit.concurrency if limit else 1, minimum=1, maximum=1000),
    }


def _retry(section: Section) -> dict[str, Any]:
    """The fields of `RetryPolicy`."""
    policy = RetryPolicy()
    retry = {
        "max_attempts": section.whole("max_attempts", policy.max_attempts, minimum=1, maximum=100),
        "base_seconds": section.number("base_seconds", policy.base_seconds, above=0, maximum=86400),
        "cap_seconds": section.number("cap_seconds", policy.cap_seconds, above=0, maximum=86400),
    }
    if retry["cap_seconds"] < retry["base_seconds"]:
        section.wrong("cap_seconds", "it is less than base_seconds", "a longest wait that is not below the first")
    return retry


def _poll(section: Section, record: ProviderRecord | None) -> dict[str, Any]:
    """When lists are swept, and the account's changes to the poll policy; None: the provider's own number.

    `every_seconds` is there only where the file names it: otherwise the interval follows what the lists show.
    """
    every = section.maybe_number("every_seconds", above=0, maximum=86400)
    return ({} if every is None else {"every_seconds": every}) | {
        "lookback_days": section.whole("lookback_days", record.lookback_days if record else 3, minimum=0, maximum=366),
        "first_check_seconds": section.maybe_number("first_check_seconds", minimum=0, maximum=_YEAR_SECONDS),
        "max_check_seconds": section.maybe_number("max_check_seconds", above=0, maximum=_YEAR_SECONDS),
        "time_factor": section.number("time_factor", 1.0, above=0, maximum=1000),
        "adaptive": section.flag("adaptive", default=True),
    }


def _options(section: Section, record: ProviderRecord | None) -> dict[str, Any]:
    """The two options that all providers have, and the provider's own."""
    hours = record.validity_hours if record else 24.0
    deadline = record.deadline_seconds if record else DEFAULT_DEADLINE_SECONDS
    options: dict[str, Any] = {
        "validity_hours": section.number("validity_hours", hours, above=0, maximum=366 * 24),
        "deadline_seconds": section.number("deadline_seconds", deadline, above=0, maximum=LONGEST_DEADLINE_SECONDS),
    }
    if record is None:
        section.skip()
        return options
    options |= {spec.name: _option(section, spec) for spec in record.options}
    if record.status_codes and STATUS_MAP in section.names():
        options[STATUS_MAP] = _status_map(section.section(STATUS_MAP), record)
    return options


def _status_map(section: Section, record: ProviderRecord) -> dict[str, str]:
    """What codes beyond the documented ones mean in this account. A documented code cannot be given another meaning."""
    meanings: dict[str, str] = {}
    for code in section.names():
        given = section.take(code, "")
        if code in record.status_codes:
            page = f"docs/reference/providers/{record.name}.md"
            section.wrong(code, "this code is documented, and its meaning is fixed", f"only codes that {page} lacks")
        elif not code or code != code.strip():
            section.wrong(code, "it is no status code", "the code as the provider writes it, without blanks around it")
        elif not isinstance(given, str) or read_meaning(given) is None:
            words = ", ".join(MAPPABLE)
            right = f'one of {words}; a failure may name its reason, as in "rejected/opted_out"'
            section.wrong(code, "it is no status that a code can mean", right)
        else:
            meanings[code] = given
    return meanings


def _option(section: Section, spec: OptionSpec) -> Any:
    """One option, of its own type."""
    value = section.take(spec.name, spec.default)
    if spec.name not in section.names():
        return spec.default
    if spec.type is bool:
        return section.flag(spec.name, default=bool(spec.default))
    if spec.type in {int, float}:
        read = section.whole if spec.type is int else section.number
        return read(spec.name, spec.default, minimum=spec.minimum, maximum=spec.maximum)
    if spec.choices:
        return section.word(spec.name, choices=tuple(map(str, spec.choices)))
    if not isinstance(value, spec.type):
        kinds: dict[type, str] = {str: "a text in quotes", list: "a list in brackets", dict: "a table"}
        section.wrong(spec.name, "it has the wrong type", kinds.get(spec.type, spec.type.__name__))
        return spec.default
    return value


def _check_together(entries: Sequence[_Entry], lines: LineIndex, mistakes: list[Mistake]) -> None:
    """Refuse an id that is used twice, and two running accounts that would share one limit."""
    first_of_id: dict[str, int] = {}
    first_of_credentials: dict[str, str] = {}
    for entry in entries:
        settings = entry.settings
        if settings.id and first_of_id.setdefault(settings.id, entry.place) != entry.place:
            line = lines.line(entry.place, "id")
            mistakes.append(
                Mistake(
                    line=line, account=settings.id, where="id", problem="it is used twice", right="an id of its own"
                )
            )
        if not settings.enabled or not settings.credentials or "" in settings.credentials.values():
            continue
        holder = first_of_credentials.setdefault(settings.credentials_hash, settings.id)
        if holder != settings.id:
            mistakes.append(
                Mistake(
                    line=lines.line(entry.place, "credentials"),
                    account=settings.id,
                    where="credentials",
                    problem=f"they are those of {holder}, and two accounts would double the limit",
                    right="one account for these credentials, or enabled = false for the other",
                )
            )
