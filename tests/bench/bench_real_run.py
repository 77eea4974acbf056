"""A real run of 500 messages beside the simulation of the same scenario: whether `bench_when` says what happens.

Real: the sandbox over HTTP, a worker, a beat, PostgreSQL and Valkey; waits are compressed by `FACTOR`. The sandbox's
log says how many calls there were, its truth when each message was final. The simulation (`when_world`) gets the same
moments and latencies; since it does not know in which moment the real upkeep learned, it is run at several phases.
*Cost* is calls + lag / 30 s, as in `bench_when`; all seconds are uncompressed. Takes about ten minutes: a message whose
next check lies behind the end of the run counts as late until then, in both.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from driving import make_runtime
from ledger_acts import add_account
from real_processes import migrated_database, url_of, wait_for_plans, worker_processes
from sqlalchemy import Engine, text
from when_world import World

from ulak.local.embedded.valkey import ValkeyServer
from ulak.sandbox.server import Sandbox
from ulak.schedules.beat import EXPIRE_SECONDS
from ulak.schedules.poll_times import PRICE_SECONDS
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.tracking import track

MESSAGES = 500
FACTOR = 0.2
SEND_SECONDS = 360
"""Real ones, so that upkeep learns a few times while messages are still sent."""
LIMIT = (100, 1.0)
"""Wide: it never binds."""
PHASES = 6
GOAL = 0.15
REAL_TICK = 1.0
PATIENCE_SECONDS = 200.0
DATABASE = "bench_real_run"
NUMBERS = "account_id = :a AND id_kind = 'number'"
"""Without the sends as wholes, each of which is polled once, when its number is final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a message has cost on average."""

    calls: float
    lag: float
    late: float
    """Messages that were final and not known at the end of the run."""

    @property
    def cost(self) -> float:
        """Calls and lag at one rate, in calls."""
        return self.calls + self.lag / PRICE_SECONDS


def main(url: str) -> None:
    """Two lines, and how far they are apart."""
    with (
        tempfile.TemporaryDirectory(prefix="ulak-bench-") as name,
        migrated_database(url, DATABASE) as engine,
        Sandbox(seed=11, speed=1 / FACTOR) as sandbox,
    ):
        folder = Path(name)
        account_id = _account(engine, sandbox, folder)
        runtime = make_runtime(engine, resolve=lambda _: "secret")
        valkey = ValkeyServer(folder, durable=False)
        with worker_processes(url_of(url, DATABASE), valkey.start(), folder, 1, threads=8):
            wait_for_plans(engine)
            sent = _send(sandbox, runtime, account_id)
            end = _wait(engine, account_id)
        valkey.stop()
        runtime.door.close()
        calls = [each["endpoint"] for each in sandbox.log() if each["provider"] == "vairo"]
        messages, end = _messages(engine, sandbox, account_id, end)
        violations = len(sandbox.control("GET", "/log/violations"))
        adapted = _adapted(engine, account_id)
    assert len(messages) == sent == MESSAGES, (len(messages), sent)
    assert not violations
    real = Found(
        calls=calls.count("NumaraRaporu") / MESSAGES,
        lag=fmean(max(0.0, seen - done) for _, done, seen in messages),
        late=sum(done < end <= seen for _, done, seen in messages),
    )
    print(f"learned: {adapted}; other calls: {len(calls) - calls.count('NumaraRaporu')}")
    sends = sorted((moment, done - moment) for moment, done, _ in messages)
    simulated = _simulated(sends, end)
    fixed = _simulated(sends, end, adaptive=False)
    for label, found in (("real", real), ("simulated", simulated), ("simulated, not adaptive", fixed)):
        print(
            f"{label}: {found.calls:.2f} calls, mean lag {found.lag:.1f} s, cost {found.cost:.2f};"
            f" not known at the end: {found.late:.1f}"
        )
    for label, ratio in (("calls", real.calls / simulated.calls), ("cost", real.cost / simulated.cost)):
        print(f"{label}, real / simulated: {ratio:.3f} (goal within {GOAL:.0%}): {_verdict(ratio)}")


def _verdict(ratio: float) -> str:
    return "pass" if abs(ratio - 1) <= GOAL else "FAIL"


def _account(engine: Engine, sandbox: Sandbox, folder: Path) -> str:
    key = folder / "key"
    [record] = [each for each in sandbox.control("GET", "/accounts") if each["provider"] == "vairo"]
    key.write_text(record["credentials"]["api_key"], encoding="utf-8")
    account_id = add_account(
        engine,
        base_url=sandbox.urls["vairo"],
        requests=LIMIT[0],
        per_seconds=LIMIT[1],
        concurrency=8,
        # As long as the sandbox's messages are valid: a day, compressed.
        options={"deadline_seconds": 10.0, "validity_hours": 24.0 * FACTOR},
        poll={"time_factor": FACTOR},
    )
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE accounts SET credentials = jsonb_build_object('api_key', CAST(:k AS text)) WHERE id = :a"),
            {"k": f"file:{key}", "a": account_id},
        )
    return account_id


def _send(sandbox: Sandbox, runtime: Runtime, account_id: str) -> int:
    """Messages of one number each, evenly; sent and registered right after a whole second, which the sandbox notes."""
    sent, begun = 0, int(time.time()) + 2
    for second in range(SEND_SECONDS):
        time.sleep(max(0.0, begun + second + 0.01 - time.time()))
        while sent < MESSAGES * (second + 1) // SEND_SECONDS:
            items: Sequence[dict[str, Any]] = sandbox.control("POST", "/sends/vairo", {"count": 1})["sends"]
            track(runtime, account_id, [_item(each) for each in items])
            sent += len(items)
    return sent


def _item(send: dict[str, Any]) -> dict[str, Any]:
    moments = {name: datetime.fromisoformat(send[name]) for name in ("sent_at", "valid_until")}
    return {"kind": send["kind"], "value": send["value"], "recipient": send["recipient"], **moments}


def _wait(engine: Engine, account_id: str) -> float:
    """The moment at which every message is final in the table, or patience is over."""
    query = text(f"SELECT count(*) FROM tracked_ids WHERE {NUMBERS} AND closed_at IS NULL")
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        with engine.connect() as connection:
            if not connection.execute(query, {"a": account_id}).scalar_one():
                break
        time.sleep(1.0)
    return time.time()


def _messages(
    engine: Engine, sandbox: Sandbox, account_id: str, end: float
) -> tuple[list[tuple[float, float, float]], float]:
    """(sent, final, known) of each message, and the end of the run, in uncompressed seconds since the first one."""
    truth = {
        row["parent_key"]: datetime.fromisoformat(row["settles_at"]).timestamp()
        for row in sandbox.truth("vairo")
        if row["granularity"] == "message" and row["settles_at"] is not None
    }
    query = text(f"SELECT value, sent_at, coalesce(closed_at, :end) AS seen FROM tracked_ids WHERE {NUMBERS}")
    given = {"a": account_id, "end": datetime.fromtimestamp(end, UTC)}
    with engine.connect() as connection:
        rows = connection.execute(query, given).all()
    first: float = min(row.sent_at.timestamp() for row in rows)

    def age(moment: float) -> float:
        return (moment - first) / FACTOR

    messages = [
        (age(row.sent_at.timestamp()), age(truth[row.value.partition(":")[0]]), age(row.seen.timestamp()))
        for row in rows
    ]
    return messages, age(end)


def _adapted(engine: Engine, account_id: str) -> dict[str, Any]:
    query = text("SELECT poll_plan FROM accounts WHERE id = :a")
    with engine.connect() as connection:
        plan = connection.execute(query, {"a": account_id}).scalar_one()
    kinds = plan.get("kinds", {})
    return {kind: (each["messages"], each["ages"]) for kind, each in kinds.items()} | {"price": plan.get("price")}


def _simulated(sends: Sequence[tuple[float, float]], end: float, *, adaptive: bool = True) -> Found:
    """The mean of several runs, which begin at other moments between two looks of upkeep."""
    every = EXPIRE_SECONDS / FACTOR
    calls, lags, late = 0, [], 0
    for phase in range(PHASES):
        begun = every * phase / PHASES
        world = World(
            sends=[(at + begun, latency) for at, latency in sends],
            adaptive=adaptive,
            limit=(LIMIT[0], LIMIT[1] / FACTOR),
            tick=REAL_TICK / FACTOR,
            learn_every=every,
        ).run(until=end + begun)
        calls += sum(each.calls for each in world.messages)
        late += sum(each.seen is None and each.sent + each.latency < end + begun for each in world.messages)
        lags += [max(0.0, (each.seen or end + begun) - each.sent - each.latency) for each in world.messages]
    return Found(calls=calls / len(lags), lag=fmean(lags), late=late / PHASES)
