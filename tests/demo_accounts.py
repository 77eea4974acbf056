"""The sandbox's accounts in a database, for tests that run the steps or the processes against it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from ulak.models.accounts import apply
from ulak.providers.accounts import read_accounts
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.tracking import track


def apply_accounts(engine: Engine, accounts: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the sandbox's account records as an accounts file with credential files, and apply it."""
    from ulak.local.demo import SandboxRun

    run = SandboxRun(home=folder, ports=(0,))
    path = folder / "accounts.toml"
    path.write_text("\n".join(run._toml(account) for account in accounts), encoding="utf-8")
    with engine.begin() as connection:
        apply(connection, read_accounts(path), prune=False)


def register_sends(runtime: Runtime, sends: Sequence[Mapping[str, Any]]) -> None:
    """Register what the sandbox's sender knows."""
    for send in sends:
        times = {name: datetime.fromisoformat(send[name]) for name in ("sent_at", "valid_until") if send[name]}
        track(runtime, send["account"], [{**send, **times}])
