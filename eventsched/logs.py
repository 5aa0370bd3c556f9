"""Log lines on standard error: structlog's configuration for the library and for programs.

Owns: warnings only where the application has not configured structlog; for programs, lines for
people on a terminal and one JSON object a line elsewhere. A line names cell, session, job, node.
Other people's text in lines for people cannot steer a terminal.
Never does: standard output, which belongs to data. Read next: cli/options.py, escaping.py.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from eventsched.escaping import escape_controls

_PLAIN = ("stack", "exception")
"""Values that the renderer takes as strings only."""
JOB_ATTRIBUTES = ("session", "job", "attempt")
"""Attributes that a record from a worker process has (node/process_pool.py)."""


def warn_on_stderr() -> None:
    """Unless the application has configured structlog, only warnings are printed, on stderr.

    Tracebacks show code, never the values of variables: these hold people's speech and keys.
    """
    if not structlog.is_configured():
        *shape, _ = structlog.get_config()["processors"]  # the last one renders
        has_colors = bool(sys.stderr and sys.stderr.isatty() and not os.environ.get("NO_COLOR"))
        structlog.configure(
            processors=[*shape, *for_people(colors=has_colors)],
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # as it is by then
        )


def configure_logs(verbose: int, *, quiet: bool, is_service: bool) -> None:
    """Services log what they do, other commands warn; `-v` logs more, `-q` errors only."""
    usual = logging.INFO if is_service else logging.WARNING
    level = logging.ERROR if quiet else max(usual - 10 * verbose, logging.DEBUG)
    is_terminal = sys.stderr.isatty()
    rendering: list[Any] = (
        for_people(colors=True, pad_event_to=28)
        if is_terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(
                fmt="%H:%M:%S.%f" if is_terminal else "iso", utc=not is_terminal
            ),
            *rendering,
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # as it is by then
        cache_logger_on_first_use=False,
    )
    logging.lastResort = UnconfiguredHandler(logging.WARNING)


class UnconfiguredHandler(logging.Handler):
    """Writes the records of `logging` as structlog's lines, unless a program configures `logging`.

    A handler's libraries log in that way, and their lines name job and session as well.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            names = [name for name in JOB_ATTRIBUTES if name in vars(record)]
            values = {name: vars(record)[name] for name in names}
            if record.exc_info:
                values["exc_info"] = record.exc_info
            elif record.exc_text:
                values["exception"] = record.exc_text
            write = structlog.get_logger().log
            write(record.levelno, record.getMessage(), logger=record.name, **values)
        except Exception:  # noqa: BLE001 - as every handler of `logging` does it
            self.handleError(record)


def for_people(**look: Any) -> list[Processor]:
    """The last processors of log lines that people read. `look`: as ConsoleRenderer takes it.

    An exception is a plain traceback: it shows no local variables, which may hold a secret.
    """
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=_write_traceback, **look)
    return [_escape_values, renderer]


class _Visible:
    """Text that the renderer prints as it is, without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _escape_values(_: Any, __: str, event: EventDict) -> EventDict:
    """Names and values with their control characters visible; other values are left alone."""
    return {escape_controls(name): _escaped(name, value) for name, value in event.items()}


def _escaped(name: str, value: Any) -> Any:
    if name == "exc_info":  # for `_write_traceback`
        return value
    text = value if isinstance(value, str) else repr(value)
    shown = escape_controls(text)
    if shown == text:
        return value
    return shown if name in _PLAIN else _Visible(shown)


def _write_traceback(out: TextIO, exc_info: ExcInfo) -> None:
    plain = io.StringIO()
    structlog.dev.plain_traceback(plain, exc_info)
    out.write(escape_controls(plain.getvalue()))
