"""`ulak up` without accounts: the sandbox runs as a child, and we play the sender who uses it.

The sandbox is another program: it is reached over its control address only, and hands out what a sender would know.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from ulak.core import clock
from ulak.core.logging import get_logger
from ulak.local.child_process import ChildSpec
from ulak.local.ports import choose_port
from ulak.models.account import load
from ulak.providers.adapter import Callback, ProviderRecord
from ulak.providers.registry import adapter_for
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.callbacks import ingest
from ulak.tasks.steps.tracking import track

log = get_logger(__name__)

FIRST_PORT = 9400
SERVERS = 6
START_SECONDS = 20.0
LOOPBACK = "127.0.0.1"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Whatever proxy the environment names: it leads out of the host."""


class SandboxError(Exception):
    """The sandbox failed; the text says what to check."""


@dataclass(slots=True)
class SandboxRun:
    """The sandbox of one home: its child, its accounts, its sends."""

    home: Path
    ports: tuple[int, ...]

    @classmethod
    def choose(cls, home: Path, first_port: int | None = None) -> "SandboxRun":
        """Six free ports: `first_port` and those after it; unset: from the usual one on."""
        folder = home / "sandbox"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        control = choose_port(first_port, FIRST_PORT, LOOPBACK)
        ports: list[int] = []
        for _ in range(SERVERS - 1):
            ports.append(choose_port(None, max([control, *ports]) + 1, LOOPBACK))
        return cls(home=folder, ports=(*ports, control))

    @property
    def control(self) -> str:
        """The control address."""
        return f"http://{LOOPBACK}:{self.ports[-1]}"

    def child(self) -> ChildSpec:
        """The process to supervise; its lives go on after a restart."""
        ports = ",".join(str(port) for port in self.ports)
        state = str(self.home / "state.json")
        argv = (sys.executable, "-P", "-m", "ulak.sandbox", "--ports", ports, "--state", state)
        return ChildSpec(name="sandbox", argv=argv, foreign=True, tier=0, grace_seconds=3.0)

    def wait(self, keep_waiting: Callable[[], bool]) -> None:
        """Return when the sandbox answers."""
        end = clock.boot() + START_SECONDS
        while keep_waiting():
            try:
                self.ask("/")
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if clock.boot() > end:
                    raise SandboxError("The sandbox does not answer: see sandbox.log among the logs.") from None
                clock.sleep(0.1)
            else:
                return

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One question to the control address."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - always our own loopback address
            self.control + path, data=data, headers={"content-type": "application/json"}
        )
        with _DIRECT.open(request, timeout=30) as answer:
            return json.load(answer)

    def write_accounts(self) -> Path:
        """The sandbox's accounts as an accounts file; its credentials as files, since a value is refused there."""
        accounts = self.ask("/accounts")
        path = self.home / "accounts.toml"
        path.write_text("\n".join(self._toml(account) for account in accounts), encoding="utf-8")
        return path

    def _toml(self, account: Mapping[str, Any]) -> str:
        """One `[[account]]`."""
        lines = ["[[account]]"]
        lines += [f"{name} = {_value(account[name])}" for name in ("id", "provider", "base_url", "timezone")]
        lines.append("[account.credentials]")
        lines += [
            f"{name} = {_value(self._reference(account['id'], name, value))}"
            for name, value in account["credentials"].items()
        ]
        for table in ("limit", "retry", "poll", "options"):
            values = account.get(table) or {}
            if values:
                lines.append(f"[account.{table}]")
                lines += [f"{name} = {_value(value)}" for name, value in values.items()]
        return "\n".join(lines) + "\n"

    def _reference(self, account_id: str, name: str, value: str) -> str:
        """Keep a credential in a file of its own, mode 0600, and name it."""
        path = self.home / "credentials" / f"{account_id}.{name}"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(value)
        return f"file:{path}"

    # ------------------------------------------------------------------------------------- the sender

    def register_sends(self, runtime: Runtime) -> int:
        """Register everything the sender knows; returns how many ids are new."""
        by_account: dict[str, list[Mapping[str, Any]]] = {}
        for send in self.ask("/sends"):
            by_account.setdefault(send["account"], []).append(_with_times(send))
        return sum(track(runtime, account_id, sends) for account_id, sends in by_account.items())

    def hand_over_replies(self, runtime: Runtime, accounts: Sequence[Mapping[str, Any]]) -> int:
        """Hand over the send replies that the sender got, and let the pushes come to our callback routes."""
        handed = 0
        for account in accounts:
            if not _only_pushes(adapter_for(account["provider"]).record):
                continue
            for reply in self.ask(f"/sends?provider={account['provider']}")["replies"]:
                body = json.dumps(reply["body"]).encode()
                with runtime.engine.connect() as connection:
                    stored = load(connection, reply["account"])
                ingest(runtime, stored, Callback(tail="send_reply", body=body))
                handed += 1
        return handed

    def start_pushes(self, accounts: Sequence[Mapping[str, Any]], api_url: str) -> None:
        """Let the stand-ins that push do so."""
        for account in accounts:
            record, credentials = adapter_for(account["provider"]).record, account["credentials"]
            url = f"{api_url}/callbacks/{account['provider']}/{account['id']}"
            if record.callback_secret in credentials:
                callback = {"url": f"{url}/{credentials[record.callback_secret]}"}
            elif _only_pushes(record):
                user, password = credentials.values()
                callback = {"url": url, "user": user, "password": password}
            else:
                continue
            self.ask(f"/{account['provider']}/callback", callback)

    def unsettled(self, connection: Connection) -> list[str]:
        """Reports that the simulated providers still hold back, and ids not polled since their last report."""
        settled = self.ask("/truth/settled")
        if not settled["settled"] or settled.get("pushes_waiting", 0):
            return ["The sandbox's messages are still on their way."]
        waiting = connection.execute(_NOT_ASKED_SINCE, {"at": datetime.fromisoformat(settled["at"])}).scalar_one()
        return [f"{waiting} ids have not been asked for since the sandbox came to rest."] if waiting else []


# A check after validity may lie an hour ahead, and finds what the check before it found.
_NOT_ASKED_SINCE = text("""
    SELECT count(*) FROM tracked_ids
    WHERE closed_at IS NULL AND (last_checked_at IS NULL OR last_checked_at < :at)
      AND next_check_at < clock_timestamp() + interval '2 minutes'
""")


def _value(value: Any) -> str:
    """A TOML value; JSON's strings, numbers and booleans are TOML's too."""
    return json.dumps(value)


def _only_pushes(record: ProviderRecord) -> bool:
    """Whether the provider has nothing to poll: its sender gets replies, and its reports are pushed."""
    return record.callback_paths is not None and not record.is_pulled


def _with_times(send: Mapping[str, Any]) -> Mapping[str, Any]:
    """The send with its times read."""
    times = {
        name: datetime.fromisoformat(send[name]) for name in ("sent_at", "valid_until") if send.get(name) is not None
    }
    return {**send, **times}
