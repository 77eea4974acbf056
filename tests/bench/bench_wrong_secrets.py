"""How long a wrong secret takes to be refused, by how much of it is right: the times must not tell.

For each door the same number of guesses of three kinds, in a drawn order on one connection: nothing right, all but the
last letter right, and a token that has our form (which costs a look-up). `z` compares the ranks of the first two kinds
(Mann-Whitney): beyond 3.3, one run in a thousand by chance, the times may tell something, and a second run decides.
"""

import os
import random
import time
from http.client import HTTPConnection
from math import sqrt
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from api_process import api_process
from real_processes import migrated_database

GUESSES = 600
"""Of each kind; the review made 150."""
TOKEN = "Jq7VbXw2Rk9TnY4Lm8Zs3Pd6Hc1Fg5Ku"
KINDS = {
    "nothing right": "x" * len(TOKEN),
    "all but the last": TOKEN[:-1] + "x",
    "a token's form": "ulak_" + "A" * 43,
}


def main(url: str) -> None:
    """Print the medians in milliseconds and the statistic."""
    with TemporaryDirectory() as folder, migrated_database(url, "bench_wrong_secrets") as engine:
        os.environ["ULAK_TEST_RUN"] = folder
        address = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with api_process(Path(folder), address, env={"ULAK_API_TOKEN": TOKEN}) as api:
            times = measured(api.port)
    for kind, taken in times.items():
        print(f"{kind:<18} median {median(taken) * 1000:6.2f} ms of {len(taken)}")
    one, other, _ = times.values()
    print(f"z of the first two: {standard_score(one, other):+.2f}")


def measured(port: int) -> dict[str, list[float]]:
    """Seconds from asking to the answer."""
    order = [kind for kind in KINDS for _ in range(GUESSES)]
    random.shuffle(order)
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    for kind in order:
        began = time.perf_counter()
        connection.request("GET", "/v1/accounts", headers={"Authorization": f"Bearer {KINDS[kind]}"})
        answer = connection.getresponse()
        answer.read()
        times[kind].append(time.perf_counter() - began)
        assert answer.status in {401, 429}
    connection.close()
    return times


def standard_score(one: list[float], other: list[float]) -> float:
    """By how many standard deviations the rank sum of the first lies off what equal times would give."""
    ranks = {id(each): rank for rank, each in enumerate(sorted([*one, *other]), 1)}
    n, m = len(one), len(other)
    total = sum(ranks[id(each)] for each in one) - n * (n + 1) / 2
    return (total - n * m / 2) / sqrt(n * m * (n + m + 1) / 12)
