"""Only `ULAK_*` configures Ulak: variables of other programs, and of Kubernetes' Services, have no effect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from flower.options import default_options

from ulak.core.credentials import resolve_reference
from ulak.core.environment import inherited_environment, remove_libpq_variables, set_foreign_variables_aside
from ulak.core.settings import Settings, SettingsError, ignored_variables, load_settings, trusted_proxies_before

ROOT = Path(__file__).parents[2]
PORTS = [name for name in Settings.model_fields if name.endswith("_port")]
SERVICES = ["ulak", "ulak-api", "ulak-database", "ulak-redis"] + [
    f"ulak-{name.removesuffix('_port').replace('_', '-')}" for name in Settings.model_fields
]


def variables_of(service: str, port: int) -> dict[str, str]:
    """What Kubernetes sets in every pod for a Service."""
    name = service.upper().replace("-", "_")
    url = f"tcp://10.0.0.1:{port}"
    return {
        f"{name}_SERVICE_HOST": "10.0.0.1",
        f"{name}_SERVICE_PORT": str(port),
        f"{name}_SERVICE_PORT_HTTP": str(port),
        f"{name}_PORT": url,
        f"{name}_PORT_{port}_TCP": url,
        f"{name}_PORT_{port}_TCP_PROTO": "tcp",
        f"{name}_PORT_{port}_TCP_PORT": str(port),
        f"{name}_PORT_{port}_TCP_ADDR": "10.0.0.1",
    }


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the shell, and nothing set aside."""
    for name in ignored_variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ulak.core.environment._set_aside", {})


