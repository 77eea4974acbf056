"""Writes what documents say about settings, the keys of `accounts.toml` and the options of providers.

`python -m ulak.providers.handbook` renews `deploy/env.example` and the marked sections of the configuration page and of
the providers' pages. A section begins with `<!-- generated: NAME -->` and ends with `<!-- end of NAME -->`.
"""

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from inspect import cleandoc
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ulak.core.environment import PREFIX
from ulak.core.setting_types import FILES, Group
from ulak.core.settings import Settings
from ulak.providers.account_tables import AccountTable, LimitTable, PollTable, RetryTable
from ulak.providers.adapter import ProviderRecord
from ulak.providers.options import ProviderOptions
from ulak.providers.registry import ADAPTERS

ROOT: Final = Path(__file__).parents[1]
ENV_EXAMPLE: Final = ROOT / "deploy" / "env.example"
CONFIGURATION: Final = ROOT / "docs" / "reference" / "configuration.md"
PROVIDER_PAGES: Final = ROOT / "docs" / "reference" / "providers"
MAX_WORDS: Final = 25
"""Of a cell of a table."""
_COMMENT_COLUMNS: Final = 118
_LINK: Final = re.compile(r"\[[^\]]+\]\(\.\./([^)#]+)[^)]*\)")
_CODE: Final = re.compile(r"`[^`]*`")
_HEAD: Final = """\
# Every setting of Ulak. Written by `python -m ulak.providers.handbook` from core/setting_groups.py and api_settings.py.
# Variables of Celery, Flower and uvicorn (CELERY_BROKER_URL, FLOWER_PORT …) have no effect.
# It is in parts, one for each file in /etc/ulak, mode 0600 (for Compose: in deploy/, and compose.yaml itself has the
# servers' addresses): no process gets a secret that it does not need. Remove the # where you want another value. One
# file for all works as well, but then every process, Flower too, has every secret. `ulak up` distributes them.
"""


def groups() -> list[type[Group]]:
    """The documented groups of settings, in the order of the documents."""
    found = [base for base in reversed(Settings.__bases__) if issubclass(base, Group) and base.file]
    return sorted(found, key=lambda group: list(FILES).index(group.file))


def settings_of(group: type[Group]) -> dict[str, FieldInfo]:
    """The settings of one group by variable."""
    return {f"{PREFIX}{name.upper()}": field for name, field in group.model_fields.items()}


def env_example() -> str:
    """`deploy/env.example`."""
    parts = [_HEAD]
    for file, readers in FILES.items():
        parts.append(f"\n# ======== {file}: {readers}\n")
        parts += [_env_group(group) for group in groups() if group.file == file]
    return "".join(parts)


