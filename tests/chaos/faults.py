"""The faults: each does its harm to a running system, ends it, and says how often it was done."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from api_process import MIB, HostileClients, push_head
from patched_process import ALL_POINTS
from pydantic import SecretStr
from redis import Redis
from sqlalchemy.exc import SQLAlchemyError
from system import LEASE_SECONDS, POLLED, System

from ulak.core import task_names
from ulak.core.redis import connect
from ulak.core.settings import Settings
from ulak.models.accounts import resume
from ulak.workers.app import KEY_PREFIX, make_app

QUEUES = tuple(KEY_PREFIX + queue for queue in task_names.QUEUES)


@dataclass(frozen=True)
class Fault:
    """One fault. `strength` 1 is the short form."""

    name: str
    do: Callable[[System, int], int]
    strength: int = 1


# ------------------------------------------------------------------------------------------ connections


def hold_connections(system: System, strength: int) -> int:
    """Clients say nothing, drip a head, or hold a body that nobody asked for, while pushes come."""
    many = 200 * strength
    with HostileClients(system.api_port) as clients:
        clients.connect(many)
        clients.connect(many, b"GET / HTTP/1.1\r\nX-Drip: ")
        clients.connect(many, push_head("/callbacks/bip/nobody", 8 * MIB) + b"{")
        system.send_more(4)
        end = time.monotonic() + 8 * strength
        while time.monotonic() < end:
            clients.drip()
            time.sleep(0.3)
    return 3 * many


# -------------------------------------------------------------------------------------------- processes


def kill_workers(system: System, strength: int) -> int:
    """Kill -9 of a random worker, again and again, while requests are in the air."""
    times = 3 * strength
    with system.slow_providers(0.25):
        for _ in range(times):
            time.sleep(system.rng.uniform(0.3, 1.4))
            system.kill(system.busy_worker())
    return times


def kill_all_workers(system: System, strength: int) -> int:
    """Kill -9 of all workers at the same moment."""
    with system.slow_providers(0.25):
        for _ in range(strength):
            time.sleep(system.rng.uniform(0.5, 2.0))
            for worker in system.workers():
                system.kill(worker)
    return strength


def freeze_before_finishing(system: System, strength: int) -> int:
    """A worker is frozen between answer and finishing transaction, past its lease: the late finisher is fenced."""
    for _ in range(strength):
        fenced, hits = system.log_lines("fetch.fenced"), len(system.read_hits())
        late = system.trapped_worker(iter(["close_call:before:1:stop"]))
        system.crashes += 1
        wait_hits(system, hits + 1)
        wait_lost_leases(system)
        late.signal(signal.SIGCONT)
        system.until(
            lambda fenced=fenced: system.log_lines("fetch.fenced") > fenced,  # type: ignore[misc]
            what="a fenced late finisher",
        )
        late.end()
    return strength


def freeze_worker(system: System, strength: int) -> int:
    """SIGSTOP of a worker wherever it is, past its lease, then SIGCONT."""
    for _ in range(strength):
        worker = system.busy_worker()
        system.crashes += 1
        worker.signal(signal.SIGSTOP)
        time.sleep(LEASE_SECONDS + system.rng.uniform(1, 4))
        worker.signal(signal.SIGCONT)
    return strength


def lose_popped_messages(system: System, strength: int) -> int:
    """Workers frozen in their BRPOP are handed messages, and die before they have noted them."""
    for _ in range(strength):
        workers = system.workers()
        for worker in workers:
            worker.signal(signal.SIGSTOP)
        time.sleep(2.5)
        for worker in workers:
            system.kill(worker)
    return strength


def miss_beats(system: System, strength: int) -> int:
    """No beat for a while."""
    for beat in system.beats():
        beat.end()
    time.sleep(4 * strength)
    for beat in system.beats():
        beat.wanted = True
    return 1


def beat_thrice(system: System, strength: int) -> int:
    """A third beat."""
    third = system.add("beat-3", "beat")
    time.sleep(4 * strength)
    third.end()
    del system.processes["beat-3"]
    return 1


def kill_api(system: System, strength: int) -> int:
    """Kill -9 of the process that takes the callbacks, while they come."""
    for _ in range(strength):
        system.sandbox.control("POST", "/sends/bip", {"count": 10})
        system.processes["api"].signal(signal.SIGKILL)
        time.sleep(1.5)
    system.tell_ulak()
    return strength


def wait_hits(system: System, many: int, seconds: float = 90.0) -> None:
    """Return when so many crash points were reached."""
    system.until(lambda: len(system.read_hits()) >= many, what=f"crash point {many}", seconds=seconds)


def wait_lost_leases(system: System) -> None:
    """Return when every lease that is held now has ended.

    Expired is not yet lost: until the reconciler has taken a lease back, its finisher may still write.
    """
    tokens = [row.lease_token for row in system.query("SELECT lease_token FROM fetches WHERE state = 'sending'")]
    held = "SELECT count(*) FROM fetches WHERE lease_token = ANY(:tokens)"
    system.until(lambda: not system.number(held, tokens=tokens), what="the loss of the leases")


def crash_orders(rng: random.Random, points: list[str]) -> Iterator[str]:
    """Orders for a trapped worker: one point after the other, at a drawn passage."""
    for point in points:
        yield f"{point}:{1 if point.startswith('insert') else rng.randint(1, 3)}:kill"


def crash_at_points(system: System, strength: int) -> int:
    """Kill -9 before and after each step of a fetch, each statement of its end, both commits, publish and ack."""
    points = [f"{point}:{side}" for point in ALL_POINTS for side in ("before", "after")]
    system.rng.shuffle(points)
    points = points[: 2 * strength] if strength < len(points) else points
    before = len(system.read_hits())
    halves = [points[0::2], points[1::2]]
    trapped = [system.trapped_worker(crash_orders(system.rng, half)) for half in halves if half]
    # The plain workers would take most of the work away from the trapped ones.
    plain = [worker for worker in system.workers() if worker.name.startswith("worker")][1:]
    for worker in plain:
        worker.end()
    keep_busy = itertools.count()

    def all_reached() -> bool:
        if next(keep_busy) % 50 == 49:
            system.send_more(3)
        return len(system.read_hits()) >= before + len(points)

    try:
        system.until(all_reached, what=f"{len(points)} crash points", seconds=60 + 12 * len(points))
    finally:
        system.crashes += len(system.read_hits()) - before
        for process in trapped:
            process.end()
        for worker in plain:
            worker.wanted = True
    return len(points)


# ----------------------------------------------------------------------------------------------- broker


def kill_redis(system: System, strength: int) -> int:
    """Kill -9 of the broker, and its restart from the append-only file."""
    for _ in range(strength):
        system.restart_valkey()
        time.sleep(system.rng.uniform(0.5, 2.0))
    return strength


def flush_redis(system: System, strength: int) -> int:
    """FLUSHALL."""
    for _ in range(2 * strength):
        with connect(system.valkey.url) as redis:
            redis.flushall()
        time.sleep(system.rng.uniform(0.3, 1.0))
    return 2 * strength


def forget_redis(system: System, strength: int) -> int:
    """The broker dies and its data directory is gone."""
    for _ in range(strength):
        system.restart_valkey(forget=True)
        time.sleep(1.0)
    return strength


def freeze_redis(system: System, strength: int) -> int:
    """SIGSTOP of the broker: five seconds, in the long form thirty."""
    process = system.valkey_process()
    process.suspend()
    time.sleep(5 if strength == 1 else 30)
    process.resume()
    return 1


FULL_BROKER_SECONDS = 8


def fill_redis(system: System, strength: int) -> int:
    """The broker has no memory left and evicts nothing: it refuses every message, while new sends and pushes come."""
    with connect(system.valkey.url) as redis:
        before = refused_messages(redis)
        redis.config_set("maxmemory", "1")
        try:
            system.send_more(4)
            time.sleep(FULL_BROKER_SECONDS * strength)
            refused = refused_messages(redis) - before
        finally:
            redis.config_set("maxmemory", "0")
    assert refused, "nobody tried to send a message"
    return refused


def refused_messages(redis: Redis) -> int:
    """How many commands the broker has refused for want of memory since it was started."""
    found: Any = redis.info("errorstats")
    return int(found.get("errorstat_OOM", {}).get("count", 0))


def cut_redis(system: System, strength: int) -> int:
    """Every connection to the broker is reset, a few times; then the network is away for a while."""
    for _ in range(3 * strength):
        system.to_valkey.reset_all()
        time.sleep(0.5)
    system.to_valkey.mode = "black_hole"
    time.sleep(3 * strength)
    system.to_valkey.heal()
    return 3 * strength + 1


def half_open_redis(system: System, strength: int) -> int:
    """The broker hears, but its answers never come."""
    system.to_valkey.mode = "half_open"
    time.sleep(4 * strength)
    system.to_valkey.heal()
    return 1


def repeat_messages(system: System, strength: int) -> int:
    """Every message that can be caught is put back twice, and once more a few seconds later."""
    caught: set[tuple[str, str]] = set()
    end = time.monotonic() + 4 * strength
    with connect(system.valkey.url) as redis:
        while time.monotonic() < end:
            for queue in QUEUES:
                # Blocks like a worker, so it gets its share of them.
                found: Any = redis.brpop([queue], timeout=0.05)
                if found is None:
                    continue
                message = found[1]
                copies = 1 if (queue, message) in caught else 2
                caught.add((queue, message))
                redis.rpush(queue, *[message] * copies)
        for queue, message in sorted(caught):
            redis.lpush(queue, message)
    return len(caught)


def replay_messages(system: System, strength: int) -> int:
    """A message for every fetch there ever was, twice, in a drawn order."""
    app = make_app(Settings(redis_url=SecretStr(system.valkey.url)))
    rows = system.query("SELECT id, kind FROM fetches ORDER BY id DESC LIMIT :many", many=200 * strength)
    replayed = [row for row in rows for _ in range(2)]
    system.rng.shuffle(replayed)
    for row in replayed:
        app.send_task(
            task_names.FETCH_PAGE if row.kind == "page" else task_names.FETCH_BATCH,
            kwargs={"fetch_id": row.id},
            queue=task_names.QUEUE_FETCH,
        )
    return len(replayed)


# --------------------------------------------------------------------------------------------- database


def restart_postgres_fast(system: System, strength: int) -> int:
    """A fast shutdown and a start."""
    for _ in range(strength):
        system.restart_postgres(signal.SIGINT)
        time.sleep(1.0)
    return strength


def restart_postgres_immediate(system: System, strength: int) -> int:
    """An immediate shutdown (no checkpoint) and a start, which recovers."""
    for _ in range(strength):
        system.restart_postgres(signal.SIGQUIT)
        time.sleep(1.0)
    return strength


def terminate_backends(system: System, strength: int) -> int:
    """pg_terminate_backend of random sessions of ours."""
    sql = """
        SELECT pid, pg_terminate_backend(pid) FROM (
            SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'ulak%' ORDER BY random() LIMIT 3) AS drawn
    """
    ended = 0
    for _ in range(5 * strength):
        ended += len(system.query(sql))
        system.crashes += 1
        time.sleep(system.rng.uniform(0.1, 0.6))
    return ended


def cut_commits(system: System, strength: int) -> int:
    """COMMITs that succeed while the client sees a broken connection."""
    proxy = system.to_postgres
    wanted, before = 6 * strength, proxy.cut_commits
    proxy.commit_share = 0.3
    proxy.commits_to_cut = wanted
    system.crashes += wanted
    system.until(lambda: proxy.cut_commits >= before + wanted, what="the cut commits", seconds=120)
    proxy.heal()
    return wanted


def lose_postgres(system: System, strength: int) -> int:
    """The network to PostgreSQL is slow, then away, then resets every connection."""
    proxy = system.to_postgres
    system.crashes += 2
    proxy.delay_seconds = (0.02, 0.2)
    time.sleep(2)
    proxy.heal()
    proxy.mode = "black_hole"
    time.sleep(2 * strength)
    proxy.heal()
    proxy.reset_all()
    return 3


READ_ONLY_SECONDS = 4
FAILOVER_SECONDS = 60
"""What a failover may cost: so long after it the callbacks are taken again, without a restart."""
FAILOVERS = (
    # Every session from this moment on, those from before, too.
    ("ALTER SYSTEM SET default_transaction_read_only = on", "ALTER SYSTEM RESET default_transaction_read_only"),
    # Sessions that begin meanwhile, which stay so afterwards: as those that still lead to the old primary.
    ("ALTER DATABASE {name} SET default_transaction_read_only = on", "ALTER DATABASE {name} RESET ALL"),
)


def refuse_writes(system: System, strength: int) -> int:
    """The primary takes no writes, as after a failover, while callbacks come; then it does again."""
    for begin, end in FAILOVERS * strength:
        system.crashes += 1
        system.sandbox.control("POST", "/sends/bip", {"count": 5})
        system.command(begin, "SELECT pg_reload_conf()")
        system.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'ulak%'")
        system.until(lambda: system.readiness() == HTTPStatus.SERVICE_UNAVAILABLE, what="a probe that notices")
        time.sleep(READ_ONLY_SECONDS)
        system.command(end, "SELECT pg_reload_conf()")
        system.until(lambda: system.readiness() == HTTPStatus.OK, what="readiness", seconds=FAILOVER_SECONDS)
    system.tell_ulak()
    return len(FAILOVERS) * strength


# -------------------------------------------------------------------------------------------- providers


def misbehave(kind: str, times: int = 2) -> Callable[[System, int], int]:
    """Every polled provider misbehaves a few times in this way."""

    def do(system: System, strength: int) -> int:
        system.send_more(2)
        for name in POLLED:
            system.sandbox.control("POST", "/faults", {"provider": name, "kind": kind, "times": times * strength})
        left = until_struck(system)
        system.sandbox.control("DELETE", "/faults")
        resume_accounts(system)
        return len(POLLED) * times * strength - left

    return do


def until_struck(system: System, seconds: float = 15.0) -> int:
    """Wait until the ordered troubles have struck; how many have not by then (nobody had anything to ask)."""
    end = time.monotonic() + seconds
    while True:
        left = sum(fault["times"] for fault in system.sandbox.control("GET", "/faults"))
        if not left or time.monotonic() > end:
            return int(left)
        time.sleep(0.3)


def resume_accounts(system: System) -> None:
    """What a person does who has put the credentials right."""
    time.sleep(0.5)
    for account in system.accounts:
        with suppress(SQLAlchemyError), system.engine.begin() as connection:
            resume(connection, account["id"])


def misbehave_at_random(system: System, strength: int) -> int:
    """A tenth of all answers and pushes is spoiled, in all ways at once."""
    with wish(system) as order:
        order("all", "everything", rate=0.1)
        time.sleep(6 * strength)
        hits = count_hits(system)
    resume_accounts(system)
    return hits


def spoil_rows(system: System, strength: int) -> int:
    """Providers repeat rows, leave some out, or all; never the same wrong multiset of one subject twice."""
    system.send_more(4)
    with wish(system) as order:
        for kind in ("duplicated", "dropped", "null_rows", "no_rows"):
            order("all", kind, rate=0.15)
        time.sleep(8 * strength)
        return count_hits(system)


def count_hits(system: System) -> int:
    """How often the ordered troubles have struck."""
    return sum(fault["hits"] for fault in system.sandbox.control("GET", "/faults"))


@contextmanager
def wish(system: System) -> Iterator[Callable[..., Any]]:
    """Ordering troubles of providers, taken back at the end."""

    def order(provider: str, kind: str, **values: Any) -> None:
        system.sandbox.control("POST", "/faults", {"provider": provider, "kind": kind, **values})

    try:
        yield order
    finally:
        system.sandbox.control("DELETE", "/faults")


def bad_line(system: System, strength: int) -> int:
    """The line to the providers delays, throttles, and cuts answers off."""
    proxies = list(system.to_provider.values())
    for proxy in proxies:
        proxy.delay_seconds = (0.0, 0.8)
    time.sleep(3 * strength)
    for proxy in proxies:
        proxy.delay_seconds, proxy.bytes_per_second = (0.0, 0.0), 20_000.0
    time.sleep(2 * strength)
    for proxy in proxies:
        proxy.bytes_per_second, proxy.reset_after = None, system.rng.randint(1, 400)
    time.sleep(0.4)
    for proxy in proxies:
        proxy.heal()
    return 3 * len(proxies)


def dead_line(system: System, strength: int) -> int:
    """The line to the providers swallows everything past the deadline, then swallows the answers alone.

    A request that the line gives back just before its deadline is still being answered when it is given up and the
    next one leaves: no caller can know, so more in the air than allowed are excused here. The rate is not.
    """
    proxies = list(system.to_provider.values())
    first = system.sandbox.world.ledger.count
    for mode in ("black_hole", "half_open"):
        for proxy in proxies:
            proxy.mode = mode
        time.sleep(4 * strength)
        for proxy in proxies:
            proxy.heal()
    time.sleep(1)
    system.excused.append(range(first, system.sandbox.world.ledger.count + 1))
    return 2 * len(proxies)


def shrink_limits(system: System, strength: int) -> int:
    """The providers' limits become smaller; ours follow first, as a person would have it."""
    for requests in [7, 3, 5][: max(2, strength)]:
        for name in POLLED:
            with system.engine.begin() as connection:
                connection.exec_driver_sql(
                    f"UPDATE accounts SET limit_requests = {requests} WHERE provider = '{name}'",
                )
        time.sleep(WINDOW_AND_DEADLINE)
        for name in POLLED:
            system.sandbox.control("POST", "/limits", {"provider": name, "requests": requests})
        time.sleep(2)
    return max(2, strength)


