"""`ulak explain`: one delivery with every statement about it, what won and why."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from sqlalchemy import Connection, RowMapping

from ulak.cli.deliveries import CODES, as_delivery, shown_codes
from ulak.cli.output import moment, write_json, write_line, write_table
from ulak.cli.session import CommandError, Session, report, session
from ulak.models.events import Action
from ulak.models.lookups import Explanation, Statement, explain, find_by_any
from ulak.models.meanings import REASONS, STATUSES
from ulak.models.searches import open_tracked
from ulak.models.vocabulary import Reason, Status
from ulak.providers.codes import explain_codes, with_meaning
from ulak.providers.ids import whole_number
from ulak.providers.phone_numbers import lookup_form, plain, trimmed
from ulak.tasks.steps.previewing import coming_checks
from ulak.workers.audit_recording import forms_of, people_in, people_of

MAX_EXPLAINED = 20


def register(app: typer.Typer) -> None:
    """Add `explain`."""
    app.command("explain")(explain_some)


def explain_some(
    context: typer.Context,
    ident: Annotated[str, typer.Argument(metavar="ID", help="Row id, provider key, client reference or number.")],
    *,
    following: Annotated[bool, typer.Option("--next", help="Show when an open id is checked next.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show every report about a delivery, and which one decided.

    One ID may mean several deliveries.
    """
    if following:
        _explain_next(session(context), ident, as_json=as_json)
        return
    run = session(context)
    with run.engine.connect() as connection:
        rows, waiting = _matches(run, connection, ident)
        explained = [found for row in rows[:MAX_EXPLAINED] if (found := explain(connection, row["id"])) is not None]
    if not explained and not waiting:
        raise CommandError("Nothing is known by that id.")
    if lookup_form(ident) is not None:
        run.saw(run.event(Action.PERSON_SEARCHED, person=run.recorder.mark(ident)))
    for each in explained:
        about = {"account": each.delivery["account_id"], "delivery_id": each.delivery["id"]}
        marks = run.recorder.marks(people_of(each.delivery))
        run.saw(*(run.event(Action.DELIVERY_VIEWED, person=mark, **about) for mark in marks))
    for row in waiting:
        _record_shown(run, row["account_id"], row["recipient"], row["tracked"].partition("=")[2])
    if as_json:
        write_json({"deliveries": [_document(each) for each in explained], "unanswered": waiting})
        return
    for each in explained:
        _write_explanation(each)
    for row in waiting:
        write_line(f"{row['account_id']} {row['tracked']}: {row['status']}. Registered {moment(row['first_seen_at'])},")
        write_line("  and the provider has not reported on it yet.")
    if len(rows) > MAX_EXPLAINED:
        report(f"Only the first {MAX_EXPLAINED} are explained: name one by its row id (`ulak deliveries` shows it).")


def _matches(run: Session, connection: Connection, ident: str) -> tuple[list[RowMapping], list[dict[str, Any]]]:
    """Deliveries and unanswered ids that match the ident as it was given; else in the forms in which ids are stored."""
    for form in dict.fromkeys((trimmed(ident), plain(ident), whole_number(ident) or "")):
        if form:
            people, keys = forms_of(run.recorder, form)
            rows = list(find_by_any(connection, form, people=people, keys=keys, limit=MAX_EXPLAINED + 1))
            waiting = _waiting(connection, form, run.recorder.spellings(form))
            if rows or waiting:
                return rows, waiting
    return [], []


def _explain_next(run: Session, ident: str, *, as_json: bool) -> None:
    """The next checks of the open ids that the ident may mean, by the schedule in force."""
    people = run.recorder.spellings(ident)
    forms = (*run.recorder.key_forms(trimmed(ident)), *people)
    with run.engine.connect() as connection:
        found = coming_checks(connection, trimmed(ident), values=forms, recipients=people)
    if not found:
        raise CommandError("No open id matches: it is final, no longer checked, or was never registered.")
    if lookup_form(ident) is not None:
        run.saw(run.event(Action.PERSON_SEARCHED, person=run.recorder.mark(ident)))
    for each in found:
        _record_shown(run, each.account_id, each.recipient, each.tracked.partition("=")[2])
    if as_json:
        write_json([asdict(each) for each in found])
        return
    for each in found:
        source = "the provider's fixed schedule" if each.learned is None else "times learned from earlier messages"
        source += ", or later, when its batch is worth a call" if each.waits_for_batch else ""
        held = " A request for it is under way." if each.is_held else ""
        write_line(f"{each.account_id} {each.tracked}: sent {moment(each.sent_at)}, checked at {source}.{held}")
        for check in each.checks:
            write_line(f"  {moment(check)}{' (validity has ended)' if check > each.valid_until else ''}")


