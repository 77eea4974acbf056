"""The benchmark of decoding, whose sink stands for PostgreSQL, keeps step with the statements of the upsert."""

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[1] / "bench" / "bench_decoding.py"
CASES = (
    "organik rows, new",
    "organik rows, moves",
    "iletimerkezi recipients, new",
    "iletimerkezi orders, new",
    "diyalog conversations, new",
)


def test_the_benchmark_of_decoding_reads_and_stores_every_case() -> None:
    """Of as few pages as it can; its figures do not count here."""
    run = subprocess.run(
        [sys.executable, str(BENCHMARK), "0"], capture_output=True, text=True, timeout=300, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert [case for case in CASES if case not in run.stdout] == []
