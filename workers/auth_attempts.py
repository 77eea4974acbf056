"""Failed attempts to authenticate, by address: what a guesser costs is bounded, and a valid secret is never kept out.

Every secret is checked first, so only wrong ones are counted. Guessing is futile by the length of the secrets alone
(`ulak.workers.weak_secrets`); beyond the limit a wrong one gets 429 and no log line of its own.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from threading import Lock
from typing import Final

from ulak.core import clock
from ulak.core.logging import get_logger

log = get_logger(__name__)

MAX_FAILURES: Final = 10
WITHIN_SECONDS: Final = 60.0
"""So many wrong secrets from one address within so long are answered as usual."""
MAX_ADDRESSES: Final = 10_000
_IPV6_NETWORK: Final = 64


@dataclass(slots=True)
class FailedAttempts:
    """Of one process. For any number of threads."""

    most: int = MAX_FAILURES
    _failed: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def note(self, address: str) -> bool:
        """Count a wrong secret; whether this address has sent more than `most` within a minute.

        Says so in one line, when it begins.
        """
        now, who = clock.boot(), _network(address)
        with self._lock:
            times = self._failed.setdefault(who, deque(maxlen=self.most + 1))
            self._failed.move_to_end(who)
            was_full = len(times) > self.most and times[0] > now - WITHIN_SECONDS
            times.append(now)
            is_full = len(times) > self.most and times[0] > now - WITHIN_SECONDS
            if len(self._failed) > MAX_ADDRESSES:
                self._failed.popitem(last=False)
        if is_full and not was_full:
            log.warning("auth.many_failures", address=who, within_seconds=WITHIN_SECONDS)
        return is_full


def _network(address: str) -> str:
    """The address, or the network that one holder of IPv6 addresses has for himself."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return f"{IPv6Address(int(parsed) >> _IPV6_NETWORK << _IPV6_NETWORK)}/{_IPV6_NETWORK}"
    return address
