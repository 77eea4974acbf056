"""The one finishing transaction of a fetch: all that an answer changes, or nothing."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError, InternalError, ProgrammingError

from ulak.core.logging import get_logger, origin
from ulak.models.account import StoredAccount, lock
from ulak.models.callback_shares import known_ends
from ulak.models.database_errors import is_unavailable
from ulak.models.deliveries import UpsertResult, upsert
from ulak.models.ledger import ending as ledger
from ulak.models.ledger import opening
from ulak.models.ledger.deadletters import clear_dead, subjects_of_ids
from ulak.models.ledger.sweep_pages import forget_chain, forget_sweeps
from ulak.models.ledger.taking import TakeResult
from ulak.models.quarantine import resolve_answers
from ulak.models.references import completing, lack_references
from ulak.models.report import DeliveryReport, Discovered, IdAnswer, NewId, Report, TrackedKey
from ulak.models.tracked import AskedId
from ulak.models.vocabulary import Source, Status, is_open
from ulak.providers.adapter import FetchSpec, Parsed
from ulak.providers.errors import OurBug, ProviderError
from ulak.schedules.policy import check_again, first_check, next_check
from ulak.tasks.effects import Effects, commit
from ulak.tasks.steps.attempt_records import Asked, Follow
from ulak.tasks.steps.failures import breaker_changes, finish_failed
from ulak.tasks.steps.fetch_rows import new_fetch
from ulak.tasks.steps.pausing import success_changes
from ulak.tasks.steps.sweep_judging import further_pages, judge_window
from ulak.tasks.steps.tracking import announced_kinds, new_id, policy_numbers, schedule_of, without_erased

log = get_logger(__name__)


def finish(asked: Asked, outcome: Parsed | ProviderError, effects: Effects, follow: Follow) -> TakeResult:
    """Write the outcome in one transaction, repeated whole on a deadlock; FencedError when the lease was lost.

    `follow` is its end; returns what comes of that. What PostgreSQL refuses to store is our bug: the fetch is then
    finished as such, its bytes kept in quarantine. Trouble takes nothing, but has the account go on by a message.
    """
    if isinstance(outcome, ProviderError):
        return finish_failed(asked, outcome, effects)

    def run(connection: Connection, mine: Effects) -> TakeResult:
        stored = _finish_done(connection, mine, asked, outcome)
        # The last lock, taken without waiting: its holder may be waiting for one of ours.
        return follow(connection, account=stored)

    try:
        return commit(asked.runtime.engine, effects, run)
    except (DataError, IntegrityError, InternalError, ProgrammingError) as error:
        if is_unavailable(error):
            raise
        log.error("fetch.store_failed", fetch=asked.taken.fetch_id, error=origin(error))
        bug = OurBug(f"Storing the answer failed with {type(error.orig).__name__}.")
        return finish_failed(asked, bug, effects)


def _finish_done(connection: Connection, effects: Effects, asked: Asked, parsed: Parsed) -> StoredAccount | None:
    """What an answer changes. Returns the account, where it is locked for the take already."""
    if not asked.taken.is_clean or parsed.learned:
        _reset_account(connection, effects, asked, parsed.learned)
    account_id, kinds = asked.taken.account_id, asked.prepared.adapter.record.reference_kinds
    shares = lack_references(kinds, parsed.reports)
    asked_at = asked.close_call(connection, "ok", shares_references=shares) or asked.taken.asked_at
    result = upsert(
        connection,
        account_id,
        asked.prepared.account.provider,
        _completed(asked, parsed, asked_at),
        asked_at=asked.taken.as_of,
        suppressions=asked.runtime.suppressions,
        complete=completing(connection, account_id, kinds) if shares else None,
    )
    if asked.taken.attempts > 0:
        # Whatever put a whole answer away has counted an attempt, so that the usual fetch pays nothing for this.
        resolve_answers(connection, asked.taken.fetch_id)
    asked.put_away(connection, effects, parsed.unreadable)
    _track_wholes(connection, asked, stepped=asked_at - asked.taken.asked_at)
    continued = {key for spec in parsed.children for key in spec.ids}
    ledger.update_tracked(
        connection,
        asked.taken.fetch_id,
        _tracked_rows(asked, parsed, skip=continued, stepped=asked_at - asked.taken.asked_at),
        asked_at=asked_at,
        as_of=asked.taken.as_of,
    )
    _discover(connection, asked, parsed.discovered, result, asked_at)
    page = parsed.page
    specs = further_pages(connection, asked, parsed)
    children = _insert_children(connection, asked, specs)
    chain = asked.taken.params.get("chain")
    is_end_of_chain = chain is not None and not children
    if is_end_of_chain and asked.prepared.fetch.seen_before:
        forget_chain(connection, asked.taken.poll_id, str(chain))
    end = ledger.FetchEnd(
        fetch_id=asked.taken.fetch_id,
        state="done",
        seen=() if is_end_of_chain else parsed.seen,
        page=None if page is None else asdict(page),
    )
    # A fetch that goes on elsewhere ends first: its window is judged by what has ended.
    goes_on = bool(children) or "window" in asked.taken.params
    if goes_on:
        ledger.end_fetch(connection, end)
    if children < len(specs):
        # Ids were left to children that are not to be: of a cancelled poll, or equal to a fetch that stands ready.
        ledger.free_tracked(connection, asked.taken.fetch_id)
    if asked.taken.has_dead:
        read = [each.id for key, each in asked.prepared.tracked.items() if key not in continued]
        clear_dead(connection, asked.taken.account_id, subjects_of_ids(read), asked.taken.asked_at)
    further, drifting = 0, False
    # Otherwise there is nothing that a cancelled poll would have to take back, and the count takes the lock.
    if goes_on:
        children, further, drifting = _continue_sweep(connection, asked, children)
    effects.info(
        "fetch.stored",
        fetch=asked.taken.fetch_id,
        label=asked.taken.label,
        reports=len(parsed.reports),
        new=result.new,
        advanced=result.advanced,
        unchanged=result.unchanged,
        seconds=round(asked.sent.duration_seconds, 3),
    )
    counts = _counts(result, len(parsed.reports), children + further, drifting=drifting)
    stored: StoredAccount | None = None
    if goes_on:
        state = ledger.count_poll(connection, asked.taken.poll_id, counts)
    else:
        state, stored = ledger.end_and_count(connection, asked.taken.poll_id, counts, end)
    if state is not None:
        _end_poll(connection, effects, asked, state)
    return stored


def _end_poll(connection: Connection, effects: Effects, asked: Asked, state: str) -> None:
    effects.info("poll.ended", state=state)
    if asked.prepared.hidden is not None:
        forget_sweeps(connection, asked.taken.poll_id)


def _continue_sweep(connection: Connection, asked: Asked, children: int) -> tuple[int, int, bool]:
    """Under the poll's lock: (children that stay, further fetches of the window, drifting)."""
    poll = opening.lock_poll(connection, asked.taken.poll_id)
    if poll is not None and poll.state != "cancelled":
        return children, *judge_window(connection, asked)
    if children:
        # Cancelled between the children's insert and this lock: they must not be asked.
        opening.cancel_ready(connection, asked.taken.poll_id, uncounted=children)
    return 0, 0, False


