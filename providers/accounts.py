"""`accounts.toml`, validated against each provider's record.

A wrong file is refused whole, with every mistake in it: line, account, what is wrong and what would be right. No
sentence repeats a value that may be a secret.
"""

import hashlib
import json
import posixpath
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ulak.models.account import AccountSettings
from ulak.models.vocabulary import MAX_ACCOUNT_ID_LENGTH
from ulak.providers.account_tables import KNOWN_ADAPTERS, REFERENCE, AccountTable
from ulak.providers.account_values import Mistake, explain, nearest
from ulak.providers.adapter import Adapter, ProviderRecord
from ulak.providers.options import ProviderOptions, Table
from ulak.providers.registry import ADAPTERS
from ulak.providers.statuses import RECORD, STATUS_MAP
from ulak.providers.toml_lines import LineIndex

_Table = TypeVar("_Table", bound=Table)
_OF_A_KEY = "[key]"
"""What pydantic adds to the place of a mistake in a key."""
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
    """One `[[account]]` of the file."""

    place: int
    """From 1."""
    table: Mapping[str, Any]
    record: ProviderRecord | None
    """None where the provider is not known."""
    lines: LineIndex
    mistakes: list[Mistake]
    """Those of the whole file, filled as they are found."""

    @property
    def name(self) -> str:
        """The account's id, or its place where there is none or a text far too long for one."""
        given = self.table.get("id")
        is_short = isinstance(given, str) and 0 < len(given) <= MAX_ACCOUNT_ID_LENGTH
        return str(given) if is_short else f"#{self.place}"

    @property
    def credentials(self) -> Mapping[str, Any]:
        """As they are in the file."""
        return self.section("credentials")

    def section(self, name: str) -> Mapping[str, Any]:
        """The table of this name, as it is in the file; empty where there is none."""
        found = self.table.get(name)
        return found if isinstance(found, dict) else {}

    def wrong(self, path: Sequence[str], problem: str, right: str) -> None:
        """Note a mistake of the key with this path. Neither sentence may repeat the value."""
        where, key = ".".join(path), path[-1] if path else ""
        self.mistakes.append(
            Mistake(
                line=self.lines.line(self.place, *path),
                account=self.name,
                where=where,
                problem=problem,
                right=right.replace("{key}", key).replace("{path}", where),
            )
        )

    def checked(self, model: type[_Table], given: Mapping[str, Any], *path: str, **context: Any) -> _Table | None:
        """`given` as the model has it; None, with every mistake noted, where it is wrong. `path`: where it is."""
        try:
            return model.model_validate(given, context={RECORD: self.record, **context})
        except ValidationError as error:
            for each in error.errors():
                loc = [str(part) for part in each["loc"] if part != _OF_A_KEY]
                self.wrong([*path, *loc], *explain(each, model))
            return None


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
        problem = "this is not TOML" + _parser_message(str(error))
        raise AccountsFileError([_whole(line, problem, "quotes closed, no key twice in a table")], file) from None
    except (ValueError, RecursionError):
        problem = "the accounts file cannot be parsed: a number in it is too long, or it is nested too deeply"
        right = "numbers and tables as docs/reference/configuration.md shows them"
        raise AccountsFileError([_whole(1, problem, right)], file) from None
    lines = LineIndex(text)
    mistakes = [
        _whole(lines.line_outside(name), f"{name!r} is not known here", "only [[account]] tables")
        for name in tables
        if name != "account"
    ]
    listed = tables.get("account", [])
    accounts: list[AccountSettings | None] = []
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        mistakes.append(_whole(lines.line_outside("account"), "account is not a list of tables", "[[account]]"))
    elif not listed:
        mistakes.append(_whole(1, "there is no account in the file", "at least one [[account]]"))
    else:
        entries = [
            _Entry(
                place=place,
                table=table,
                record=_record(table.get("provider"), adapters),
                lines=lines,
                mistakes=mistakes,
            )
            for place, table in enumerate(listed, 1)
        ]
        accounts = [_account(entry, adapters) for entry in entries]
        _check_together(entries)
    if mistakes:
        raise AccountsFileError(mistakes, file)
    return [account for account in accounts if account is not None]


def _parser_message(sentence: str) -> str:
    """The parser's message and column, if its wording is fixed: other messages quote the input, maybe a key."""
    told = _PARSER_SENTENCE.fullmatch(sentence)
    if told is None:
        return ""
    return f" ({told['words']}, column {told['column']})" if told["column"] else f" ({told['words']})"


