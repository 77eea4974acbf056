"""Writes what is made from `ulak.models.meanings`: `docs/reference/delivery-status.md` and the dbt source file.

`python -m ulak.models.handbook` writes both; a test checks that they are what this writes.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any, Final

from ulak.models.meanings import (
    COLUMNS,
    GRANULARITIES,
    OUTCOMES,
    REASONS,
    SOURCES,
    STATUSES,
    TABLE,
    TIME_SOURCES,
    VIEWS,
    outcome_of,
    view_column,
)
from ulak.models.queries import QUERIES
from ulak.models.views import TABLE_NAME, VIEW_SQL
from ulak.models.vocabulary import is_final

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "reference" / "delivery-status.md"
DBT: Final = ROOT / "deploy" / "dbt" / "ulak_sources.yml"
_INTERNAL: Final = frozenset({"changed_in"})

_PAGE: Final = Template("""\
<!-- Written by `python -m ulak.models.handbook` from models/meanings.py, models/views.py and models/queries.py. -->

# The delivery table

$table_meaning

Read it with SQL as described here, over [HTTP](http-api.md), or with `ulak deliveries` and `ulak explain`
([command line](cli.md)). To keep a copy, read the feed of changes (`GET /v1/changes`), not the table.

**Count messages, not rows.** The table also holds orders, whose messages are rows of their own, and daily counts of
conversations. The views have one kind of row each, so queries on them are right without a condition. For figures over
days read `statistics`: it is always exact, stays small, and keeps past figures when deliveries are erased or removed.

## Access

An administrator creates a role, and Ulak grants it what it needs:

    psql -c "CREATE ROLE reporting LOGIN PASSWORD '…'"
    ulak grant-reader reporting            # prints the statements that it runs; with --print it only prints them
    psql -c "ALTER ROLE reporting SET statement_timeout = '60s'"

The role reads `$table` and the views, phone numbers included. It can write nothing, and it cannot see
credentials, raw reports, quarantine or tracked ids. Repeat `ulak grant-reader` after an update that brings new views.
While a long report runs, PostgreSQL cannot clean up the tables, hence the time-out; run heavy ones on a replica.

## Keys and joins

| to find | join on |
|---|---|
| one row | `(account_id, granularity, provider_key)`, unique; in a view `account_id` and its key |
| your own records | `client_ref`; has an index. Several messages may carry the same reference |
| a person's messages | `recipient`; has an index. E.164 (`+905301234567`) where it is a phone number |
| the messages of an order | `account_id` and `order_key` of `messages` and `orders`; has an index |
| a range of time | `message_time`; has an index, for one account and for all |

`id` is stable for the life of a row. A row disappears only when a person is erased, a repetition is
withdrawn, or it has been kept for the [`keep_days`](retention.md#keep_days) of its account.

## When a status is final

`is_final` says that no further report is expected. A report never makes a row less certain: `read` replaces the other
final statuses, these replace `sent`, that replaces `unreported`, and each of them replaces the open ones. So a row may
still change after it became final, mostly from `unreported` to a late outcome. `conflict` marks messages of which a
provider reported two contradicting final statuses. A conversation-day is final once it was counted two days after its
end.

## The time of a message

`sent_at` and `done_at` hold only what the provider reported of this row, and several providers report neither for
single messages. `message_time` is always there:

$time_sources
It follows what is reported until the row is final, and is fixed then: a report never moves a final message to another
day. When the time of an order becomes known, its open messages get it in the same transaction. Rows that were stored
before Ulak had this column get it after the update, a million in about 20 minutes; until then it is null.

## Statuses

$statuses
The outcome is a column of `messages`:

$outcomes
## Reasons

$reasons
A provider's own codes are in `provider_status` and `provider_error`. What they mean is on the
page of the provider, and the status page, `ulak explain` and the API show it beside the code.

## Views

$views
## Columns of $table

$columns
`granularity` is one of:

$granularities
Every distinct report about a row is kept; `ulak explain` shows them with their source:

$sources
## Six ready queries

$queries
## dbt

`deploy/dbt/ulak_sources.yml` declares the views and the table as sources, with these descriptions.
""")


def page() -> str:
    """`docs/reference/delivery-status.md`."""
    statuses = (
        (f"`{status}`", f"`{outcome_of(status)}`", "yes" if is_final(status) else "no", meaning)
        for status, meaning in STATUSES.items()
    )
    return _PAGE.substitute(
        table=TABLE_NAME,
        table_meaning=TABLE,
        time_sources=_meanings("message_time_source", TIME_SOURCES),
        statuses=_table(("status", "outcome", "final", "what it promises"), statuses),
        outcomes=_meanings("outcome", OUTCOMES),
        reasons=_meanings("reason", REASONS),
        views="\n".join(_view(view, columns) for view, columns in VIEW_SQL.items()),
        columns=_meanings("column", COLUMNS),
        granularities=_meanings("granularity", GRANULARITIES),
        sources=_meanings("source", SOURCES),
        queries="\n".join(f"### {each.question}\n\n{each.note}\n\n```sql\n{each.sql};\n```\n" for each in QUERIES),
    )


def _view(view: str, columns: Mapping[str, str]) -> str:
    return f"### {view}\n\n{VIEWS[view]}\n\n{_meanings('column', {name: view_column(view, name) for name in columns})}"


def _meanings(title: str, meanings: Mapping[Any, str]) -> str:
    return _table((title, "meaning"), ((f"`{name}`", meaning) for name, meaning in meanings.items()))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (" | ".join(cells) for cells in (head, *rows))
    first, *others = (f"| {line} |\n" for line in lines)
    return "".join((first, f"|{'---|' * len(head)}\n", *others))


def dbt() -> str:
    """The dbt source file: the views and the table, each column described, keys tested."""
    lines = [
        "# Written by `python -m ulak.models.handbook`. Copy it into the models of a dbt project.",
        "version: 2",
        "sources:",
        "  - name: ulak",
        "    schema: public",
        "    loaded_at_field: changed_at",
        "    tables:",
    ]
    for view, columns in VIEW_SQL.items():
        lines += _dbt_relation(view, VIEWS[view], {name: view_column(view, name) for name in columns})
    lines += _dbt_relation(TABLE_NAME, TABLE, {name: text for name, text in COLUMNS.items() if name not in _INTERNAL})
    return "\n".join(lines) + "\n"


_ACCEPTED: Final[Mapping[str, Iterable[str]]] = {
    "status": STATUSES,
    "outcome": OUTCOMES,
    "granularity": GRANULARITIES,
    "message_time_source": TIME_SOURCES,
}


def _dbt_relation(name: str, meaning: str, columns: Mapping[str, str]) -> list[str]:
    lines = [f"      - name: {name}", f"        description: {json.dumps(meaning)}", "        columns:"]
    for column, text in columns.items():
        lines += [f"          - name: {column}", f"            description: {json.dumps(text)}"]
        if column == "id":
            lines.append("            data_tests: [unique, not_null]")
        elif column in _ACCEPTED:
            values = ", ".join(_ACCEPTED[column])
            lines += ["            data_tests:", f"              - accepted_values: {{values: [{values}]}}"]
    return lines


def main() -> None:
    """Write both files."""
    DBT.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    DBT.write_text(dbt(), encoding="utf-8")


if __name__ == "__main__":
    main()