def _record_shown(run: Session, account: str, recipient: str | None, value: str) -> None:
    """Record whose open id is shown: its recipient, otherwise the numbers that it holds."""
    marks = run.recorder.marks([recipient] if recipient else people_in(value))
    run.saw(*(run.event(Action.DELIVERY_VIEWED, account=account, person=mark) for mark in marks))


def _waiting(connection: Connection, ident: str, people: Sequence[str]) -> list[dict[str, Any]]:
    """Registered ids that were never answered and that the person may mean."""
    found = {row["id"]: row for row in open_tracked(connection, client_ref=ident)}
    for recipient in people:
        found |= {row["id"]: row for row in open_tracked(connection, recipient=recipient)}
    return [as_delivery(row) for _, row in sorted(found.items())]


def _document(found: Explanation) -> dict[str, Any]:
    return {
        "delivery": {**found.delivery, **explain_codes(found.delivery)},
        "conflicting": found.conflicting,
        "statements": [
            {
                "status": each.observation.facts["status"],
                **_codes_of(found, each),
                "source": each.observation.source,
                "as_of": each.observation.as_of,
                "first_seen_at": each.observation.first_seen_at,
                "won": each.lost_by is None,
                "lost_by": each.lost_by,
                "gave": each.gave,
                "statement": each.observation.statement,
            }
            for each in found.statements
        ],
    }


def _codes_of(found: Explanation, each: Statement) -> dict[str, Any]:
    """The provider's codes in one statement, explained."""
    facts = each.observation.facts
    said = {name: facts.get(name) for name in CODES}
    return said | explain_codes({**found.delivery, **said, "status": facts["status"]})


def _write_explanation(found: Explanation) -> None:
    row = found.delivery
    final = "final" if row["is_final"] else "open"
    write_line(
        f"{row['granularity']} {row['provider_key']} of {row['account_id']} (row {row['id']}): {row['status']}, {final}"
    )
    named = ("recipient", "client_ref", "parent_key")
    counts = ("total", "delivered", "undelivered", "waiting", "segments", "credits")
    times = ("sent_at", "done_at", "valid_until", "message_time", "first_seen_at", "changed_at")
    facts: list[tuple[str, Any]] = [("status", f"{row['status']}: {STATUSES[Status(row['status'])]}")]
    facts += [(name, row[name]) for name in named]
    facts += [("reason", row["reason"] and f"{row['reason']}: {REASONS[Reason(row['reason'])]}")]
    facts += [(name, with_meaning(row, name)) for name in CODES]
    facts += [(name, row[name]) for name in counts] + [(name, moment(row[name])) for name in times]
    for name, value in facts:
        if value not in {None, ""}:
            write_line(f"  {name.replace('_', ' ')}: {value}")
    if found.conflicting:
        write_line(f"  CONFLICT: the provider reported {' and '.join(found.conflicting)} for the same message")
    write_table(
        ("", "status", "provider status", "source", "as of", "received", "why", "provides"),
        [_statement_cells(found, each) for each in found.statements],
    )
    write_line()


def _statement_cells(found: Explanation, each: Statement) -> Sequence[Any]:
    seen = each.observation
    why = "decides the status" if each.lost_by is None else f"superseded: {each.lost_by.replace('_', ' ')}"
    return (
        "*" if each.lost_by is None else "",
        seen.facts["status"],
        shown_codes({**found.delivery, **_codes_of(found, each)}),
        seen.source,
        moment(seen.as_of) or "unknown",
        moment(seen.first_seen_at),
        why,
        ", ".join(each.gave),
    )
