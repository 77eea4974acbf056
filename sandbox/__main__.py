"""`python -m ulak.sandbox`: the stand-ins as a process of their own."""

import argparse
import json
import logging
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from ulak.sandbox.faults import EVERYTHING
from ulak.sandbox.server import DEFAULT_PORTS, EPHEMERAL, NAMES, Sandbox
from ulak.sandbox.settings import SIZES, Settings


def read_ports(text: str) -> tuple[int, ...]:
    """`0`, or as many ports as there are servers."""
    if text == "0":
        return EPHEMERAL
    ports = tuple(int(part) for part in text.split(","))
    if len(ports) != len(NAMES):
        raise argparse.ArgumentTypeError(f"0, or {len(NAMES)} ports: {','.join(NAMES)}")
    return ports


def read_speed(text: str) -> float:
    """A factor of at least 1."""
    speed = float(text)
    if not 1 <= speed <= 100_000:
        raise argparse.ArgumentTypeError("a number from 1 to 100000")
    return speed


def read_setting(text: str) -> tuple[str, Any]:
    """`NAME=VALUE`; the value as JSON, or as text where it is none."""
    name, _, value = text.partition("=")
    found: Any = value
    with suppress(json.JSONDecodeError):
        found = json.loads(value)
    try:
        Settings().change({name: found})
    except (ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name, found


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="sandbox", description=__doc__)
    parser.add_argument("--ports", type=read_ports, default=DEFAULT_PORTS, help=",".join(NAMES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", choices=list(SIZES), default="demo")
    parser.add_argument("--speed", type=read_speed, default=24.0, help="24: over in 25 seconds")
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="NAME=VALUE",
        type=read_setting,
        action="append",
        default=[],
        help="a setting (docs/sandbox.md), e.g. iletimerkezi_text_numbers=true; may be repeated",
    )
    parser.add_argument("--faults", type=float, metavar="RATE", help="every fault at once, at this rate, until calmed")
    parser.add_argument("--state", type=Path, help="remembers the start, so that lives go on")
    return parser


def main() -> int:
    """Prints one JSON line when all listen; ends on SIGTERM or SIGINT."""
    options = build_parser().parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    with Sandbox(
        seed=options.seed,
        speed=options.speed,
        scale=options.scale,
        ports=options.ports,
        state=options.state,
        settings=dict(options.settings),
    ) as sandbox:
        if options.faults is not None:
            sandbox.world.faults.order("all", EVERYTHING, {"rate": options.faults, "seed": options.seed})
        urls = {"control": sandbox.urls["control"], **sandbox.urls}
        sys.stdout.write(json.dumps(urls) + "\n")
        sys.stdout.flush()
        done.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