@pytest.mark.parametrize("service", dict.fromkeys(SERVICES))
def test_no_service_s_variables_are_settings(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the Service is called; and `ulak check` can name what was ignored."""
    plain = load_settings()
    given = variables_of(service, 8000)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == plain
    assert ignored_variables() == dict.fromkeys(sorted(given), "of a Kubernetes Service")


@pytest.mark.parametrize("url", ["udp://10.0.0.1:53", "sctp://10.0.0.1:9", "TCP://[fd00::1]:8000", " tcp://10.0.0.1:1"])
@pytest.mark.parametrize("port", PORTS)
def test_a_port_that_is_an_address_is_a_service_s(port: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every protocol and family."""
    monkeypatch.setenv(f"ULAK_{port.upper()}", url)
    assert getattr(load_settings(), port) is None


@pytest.mark.parametrize("value", ["http://10.0.0.1:8000", "10.0.0.1:8000", "x", "0", "65536"])
def test_a_wrong_port_stays_a_mistake(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what Kubernetes writes is taken for Kubernetes'."""
    monkeypatch.setenv("ULAK_API_PORT", value)
    with pytest.raises(SettingsError, match="ULAK_API_PORT is wrong"):
        load_settings()


def test_foreign_variables_leave_the_process_and_stay_readable_as_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference may name any variable, and children are given all of them."""
    names = """
        CELERY_BROKER_URL CELERY_BROKER_READ_URL CELERYD_POOL UVICORN_PORT KOMBU_LOG_DEBUG C_FORCE_ROOT BROKER_URL APP
        LOADER WEB_CONCURRENCY DJANGO_SETTINGS_MODULE PROMETHEUS_MULTIPROC_DIR prometheus_multiproc_dir PGTZ PGDATESTYLE
    """
    foreign = dict.fromkeys([*(f"FLOWER_{name.upper()}" for name in default_options), *names.split()], "x")
    kept = {"ULAK_LOG": "json", "PGHOST": "h", "NO_COLOR": "1", "APP_KEY": "secret-of-app", "C_ROOT": "x"}
    for name, value in (foreign | kept).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLOWER_TOKEN", "secret-of-flower")
    set_foreign_variables_aside()
    assert [name for name in foreign if name in os.environ] == []
    assert {name: os.environ.get(name) for name in kept} == kept
    assert inherited_environment().items() >= (foreign | kept).items()
    assert resolve_reference("env:FLOWER_TOKEN") == "secret-of-flower"
    assert set(ignored_variables()) == {*foreign, "FLOWER_TOKEN"}


def test_libpq_s_variables_are_removed_for_an_embedded_server_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are meant for another server, for children too. What only looks like one stays."""
    monkeypatch.setattr("ulak.core.environment._without_use", {})
    libpq = dict.fromkeys(("PGHOSTADDR", "PGSSLMODE", "PGSERVICE", "PGOPTIONS", "PGREQUIREAUTH"), "x")
    for name, value in (libpq | {"PG_KEY": "x"}).items():
        monkeypatch.setenv(name, value)
    remove_libpq_variables()
    assert inherited_environment().keys() & {*libpq, "PG_KEY"} == {"PG_KEY"}
    assert ignored_variables() == dict.fromkeys(sorted(libpq), "of libpq, while the embedded PostgreSQL is used")


def test_a_misspelt_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would otherwise be ignored in silence; a value is never repeated."""
    monkeypatch.setenv("ULAK_DATABSE_URL", "postgresql://u:p@h/d")
    assert ignored_variables() == {"ULAK_DATABSE_URL": "no setting of this version"}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("10.0.0.5", "10.0.0.5"),
        (" 10.0.0.5 , 192.168.7.0/24,fd00::/8,::1 ", "10.0.0.5,192.168.7.0/24,fd00::/8,::1"),
        ("*", "*"),
        ("", None),
    ],
)
def test_trusted_proxies_are_addresses_and_networks(
    given: str, kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uvicorn reads them, without the blanks."""
    monkeypatch.setenv("ULAK_TRUSTED_PROXIES", given)
    assert load_settings().trusted_proxies == kept


@pytest.mark.parametrize(
    "given",
    ["proxy.internal", "10.0.0.0/33", "10.0.0.5/8", "10.0.0.5:8000", "10.0.0.1;10.0.0.2", "10.0.0.5,", ","],
)
def test_what_is_no_address_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uvicorn would take it for a name that never matches, and the caller's address would be the proxy's."""
    monkeypatch.setenv("ULAK_TRUSTED_PROXIES", given)
    with pytest.raises(SettingsError, match=r"ULAK_TRUSTED_PROXIES is wrong: give the addresses or networks"):
        load_settings()


@pytest.mark.parametrize(("given", "read"), [("10.0.0.5", "10.0.0.5"), ("*", "*"), ("proxy.internal", None)])
def test_the_old_name_is_still_read(given: str, read: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one version; what it cannot mean stops nobody, since another program may have set it."""
    assert trusted_proxies_before() is None
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", given)
    set_foreign_variables_aside()
    assert trusted_proxies_before() == read
    assert ("FORWARDED_ALLOW_IPS" in ignored_variables()) == (read is None)


HOSTILE = {
    "CELERY_BROKER_URL": "redis://stranger:1/0",
    "CELERY_BROKER_READ_URL": "redis://stranger:2/0",
    "CELERY_BROKER_WRITE_URL": "redis://stranger:3/0",
    "CELERY_RESULT_BACKEND": "redis://stranger:4/0",
    "CELERY_LOADER": "stranger.loader",
    "CELERY_CONFIG_MODULE": "stranger.config",
    "DJANGO_SETTINGS_MODULE": "stranger.settings",
}
SHOW = """
import os
from ulak.workers.app import app
found = {app.connection_for_read().as_uri(), app.connection_for_write().as_uri(), app.connection().as_uri()}
print(found, app.conf.broker_url, app.conf.broker_read_url, app.conf.broker_write_url, app.conf.result_backend)
print(os.environ["CELERY_BROKER_URL"])
"""


def test_a_program_that_imports_the_app_reaches_our_redis_and_keeps_its_variables() -> None:
    """Whatever Celery reads first; the variables are the other program's, and stay."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=ROOT,
        env={**os.environ, **HOSTILE, "ULAK_REDIS_URL": "redis://ours:6379/0"},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = "redis://ours:6379/0"
    shown = f"{{'redis://:**@ours:6379/0'}} {ours} {ours} {ours} None"
    assert done.stdout.splitlines() == [shown, HOSTILE["CELERY_BROKER_URL"]]


def test_celery_s_own_command_line_is_configured_by_ours_alone() -> None:
    """`celery -A ulak.workers.app` would read the options of its commands from CELERY_*, too."""
    own = str(Path(sys.executable).with_name("celery"))
    options = {
        "CELERY_CALL_QUEUE": "stranger",
        "CELERY_CALL_COUNTDOWN": "nonsense",
        "BROKER_URL": "redis://stranger:5/0",
    }
    command = [own, "-A", "ulak.workers.app", "call", "poll.provider", "--kwargs", '{"provider": "bip"}']
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **HOSTILE, **options, "ULAK_REDIS_URL": "redis://127.0.0.1:1/0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Error 111 connecting to 127.0.0.1:1" in done.stderr
    assert "stranger" not in done.stderr + done.stdout
