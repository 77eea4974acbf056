"""`ulak deliveries` and `ulak explain`: look-ups in the shared table."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from sqlalchemy import Connection, RowMapping

from core.zones import time_zone
from models.accounts import load
from models.ledger.finishing import database_now
from models.lookups import Explanation, Statement, explain, find_by_any, find_deliveries, open_tracked
from models.tables import delivery_status
from models.tracked import REFERENCE
from models.vocabulary import STATUS_CLASS, Status
from providers.ids import whole_number
from providers.numbers import lookup_form, plain, same_number_spellings, trimmed
from tasks.steps.previewing import coming_checks
from workers.cli.output import moment, write_csv, write_json, write_json_array, write_line, write_table
from workers.cli.session import CommandError, UsageError, refuse_empty, session, tell

OPEN = "open"
"""Registered, and no provider has answered yet. As `--status`: that, and every delivery that is not final."""
UNANSWERED = "unanswered"
"""Registered, never answered, and nobody is asked any more."""
STATUSES = (*(word.value for word in Status), OPEN, UNANSWERED)
COLUMNS = (*(column.name for column in delivery_status.c if column.name != "changed_in"), "tracked")
FORMATS = ("table", "json", "csv")
TABLE_LIMIT = 200
PAGE = 1000
MOST_EXPLAINED = 20
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def register(app: typer.Typer) -> None:
    """Add `deliveries` and `explain`."""
    app.command()(deliveries)
    app.command("explain")(explain_some)


def deliveries(
    context: typer.Context,
    *,
    account: Annotated[str | None, typer.Option(help="Only of this account.")] = None,
    status: Annotated[str | None, typer.Option(help="Only with this status; `open`: all that are not final.")] = None,
    recipient: Annotated[str | None, typer.Option(help="Only to this number, in any usual spelling.")] = None,
    ref: Annotated[str | None, typer.Option(help="Only with the sender's own id.")] = None,
    since: Annotated[str | None, typer.Option(help="Changed since: a day, a time, or 90m, 24h, 7d ago.")] = None,
    form: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
    limit: Annotated[int | None, typer.Option(min=1, help=f"At most so many (table: {TABLE_LIMIT}).")] = None,
) -> None:
    """Deliveries that match everything given. A registered id that was never answered shows as open."""
    if form not in FORMATS:
        raise UsageError(f"--format must be one of: {', '.join(FORMATS)}.")
    if status is not None and status not in STATUSES:
        raise UsageError(f"--status must be one of: {', '.join(STATUSES)}.")
    refuse_empty({"--account": account, "--recipient": recipient, "--ref": ref})
    with session(context).engine.connect() as connection:
        zone = time_zone(load(connection, account).timezone if account is not None else "UTC")
        search = Search(account, status, recipient, ref, _moment(since, zone, database_now(connection)))
        rows = search.rows(connection)
        first = next(rows, None)
        if first is None and recipient is not None and lookup_form(recipient) is None:
            tell(
                "--recipient could not be read as a phone number, so it was searched as it stands"
                " (a provider's own id of a person): nothing matches."
            )
        rows = rows if first is None else chain((first,), rows)
        if form == "json":
            write_json_array(islice(rows, limit))
        elif form == "csv":
            write_csv(COLUMNS, islice(rows, limit))
        else:
            _write_page(rows, limit or TABLE_LIMIT)


def _moment(text: str | None, zone: ZoneInfo, now: datetime) -> datetime | None:
    """The time that `--since` means; bare days and times are of `zone`, ages before `now`."""
    if text is None:
        return None
    if ago := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError("--since must be a day, a time (2026-05-01T12:30) or an age (90m, 24h, 7d).") from None
    return found if found.tzinfo else found.replace(tzinfo=zone)


def _write_page(rows: Iterator[Mapping[str, Any]], limit: int) -> None:
    shown = list(islice(rows, limit))
    write_table(
        ("id", "account", "recipient", "status", "reason", "provider key", "client ref", "sent", "done", "changed"),
        [
            (
                row["id"],
                row["account_id"],
                row["recipient"],
                f"{row['status']}{' (conflict)' if row['conflict'] else ''}",
                row["reason"],
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
        tell(f"There are more than {limit}: narrow the search, raise --limit, or use --format csv.")


class Search:
    """What was asked for; gives rows page by page, so that memory does not grow with the table."""

    def __init__(
        self, account: str | None, status: str | None, recipient: str | None, ref: str | None, since: datetime | None
    ) -> None:
        """Each narrows the search where it is given."""
        self._account = account
        self._status = status
        self._ref = trimmed(ref) if ref is not None else None
        self._since = since
        self._recipients: Sequence[str | None] = same_number_spellings(recipient) if recipient is not None else (None,)

    def rows(self, connection: Connection) -> Iterator[Mapping[str, Any]]:
        """Deliveries in the order of their ids, then ids that were never answered; each with all of `COLUMNS`."""
        for status in self._statuses():
            for recipient in self._recipients:
                yield from self._stored(connection, status, recipient)
        if self._status in {None, OPEN, UNANSWERED}:
            for recipient in self._recipients:
                yield from self._unanswered(connection, recipient)

    def _statuses(self) -> Sequence[str | None]:
        if self._status == OPEN:
            return [word.value for word, kind in STATUS_CLASS.items() if kind == 1]
        return [] if self._status == UNANSWERED else [self._status]

    def _stored(self, connection: Connection, status: str | None, recipient: str | None) -> Iterator[Mapping[str, Any]]:
        after = 0
        while page := find_deliveries(
            connection,
            account=self._account,
            status=status,
            recipient=recipient,
            client_ref=self._ref,
            since=self._since,
            limit=PAGE,
            after_id=after,
        ):
            yield from ({**row, "tracked": None} for row in page)
            after = page[-1]["id"]

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
                shown = _as_delivery(row)
                if self._status in {None, shown["status"]} and (
                    self._since is None or row["registered_at"] >= self._since
                ):
                    yield shown
            after = page[-1]["id"]


def _as_delivery(row: RowMapping) -> dict[str, Any]:
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


# ---------------------------------------------------------------------------------------------- explain


def explain_some(
    context: typer.Context,
    ident: Annotated[str, typer.Argument(metavar="ID", help="Row id, provider key, client reference or number.")],
    *,
    following: Annotated[bool, typer.Option("--next", help="When it is checked next, if it is open.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Every statement about a delivery: what won, and why. One ID may mean several deliveries."""
    if following:
        _explain_next(context, ident, as_json=as_json)
        return
    run, rows, waiting = session(context), list[RowMapping](), list[dict[str, Any]]()
    with run.engine.connect() as connection:
        # As it was given; else in the forms in which ids are stored.
        for form in dict.fromkeys((trimmed(ident), plain(ident), whole_number(ident) or "")):
            if form and not rows and not waiting:
                rows = list(find_by_any(connection, form, recipient=lookup_form(form), limit=MOST_EXPLAINED + 1))
                waiting = _waiting(connection, form)
        told = [found for row in rows[:MOST_EXPLAINED] if (found := explain(connection, row["id"])) is not None]
    if not told and not waiting:
        raise CommandError("Nothing is known by that id.")
    if as_json:
        write_json({"deliveries": [_document(each) for each in told], "unanswered": waiting})
        return
    for each in told:
        _write_explanation(each)
    for row in waiting:
        write_line(f"{row['account_id']} {row['tracked']}: {row['status']}. Registered {moment(row['first_seen_at'])},")
        write_line("  and the provider has said nothing about it yet.")
    if len(rows) > MOST_EXPLAINED:
        tell(f"Only the first {MOST_EXPLAINED} are explained: name one by its row id (`ulak deliveries` shows it).")


