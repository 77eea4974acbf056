"""`ulak deliveries`: look-ups in the shared table."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from sqlalchemy import Connection

from ulak.cli.lookups import looked_up
from ulak.cli.output import moment, write_csv, write_json_array, write_table
from ulak.cli.session import Session, UsageError, refuse_empty, report, session
from ulak.core.time_zones import time_zone
from ulak.models.account import load
from ulak.models.events import Action
from ulak.models.ledger.ending import database_now
from ulak.models.searches import find_deliveries, open_tracked
from ulak.models.tables import delivery_status
from ulak.models.tracked import REFERENCE
from ulak.models.vocabulary import STATUS_CLASS, Granularity, Status
from ulak.providers.codes import explain_codes, with_meaning
from ulak.providers.phone_numbers import lookup_form, trimmed

OPEN = "open"
"""Registered, and no provider has answered yet. As `--status`: that, and every delivery that is not final."""
UNANSWERED = "unanswered"
"""Registered, never answered, and no longer polled."""
GRANULARITIES = tuple(word.value for word in Granularity)
STATUSES = (*(word.value for word in Status), OPEN, UNANSWERED)
CODES = ("provider_status", "provider_error")
COLUMNS = (
    *(column.name for column in delivery_status.c if column.name != "changed_in"),
    "tracked",
    *(f"{name}_meaning" for name in CODES),
)
FORMATS = ("table", "json", "csv")
DELIMITERS = {",": ",", ";": ";", "|": "|", "tab": "\t"}
TABLE_LIMIT = 200
PAGE = 1000
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def register(app: typer.Typer) -> None:
    """Add `deliveries`."""
    app.command()(deliveries)


def deliveries(
    context: typer.Context,
    *,
    account: Annotated[str | None, typer.Option(help="Only for this account.")] = None,
    status: Annotated[str | None, typer.Option(help="Only with this status; `open`: all that are not final.")] = None,
    recipient: Annotated[str | None, typer.Option(help="Only to this number, in any usual spelling.")] = None,
    ref: Annotated[str | None, typer.Option(help="Only with the sender's own id.")] = None,
    provider_key: Annotated[str | None, typer.Option(help="Only with this id of the provider.")] = None,
    parent_key: Annotated[str | None, typer.Option(help="Only under this key, such as an order's messages.")] = None,
    granularity: Annotated[str | None, typer.Option(help="Only message, order or conversation.")] = None,
    since: Annotated[str | None, typer.Option(help="Changed since: a day, a time, or 90m, 24h, 7d ago.")] = None,
    until: Annotated[str | None, typer.Option(help="Changed before: as --since.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Look up the identifiers in this file, one per line; - reads stdin.")
    ] = None,
    by: Annotated[str, typer.Option(help="Kind of the identifiers in --file: ref, key or recipient.")] = "ref",
    form: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
    delimiter: Annotated[
        str, typer.Option(help="Column separator of csv: a comma, `;` (Excel in Turkish), `|` or tab.")
    ] = ",",
    limit: Annotated[int | None, typer.Option(min=1, help=f"Maximum number of rows (table: {TABLE_LIMIT}).")] = None,
) -> None:
    """Search deliveries.

    Everything given must match. A registered id that the provider has not reported yet is shown as open.
    """
    if form not in FORMATS:
        raise UsageError(f"--format must be one of: {', '.join(FORMATS)}.")
    if DELIMITERS.get(delimiter) is None or (delimiter != "," and form != "csv"):
        raise UsageError("--delimiter must be one of , ; | tab, and goes with --format csv.")
    if status is not None and status not in STATUSES:
        raise UsageError(f"--status must be one of: {', '.join(STATUSES)}.")
    if granularity is not None and granularity not in GRANULARITIES:
        raise UsageError(f"--granularity must be one of: {', '.join(GRANULARITIES)}.")
    texts = {"--recipient": recipient, "--ref": ref, "--provider-key": provider_key, "--parent-key": parent_key}
    refuse_empty({"--account": account, **texts})
    filters = (*texts.values(), status, granularity, since, until)
    if file is not None and any(each is not None for each in filters):
        raise UsageError("--file goes with --account, --format and --limit alone: it names what to look up.")
    run = session(context)
    with run.engine.connect() as connection:
        zone, now = (
            time_zone(load(connection, account).timezone if account is not None else "UTC"),
            database_now(connection),
        )
        search = Search(
            account=account,
            status=status,
            recipients=None if recipient is None else run.recorder.spellings(recipient),
            ref=ref,
            provider_key=None if provider_key is None else run.recorder.key_forms(trimmed(provider_key)),
            parent_key=None if parent_key is None else _parents(run, trimmed(parent_key)),
            granularity=granularity,
            since=moment_of(since, now, zone, option="--since"),
            until=moment_of(until, now, zone, option="--until"),
        )
        action = Action.DELIVERIES_READ if recipient is None else Action.PERSON_SEARCHED
        run.saw(run.event(action, account=account, person=run.recorder.mark(recipient)))
        rows = search.rows(connection) if file is None else _of_file(run, connection, file, by, account)
        first = next(rows, None)
        if first is None and recipient is not None and lookup_form(recipient) is None:
            report(
                "--recipient could not be read as a phone number, so it was searched literally"
                " (a provider's own id of a person): nothing matches."
            )
        rows = rows if first is None else chain((first,), rows)
        if form == "json":
            write_json_array(islice(rows, limit))
        elif form == "csv":
            write_csv(COLUMNS, islice(rows, limit), delimiter=DELIMITERS[delimiter])
        else:
            _write_page(rows, limit or TABLE_LIMIT)


def _parents(run: Session, key: str) -> tuple[str, ...]:
    """A parent's key as it is, and as the person that it is of conversations."""
    return key, *run.recorder.pseudonyms(key)