def _counts(result: UpsertResult, reports: int, children: int, *, drifting: bool) -> ledger.PollCounts:
    return ledger.PollCounts(
        ended=1,
        children=children,
        calls=1,
        reports=reports,
        new=result.new,
        advanced=result.advanced,
        unchanged=result.unchanged,
        drifting=drifting,
    )


def _reset_account(connection: Connection, effects: Effects, asked: Asked, learned: Mapping[str, Any]) -> None:
    """A success closes the breaker, ends an automatic pause and forgets the throttling."""
    stored = lock(connection, asked.taken.account_id)
    changes: dict[str, Any] = {"throttles": 0, "learned": learned}
    changes |= success_changes(stored, asked_at=asked.taken.asked_at)
    changes |= breaker_changes(stored, recent=[], failed=False)
    if stored.breaker_state != "closed" and changes.get("breaker_state") == "closed":
        effects.info("account.recovered", account=stored.id)
    ledger.update_account(connection, stored, changes)


def _completed(asked: Asked, parsed: Parsed, asked_at: datetime) -> list[Report]:
    """The reports with what the sender registered filled in, and ours where validity has ended without a final one.

    `asked_at`: by the clock as it is now.
    """
    stated = asked.runtime.without_echoes(asked.prepared.stored, parsed.reports)
    registered = {
        key: tracked
        for key, tracked in asked.prepared.tracked.items()
        if tracked.client_ref or tracked.recipient or asked_at >= tracked.valid_until
    }
    if not registered:
        return list(stated)
    reports: list[Report] = []
    for report in stated:
        tracked = registered.get(report.tracked) if report.tracked is not None else None
        if tracked is None:
            reports.append(report)
            continue
        full = report.completed(client_ref=tracked.client_ref, recipient=tracked.recipient)
        reports.append(full)
        if is_open(full.status) and full.status is not Status.UNKNOWN:
            valid_until = max(full.valid_until or tracked.valid_until, tracked.valid_until)
            if asked_at >= valid_until:
                reports.append(unreported(full, valid_until))
    return reports


