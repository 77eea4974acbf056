"""The callback half of an adapter whose provider pushes nothing that is read here."""

from ulak.providers.adapter import Account, Callback, Parsed
from ulak.providers.errors import RequestIsWrong


class PullOnly:
    """Refuses every callback: no route leads here, so one that arrives all the same proves nothing."""

    def authorise_callback(self, account: Account, callback: Callback) -> bool:
        """Nobody may call: always False."""
        return False

    def parse_callback(self, account: Account, callback: Callback) -> Parsed:
        """Raise `RequestIsWrong`: there is nothing that such a body could say."""
        raise RequestIsWrong("This provider pushes nothing that is read here.")
