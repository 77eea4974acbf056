"""The options of an account: typed in its adapter, stored as JSON."""

import json

import pytest

from ulak.providers.diyalog import DiyalogOptions
from ulak.providers.iletimerkezi import IletimerkeziOptions
from ulak.providers.options import ProviderOptions
from ulak.providers.organik import OrganikOptions
from ulak.providers.registry import ADAPTERS
from ulak.providers.vairo import VairoOptions


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_is_stored_of_the_options_gives_the_same_options(name: str) -> None:
    """Through the JSON of the account's row."""
    options = ADAPTERS[name].record.options()
    stored = json.loads(json.dumps(options.model_dump()))
    assert ADAPTERS[name].record.options.from_stored(stored) == options


def test_a_row_of_another_version_gets_defaults_for_what_it_lacks() -> None:
    """An option that this version does not know is left alone; a worker never stops at a row."""
    options = OrganikOptions.from_stored({"format": "xml", "of_a_later_version": 1})
    assert options == OrganikOptions(format="xml")
    assert (options.validity_hours, options.deadline_seconds, options.batch_size) == (48.0, 60.0, 100)


def test_options_of_another_provider_are_refused() -> None:
    """Read as one's own they would silently be defaults."""
    assert OrganikOptions.of(OrganikOptions(batch_size=5)).batch_size == 5
    with pytest.raises(TypeError, match="VairoOptions, not OrganikOptions"):
        OrganikOptions.of(VairoOptions())


def test_the_planner_sees_batches_and_windows_of_any_provider() -> None:
    """Above the adapters nothing knows which option says so."""
    kinds = (ProviderOptions(), DiyalogOptions(), OrganikOptions(batch_size=7), IletimerkeziOptions(window_days=3))
    found = [(each.ids_per_call, each.longest_window_days) for each in kinds]
    assert found == [(1, None), (1, None), (7, None), (1, 3)]
