"""Orders that callbacks name before any answer was about them: when they are polled, and what is learned of them."""

from datetime import timedelta

import pytest
from callback_acts import (
    CHECKED,
    CLOSE,
    LATER,
    ONE,
    OTHER,
    counted,
    list_order,
    push,
    read_messages,
    ready_fetches,
    tracked_order,
    webhook_account,
)
from driving import make_runtime, scalar
from ledger_acts import execute
from sqlalchemy import Engine

from ulak.core import clock
from ulak.models.callback_shares import Shares
from ulak.models.vocabulary import Status
from ulak.tasks.runtime import Runtime

IS_DUE = "SELECT count(*) FROM tracked_ids WHERE account_id = :a AND next_check_at <= now()"


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret", tick_seconds=0.01)


def test_a_callback_that_a_message_is_on_its_way_makes_no_order_due(runtime: Runtime) -> None:
    """There is no end to find yet; the first callback of an end asks for the order."""
    account_id = webhook_account(runtime)
    push(runtime, account_id, "501", ONE, "accepted")
    assert scalar(runtime.engine, IS_DUE, a=account_id) == 0
    push(runtime, account_id, "501", ONE, "undelivered")
    assert scalar(runtime.engine, IS_DUE, a=account_id) == 1


def test_a_callback_about_an_unknown_number_of_an_order_that_was_read_makes_it_due(runtime: Runtime) -> None:
    """Whatever it says, the answer has not shown everything."""
    account_id = webhook_account(runtime)
    tracked_order(runtime, account_id, "501")
    execute(runtime.engine, LATER, a=account_id)
    push(runtime, account_id, "501", "+905301234569", "accepted")
    assert scalar(runtime.engine, IS_DUE, a=account_id) == 1


def test_an_order_is_due_once_its_list_counts_an_end(runtime: Runtime) -> None:
    """A list that shows it as sent just now leaves it to its own schedule."""
    account_id = webhook_account(runtime)
    list_order(runtime, account_id, status=113, delivered=0)
    execute(runtime.engine, LATER, a=account_id)
    list_order(runtime, account_id, status=113, delivered=0, total=3)
    assert scalar(runtime.engine, IS_DUE, a=account_id) == 0
    list_order(runtime, account_id, status=113, delivered=1, total=3)
    assert scalar(runtime.engine, IS_DUE, a=account_id) == 1


@pytest.mark.parametrize(
    ("found", "announced", "missed"), [("nothing", 2, 0), ("the callback's", 1, 0), ("both", 0, 1)]
)
def test_what_callbacks_bring_after_the_poll_that_one_asked_for_is_learned(
    runtime: Runtime, found: str, announced: int, missed: int
) -> None:
    """Only an end that this poll has shown first says nothing about callbacks.

    "both": the poll after it finds the other end, of which no callback has come.
    """
    account_id, began = webhook_account(runtime), clock.now() - timedelta(seconds=1)
    push(runtime, account_id, "501", ONE)
    execute(runtime.engine, CHECKED, a=account_id)
    read_messages(runtime, account_id, "501", [OTHER], Status.ENROUTE)
    first = Status.ENROUTE if found == "nothing" else Status.DELIVERED
    read_messages(runtime, account_id, "501", [ONE], first)
    if first is Status.ENROUTE:
        push(runtime, account_id, "501", ONE)
    if found == "both":
        read_messages(runtime, account_id, "501", [OTHER], Status.DELIVERED)
    else:
        push(runtime, account_id, "501", OTHER)
    execute(runtime.engine, CLOSE, a=account_id)
    assert counted(runtime, account_id, "order", began)[0] == Shares(announced=announced, missed=missed)


def test_an_order_that_a_callback_named_first_is_settled_by_the_total_of_its_own_row(runtime: Runtime) -> None:
    """No list has said how many recipients to expect of it; its row does."""
    account_id = webhook_account(runtime)
    tracked = tracked_order(runtime, account_id, "501", expected=None)
    list_order(runtime, account_id, status=113, delivered=0)
    execute(runtime.engine, "UPDATE tracked_ids SET expected = NULL, next_check_at = now() WHERE id = :id", id=tracked)
    push(runtime, account_id, "501", ONE)
    assert ready_fetches(runtime, account_id) == 1
    execute(runtime.engine, "UPDATE tracked_ids SET fetch_id = NULL WHERE id = :id", id=tracked)
    execute(runtime.engine, "DELETE FROM fetches WHERE account_id = :a", a=account_id)
    push(runtime, account_id, "501", OTHER)
    assert ready_fetches(runtime, account_id) == 0
    assert scalar(runtime.engine, "SELECT close_reason FROM tracked_ids WHERE id = :id", id=tracked) == "final"
