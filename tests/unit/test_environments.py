"""What the children of `ulak up` inherit: each the secrets that it needs, and no other."""

import pytest
from pydantic import SecretStr

from ulak.cli.up import CHILDREN, _environment
from ulak.core.environment import set_foreign_variables_aside
from ulak.core.settings import SECRETS_OF, Settings, environment_of

SECRET = {
    "ULAK_DATABASE_URL": "postgresql://u:canary@h/d", "ULAK_REDIS_URL": "redis://:canary@h",
    "ULAK_API_TOKEN": "canary-token", "ULAK_FLOWER_AUTH": "u:canary", "ULAK_SEAL_KEY_FILE": "/canary",
    "ULAK_PAGE_SECRET_FILE": "/canary-2", "ULAK_PERSON_KEY_FILE": "/canary-3",
    "ULAK_OIDC_CLIENT_SECRET": "canary-of-the-sign-on", "ULAK_NOTIFY_WEBHOOK_URL_FILE": "/canary-4",
    "ULAK_NOTIFY_WEBHOOK_SECRET_FILE": "/canary-5", "ULAK_NOTIFY_SLACK_URL_FILE": "/canary-6",
    "ULAK_NOTIFY_SMTP_URL_FILE": "/canary-7",
}  # fmt: skip
FOREIGN = {"VAIRO_KEY": "canary-k", "CELERY_BROKER_URL": "canary-c", "PGPASSWORD": "canary-p", "AWS_SECRET": "canary-a"}
OPEN = {"PATH": "/bin", "HOME": "/root", "LANG": "tr_TR.UTF-8", "LC_ALL": "C", "TZ": "UTC", "ULAK_LOG_LEVEL": "debug",
        "ULAK_TICK_SECONDS": "3", "PYTHONPATH": "/x"}  # fmt: skip


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SECRET | FOREIGN | OPEN).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("process", sorted(SECRETS_OF))
def test_a_process_inherits_the_secrets_that_it_needs(process: str) -> None:
    """All that is no secret, and of the secrets its own; a provider's credentials only who asks providers."""
    given = environment_of(process)
    needed = {f"ULAK_{name.upper()}" for name in SECRETS_OF[process]}
    assert given.keys() & SECRET.keys() == needed
    assert given.items() >= OPEN.items()
    assert given.keys() & FOREIGN.keys() == (set(FOREIGN) if process in {"worker", "api"} else set())


def test_flower_and_beat_have_neither_database_nor_token_nor_keys() -> None:
    """Said once in full: what the table says may be changed by mistake."""
    assert SECRETS_OF["beat"] == {"redis_url"}
    assert SECRETS_OF["flower"] == {"redis_url", "flower_auth"}
    for process in ("beat", "flower"):
        assert sum("canary" in value for value in environment_of(process).values()) == len(SECRETS_OF[process])


@pytest.mark.parametrize("process", CHILDREN)
def test_up_hands_on_the_addresses_of_embedded_servers_in_the_same_way(
    process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold passwords, too."""
    for name in SECRET:
        monkeypatch.delenv(name)
    settings = Settings().model_copy(
        update={
            "database_url": SecretStr("postgresql://u:embedded@127.0.0.1:1/d"),
            "redis_url": SecretStr("redis://:embedded@127.0.0.1:2"),
            "flower_auth": SecretStr("u:embedded"),
        }
    )
    shown = {name for name, value in _environment(settings, process, demo=False).items() if ":embedded" in value}
    needed = SECRETS_OF[process] & {"database_url", "redis_url", "flower_auth"}
    assert shown == {f"ULAK_{name.upper()}" for name in needed}


def test_variables_that_were_set_aside_still_reach_who_asks_providers() -> None:
    """A credential may have the name of another program's setting."""
    set_foreign_variables_aside()
    assert environment_of("worker")["CELERY_BROKER_URL"] == "canary-c"
    assert "CELERY_BROKER_URL" not in environment_of("flower")
