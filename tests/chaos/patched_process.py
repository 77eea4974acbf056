"""`ulak worker` and its kin, patched from outside: dies, freezes or misbehaves at a named point of a fetch.

    python patched_process.py worker --name worker-1      with CHAOS_* in the environment

`CHAOS_AT=point:before|after:n:kill|stop` ends or freezes this process at the n-th passage of the point; `CHAOS_HITS` is
the file that says so. `CHAOS_BREAK=name` breaks one promise. The production code knows nothing of this.
"""

import functools
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

POINTS: dict[str, tuple[str, str]] = {
    "take": ("ulak.tasks.steps.draining", "take"),
    "look": ("ulak.models.ledger.taking", "look"),
    "permit": ("ulak.models.ledger.taking", "_permit"),
    "request": ("ulak.providers.http", "HttpDoor.send"),
    "close_call": ("ulak.tasks.steps.attempt_records", "close_call"),
    "upsert": ("ulak.tasks.steps.finishing", "upsert"),
    "update_tracked": ("ulak.models.ledger.ending", "update_tracked"),
    "discover": ("ulak.models.ledger.ending", "discover"),
    "insert_fetches": ("ulak.models.ledger.opening", "insert_fetches"),
    "end_fetch": ("ulak.models.ledger.ending", "end_fetch"),
    "count_poll": ("ulak.models.ledger.ending", "count_poll"),
    "end_and_count": ("ulak.models.ledger.ending", "end_and_count"),
    "publish": ("ulak.tasks.base", "publish"),
    "ack": ("celery.worker.request", "Request.acknowledge"),
}
COMMITS = ("take_commit", "finish_commit")
"""Of a take by a message, and of the end of a call, which takes the next one."""
ALL_POINTS = (*POINTS, *COMMITS)

_local = threading.local()


