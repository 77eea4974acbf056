"""One pipeline for every line of every process, ours and the libraries'.

A line is an event with fields: a constant dotted name (`fetch.stored`) and keywords. The last step
before a line is written masks secrets and personal data, in fields, exception text and records
of the standard library alike, so no caller can forget it.
"""

import contextlib
import json
import logging
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

from ulak.core import clock
from ulak.core.redaction import redact_field, redact_text

Mode = Literal["console", "json"]

# httpx writes whole URLs at INFO, one line a call; Celery writes arguments and return values of every task; beat, one
# for every tick; Alembic, two for every look at the schema. What they say at WARNING and above passes through.
QUIET_LOGGERS: Final = (
    "httpx",
    "httpcore",
    "kombu",
    "amqp",
    "celery.worker.strategy",
    "celery.app.trace",
    "celery.beat",
    "celery.bootsteps",
    "asyncio",
    "alembic.runtime.migration",
    "tornado.access",
    "uvicorn.access",
)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for `log.info("noun.verb", field=value)`; usable before `configure_logging`.

    `name`: of the module; the lines have it without `ulak.`, as people filter by it.
    """
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name.removeprefix("ulak."))
    return logger


def origin(error: BaseException) -> str:
    """An exception's class and the lines it came through, without its text, which may quote a provider's answer."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return f"{type(error).__name__} at " + " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))


def bind_context(**fields: Any) -> None:
    """Adds fields (task, account, provider, poll …) to every later line of this task or thread."""
    structlog.contextvars.bind_contextvars(**fields)


def clear_context() -> None:
    """Forgets the bound fields: called when a task begins, so nothing leaks into the next one."""
    structlog.contextvars.clear_contextvars()


def configure_logging(
    process: str,
    mode: Mode | None = None,
    *,
    level: str = "info",
    stream: TextIO | None = None,
) -> None:
    """Sends every line of this process to `stream` (stderr), as text for people or as JSON.

    `process` is on every line. Without a mode the stream decides: a terminal gets the console
    form. Warnings, uncaught exceptions and every logger of the standard library come the same way.
    May be called again; the last call holds.
    """
    out = stream or sys.stderr
    chosen = mode or ("console" if out.isatty() else "json")
    shared = _shared_processors(process, chosen)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _Handler(out)
    handler.setFormatter(_formatter(shared, chosen, colors=out.isatty()))
    _replace_handlers(handler, level)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's own name
        """Says where a line could not be written; the standard way prints its bare arguments."""
        where = f"{record.pathname}:{record.lineno}"
        event = {"event": "log.broken", "logger": record.name, "where": where}
        # A closed stream cannot report that it is closed.
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(json.dumps(redact_event(None, "error", event)) + self.terminator)
            self.flush()


def _shared_processors(process: str, mode: Mode) -> list[Processor]:
    def add_process_and_time(_logger: Any, _method: str, event: EventDict) -> EventDict:
        moment = clock.now()
        event["timestamp"] = (
            moment.strftime("%H:%M:%SZ")
            if mode == "console"
            else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
        event.setdefault("process", process)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        _on_one_line,
        add_process_and_time,
    ]


def _on_one_line(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Libraries draw tables and paragraphs into their messages; a line of ours is one line, for people too."""
    name = event.get("event")
    if isinstance(name, str) and "\n" in name:
        event["event"] = " ".join(name.split())
    return event


def _formatter(
    shared: list[Processor],
    mode: Mode,
    *,
    colors: bool,
) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            redact_event,
            _renderer(mode, colors=colors),
        ],
    )


def redact_event(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Masks every field of the line; the last processor before the renderer."""
    return {redact_text(str(name)): redact_field(name, value) for name, value in event.items()}


def _renderer(mode: Mode, *, colors: bool) -> Processor:
    if mode == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    return structlog.dev.ConsoleRenderer(
        colors=colors,
        pad_event_to=28,
        exception_formatter=structlog.dev.plain_traceback,
    )


def _replace_handlers(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _log_uncaught(
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    get_logger("process").critical("process.crashed", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and arguments.exc_type is not SystemExit:
        name = arguments.thread.name if arguments.thread else None
        get_logger("process").critical(
            "thread.crashed",
            thread=name,
            exc_info=(arguments.exc_type, arguments.exc_value, arguments.exc_traceback),
        )