def unreported(report: Report, valid_until: datetime) -> DeliveryReport:
    """Our own statement: validity has ended, the provider was asked after that, and no final report came."""
    return DeliveryReport(
        granularity=report.granularity,
        provider_key=report.provider_key,
        status=Status.UNREPORTED,
        provider_status=report.provider_status,
        source=Source.OURS,
        as_of=valid_until,
        valid_until=valid_until,
    )


def _tracked_rows(
    asked: Asked, parsed: Parsed, *, skip: set[TrackedKey], stepped: timedelta
) -> list[Mapping[str, Any]]:
    """What the answer means for each id it was asked for, except those that a child goes on asking for.

    `stepped`: by how much the clock was stepped since the ids were read, and the question asked.
    """
    answers = {answer.key: answer for answer in parsed.answers}
    return [
        _tracked_row(asked, tracked, answers.get(key), stepped)
        for key, tracked in asked.prepared.tracked.items()
        if key not in skip
    ]


def _tracked_row(asked: Asked, tracked: AskedId, answer: IdAnswer | None, stepped: timedelta) -> Mapping[str, Any]:
    """One id's next check by the poll policy, or the reason why it is closed."""
    found = answer is not None and answer.found
    closing: str | None = None
    due: datetime | None = asked.taken.asked_at
    if answer is not None and answer.settled:
        closing = answer.close_reason or "final"
    else:
        due = _next_check(asked, tracked, answer)
        closing = "forgotten" if due is None else None
    return {
        "id": tracked.id,
        "next_check_at": None if due is None else due + stepped,
        "found": found,
        "close_reason": closing,
        "is_incomplete": answer is not None and answer.is_incomplete,
        "fingerprint": None if answer is None else answer.fingerprint,
    }


def _next_check(asked: Asked, tracked: AskedId, answer: IdAnswer | None) -> datetime | None:
    """When an id that stays open is asked for again; None once the provider is taken to have forgotten it."""
    polling, stored = asked.prepared.adapter.record.poll, asked.prepared.stored
    now = asked.taken.asked_at
    if answer is not None and answer.not_before is not None:
        if isinstance(answer.not_before, timedelta):
            return now + answer.not_before
        # By the provider's clock.
        return max(answer.not_before - asked.prepared.behind, now)
    if tracked.is_whole and not (answer is not None and answer.found):
        # Not known when its validity has ended: there is nothing to wait for, and its parts are checked anyway.
        polling = replace(polling, forget_days=0.0)
    by_age = next_check(
        polling,
        sent_at=tracked.sent_at,
        valid_until=tracked.valid_until,
        now=now,
        early=not tracked.is_whole,
        **schedule_of(stored, tracked.id_kind, tracked.expected),
    )
    factor = stored.time_factor
    if answer is not None and answer.is_incomplete:
        before = tracked.incomplete_answers
        return check_again(polling, by_age, now=now, incomplete_before=before, time_factor=factor)
    if (answer is None or not answer.found) and _is_first_after_validity(tracked, now):
        # One empty answer must not put the id off for a day, or close it.
        return check_again(polling, by_age, now=now, incomplete_before=0, time_factor=factor)
    return by_age