def _whole(line: int, problem: str, right: str) -> Mistake:
    """A mistake of the file itself."""
    return Mistake(line=line, account="", where="", problem=problem, right=right)


def _record(provider: Any, adapters: Mapping[str, Adapter]) -> ProviderRecord | None:
    """The record of a provider; None where it is not known."""
    return adapters[provider].record if isinstance(provider, str) and provider in adapters else None


def _account(entry: _Entry, adapters: Mapping[str, Adapter]) -> AccountSettings | None:
    """One account, completed by the provider's defaults; None where it is wrong."""
    record, given = entry.record, entry.section("options")
    table = entry.checked(AccountTable, entry.table, **{KNOWN_ADAPTERS: adapters})
    if record is None:
        # Which other options there are is not known.
        given = {name: value for name, value in given.items() if name in ProviderOptions.model_fields}
    options = entry.checked(record.options if record else ProviderOptions, given, "options")
    if record is not None:
        _check_names(entry, record)
    if table is None or options is None or record is None:
        return None
    limit = asdict(record.limit) | table.limit.model_dump(exclude_none=True)
    return AccountSettings(
        id=table.id,
        provider=table.provider,
        base_url=table.base_url,
        timezone=table.timezone,
        credentials=table.credentials,
        credentials_hash=_credentials_hash(entry, record),
        ca_file=table.ca_file,
        recipients=table.recipients.value,
        proxy=table.proxy,
        objective=table.objective,
        keep_days=table.keep_days,
        enabled=table.enabled,
        limit_requests=limit["requests"],
        limit_per_seconds=limit["per_seconds"],
        limit_concurrency=limit["concurrency"],
        retry=table.retry.model_dump(),
        # No default of the interval is stored: without one of the operator's it follows what the lists show.
        poll=table.poll.model_dump(exclude={"every_seconds"})
        | {"lookback_days": record.lookback_days}
        | table.poll.model_dump(exclude_none=True),
        options=options.model_dump(exclude={STATUS_MAP} - options.model_fields_set),
    )


def _check_names(entry: _Entry, record: ProviderRecord) -> None:
    """Refuse credentials that the provider does not have, and an incomplete set of them."""
    given, optional = set(entry.credentials), set(record.optional_credentials)
    known = sorted({name for names in record.credentials for name in names} | optional)
    unknown = [name for name in entry.credentials if name not in known]
    for name in unknown:
        entry.wrong(["credentials", name], "this provider has no such credential", nearest(name, known))
    if not unknown and not any(set(names) == given - optional for names in record.credentials):
        right = " or ".join(" + ".join(names) for names in record.credentials)
        entry.wrong(["credentials"], "these credentials are not complete", right)


def _credentials_hash(entry: _Entry, record: ProviderRecord) -> str:
    """The same for two accounts that name the same secrets at the same address, and so would share one limit.

    Optional credentials do not count: a webhook's secret does not make another account.
    """
    canonical = {
        name: f"file:{posixpath.normpath(place)}" if kind == "file" else f"{kind}:{place}"
        for name, reference in entry.credentials.items()
        if name not in record.optional_credentials
        for kind, _, place in [str(reference).partition(":")]
    }
    base_url = str(entry.table.get("base_url", record.base_url)).rstrip("/").lower()
    return hashlib.sha256(json.dumps([record.name, base_url, canonical], sort_keys=True).encode()).hexdigest()


def _check_together(entries: Iterable[_Entry]) -> None:
    """Refuse an id that is used twice, and two running accounts that would share one limit."""
    first_of_id: dict[str, int] = {}
    holders: dict[str, _Entry] = {}
    for entry in entries:
        if first_of_id.setdefault(entry.name, entry.place) != entry.place:
            entry.wrong(["id"], "it is used twice", "an id of its own")
        references = [isinstance(each, str) and REFERENCE.fullmatch(each) for each in entry.credentials.values()]
        if entry.record is None or entry.table.get("enabled") is False or not references or not all(references):
            continue
        holder = holders.setdefault(_credentials_hash(entry, entry.record), entry)
        if holder is not entry:
            problem = f"they are those of {holder.name}, and two accounts would double the limit"
            right = "one account for these credentials, or enabled = false for the other"
            entry.wrong(["credentials"], problem, right)