WINDOW_AND_DEADLINE = 5.5


# ------------------------------------------------------------------------------------------------- disk


FULL_SECONDS = 12


def fill_disk(system: System, strength: int, folder: Path) -> int:
    """The disk of the database is full, PostgreSQL falls over; then somebody makes room and starts it."""
    ballast = folder / "ballast"
    for _ in range(strength):
        # What is small may still be written where what is large is refused: each lease in this time may be lost anew.
        system.crashes += 1 + FULL_SECONDS // LEASE_SECONDS
        with suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
        end = time.monotonic() + FULL_SECONDS
        while time.monotonic() < end:
            with suppress(Exception), system.engine.begin() as connection:
                connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS ballast AS SELECT repeat('x', 900) AS x")
                connection.exec_driver_sql("INSERT INTO ballast SELECT repeat(md5(random()::text), 30) FROM ballast")
            time.sleep(0.1)
        ballast.unlink()
        if system.postgres.running_url() is None:
            system._reap(system.postgres)
            system.postgres.start()
        with suppress(SQLAlchemyError), system.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS ballast")
    return strength


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path | str]:
    """A folder on a small disk of its own; the reason, where this user or machine allows none."""
    folder = Path(f"/tmp/ulak-chaos-disk-{os.getpid()}")
    folder.mkdir()
    order = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)]
    try:
        done = subprocess.run(order, capture_output=True, text=True, check=False)
        if done.returncode:
            yield f"no small disk can be mounted here: {done.stderr.strip()}"
            return
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    except FileNotFoundError:
        yield "there is no mount here"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --------------------------------------------------------------------------------------------- together


