"""What documents say about settings and keys is what the code does, and readable."""

import re
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from ulak.core.settings import Settings
from ulak.providers import handbook
from ulak.providers.account_tables import AccountTable, LimitTable, PollTable, RetryTable
from ulak.providers.accounts import parse_accounts
from ulak.providers.options import Table
from ulak.providers.registry import ADAPTERS

PAGE = handbook.CONFIGURATION.read_text(encoding="utf-8")
DOCUMENTS = handbook.documents()
TABLES: tuple[type[Table], ...] = (
    AccountTable,
    LimitTable,
    RetryTable,
    PollTable,
    *(each.record.options for each in ADAPTERS.values()),
)
DESCRIBED = {f"{table.__name__}.{name}": field for table in TABLES for name, field in table.model_fields.items()} | {
    f"Settings.{name}": field for name, field in Settings.model_fields.items()
}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_are_what_the_handbook_writes(path: Path) -> None:
    """Otherwise: `python -m ulak.providers.handbook`."""
    assert path.read_text(encoding="utf-8") == DOCUMENTS[path]


@pytest.mark.parametrize("field", DESCRIBED.values(), ids=DESCRIBED)
def test_every_setting_key_and_option_is_described_in_words_that_fit_into_a_table(field: FieldInfo) -> None:
    """The first paragraph is a cell: long explanations belong below the table."""
    short = (field.description or "").partition("\n\n")[0]
    assert short.endswith(".")
    assert 1 <= len(short.split()) <= handbook.MAX_WORDS
    assert "|" not in short


def test_no_cell_of_the_page_is_longer_than_a_sentence_or_two() -> None:
    """Also in the tables that people write by hand."""
    cells = [cell for line in PAGE.splitlines() if line.startswith("|") for cell in line.split("|")]
    assert [cell for cell in cells if len(cell.split()) > handbook.MAX_WORDS] == []


def test_every_setting_is_in_one_group_and_every_documented_group_in_both_documents() -> None:
    """A setting outside the groups would be in no document, and one in two groups twice."""
    names = [name for group in handbook.groups() for name in group.model_fields]
    assert sorted(names) == sorted(Settings.model_fields.keys() - {"lifeline_fd", "ready_fd"})
    for name in names:
        variable = f"ULAK_{name.upper()}"
        assert len(re.findall(rf"^#{variable}=", DOCUMENTS[handbook.ENV_EXAMPLE], re.MULTILINE)) == 1
        assert DOCUMENTS[handbook.CONFIGURATION].count(f"| `{variable}` |") == 1


def test_a_page_without_its_section_is_refused(tmp_path: Path) -> None:
    """Without its marker a page would never be renewed again."""
    page = tmp_path / "page.md"
    page.write_text("<!-- generated: limit -->\nold\n<!-- end of limit -->\n")
    assert handbook.renewed(page, {"limit": "new\n"}) == "<!-- generated: limit -->\n\nnew\n\n<!-- end of limit -->\n"
    with pytest.raises(LookupError, match=r"page\.md has no section poll"):
        handbook.renewed(page, {"poll": "new\n"})


def test_every_example_of_the_page_is_a_right_file() -> None:
    """What a reader copies is accepted."""
    examples = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    found = [account.id for example in examples for account in parse_accounts(example)]
    assert found == ["marka-sms", "kampanya", "bildirim"]


def test_the_page_names_every_credential_and_the_defaults_of_every_provider() -> None:
    """A provider's row lists all names of all accepted sets."""
    for name, adapter in ADAPTERS.items():
        row, defaults = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
        names = {each for names in adapter.record.credentials for each in names}
        names |= set(adapter.record.optional_credentials)
        assert names <= set(re.findall(r"`(\w+)`", row))
        assert f"{adapter.record.limit.requests} in {adapter.record.limit.per_seconds:g} s" in defaults
