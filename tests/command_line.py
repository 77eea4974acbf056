"""Running `ulak` within a test: the real commands on the test's own database."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from sqlalchemy import Engine
from typer.testing import CliRunner

from ulak.cli.commands import app

Ulak = Callable[..., "Ran"]


class Ran:
    """What a command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"Ran(code={self.code}, out={self.out!r}, err={self.err!r})"


@pytest.fixture
def ulak(migrated_database: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ulak]:
    """`ulak("poll", "marka-sms")` runs a command on the test's database; `stdin=` gives it bytes."""
    url = migrated_database.url.set(drivername="postgresql")
    monkeypatch.setenv("ULAK_DATABASE_URL", url.render_as_string(hide_password=False))
    monkeypatch.setenv("ULAK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    # What an API in this process logs must not end up in a command's output, which is `sys.stdout` meanwhile.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    handlers, level, hook = logging.getLogger().handlers[:], logging.getLogger().level, sys.excepthook

    def run(*words: str, stdin: bytes = b"") -> Ran:
        result = CliRunner().invoke(app, list(words), input=stdin)
        return Ran(result.exit_code, result.stdout, result.stderr)

    yield run
    # The commands' log went to a stream that is closed by now.
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
    logging.captureWarnings(capture=False)
    sys.excepthook = hook
    structlog.reset_defaults()
