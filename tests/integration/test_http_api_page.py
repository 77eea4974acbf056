"""`docs/http-api.md`: its examples do what they say."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from database_fixtures import add_account
from sqlalchemy import text
from task_api import TOKEN, Api, api

from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status

__all__ = ["api"]

PAGE = Path(__file__).parents[2] / "docs" / "http-api.md"
SEND_REPLY = {
    "txnid": "T-1",
    "resultcode": 0,
    "list": [{"resultcode": 0, "receiver": "905301234570", "reportid": "r-1"}],
}


def fill(api: Api) -> None:
    """The accounts, the poll and the deliveries of which the page speaks."""
    with transaction(api.engine) as connection:
        for account, provider in (("toplu-sms", "iletimerkezi"), ("marka-sms", "organik"), ("bildirim", "bip")):
            add_account(connection, account, provider=provider)
        connection.execute(text("ALTER TABLE polls ALTER COLUMN id RESTART WITH 17"))
        connection.execute(text("ALTER TABLE delivery_status ALTER COLUMN id RESTART WITH 4711"))
        reports = [
            DeliveryReport(
                granularity=Granularity.MESSAGE, provider_key=key, status=Status.DELIVERED, provider_status="1"
            )
            for key in ("k-1", "k-2")
        ]
        upsert(connection, "marka-sms", "organik", reports, asked_at=None)


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="needs curl and bash")
def test_every_example_works_as_it_is_written(api: Api, tmp_path: Path) -> None:
    """Each `sh` block is pasted into a shell, in order; only the address, the token and the cursor are the test's."""
    fill(api)
    (tmp_path / "reply.json").write_text(json.dumps(SEND_REPLY), encoding="utf-8")
    setting, *examples = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (alias,) = re.findall(r"^alias ask='(.*)'$", setting, re.MULTILINE)
    script = f"alias ask='{alias} -o /dev/null -w \"%{{http_code}}\\n\"'\n" + "".join(examples)
    cursor = api.get("/v1/changes", limit=1)["cursor"]
    done = subprocess.run(
        ["bash", "-O", "expand_aliases", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "ULAK": str(api.client.base_url), "TOKEN": TOKEN, "CURSOR": cursor},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert done.stderr == ""
    polls, tracked, deliveries, summaries, changes = ["202"] + ["200"] * 4, 4, 8, 2, 2
    accounts, events, replies = 3, 3, 1
    others = tracked + deliveries + summaries + changes + accounts + events + replies
    assert done.stdout.split() == polls + ["200"] * others
    with api.engine.connect() as connection:
        poll = connection.execute(text("SELECT id, account_id, state, window_from::text, window_to::text FROM polls"))
        assert [tuple(row) for row in poll] == [(17, "toplu-sms", "cancelled", "2026-05-01", "2026-05-01")]
        ids = connection.execute(text("SELECT account_id, id_kind, value, client_ref FROM tracked_ids"))
        assert [tuple(row) for row in ids] == [("marka-sms", "transaction", "123456", "order-77")]
