"""What this process measures about itself: histograms in one registry, shown on request.

What can be read from the database is not counted here: a process that dies takes its numbers along.
"""

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, start_http_server

REGISTRY: Final = CollectorRegistry()
"""All that this process measures. Not the library's default registry, which any library may write into."""
ProcessCollector(registry=REGISTRY)

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 75.0)
"""Bounds for times: from one statement to the longest request."""
SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10_000)
"""Bounds for numbers of rows."""


def histogram(name: str, meaning: str, labels: Sequence[str] = (), bounds: Sequence[float] = SECONDS) -> Histogram:
    """A histogram of this process. Label values come from small fixed sets: never a number, an id or a text."""
    return Histogram(name, meaning, labels, registry=REGISTRY, buckets=bounds)


def serve(port: int, address: str) -> None:
    """Show the registry at http://address:port/metrics from a thread that ends with the process.

    OSError where the port is taken: each process has its own.
    """
    start_http_server(port, address, registry=REGISTRY)