def _of_file(
    run: Session, connection: Connection, file: Path, by: str, account: str | None
) -> Iterator[Mapping[str, Any]]:
    for row, is_reported in looked_up(run, connection, file, by, account):
        yield {**row, "tracked": None, **explain_codes(row)} if is_reported else as_delivery(row)


def moment_of(
    text: str | None, now: datetime, zone: ZoneInfo | None = None, *, option: str = "--since"
) -> datetime | None:
    """The time that an option means; bare days and times are of `zone` (None: UTC), ages before `now`."""
    if text is None:
        return None
    if ago := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} must be a day, a time (2026-05-01T12:30) or an age (90m, 24h, 7d).") from None
    return found if found.tzinfo else found.replace(tzinfo=zone or UTC)


def _write_page(rows: Iterator[Mapping[str, Any]], limit: int) -> None:
    shown = list(islice(rows, limit))
    write_table(
        (
            *("id", "account", "recipient", "status", "reason", "provider status"),
            *("provider key", "client ref", "sent", "done", "changed"),
        ),
        [
            (
                row["id"],
                row["account_id"],
                row["recipient"],
                f"{row['status']}{' (conflict)' if row['conflict'] else ''}",
                row["reason"],
                shown_codes(row),
                row["provider_key"] or row["tracked"],
                row["client_ref"],
                moment(row["sent_at"]),
                moment(row["done_at"]),
                moment(row["changed_at"]),
            )
            for row in shown
        ],
    )
    if next(rows, None) is not None:
        report(f"There are more than {limit}: narrow the search, raise --limit, or use --format csv.")


def shown_codes(row: Mapping[str, Any]) -> str | None:
    """The provider's own codes, explained; None for an id that was never answered."""
    if row["provider_status"] is None:
        return None
    same = row["provider_error"] in {None, row["provider_status"]}
    shown = (with_meaning(row, name) for name in (CODES[:1] if same else CODES))
    return "; ".join(code for code in shown if code)


class Search:
    """What was asked for; gives rows page by page, so that memory does not grow with the table."""

    def __init__(
        self,
        *,
        account: str | None,
        status: str | None,
        recipients: Sequence[str] | None,
        ref: str | None,
        provider_key: Sequence[str] | None,
        parent_key: Sequence[str] | None,
        granularity: str | None,
        since: datetime | None,
        until: datetime | None,
    ) -> None:
        """Each narrows the search where it is given."""
        self._account = account
        self._status = status
        self._ref = trimmed(ref) if ref is not None else None
        self._keys = {
            "provider_key": provider_key,
            "parent_key": parent_key,
        }
        self._granularity = granularity
        self._since, self._until = since, until
        self._recipients: Sequence[str | None] = recipients if recipients is not None else (None,)

    def rows(self, connection: Connection) -> Iterator[Mapping[str, Any]]:
        """Deliveries in the order of their ids, then ids that were never answered; each with all of `COLUMNS`."""
        for status in self._statuses():
            for recipient in self._recipients:
                yield from self._stored(connection, status, recipient)
        # Of what was never answered neither a provider's key nor a row's kind is known.
        if self._status in {None, OPEN, UNANSWERED} and not any((*self._keys.values(), self._granularity)):
            for recipient in self._recipients:
                yield from self._unanswered(connection, recipient)

    def _statuses(self) -> Sequence[str | None]:
        if self._status == OPEN:
            return [word.value for word, kind in STATUS_CLASS.items() if kind == 1]
        return [] if self._status == UNANSWERED else [self._status]

    def _stored(self, connection: Connection, status: str | None, recipient: str | None) -> Iterator[Mapping[str, Any]]:
        after: int | None = 0
        while after is not None:
            page = find_deliveries(
                connection,
                account=self._account,
                status=status,
                recipient=recipient,
                client_ref=self._ref,
                **self._keys,
                granularity=self._granularity,
                since=self._since,
                until=self._until,
                limit=PAGE,
                after_id=after,
            )
            yield from ({**row, "tracked": None, **explain_codes(row)} for row in page.rows)
            after = page.next_after

    def _unanswered(self, connection: Connection, recipient: str | None) -> Iterator[Mapping[str, Any]]:
        after = 0
        while page := open_tracked(
            connection,
            account=self._account,
            recipient=recipient,
            client_ref=self._ref,
            limit=PAGE,
            after_id=after,
        ):
            for row in page:
                shown = as_delivery(row)
                is_in_time = (self._since is None or row["registered_at"] >= self._since) and (
                    self._until is None or row["registered_at"] < self._until
                )
                if self._status in {None, shown["status"]} and is_in_time:
                    yield shown
            after = page[-1]["id"]


def as_delivery(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A registered id that was never answered, in the columns of a delivery."""
    return dict.fromkeys(COLUMNS) | {
        "account_id": row["account_id"],
        "client_ref": row["client_ref"],
        "recipient": row["recipient"],
        # What was registered for its reference alone is found by a list, if there is such a thing.
        "status": OPEN if row["closed_at"] is None or row["close_reason"] == REFERENCE else UNANSWERED,
        "is_final": False,
        "conflict": False,
        "sent_at": row["sent_at"],
        "valid_until": row["valid_until"],
        "first_seen_at": row["registered_at"],
        "changed_at": row["registered_at"],
        "extra": {},
        "tracked": f"{row['id_kind']}={row['value']}",
    }
