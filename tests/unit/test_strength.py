"""Secrets that we choose: examples are refused, short ones too where the data folder is new."""

import re
from pathlib import Path

import pytest

from ulak.core.credentials import generated_secret
from ulak.core.secret_strength import MIN_LENGTH, create_home, is_example, takes_short_secrets
from ulak.core.settings import SettingsError, load_settings
from ulak.workers.weak_secrets import require_strong, short_settings

ROOT = Path(__file__).parents[2]
LONG = "k9" * (MIN_LENGTH // 2)


def examples() -> set[str]:
    """Every value that a file of ours shows for a secret, as somebody may copy it."""
    shown = re.compile(r"(?:ULAK_API_TOKEN|ULAK_FLOWER_AUTH|page_secret)\s*[:=]\s*([^\s#$`(]+)")
    files = [path for folder in ("deploy", "docs") for path in (ROOT / folder).rglob("*") if path.is_file()]
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix in {".yaml", ".example", ".md"}]
    found = (value.rpartition(":")[2] for text in texts for value in shown.findall(text))
    return {value for value in found if value.strip("/p')\"")}


def test_every_example_value_is_known() -> None:
    """What stands in the deploy files is the first that anybody tries."""
    assert examples() >= {"change-me-change-me", "change-me"}
    assert [value for value in examples() if not is_example(value)] == []


@pytest.mark.parametrize("secret", [LONG, "ulak_" + "Zx" * 21 + "9", "canary-token-of-the-api", "a" * 40])
def test_a_secret_is_no_example(secret: str) -> None:
    """Only our own words are."""
    assert not is_example(secret)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ULAK_API_TOKEN", "change-me-change-me"),
        ("ULAK_API_TOKEN", "change-me-change-me-change-me-change-me"),
        ("ULAK_FLOWER_AUTH", "ulak:change-me"),
        ("ULAK_FLOWER_AUTH", "admin:password"),
    ],
)
def test_an_example_stops_the_process_in_any_folder(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """However long it is, and however old the data folder."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as told:
        load_settings()
    assert value not in str(told.value)


@pytest.mark.parametrize(
    ("token", "auth", "short"),
    [
        ("k" * (MIN_LENGTH - 1), f"ulak:{LONG}", ["ULAK_API_TOKEN"]),
        (LONG, "a-long-name-of-a-user:" + "k" * (MIN_LENGTH - 1), ["ULAK_FLOWER_AUTH"]),
        (LONG, f"u:{LONG}", []),
    ],
)
def test_short_secrets_are_refused_in_a_new_folder_and_only_reported_in_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, auth: str, short: list[str]
) -> None:
    """An upgrade must not stop what runs; what is set up today begins well."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    create_home(new)
    monkeypatch.setenv("ULAK_API_TOKEN", token)
    monkeypatch.setenv("ULAK_FLOWER_AUTH", auth)
    for home in (old, new, tmp_path / "none"):
        monkeypatch.setenv("ULAK_HOME", str(home))
        settings = load_settings()
        assert short_settings(settings) == short
        if home == new and short:
            with pytest.raises(SettingsError, match=short[0]):
                require_strong(settings)
        else:
            require_strong(settings)


def test_whoever_makes_the_folder_makes_it_a_strict_one(tmp_path: Path) -> None:
    """A process that keeps a generated secret there, or `ulak up`; a folder that is there stays as it is."""
    assert len(generated_secret(tmp_path / "a", "api_token", lambda: LONG)) >= MIN_LENGTH
    (tmp_path / "b").mkdir()
    create_home(tmp_path / "b")
    assert (takes_short_secrets(tmp_path / "a"), takes_short_secrets(tmp_path / "b")) == (False, True)
