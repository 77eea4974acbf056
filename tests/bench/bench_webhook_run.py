"""İleti Merkezi end to end with a webhook that brings 95 %, beside the same without one: what is still asked for.

Two systems run side by side, each with a sandbox of the same seed over HTTP, a worker, a beat, PostgreSQL and Valkey;
one also has the API process, to which the sandbox pushes, and drops one push of twenty. Waits are compressed by
`FACTOR`. The sandbox's logs say how many sweeps and details there were after the first minutes, in which the share of
the callbacks is learned. Takes about nine minutes.
"""

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from bench_callbacks import start_api
from demo_accounts import apply_accounts
from real_processes import migrated_database, url_of, wait_for_plans, worker_processes
from sqlalchemy import Engine, text
from verdicts import Verdicts

from ulak.local.demo import SandboxRun
from ulak.local.embedded.valkey import ValkeyServer
from ulak.sandbox.outcomes import draw_number, draw_outcome
from ulak.sandbox.server import Sandbox

PROVIDER = "iletimerkezi"
FACTOR = 0.2
DROPPED = 0.05
ORDERS = 200
RECIPIENTS = 10
SEND_SECONDS = 400
WARM_SECONDS = 220
REST_SECONDS = 120
"""After the last order: its messages take as long at most."""
OPEN = """
    SELECT count(*) FROM delivery_status WHERE granularity = 'message' AND NOT is_final
"""


@dataclass
class Side:
    """One of the two systems."""

    engine: Engine
    sandbox: Sandbox

    def send(self) -> None:
        """Orders of different recipients, evenly."""
        rng, begun, sent = Random(22), time.monotonic(), 0
        while sent < ORDERS:
            time.sleep(max(0.0, begun + sent * SEND_SECONDS / ORDERS - time.monotonic()))
            numbers: set[str] = set()
            while len(numbers) < RECIPIENTS:
                numbers.add(draw_number(rng, draw_outcome(rng)))
            self.sandbox.control("POST", f"/sends/{PROVIDER}", {"recipients": sorted(numbers)})
            sent += 1

    def last_call(self) -> int:
        """The number of the newest request."""
        return max((each["n"] for each in self.sandbox.log()), default=0)

    def calls(self, since: int) -> Counter[str]:
        """Requests since then, by endpoint."""
        return Counter(each["endpoint"] for each in self.sandbox.log(since) if each["provider"] == PROVIDER)

    def plan(self) -> tuple[Any, ...]:
        """The share that callbacks are taken to miss, and the interval of the sweeps."""
        with self.engine.connect() as connection:
            row = connection.execute(text("SELECT poll_plan -> 'missed' AS missed, sweep_seconds FROM accounts")).one()
        return tuple(row)

    def open_messages(self) -> int:
        """Messages whose end the table does not know."""
        with self.engine.connect() as connection:
            many: int = connection.execute(text(OPEN)).scalar_one()
        return many


def main(url: str) -> None:
    """The calls of both, and their ratios."""
    verdicts = Verdicts()
    with ExitStack() as stack:
        sides = [stack.enter_context(_side(url, name)) for name in ("alone", "beside")]
        senders = [threading.Thread(target=side.send, daemon=True) for side in sides]
        for sender in senders:
            sender.start()
        time.sleep(WARM_SECONDS)
        since = [side.last_call() for side in sides]
        for sender in senders:
            sender.join()
        time.sleep(REST_SECONDS)
        alone, beside = (side.calls(first) for side, first in zip(sides, since, strict=True))
        print(f"without callbacks {dict(alone)}, open {sides[0].open_messages()}")
        print(f"with callbacks {dict(beside)}, open {sides[1].open_messages()}")
        for side in sides:
            print(side.plan())
        print(sides[1].sandbox.control("GET", f"/{PROVIDER}/pushes"))
        for what, name in (("sweeps", "get-reports"), ("details", "get-report")):
            verdicts.at_most(f"{what}, with callbacks of 95 % / without", [beside[name] / alone[name]], 0.3)
        verdicts.at_most("calls, with callbacks of 95 % / without", [beside.total() / alone.total()], 0.3)
    verdicts.end()


@contextmanager
def _side(url: str, name: str) -> Iterator[Side]:
    database = f"bench_webhook_{name}"
    with (
        tempfile.TemporaryDirectory(prefix="ulak-bench-") as folder_name,
        migrated_database(url, database) as engine,
        Sandbox(seed=21, speed=1 / FACTOR) as sandbox,
    ):
        folder, own = Path(folder_name), url_of(url, database)
        run, account = (
            SandboxRun(home=folder, ports=(int(sandbox.urls["control"].rpartition(":")[2]),)),
            _account(sandbox),
        )
        if name == "alone":
            del account["credentials"]["webhook_secret"]
        apply_accounts(engine, [account], folder)
        valkey = ValkeyServer(folder, durable=False)
        api = None
        if name == "beside":
            api, port = start_api(own, str(folder / "api"))
            sandbox.control(
                "POST", "/faults", {"provider": PROVIDER, "kind": "push_dropped", "rate": DROPPED, "seed": 1}
            )
            run.start_pushes([account], f"http://127.0.0.1:{port}")
        try:
            with worker_processes(own, valkey.start(), folder, 1, threads=6):
                wait_for_plans(engine)
                yield Side(engine=engine, sandbox=sandbox)
        finally:
            valkey.stop()
            if api is not None:
                api.terminate()
                api.wait(30)


def _account(sandbox: Sandbox) -> dict[str, Any]:
    """The sandbox's account, all intervals left to be learned."""
    [account] = [each for each in sandbox.control("GET", "/accounts") if each["provider"] == PROVIDER]
    account["poll"] = {"time_factor": FACTOR}
    account["options"] = {"details": True, "validity_hours": 48.0 * FACTOR}
    return dict(account)