def _env_group(group: type[Group]) -> str:
    title, note = _described(group)
    lines = [f"\n# --- {title.rstrip('.')}", *_comment(note)]
    for variable, field in settings_of(group).items():
        extra: Any = field.json_schema_extra
        value = _default(field) if extra["example"] is None else extra["example"]
        lines += [*_comment(field.description or ""), f"#{variable}={value}"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> Iterator[str]:
    """A text of the page as comments: links become paths."""
    # A command that is copied must not hold a line break.
    plain = _CODE.sub(lambda code: code[0].replace(" ", "\0"), _LINK.sub(r"docs/\1", text))
    for paragraph in plain.split("\n\n"):
        for line in textwrap.wrap(paragraph, _COMMENT_COLUMNS - 2, break_long_words=False, break_on_hyphens=False):
            yield "# " + line.replace("\0", " ")


def environment() -> str:
    """The settings for the configuration page: a heading, a table and notes for each group."""
    parts = []
    for group in groups():
        title, note = _described(group)
        place = f"In `{group.file}`. {note}".strip()
        parts.append(f"### {title.rstrip('.')}\n\n{place}\n\n{_fields('variable', settings_of(group))}")
    return "\n".join(parts)


def providers() -> str:
    """The defaults of each provider."""
    rows = [_defaults_of(adapter.record) for adapter in ADAPTERS.values()]
    head = ("provider", "limit", "lists read every", "past days", "validity", "deadline")
    return _table(head, rows)


def _defaults_of(record: ProviderRecord) -> tuple[str, ...]:
    limit, options = record.limit, record.options()
    has_list = record.sweep_window_days is not None
    return (
        f"`{record.name}`",
        f"{limit.requests} in {limit.per_seconds:g} s, {limit.concurrency} at once",
        f"{record.every_seconds:g} s" if has_list else "no lists",
        str(record.lookback_days) if has_list else "–",
        f"{options.validity_hours:g} h",
        f"{options.deadline_seconds:g} s",
    )


def options(model: type[ProviderOptions]) -> str:
    """The options that not every provider has."""
    return _fields("option", {name: model.model_fields[name] for name in model.own_names()})


def keys(model: type[BaseModel]) -> str:
    """The keys of one table of `accounts.toml`, without the tables within it."""
    return _fields("key", {name: field for name, field in model.model_fields.items() if field.default_factory is None})


def documents() -> dict[Path, str]:
    """Every file with generated parts, as it should be."""
    sections = {
        "account": keys(AccountTable),
        "limit": keys(LimitTable),
        "retry": keys(RetryTable),
        "poll": keys(PollTable),
        "options": _fields("option", ProviderOptions.model_fields, default="the provider's"),
        "providers": providers(),
        "environment": environment(),
    }
    found = {ENV_EXAMPLE: env_example(), CONFIGURATION: renewed(CONFIGURATION, sections)}
    for name, adapter in ADAPTERS.items():
        page = PROVIDER_PAGES / f"{name}.md"
        found[page] = renewed(page, {"options": options(adapter.record.options)})
    return found


def renewed(path: Path, sections: Mapping[str, str]) -> str:
    """The file's text with these sections in place of those that are there; `LookupError` where one is missing."""
    text = path.read_text(encoding="utf-8")
    for name, body in sections.items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end of {name} -->\n"
        before, begun, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not (begun and ended):
            raise LookupError(f"{path.name} has no section {name}")
        text = f"{before}{begin}\n{body}\n{ended}{after}"
    return text


def _fields(title: str, fields: Mapping[str, FieldInfo], *, default: str = "") -> str:
    """A table of fields, and below it what does not fit into one. `default`: in place of each default."""
    rows, notes = [], []
    for name, field in fields.items():
        short, *more = (field.description or "").split("\n\n")
        rows.append((f"`{name}`", default or _cell(field), short))
        notes += [f"- `{name}`: {note}\n" for note in more]
    return _table((title, "default", "meaning"), rows) + ("\n" + "".join(notes) if notes else "")


def _cell(field: FieldInfo) -> str:
    if field.validate_default and field.default == "":
        return "required"
    text = _default(field)
    return f"`{text}`" if text else "–"


def _default(field: FieldInfo) -> str:
    """The default as it is written in a file; empty for none."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None or isinstance(default, BaseModel):
        return ""
    if isinstance(default, Enum):
        return str(default.value)
    if isinstance(default, dict):
        return "{ " + ", ".join(f'"{key}" = "{value}"' for key, value in default.items()) + " }" if default else "{}"
    if isinstance(default, float):
        return f"{default:g}"
    return json.dumps(default) if isinstance(default, bool | list) else str(default)


def _described(group: type[Group]) -> tuple[str, str]:
    """A group's heading and the note below it."""
    title, _, note = cleandoc(group.__doc__ or "").partition("\n\n")
    return title, " ".join(note.split())


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(cells)} |\n" for cells in (head, *rows)]
    return "".join((lines[0], f"|{'---|' * len(head)}\n", *lines[1:]))


def main() -> None:
    """Write every file."""
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
