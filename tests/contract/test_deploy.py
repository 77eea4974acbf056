"""What `deploy/` and `requirements/` promise: files that parse, commands that exist, settings that are all there."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from deploy_files import DEPLOY, HOME, MANIFESTS, UNITS, compose, manifests, pods
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ulak.core.environment import LIFELINE_VARIABLE, PREFIX, READY_VARIABLE
from ulak.core.settings import NEED_CREDENTIALS, SECRETS_OF, Settings

HOLDERS = [DEPLOY / "kubernetes" / "secret.example.yaml"]
LOCKS = sorted((HOME / "requirements").glob("*.txt"))
GIT_REFUSES = 128
SECRETS = {f"{PREFIX}{name.upper()}" for names in SECRETS_OF.values() for name in names}
OURS = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} - {LIFELINE_VARIABLE, READY_VARIABLE}


def commands() -> set[tuple[str, ...]]:
    """Every `ulak …` that a deployed process runs."""
    found = {tuple(service["command"]) for service in compose()["services"].values() if "build" in service}
    for manifest in manifests():
        if manifest["kind"] in {"Deployment", "Job"}:
            found |= {tuple(each["args"]) for each in manifest["spec"]["template"]["spec"]["containers"]}
    for path in UNITS:
        line = re.search(r"^ExecStart=/opt/ulak/bin/ulak (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert line is not None, path
        found.add(tuple(shlex.split(line[1])))
    return found


def help_of(words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """What the command line says about a command."""
    program = [sys.executable, "-m", "ulak.cli.main", *words, "--help"]
    return subprocess.run(program, cwd=HOME, capture_output=True, text=True, check=False, timeout=200)


def test_the_example_environment_lists_every_setting() -> None:
    """Whoever sets Ulak up finds every variable in one place, and none that does nothing."""
    text = (DEPLOY / "env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"^#?([A-Z_]+)=", text, re.MULTILINE)) == OURS


@pytest.mark.parametrize("path", [*MANIFESTS, *UNITS, DEPLOY / "compose.yaml", DEPLOY / "Dockerfile"], ids=str)
def test_only_settings_that_exist_are_set(path: Path) -> None:
    """A misspelt variable would be ignored in silence."""
    assert set(re.findall(r"\bULAK_[A-Z_]+", path.read_text(encoding="utf-8"))) <= OURS


def test_every_process_is_deployed_everywhere() -> None:
    """Each way of deploying runs the schema, workers, beat, API and Flower."""
    processes = {"migrate", "worker", "beat", "api", "flower"}
    composed = {service["command"][0] for service in compose()["services"].values() if "build" in service}
    in_kubernetes = {
        container["args"][0]
        for manifest in manifests()
        if manifest["kind"] in {"Deployment", "Job"}
        for container in manifest["spec"]["template"]["spec"]["containers"]
    }
    in_systemd = {re.split(r"[-@.]", path.name)[1] for path in UNITS}
    assert (composed - {"accounts"}, in_kubernetes - {"accounts"}, in_systemd) == (processes, processes, processes)


def test_no_pod_gets_the_variables_of_services() -> None:
    """Kubernetes would set ULAK_API_PORT=tcp://… beside a Service `ulak-api`, whoever makes it."""
    pods = [each["spec"]["template"]["spec"] for each in manifests() if "template" in each.get("spec", {})]
    assert (len(pods), [pod.get("enableServiceLinks") for pod in pods]) == (6, [False] * 6)


def test_two_beats_run() -> None:
    """One of them may die."""
    assert [service.get("command") for service in compose()["services"].values()].count(["beat"]) == 2
    [beat] = [each for each in manifests() if each["kind"] == "Deployment" and each["metadata"]["name"] == "ulak-beat"]
    assert beat["spec"]["replicas"] == 2


