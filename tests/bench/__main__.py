"""`python tests/bench [name…]`: every benchmark (or those named) against one embedded PostgreSQL that is durable.

A benchmark is a module `bench_<name>.py` with `main(url)`, which makes a database of its own and prints a table.
"""

import sys
import tempfile
from importlib import import_module
from pathlib import Path

from ulak.local.embedded.postgres import PostgresServer

HERE = Path(__file__).parent
# What the tests share, as pytest has it.
sys.path.append(str(HERE.parent))


def run(names: list[str]) -> None:
    """Start the server, run the benchmarks one after the other, stop it."""
    with tempfile.TemporaryDirectory(prefix="ulak-bench-") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder), order=("wheel",))
        url = server.start()
        try:
            for name in names:
                print(f"== {name}", flush=True)
                import_module(f"bench_{name}").main(url)
        finally:
            server.stop()


if __name__ == "__main__":
    run(sys.argv[1:] or sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py")))