def wrap(where: tuple[str, str], make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `make(original)` in the place of a function or method."""
    holder: Any = importlib.import_module(where[0])
    *path, name = where[1].split(".")
    for part in path:
        holder = getattr(holder, part)
    original = getattr(holder, name)
    setattr(holder, name, functools.wraps(original)(make(original)))


# --------------------------------------------------------------------------------------- crash points


class Trap:
    """What happens at the n-th passage of one side of a point."""

    def __init__(self, order: str) -> None:
        self.point, self.side, count, self.action = order.split(":")
        self._left = int(count)
        self._lock = threading.Lock()

    def pass_by(self, point: str, side: str) -> None:
        """Die or freeze, if this is the passage that was meant."""
        if (point, side) != (self.point, self.side):
            return
        with self._lock:
            self._left -= 1
            if self._left:
                return
            with Path(os.environ["CHAOS_HITS"]).open("a", encoding="utf-8") as hits:
                hits.write(f"{os.getpid()} {point} {side}\n")
        os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)


def set_trap(trap: Trap) -> None:
    """Let every passage of every point be seen by the trap."""

    def watch(point: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            def watched(*args: Any, **kwargs: Any) -> Any:
                trap.pass_by(point, "before")
                result = original(*args, **kwargs)
                if point == "close_call" or (point == "take" and not commit_of_thread()):
                    _local.commit = "finish_commit" if point == "close_call" else "take_commit"
                trap.pass_by(point, "after")
                return result

            return watched

        return make

    def make_commit(original: Callable[..., Any]) -> Callable[..., Any]:
        def commit(*args: Any, **kwargs: Any) -> Any:
            point = commit_of_thread()
            trap.pass_by(point, "before")
            original(*args, **kwargs)
            _local.commit = ""
            trap.pass_by(point, "after")

        return commit

    for point, where in POINTS.items():
        wrap(where, watch(point))
    wrap(("sqlalchemy.engine.base", "Connection._commit_impl"), make_commit)


def commit_of_thread() -> str:
    """Which commit this thread's next one is, if it is one that matters."""
    return getattr(_local, "commit", "")


# ------------------------------------------------------------------------------------ broken promises


def remove_fence() -> None:
    """A finisher that lost its lease writes nevertheless."""
    finishing: Any = importlib.import_module("ulak.models.ledger.ending")
    fenced = "state = 'sending' AND lease_token = %(token)s"
    assert fenced in finishing._CLOSE_CALL
    finishing._CLOSE_CALL = finishing._CLOSE_CALL.replace(fenced, "%(token)s::uuid IS NOT NULL")


def skip_call_row() -> None:
    """The request is made, and no call row stands for it."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def take(connection: Any, *args: Any, **kwargs: Any) -> Any:
            taken = original(connection, *args, **kwargs)
            if hasattr(taken, "permit"):
                connection.exec_driver_sql(f"DELETE FROM calls WHERE id = {taken.permit.call_id}")
            return taken

        return take

    wrap(("ulak.tasks.steps.draining", "take"), make)


def free_slot_at_sending() -> None:
    """A slot is taken to be free `per_seconds` after its request was sent, not after it was answered."""

    def make_take(original: Callable[..., Any]) -> Callable[..., Any]:
        def take(connection: Any, *args: Any, **kwargs: Any) -> Any:
            taken = original(connection, *args, **kwargs)
            if hasattr(taken, "permit"):
                connection.exec_driver_sql(
                    f"UPDATE calls SET released_at = asked_at WHERE id = {taken.permit.call_id}",
                )
            return taken

        return take

    def make_close(original: Callable[..., Any]) -> Callable[..., Any]:
        def close_call(connection: Any, fetch_id: int, token: Any, end: Any) -> Any:
            asked_at = original(connection, fetch_id, token, end)
            connection.exec_driver_sql(f"UPDATE calls SET released_at = asked_at WHERE id = {end.call_id}")
            return asked_at

        return close_call

    wrap(("ulak.tasks.steps.draining", "take"), make_take)
    wrap(("ulak.tasks.steps.attempt_records", "close_call"), make_close)


def merge_by_arrival() -> None:
    """The statement that came last wins, whatever it says and whenever it was made."""
    merge = importlib.import_module("ulak.models.merge")
    core_clock = importlib.import_module("ulak.core.clock")
    replace = importlib.import_module("msgspec").structs.replace

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def observe(*args: Any, **kwargs: Any) -> Any:
            return replace(original(*args, **kwargs), as_of=core_clock.now())

        return observe

    wrap(("ulak.models.deliveries", "observe"), make)
    for granularity in merge.KEYS:
        merge.KEYS[granularity] = lambda seen: (seen.as_of or merge._LONG_AGO, seen.content_hash)


def publish_before_commit() -> None:
    """A message leaves while the rows it speaks of are not yet committed."""
    base = importlib.import_module("ulak.tasks.base")
    app = importlib.import_module("ulak.workers.app").app

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def wake_up(wanted: Any) -> Any:
            for message in original(wanted):
                base.publish(app, message)
            # Long enough that the message is taken before the commit.
            time.sleep(1.0)
            return ()

        return wake_up

    wrap(("ulak.tasks.steps.planning", "wake_up"), make)


def switch_reconcile_off() -> None:
    """Nobody looks for what was lost."""
    effects = importlib.import_module("ulak.tasks.effects")
    wrap(("ulak.tasks.steps.upkeep", "reconcile"), lambda _: lambda *_args, **_kwargs: effects.Effects())


def die_of_html() -> None:
    """A response that is a page of HTML kills the process that reads it."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def send(*args: Any, **kwargs: Any) -> Any:
            sent = original(*args, **kwargs)
            if sent.answer is not None and b"<html" in sent.answer.body.lower():
                os.kill(os.getpid(), signal.SIGKILL)
            return sent

        return send

    wrap(("ulak.providers.http", "HttpDoor.send"), make)


BREAKS: dict[str, Callable[[], None]] = {
    "fence_removed": remove_fence,
    "call_row_skipped": skip_call_row,
    "slot_freed_at_sending": free_slot_at_sending,
    "merge_by_arrival": merge_by_arrival,
    "publish_before_commit": publish_before_commit,
    "reconcile_off": switch_reconcile_off,
    "dies_of_html": die_of_html,
}


def main() -> None:
    """Patch, then be `ulak`."""
    from ulak.cli.main import main as ulak

    for name in filter(None, os.environ.get("CHAOS_BREAK", "").split(",")):
        BREAKS[name]()
    if order := os.environ.get("CHAOS_AT"):
        set_trap(Trap(order))
    sys.argv[0] = "ulak"
    ulak()


if __name__ == "__main__":
    main()