def test_every_api_process_signs_log_ins_with_one_secret() -> None:
    """A log-in at one replica holds at the others, and over restarts: the home of a container is lost with it."""
    service = compose()["services"]["api"]
    [secret] = [each for each in service["secrets"] if each not in {"ulak_seal_key", "ulak_person_key"}]
    assert service["environment"]["ULAK_PAGE_SECRET_FILE"] == f"/run/secrets/{secret}"
    assert service["environment"]["ULAK_SEAL_KEY_FILE"] == "/run/secrets/ulak_seal_key"
    assert service["environment"]["ULAK_PERSON_KEY_FILE"] == "/run/secrets/ulak_person_key"
    [api] = [each for each in manifests() if each["kind"] == "Deployment" and each["metadata"]["name"] == "ulak-api"]
    pod = api["spec"]["template"]["spec"]
    [variable] = [each["value"] for each in pod["containers"][0]["env"] if each["name"] == "ULAK_PAGE_SECRET_FILE"]
    [mount] = [each for each in pod["containers"][0]["volumeMounts"] if variable.startswith(each["mountPath"] + "/")]
    [volume] = [each["secret"]["secretName"] for each in pod["volumes"] if each["name"] == mount["name"]]
    [made] = [each for each in manifests() if each["kind"] == "Secret" and each["metadata"]["name"] == volume]
    assert list(made["stringData"]) == [variable.removeprefix(mount["mountPath"] + "/")]


