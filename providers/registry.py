"""Every provider there is. Adding one adds a line here and touches no file above `providers/`."""

from collections.abc import Mapping
from types import MappingProxyType

from ulak.providers import bip, diyalog, iletimerkezi, organik, vairo
from ulak.providers.adapter import Adapter

_MODULES: tuple[Adapter, ...] = (
    iletimerkezi.ADAPTER,
    vairo.ADAPTER,
    organik.ADAPTER,
    diyalog.ADAPTER,
    bip.ADAPTER,
)

ADAPTERS: Mapping[str, Adapter] = MappingProxyType({adapter.record.name: adapter for adapter in _MODULES})
"""Name of the provider → its adapter, in the order of the documentation."""


class UnknownProviderError(LookupError):
    """There is no provider of this name; the text lists those that there are."""


def adapter_for(name: str) -> Adapter:
    """The adapter of the provider `name`; `UnknownProviderError` where there is none."""
    try:
        return ADAPTERS[name]
    except KeyError:
        known = ", ".join(ADAPTERS)
        raise UnknownProviderError(f"There is no provider {name!r}; there are: {known}.") from None
