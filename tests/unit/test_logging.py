"""Every line of a process comes out of one pipeline, masked."""

import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from ulak.core.logging import bind_context, clear_context, configure_logging, get_logger, origin
from ulak.core.redaction import register_secret


class Output(io.StringIO):
    """A stream that lines are written to, as JSON records or as text."""

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def only(self) -> dict[str, Any]:
        (record,) = self.records()
        moment = datetime.fromisoformat(record.pop("timestamp"))
        assert moment.utcoffset() is not None
        return record


@pytest.fixture(autouse=True)
def leave_logging_as_it_was() -> Iterator[None]:
    """Logging is global to a process, and other tests have their own idea of it."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, sys.excepthook, threading.excepthook)
    show = warnings.showwarning
    yield
    root.handlers[:], sys.excepthook, threading.excepthook = before[0], before[2], before[3]
    root.setLevel(before[1])
    logging.captureWarnings(capture=False)
    warnings.showwarning = show
    structlog.reset_defaults()
    clear_context()


@pytest.fixture
def output() -> Output:
    """Logging configured for machines, into memory."""
    out = Output()
    configure_logging("worker", "json", stream=out)
    return out


def test_a_line_is_an_event_with_fields(output: Output) -> None:
    """Constant name, level, logger (without `ulak.`), process, bound context and the fields of the call."""
    bind_context(account="marka-sms", poll=7)
    get_logger("ulak.tasks.example").info("fetch.stored", new=3)
    assert output.only() == {
        "event": "fetch.stored",
        "level": "info",
        "logger": "tasks.example",
        "process": "worker",
        "account": "marka-sms",
        "poll": 7,
        "new": 3,
    }


def test_a_cleared_context_does_not_leak_into_the_next_task(output: Output) -> None:
    """What one task bound is gone when the next one begins."""
    bind_context(account="a")
    clear_context()
    get_logger("x").info("task.started")
    assert "account" not in output.only()


def test_every_field_is_masked(output: Output) -> None:
    """Event, fields, nested fields and bound context; no caller has to think of it."""
    register_secret("hunter2hunter2")
    bind_context(url="https://h/x?api_key=abc")
    get_logger("x").warning(
        "call +905321234567",
        recipient="905321234567",
        password="pw",
        nested={"why": ["hunter2hunter2"]},
    )
    assert output.only() == {
        "event": "call +90*******67",
        "level": "warning",
        "logger": "x",
        "process": "worker",
        "url": "https://h/x?api_key=***",
        "recipient": "90*******67",
        "password": "***",
        "nested": {"why": ["***"]},
    }


def test_exception_text_is_masked(output: Output) -> None:
    """A whole chain of exceptions, as text on the same line."""
    error = RuntimeError("GET https://h/x?api_key=abc")
    error.__cause__ = ValueError("call +905321234567")
    get_logger("x").error("fetch.failed", exc_info=error)
    said = output.only()["exception"]
    assert "ValueError: call +90*******67" in said
    assert "RuntimeError: GET https://h/x?api_key=***" in said
    assert "5321234567" not in said
    assert "abc" not in said


@pytest.mark.parametrize("name", ["celery.worker.consumer", "sqlalchemy.pool", "uvicorn.error", "kombu"])
def test_lines_of_libraries_come_the_same_way(output: Output, name: str) -> None:
    """Records of the standard library: arguments filled in, then masked."""
    bind_context(task="t1")
    logging.getLogger(name).error("no reply from %s to %s", "redis://:pw@h/0", "+905321234567")
    assert output.only() == {
        "event": "no reply from redis://:***@h/0 to +90*******67",
        "level": "error",
        "logger": name,
        "process": "worker",
        "task": "t1",
    }


def test_a_paragraph_of_a_library_is_one_line(output: Output) -> None:
    """Tables and indented text are told without their line breaks, so that a line of the log is one event."""
    logging.getLogger("flower.command").warning("Tasks: \n%s", "['a',\n   'b']")
    assert output.only()["event"] == "Tasks: ['a', 'b']"


def test_request_lines_of_the_http_client_are_silent(output: Output) -> None:
    """They hold whole URLs and come once a call; what we want to know of a call we say."""
    logging.getLogger("httpx").info("HTTP Request: GET https://h/?api_key=abc")
    logging.getLogger("httpcore.http11").debug("send_request_headers")
    assert output.getvalue() == ""


def test_a_look_at_the_schema_leaves_no_lines(output: Output) -> None:
    """Alembic tells what kind of database it found, whoever asks."""
    logging.getLogger("alembic.runtime.migration").info("Context impl %s.", "PostgresqlImpl")
    assert output.getvalue() == ""


def test_warnings_come_the_same_way(output: Output) -> None:
    """A warning is a line like any other."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old +905321234567", stacklevel=1)
    record = output.only()
    assert (record["logger"], record["level"]) == ("py.warnings", "warning")
    assert "UserWarning: old +90*******67" in record["event"]