def env_files() -> dict[str, set[str]]:
    """The settings that `env.example` puts into each file."""
    text = (DEPLOY / "env.example").read_text(encoding="utf-8")
    parts = re.split(r"^# ======== (\S+\.env):.*$", text, flags=re.MULTILINE)
    return {
        name: set(re.findall(r"^#?(ULAK_[A-Z_]+)=", body, re.MULTILINE))
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


Given = dict[str, tuple[set[str], bool]]
"""By process: the secret settings that it gets, and whether what accounts.toml refers to."""


def given_by_compose() -> Given:
    """Of each service that is one of ours."""
    found: Given = {}
    for service in compose()["services"].values():
        if "build" in service:
            files: list[str] = service["env_file"]
            names = set(service.get("environment", {})).union(*(env_files()[name] for name in files))
            found[service["command"][0]] = (names & SECRETS, "providers.env" in files)
    return found


def given_by_kubernetes() -> Given:
    """Of each pod, with what is prepared behind a #."""
    prepared = "\n".join(re.sub(r"^  #(ULAK_\w+: )", r"  \1", path.read_text(), flags=re.MULTILINE) for path in HOLDERS)
    held = {
        each["metadata"]["name"]: set(each["stringData" if each["kind"] == "Secret" else "data"])
        for each in yaml.safe_load_all(prepared)
        if each["kind"] in {"Secret", "ConfigMap"}
    }
    found: Given = {}
    for each in manifests():
        if each["kind"] in {"Deployment", "Job"}:
            [container] = each["spec"]["template"]["spec"]["containers"]
            sources = [next(iter(source.values()))["name"] for source in container["envFrom"]]
            names = {variable["name"] for variable in container.get("env", [])}.union(*(held[name] for name in sources))
            found[container["args"][0]] = (names & SECRETS, "ulak-providers" in sources)
    return found


def given_by_systemd() -> Given:
    """Of each unit."""
    found: Given = {}
    for path in UNITS:
        text = path.read_text(encoding="utf-8")
        files = re.findall(r"^EnvironmentFile=-?/etc/ulak/(\S+)$", text, re.MULTILINE)
        names = set().union(*(env_files()[name] for name in files))
        found[re.split(r"[-@.]", path.name)[1]] = (names & SECRETS, "providers.env" in files)
    return found


@pytest.mark.parametrize("given", [given_by_compose, given_by_kubernetes, given_by_systemd])
def test_each_process_gets_the_secrets_that_it_needs_and_no_other(given: Callable[[], Given]) -> None:
    """Whoever takes over Flower, the largest foreign web surface, has neither the database nor a key."""
    needed = {
        name: ({f"{PREFIX}{each.upper()}" for each in secrets}, name in NEED_CREDENTIALS)
        for name, secrets in SECRETS_OF.items()
    }
    found = given()
    assert found == {name: needed[name] for name in found}
    assert {"worker", "api", "beat", "flower", "migrate"} <= found.keys()


def test_files_of_secrets_are_mounted_only_where_they_are_needed() -> None:
    """The seal key at workers and API, the person key also where accounts are applied, the page's secret at the API."""
    services = [each for each in compose()["services"].values() if "build" in each]
    mounted = {each["command"][0]: set(each["secrets"]) for each in services if "secrets" in each}
    of_api = {"ulak_seal_key", "ulak_page_secret", "ulak_person_key"}
    of_worker = {"ulak_seal_key", "ulak_person_key"}
    assert mounted == {"worker": of_worker, "api": of_api, "accounts": {"ulak_person_key"}}
    ours = [each for each in manifests() if each["kind"] in {"Deployment", "Job"}]
    pods = {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in ours}
    volumes = {
        name: {volume["secret"]["secretName"] for volume in pod.get("volumes", []) if "secret" in volume}
        for name, pod in pods.items()
    }
    assert {name: files for name, files in volumes.items() if files} == {
        "ulak-worker": {"ulak-seal-key", "ulak-person-key"},
        "ulak-api": {"ulak-seal-key", "ulak-page-secret", "ulak-person-key", "ulak-notify"},
        "ulak-accounts": {"ulak-person-key"},
    }


def test_each_file_that_a_setting_names_is_mounted() -> None:
    """Where it is set, and where env.example proposes one for notifications: otherwise nobody finds it."""
    parsed, missing = compose(), []
    text = (DEPLOY / "env.example").read_text(encoding="utf-8")
    proposed = dict(re.findall(r"^#(ULAK_NOTIFY_\w+_(?:URL|SECRET)_FILE)=(\S+)$", text, re.MULTILINE))
    assert len(proposed) == 4
    for name, service in parsed["services"].items():
        places = [f"/run/secrets/{secret}" for secret in service.get("secrets", [])]
        places += [volume.split(":")[1] for volume in service.get("volumes", [])]
        environment = service.get("environment", {}) | (proposed if name == "api" else {})
        missing += [(name, variable) for variable, path in environment.items() if _lacks(variable, path, places)]
    held = {each["metadata"]["name"]: each.get("stringData") or each.get("data") or {} for each in manifests()}
    for pod in pods():
        for container in pod["containers"]:
            places = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            variables = {each["name"]: each.get("value", "") for each in container.get("env", [])}
            for source in container.get("envFrom", []):
                variables |= held[next(iter(source.values()))["name"]]
            variables |= proposed if container["args"] == ["api"] else {}
            missing += [(container["name"], each) for each, path in variables.items() if _lacks(each, path, places)]
    assert missing == []


def _lacks(variable: str, path: str, places: list[str]) -> bool:
    return variable.endswith("_FILE") and not any(path == place or path.startswith(f"{place}/") for place in places)


def test_no_process_can_take_the_memory_of_its_host() -> None:
    """What hostile responses and bodies make a process hold ends with the process: everywhere there is a bound."""
    assert [name for name, service in compose()["services"].items() if "mem_limit" not in service] == []
    assert [path.name for path in UNITS if not re.search(r"^MemoryMax=\d+[MG]$", path.read_text(), re.MULTILINE)] == []
    containers = [each for pod in pods() for each in pod["containers"]]
    assert [each["name"] for each in containers if "memory" not in each.get("resources", {}).get("limits", {})] == []


def test_every_pod_may_run_where_only_restricted_ones_may() -> None:
    """Pod Security's profile `restricted`; and probes wait longer than a loaded process takes."""
    assert len(list(pods())) == 6
    for pod in pods():
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            probes = [probe for name, probe in container.items() if name.endswith("Probe")]
            assert [probe["timeoutSeconds"] for probe in probes] == [5] * len(probes)


def test_flower_only_shows_where_it_is_deployed() -> None:
    """A page that frames it, or a browser that remembers the password, stops no worker."""
    [container] = [
        each["spec"]["template"]["spec"]["containers"][0]
        for each in manifests()
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "ulak-flower"
    ]
    assert compose()["services"]["flower"]["environment"]["ULAK_FLOWER_READ_ONLY"] == "true"
    assert {"name": "ULAK_FLOWER_READ_ONLY", "value": "true"} in container["env"]
    assert "ULAK_FLOWER_READ_ONLY=true" in (DEPLOY / "systemd" / "ulak-flower.service").read_text(encoding="utf-8")


def test_the_proxy_in_front_of_compose_is_trusted_and_nobody_else() -> None:
    """It comes from the gateway of the network that the file makes; without it no cookie would be Secure."""
    [network] = compose()["networks"]["default"]["ipam"]["config"]
    api = compose()["services"]["api"]
    assert api["environment"]["ULAK_TRUSTED_PROXIES"] == network["gateway"]
    assert all(port.startswith("127.0.0.1:") for port in api["ports"])


@pytest.mark.skipif(shutil.which("git") is None or not (HOME / ".git").exists(), reason="needs git and a clone")
def test_what_compose_lets_people_make_is_never_committed() -> None:
    """The env files and every secret's file beside the Compose file are ignored by git."""
    parsed = compose()
    made = {".env", "accounts.toml"} | {
        name for each in parsed["services"].values() for name in each.get("env_file", [])
    }
    made |= {each["file"].removeprefix("./") for each in parsed["secrets"].values()}
    env_files = {"ulak.env", "providers.env", "api.env", "flower.env"}
    assert made == {".env", "accounts.toml", "seal_key", "page_secret", "person_key", *env_files}
    paths = sorted(f"deploy/{name}" for name in made)
    done = subprocess.run(["git", "check-ignore", *paths], cwd=HOME, capture_output=True, text=True, check=False)
    if done.returncode == GIT_REFUSES:
        pytest.skip("git does not trust this folder")
    assert done.stdout.splitlines() == paths


@pytest.mark.parametrize("words", sorted(commands()), ids=" ".join)
def test_every_deployed_command_exists(words: tuple[str, ...]) -> None:
    """The command line knows it, and each of its options."""
    plain = tuple(word for word in words if not word.startswith(("-", "/", "worker-")))
    shown = help_of(plain)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert [word for word in words if word.startswith("--") and word not in shown.stdout] == []


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_pins_and_hashes_everything_and_names_no_place(path: Path) -> None:
    """What is installed is what was tested, from whichever index the reader uses."""
    text = path.read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert [block for block in blocks if not re.match(r"[a-z0-9.-]+==\S+.*\\\n\s+--hash=sha256:", block)] == []
    assert re.findall(r"https?:|file:|--index|--extra-index|--find-links|/tmp|/root", text) == []


@pytest.mark.parametrize(
    ("lock", "parts"),
    [
        ("runtime", ()),
        ("embedded", ("embedded",)),
        ("parquet", ("parquet",)),
        ("dev", ("embedded", "parquet", "dev")),
        ("build", ("build",)),
    ],
)
def test_a_lock_satisfies_what_the_project_asks_for(lock: str, parts: tuple[str, ...]) -> None:
    """Who adds a dependency has to run `make lock`."""
    project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))
    known = {
        **project["project"]["optional-dependencies"],
        "dev": project["dependency-groups"]["dev"],
        "build": project["build-system"]["requires"],
    }
    wanted = [] if parts == ("build",) else list(project["project"]["dependencies"])
    for part in parts:
        wanted += known[part]
    text = (HOME / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    pins = {
        canonicalize_name(name): version for name, version in re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE)
    }
    unmet = [
        str(requirement)
        for requirement in map(Requirement, wanted)
        if not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"), prereleases=True)
    ]
    assert unmet == []
