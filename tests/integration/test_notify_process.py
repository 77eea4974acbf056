"""`ulak api` as a process: silent while all is well, and it notifies though no worker, beat or broker runs."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from api_process import api_process
from database_fixtures import add_account
from notified import SECRET, Hook, MailServer, written
from sqlalchemy import Engine, text

from ulak.models.accounts import pause
from ulak.models.database import transaction

PATIENCE_SECONDS = 120.0


def eventually(holds: Callable[[], bool], why: Path) -> None:
    """Wait until it holds."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, why.read_text(encoding="utf-8")[-3000:]
        time.sleep(0.2)


@pytest.mark.long
def test_the_api_process_notifies_by_itself(migrated_database: Engine, tmp_path: Path) -> None:
    """By webhook and by mail; nothing that is secret gets into its log, and it ends promptly."""
    with transaction(migrated_database) as connection:
        account = add_account(connection, provider="bip")

    def count(table: str) -> int:
        with migrated_database.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())

    with Hook() as hook, MailServer() as server:
        env = {
            "ULAK_NOTIFY_WEBHOOK_URL_FILE": written(tmp_path, "hook", hook.url),
            "ULAK_NOTIFY_WEBHOOK_SECRET_FILE": written(tmp_path, "secret", SECRET),
            "ULAK_NOTIFY_SMTP_URL_FILE": written(tmp_path, "smtp", f"smtp://127.0.0.1:{server.port}"),
            "ULAK_NOTIFY_MAIL_FROM": "ulak@example.com",
            "ULAK_NOTIFY_MAIL_TO": "on-call@example.com",
        }
        url = migrated_database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with api_process(tmp_path, url, env=env) as api:
            eventually(lambda: count("heartbeats WHERE name = 'notifying'") == 1, api.log)
            assert (count("problems"), count("notifications")) == (0, 0)
            with transaction(migrated_database) as connection:
                pause(connection, account, None, "for the test")
            eventually(lambda: count("problems") == 1, api.log)
            with transaction(migrated_database) as connection:
                connection.execute(text("UPDATE problems SET first_seen_at = first_seen_at - interval '61 s'"))
            eventually(lambda: bool(hook.taken and server.mails), api.log)
            eventually(lambda: count("notifications WHERE delivered_at IS NOT NULL") == 2, api.log)
        log = api.log.read_text(encoding="utf-8")
    assert [item["key"] for item in hook.taken[0].json["data"]["problems"]] == [f"paused:{account}"]
    assert server.mails[0]["Message-ID"] == f"<{hook.taken[0].headers['webhook-id']}@example.com>"
    assert "notify.sent" in log
    assert "canary" not in log


@pytest.mark.long
def test_wrong_settings_of_receivers_do_not_stop_the_process(migrated_database: Engine, tmp_path: Path) -> None:
    """Callbacks must be taken: the log and the status page say what is wrong, and the other receivers are notified."""
    sentence = "ULAK_NOTIFY_SMTP_URL_FILE, ULAK_NOTIFY_MAIL_FROM and ULAK_NOTIFY_MAIL_TO belong together"
    url = migrated_database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with Hook() as hook:
        env = {
            "ULAK_NOTIFY_MAIL_TO": "a@b.example",
            "ULAK_NOTIFY_SLACK_URL_FILE": written(tmp_path, "slack", hook.url),
        }
        with api_process(tmp_path, url, env=env) as api:

            def is_known() -> bool:
                with migrated_database.connect() as connection:
                    found = text("SELECT summary FROM problems WHERE kind = 'receivers_unusable'")
                    return sentence in (connection.execute(found).scalar_one_or_none() or "")

            eventually(is_known, api.log)
            log = api.log.read_text(encoding="utf-8")
    assert "notify.settings_unusable" in log
    assert sentence in log