SHORT: tuple[Fault, ...] = (
    Fault("kill -9 of workers", kill_workers),
    Fault("named crash points", crash_at_points, 1),
    Fault("frozen past the lease", freeze_before_finishing),
    Fault("messages lost in BRPOP", lose_popped_messages),
    Fault("broker emptied", flush_redis),
    Fault("broker killed, data gone", forget_redis),
    Fault("PostgreSQL restarted at once", restart_postgres_immediate),
    Fault("sessions terminated", terminate_backends),
    Fault("COMMIT without an answer", cut_commits),
    Fault("read-only primary", refuse_writes),
    Fault("messages repeated", repeat_messages),
    Fault("provider: reset", misbehave("reset", 1)),
    Fault("provider: truncated", misbehave("truncate", 1)),
    Fault("provider: expanding", misbehave("bomb", 1)),
    Fault("connections held", hold_connections),
)

KINDS = (
    *("http_500", "http_503_later", "http_429", "reset", "drip", "hang", "truncate", "html_200", "garbage", "empty"),
    *("slow", "trailing", "gzip_members", "charset", "clock", "foreign", "bomb"),
)

LONG: tuple[Fault, ...] = (
    Fault("named crash points", crash_at_points, 99),
    Fault("all workers killed", kill_all_workers, 3),
    Fault("frozen past the lease", freeze_before_finishing, 1),
    Fault("frozen anywhere", freeze_worker, 2),
    Fault("messages lost in BRPOP", lose_popped_messages, 2),
    Fault("no beat", miss_beats, 4),
    Fault("three beats", beat_thrice, 2),
    Fault("callback process killed", kill_api, 3),
    Fault("connections held", hold_connections, 1),
    Fault("broker killed", kill_redis, 2),
    Fault("broker emptied", flush_redis, 3),
    Fault("broker killed, data gone", forget_redis, 2),
    Fault("broker without memory", fill_redis, 2),
    Fault("broker frozen 30 s", freeze_redis, 2),
    Fault("broker cut off", cut_redis, 2),
    Fault("broker half open", half_open_redis, 2),
    Fault("messages repeated", repeat_messages, 2),
    Fault("messages replayed", replay_messages, 2),
    Fault("PostgreSQL restarted fast", restart_postgres_fast, 2),
    Fault("PostgreSQL restarted at once", restart_postgres_immediate, 2),
    Fault("sessions terminated", terminate_backends, 3),
    Fault("COMMIT without an answer", cut_commits, 3),
    Fault("PostgreSQL slow and away", lose_postgres, 3),
    Fault("read-only primary", refuse_writes, 2),
    *(Fault(f"provider: {kind}", misbehave(kind), 1) for kind in KINDS),
    Fault("provider: refuses the key", misbehave("unauthorized", 1), 1),
    Fault("provider: rows repeated and missing", spoil_rows, 2),
    Fault("provider: a bit of everything", misbehave_at_random, 2),
    Fault("line: slow, throttled, cut", bad_line, 1),
    Fault("line: silent", dead_line, 1),
    Fault("limits made smaller", shrink_limits, 2),
)
