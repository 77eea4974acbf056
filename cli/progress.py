"""What `ulak up` shows while it works: a live table for people at a terminal, plain lines otherwise. All on stderr."""

from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ulak.core import clock
from ulak.core.plain_text import one_line
from ulak.core.redaction import redact_text
from ulak.models.overview import AccountOverview
from ulak.providers.errors import as_sentence

PLAIN_EVERY_SECONDS = 5.0
PLAIN_WIDTH = 140
"""Width of the last table if the terminal's width is unknown."""


class Progress:
    """Says what happens. The table is redrawn in place on a terminal; elsewhere a line comes every few seconds."""

    def __init__(self, console: Console | None = None) -> None:
        """`console`: where to show it; stderr otherwise."""
        self.console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        if not self.console.is_terminal:
            self.console.width = PLAIN_WIDTH
        self._live: Live | None = None
        self._last_line = float("-inf")

    def say(self, what: str, text: str) -> None:
        """One line of what was done."""
        # Paths and sentences may hold brackets, which are no markup.
        self.console.print(Text.assemble((f"{what:<10}", "bold"), f" {one_line(text)}"))

    def show(self, accounts: Sequence[AccountOverview], reasons: Sequence[str] | None) -> None:
        """The present state; `reasons`: what is still missing until settled, None if not waiting for that."""
        if self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(_table(accounts, reasons), refresh=True)
            return
        if clock.boot() - self._last_line >= PLAIN_EVERY_SECONDS:
            self._last_line = clock.boot()
            self.console.print(Text(one_line(_line(accounts, reasons))))

    def close(self) -> None:
        """Stop drawing the table, so that the next output appears below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def summary(self, accounts: Sequence[AccountOverview], seconds: float, *, timed_out: bool) -> None:
        """The end: the whole table once, and one sentence."""
        self.close()
        self.console.print(_table(accounts, None))
        total = sum(account.open_deliveries + account.final_deliveries for account in accounts)
        final = sum(account.final_deliveries for account in accounts)
        word = "Timed out" if timed_out else "Done"
        self.say(word, f"{total} deliveries, {final} of them final, over {len(accounts)} accounts in {seconds:.0f} s")


def _table(accounts: Sequence[AccountOverview], reasons: Sequence[str] | None) -> Table:
    """One row per account."""
    caption = Text(one_line(f"waiting: {'; '.join(reasons[:3])}")) if reasons else None
    table = Table(caption=caption, caption_justify="left")
    for name in ("account", "state", "final", "open", "ids open", "waiting", "calls/min", "limit", "last trouble"):
        table.add_column(name, justify="right" if name in {"final", "open", "ids open", "waiting"} else "left")
    for account in accounts:
        cells = (
            account.id,
            account.state,
            str(account.final_deliveries),
            str(account.open_deliveries),
            str(account.open_tracked),
            str(account.ready_fetches),
            str(account.calls_last_minute),
            f"{account.busy_slots}/{account.limit_requests}",
            redact_text(as_sentence(account.last_trouble))[:40],
        )
        # A provider's words may hold brackets, which are no markup.
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    return table


def _line(accounts: Sequence[AccountOverview], reasons: Sequence[str] | None) -> str:
    """The same in one plain line."""
    parts = [f"{account.id} {account.final_deliveries} final {account.open_deliveries} open" for account in accounts]
    waiting = f" | waiting: {reasons[0]}" if reasons else ""
    return "Progress   " + ", ".join(parts) + waiting
