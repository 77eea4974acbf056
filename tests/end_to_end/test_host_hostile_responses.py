"""A worker as a process of its own, and providers that answer with what expands: its memory."""

import gzip
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from api_process import MIB, OwnProcess, own_process
from driving import make_runtime
from sqlalchemy import Engine
from tiny_provider import Reply, Request, TinyProvider

from ulak.models.accounts import apply
from ulak.models.database import transaction
from ulak.providers.accounts import parse_accounts
from ulak.tasks.steps.tracking import track

pytestmark = [pytest.mark.host, pytest.mark.timeout(400)]

ACCOUNT = """
[[account]]
id = "{id}"
provider = "{provider}"
base_url = "{url}"
[account.credentials]
{credentials}
[account.limit]
requests = 50
per_seconds = 1
concurrency = 8
[account.retry]
base_seconds = 0.5
cap_seconds = 1
[account.poll]
time_factor = 0.001
every_seconds = 5
"""
CREDENTIALS = {
    "organik": 'api_key = "env:KEY"',
    "iletimerkezi": 'key = "env:KEY"\nhash = "env:KEY"',
    "vairo": 'api_key = "env:KEY"',
}
EACH = 6
"""Accounts of each provider; a worker has 16 threads."""


def lists(many: int) -> bytes:
    """So many empty lists."""
    return b"[" + b"[]," * (many - 1) + b"[]]"


def page(rows: int) -> bytes:
    """An honest answer of Organik."""
    return json.dumps(
        {
            "response": {
                "result": True,
                "data": [
                    {
                        "gsm": f"9053{place:08}",
                        "transaction_id": "880",
                        "gsm_track_id": f"{10**9 + place}",
                        "delivery_track_id": f"order-{place}",
                        "create_date": "2026-03-01 12:00:00",
                        "start_date": "2026-03-01 12:00:00",
                        "finish_date": "2026-03-01 12:00:07",
                        "status": 2,
                        "sms_count": 1,
                        "credit_amount": "1",
                        "is_foreign_gsm": 0,
                        "errorcode": 0,
                    }
                    for place in range(rows)
                ],
            }
        }
    ).encode()


KINDS: Mapping[str, Mapping[str, bytes]] = {
    "packed to 64 KiB": dict.fromkeys(CREDENTIALS, lists(63 * MIB // 3)),
    "just below the limits": {**dict.fromkeys(CREDENTIALS, lists(49_000)), "organik": lists(999_000)},
    "just below what needs room": dict.fromkeys(CREDENTIALS, lists(256 * 1024 // 3 - 1)),
    "honest pages": dict.fromkeys(CREDENTIALS, page(500)),
}
LARGEST_MIB = 250
"""The figure of docs/operations.md. The first kind alone took 510."""


def prepare(engine: Engine, address: Callable[[str], str]) -> None:
    """The accounts, and ids where a provider is asked for ids."""
    accounts = {f"{provider}-{n}": provider for provider in CREDENTIALS for n in range(EACH)}
    text = "".join(
        ACCOUNT.format(id=each, provider=provider, url=address(each), credentials=CREDENTIALS[provider])
        for each, provider in accounts.items()
    )
    with transaction(engine) as connection:
        apply(connection, parse_accounts(text), prune=True)
    runtime = make_runtime(engine, resolve=lambda _: "secret")
    for n in range(EACH):
        track(runtime, f"organik-{n}", [{"kind": "transaction", "value": str(each)} for each in range(8)])
        track(runtime, f"vairo-{n}", [{"kind": "number", "value": f"s{each}:+905321234567"} for each in range(8)])


def wait_for_requests(worker: OwnProcess, tiny: TinyProvider, many: int) -> None:
    """Return when so many requests were made."""
    end = time.monotonic() + 300
    while len(tiny.log) < many:
        assert worker.process.poll() is None, worker.log.read_text(encoding="utf-8")[-3000:]
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_stays_small_whatever_its_providers_answer(
    tmp_path: Path, migrated_database: Engine, redis_url: str, kind: str
) -> None:
    """Sixteen threads, eighteen accounts of three providers, two hundred such responses."""
    bodies = {provider: gzip.compress(body) for provider, body in KINDS[kind].items()}

    def answer(request: Request) -> Reply:
        return Reply(bodies[request.who.partition("-")[0]], headers={"content-encoding": "gzip"})

    with TinyProvider(answer) as tiny:
        prepare(migrated_database, tiny.address)
        database = migrated_database.url.render_as_string(hide_password=False).replace("+psycopg", "")
        env = {"ULAK_REDIS_URL": redis_url, "KEY": "k" * 32, "ULAK_TICK_SECONDS": "1"}
        with (
            own_process(tmp_path, database, ["worker", "--threads", "16"], env=env) as worker,
            own_process(tmp_path, database, ["beat"], env=env),
        ):
            wait_for_requests(worker, tiny, 200)
            peak = worker.peak_mib()
    print(f"{kind}: {peak:.0f} MiB at most")
    assert peak < LARGEST_MIB