def _explain_next(context: typer.Context, ident: str, *, as_json: bool) -> None:
    """The next checks of the open ids that the person may mean, by the schedule in force."""
    with session(context).engine.connect() as connection:
        found = coming_checks(connection, trimmed(ident), recipients=list(same_number_spellings(ident)))
    if not found:
        raise CommandError("No open id is known by that: it is final, no longer asked for, or never was registered.")
    if as_json:
        write_json([asdict(each) for each in found])
        return
    for each in found:
        source = "the provider's fixed schedule" if each.learned is None else "times learned from earlier messages"
        held = " A request for it is under way." if each.is_held else ""
        write_line(f"{each.account_id} {each.tracked}: sent {moment(each.sent_at)}, checked at {source}.{held}")
        for check in each.checks:
            write_line(f"  {moment(check)}{' (validity has ended)' if check > each.valid_until else ''}")


def _waiting(connection: Connection, ident: str) -> list[dict[str, Any]]:
    """Registered ids that were never answered and that the person may mean."""
    found = {row["id"]: row for row in open_tracked(connection, client_ref=ident)}
    for recipient in same_number_spellings(ident):
        found |= {row["id"]: row for row in open_tracked(connection, recipient=recipient)}
    return [_as_delivery(row) for _, row in sorted(found.items())]


def _document(found: Explanation) -> dict[str, Any]:
    return {
        "delivery": dict(found.delivery),
        "conflicting": found.conflicting,
        "statements": [
            {
                "status": each.observation["facts"]["status"],
                "source": each.observation["source"],
                "as_of": each.observation["as_of"],
                "first_seen_at": each.observation["first_seen_at"],
                "won": each.lost_by is None,
                "lost_by": each.lost_by,
                "gave": each.gave,
                "statement": each.observation["statement"],
            }
            for each in found.statements
        ],
    }


def _write_explanation(found: Explanation) -> None:
    row = found.delivery
    final = "final" if row["is_final"] else "open"
    write_line(
        f"{row['granularity']} {row['provider_key']} of {row['account_id']} (row {row['id']}): {row['status']}, {final}"
    )
    named = ("recipient", "client_ref", "parent_key", "reason", "provider_status", "provider_error")
    counts = ("total", "delivered", "undelivered", "waiting", "segments", "credits")
    times = ("sent_at", "done_at", "valid_until", "first_seen_at", "changed_at")
    facts = [(name, row[name]) for name in (*named, *counts)] + [(name, moment(row[name])) for name in times]
    for name, value in facts:
        if value not in {None, ""}:
            write_line(f"  {name.replace('_', ' ')}: {value}")
    if found.conflicting:
        write_line(f"  CONFLICT: the provider said {' and '.join(found.conflicting)} of the same message")
    write_table(
        ("", "status", "source", "said as of", "came to us", "why", "gave"),
        [_statement_cells(each) for each in found.statements],
    )
    write_line()


def _statement_cells(each: Statement) -> Sequence[Any]:
    seen = each.observation
    why = (
        "the greatest: it decides the status" if each.lost_by is None else f"loses by {each.lost_by.replace('_', ' ')}"
    )
    return (
        "*" if each.lost_by is None else "",
        seen["facts"]["status"],
        seen["source"],
        moment(seen["as_of"]) or "not said",
        moment(seen["first_seen_at"]),
        why,
        ", ".join(each.gave),
    )
