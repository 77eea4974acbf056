"""The registry of providers."""

import pytest

from ulak.providers.registry import ADAPTERS, UnknownProviderError, adapter_for


def test_the_five_providers_are_known_by_their_names() -> None:
    """Each adapter is found under the name of its own record."""
    assert list(ADAPTERS) == ["iletimerkezi", "vairo", "organik", "diyalog", "bip"]
    assert [adapter_for(name).record.name for name in ADAPTERS] == list(ADAPTERS)


def test_an_unknown_provider_is_refused_with_the_names_that_exist() -> None:
    """A look-up never hands back None."""
    with pytest.raises(UnknownProviderError) as caught:
        adapter_for("viaro")
    assert str(caught.value) == ("There is no provider 'viaro'; there are: iletimerkezi, vairo, organik, diyalog, bip.")