def test_a_process_that_logs_prints_no_warning_past_the_log() -> None:
    """Configuring is enough: a warning of a library is one masked line, and nothing else reaches stderr."""
    script = (
        "import warnings; from ulak.core.logging import configure_logging\n"
        "configure_logging('worker', 'json')\n"
        "warnings.warn('old +905321234567')\n"
    )
    done = _run(script)
    record = json.loads(done.stderr)
    assert (done.returncode, record["logger"], record["level"]) == (0, "py.warnings", "warning")
    assert "UserWarning: old +90*******67" in record["event"]


def test_a_broken_log_call_of_a_library_harms_nobody() -> None:
    """It neither raises nor shows its arguments, which have passed no redaction."""
    script = (
        "import logging; from ulak.core.logging import configure_logging\n"
        "configure_logging('worker', 'json')\n"
        "logging.getLogger('library').error('%d rows', '+905321234567')\n"
    )
    done = _run(script)
    assert (done.returncode, json.loads(done.stderr)) == (
        0,
        {"event": "log.broken", "logger": "library", "where": "<string>:3"},
    )


def test_the_console_form_is_short_and_masked() -> None:
    """For people: time of day, level, event, fields; a traceback below."""
    out = Output()
    configure_logging("worker", "console", stream=out)
    error = ValueError("call +905321234567")
    get_logger("x").error("fetch.failed", recipient="+905321234567", exc_info=error)
    first, *rest = out.getvalue().splitlines()
    assert first[8:].startswith("Z [error    ] fetch.failed")
    assert first.endswith("process=worker recipient=+90*******67")
    assert rest[-1] == "ValueError: call +90*******67"


def test_without_a_mode_the_stream_decides() -> None:
    """A file or a pipe gets JSON, a terminal would get the console form."""
    out = Output()
    configure_logging("worker", stream=out)
    get_logger("x").info("process.started")
    assert out.only()["event"] == "process.started"


def test_the_origin_of_an_error_holds_its_place_and_never_its_text() -> None:
    """The text may quote a provider's answer; class and lines are ours."""

    def read(body: str) -> None:
        raise ValueError(f"cannot read {body}")

    with pytest.raises(ValueError, match="cannot read") as caught:
        read("Sayın Ayşe, şifreniz 4711")
    first = caught.value.__traceback__
    assert first is not None
    assert first.tb_next is not None
    lines = (first.tb_next.tb_lineno, first.tb_lineno)
    assert origin(caught.value) == "ValueError at " + " < ".join(f"test_logging.py:{line}" for line in lines)


@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_crash_is_a_masked_line_too(where: str) -> None:
    """An exception that nobody caught, in any thread, does not pass by the redaction."""
    script = (
        "import threading; from ulak.core.logging import configure_logging\n"
        "configure_logging('worker', 'json')\n"
        "def fail(): raise RuntimeError('call +905321234567')\n"
        "target = fail if {} else threading.Thread(target=fail)\n"
        "target() if target is fail else (target.start(), target.join())\n"
    )
    done = _run(script.format(where == "main"))
    record = json.loads(done.stderr)
    assert record["event"] == {"main": "process.crashed", "thread": "thread.crashed"}[where]
    assert record["exception"].endswith("RuntimeError: call +90*******67")
    assert done.returncode == (1 if where == "main" else 0)


def _run(script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