def _is_first_after_validity(tracked: AskedId, now: datetime) -> bool:
    """Whether this is the first answer about the id since its validity has ended."""
    checked_at, valid_until = tracked.last_checked_at, tracked.valid_until
    return now >= valid_until and (checked_at is None or checked_at < valid_until)


def _track_wholes(connection: Connection, asked: Asked, *, stepped: timedelta) -> None:
    """Track the wholes (sends) of ids that are asked for the first time.

    They are checked when validity has ended, or before that once their last open part closes
    (`ulak.models.tracked.check_wholes`). `stepped`: by how much the database's clock was set since the ids were read.
    """
    wholes: dict[tuple[str, str], NewId] = {}
    for tracked in asked.prepared.tracked.values():
        if tracked.whole is None or tracked.is_whole or tracked.last_checked_at is not None:
            continue
        key = (asked.prepared.adapter.record.wholes[tracked.id_kind], tracked.whole)
        due = first_check(
            asked.prepared.adapter.record.poll,
            sent_at=tracked.sent_at,
            valid_until=tracked.valid_until,
            now=asked.taken.asked_at,
            early=False,
            **policy_numbers(asked.prepared.stored),
        )
        wholes[key] = NewId(
            id_kind=key[0],
            value=key[1],
            whole=key[1],
            sent_at=tracked.sent_at + stepped,
            valid_until=tracked.valid_until + stepped,
            next_check_at=due + stepped,
        )
    ledger.discover(connection, asked.taken.account_id, asked.taken.asked_at, list(wholes.values()), [])


def _discover(
    connection: Connection,
    asked: Asked,
    found: tuple[Discovered, ...],
    result: UpsertResult,
    asked_at: datetime,
) -> None:
    """Insert discovered ids; reopen those whose delivery changed in this transaction, unless callbacks explain it."""
    rows: dict[tuple[str, str], NewId] = {}
    reopened: dict[tuple[str, str], Mapping[str, Any]] = {}
    hidden = asked.prepared.hidden
    for item in found:
        named = item.key if hidden is None else hidden.tracked(item.key)
        key = (named.id_kind, named.value)
        row = new_id(
            connection,
            asked.prepared.stored,
            item.key,
            now=asked_at,
            sent_at=item.sent_at,
            valid_until=item.valid_until,
            expected=item.expected,
            client_ref=item.client_ref,
            recipient=item.recipient,
        )
        rows[key] = row if hidden is None else hidden.new_id(row)
        if item.reopen_on is not None and item.reopen_on in result.changed:
            reopened[key] = {"id_kind": key[0], "value": key[1], "expected": item.expected}
    wanted = without_erased(connection, asked.runtime.suppressions, list(rows.values()))
    kinds = announced_kinds(asked.prepared.stored, asked.prepared.account, asked.prepared.adapter)
    for key in known_ends(connection, asked.taken.account_id, reopened, kinds):
        del reopened[key]
    ledger.discover(connection, asked.taken.account_id, asked.taken.as_of, wanted, list(reopened.values()))


def _insert_children(
    connection: Connection,
    asked: Asked,
    specs: tuple[FetchSpec, ...],
) -> int:
    """Insert the fetches that the answer calls for, in the walk of this poll; none for a poll that was cancelled."""
    poll_state = opening.poll_state(connection, asked.taken.poll_id) if specs else None
    if poll_state != "running":
        return 0
    fetches = [
        new_fetch(
            spec,
            priority=opening.rank_of_next_page(asked.taken.priority),
            ids=tuple(asked.prepared.tracked[key].id for key in spec.ids if key in asked.prepared.tracked),
            walk=asked.taken.poll_id,
        )
        for spec in (replace(spec, round=asked.taken.round) for spec in specs)
    ]
    return opening.insert_fetches(connection, asked.taken.poll_id, asked.prepared.account.id, fetches)
