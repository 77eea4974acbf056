"""The configuration page must not promise what the reader of the file refuses."""

import re
from pathlib import Path

from ulak.providers.accounts import parse_accounts
from ulak.providers.registry import ADAPTERS

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_every_example_of_the_page_is_a_right_file() -> None:
    """What a reader copies is accepted."""
    examples = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    found = [account.id for example in examples for account in parse_accounts(example)]
    assert found == ["marka-sms", "kampanya", "bildirim"]


def test_the_page_names_every_provider_and_credential() -> None:
    """A provider's row lists all names of all accepted sets."""
    for name, adapter in ADAPTERS.items():
        [row] = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
        names = {each for names in adapter.record.credentials for each in names}
        names |= set(adapter.record.optional_credentials)
        assert names <= set(re.findall(r"`(\w+)`", row))
