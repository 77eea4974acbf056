"""What tests of erased and of hashed people share: all five stand-ins swept, and which columns hold a number."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from demo_accounts import apply_accounts, register_sends
from driving import make_runtime
from sqlalchemy import Engine, text

from ulak.models.account import load
from ulak.providers.adapter import Callback
from ulak.sandbox.server import Sandbox
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.callbacks import ingest

KEY = b"the person key of these tests, 32"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Five small stand-ins, every life at its end within some seconds."""
    with Sandbox(seed=5, speed=90, scale="small") as running:
        yield running


def set_up(engine: Engine, sandbox: Sandbox, folder: Path, *, hashed: bool = False) -> Runtime:
    """The sandbox's accounts and sends, registered, and BiP's replies handed over. `hashed`: so are the recipients."""
    accounts = sandbox.control("GET", "/accounts")
    for account in accounts:
        account["options"] = {**account.get("options", {}), "deadline_seconds": 1.0}
        account["poll"] = {**account["poll"], "every_seconds": 0.5, "time_factor": 0.02, "max_check_seconds": 40}
    apply_accounts(engine, accounts, folder, hashed_by=KEY if hashed else None)
    runtime = make_runtime(engine, threads=8)
    runtime.suppressions.key = lambda: KEY
    register_sends(runtime, sandbox.control("GET", "/sends"))
    with engine.begin() as connection:
        bip = load(connection, "demo-bip")
    for reply in sandbox.control("GET", "/sends?provider=bip")["replies"]:
        ingest(runtime, bip, Callback(tail="send_reply", body=msgspec.json.encode(reply["body"])))
    return runtime


def places(engine: Engine, people: frozenset[str]) -> dict[str, set[str]]:
    """The columns of all tables that hold one of these numbers (their last ten digits), by table."""
    found: dict[str, set[str]] = {}
    with engine.connect() as connection:
        tables = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars().all()
        for table in tables:
            for row in connection.execute(text(f'SELECT * FROM "{table}"')).mappings():
                for column, value in row.items():
                    # Longer than any id of the stand-ins.
                    if people.intersection(word[-10:] for word in re.findall(r"[0-9]{10,}", str(value))):
                        found.setdefault(table, set()).add(column)
    return found
