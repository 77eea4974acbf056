"""What people and programs see of retention: the command line, the API, the feed over HTTP."""

import json
from pathlib import Path

from command_line import Ulak, ulak
from quiet_cluster import wait_for_the_feed
from retaining import KEEP_DAYS, OLD, YOUNG, World, said
from sqlalchemy import Engine
from task_api import Api, api

from ulak.models.account import load

__all__ = ["api", "ulak"]

FILE = """
[[account]]
id = "brand"
provider = "vairo"
keep_days = {days}
[account.credentials]
api_key = "env:HOME"
"""


def test_the_command_line_says_how_long_deliveries_are_kept_and_what_will_go(
    ulak: Ulak, migrated_database: Engine, tmp_path: Path
) -> None:
    """From the file to the announcement, the events and the advice of `ulak check`."""
    file = tmp_path / "accounts.toml"
    for days in (KEEP_DAYS, 200):
        file.write_text(FILE.format(days=days))
        assert ulak("accounts", "apply", str(file)).code == 0
        with migrated_database.connect() as connection:
            assert load(connection, "brand").keep_days == days
    [line] = [line for line in ulak("check").out.splitlines() if line.startswith("account brand")]
    assert "retention" not in line
    world = World(migrated_database, "other", keep_days=None)
    [line] = [line for line in ulak("check").out.splitlines() if line.startswith("retention")]
    assert line.startswith("retention: ok (kept forever: other; advice: keep_days = 180")

    world.store(said("a", sent_at=OLD), said("b", sent_at=YOUNG))
    world.configure(KEEP_DAYS)
    world.upkeep()
    listed = {each["id"]: each for each in json.loads(ulak("accounts", "list", "--json").out)}
    assert {name: each["keep_days"] for name, each in listed.items()} == {"brand": 200, "other": KEEP_DAYS}
    assert "30 d" in ulak("accounts", "list").out
    status = ulak("status", "other")
    assert "other removes about 1 row sent before 20" in status.err
    [shown] = json.loads(ulak("status", "other", "--json").out)["accounts"]
    assert (shown["keep_days"], shown["kept_from"], shown["removal"]["deliveries"]) == (KEEP_DAYS, None, 1)
    events = json.loads(ulak("events", "--account", "other", "--json").out)
    recorded = [(each["actor_kind"], each["via"], each["action"]) for each in events if each["actor"] == "ulak"]
    assert recorded == [("system", "upkeep", "retention.announced")]


def test_the_api_tells_the_state_and_the_feed_the_removal(api: Api) -> None:
    """One entry names the account and the moment; a copy that follows it holds what is stored."""
    world = World(api.engine)
    world.store(*(said(f"old-{n}", sent_at=OLD) for n in range(3)), said("young", sent_at=YOUNG))
    world.upkeep()
    [account] = api.get("/v1/accounts")["accounts"]
    assert (account["keep_days"], account["kept_from"], account["removal"]["deliveries"]) == (KEEP_DAYS, None, 3)
    wait_for_the_feed(api.engine)
    first = api.get("/v1/changes")
    assert [each["op"] for each in first["changes"]] == ["put"] * 4
    world.begin()
    wait_for_the_feed(api.engine)
    [account] = api.get("/v1/accounts")["accounts"]
    assert account["removal"] is None
    second = api.get("/v1/changes", cursor=first["cursor"])
    [entry] = second["changes"]
    assert (entry["op"], entry["id"], entry["delivery"]) == ("remove", 0, None)
    assert entry["removed"] == {"account": "brand", "before": account["kept_from"]}
    assert api.get("/v1/changes", cursor=second["cursor"])["changes"] == []
    # By the rule of the reference: a copy with nothing but the feed.
    copy = {each["id"]: each["delivery"] for each in first["changes"]}
    left = [
        each["provider_key"]
        for each in copy.values()
        if not (each["account_id"] == "brand" and each["message_time"] < entry["removed"]["before"])
    ]
    assert left == ["young"]
