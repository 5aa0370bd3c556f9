"""Log lines on standard error: structlog's configuration for the library and for programs.

Owns: the configuration, and the loggers of all modules. In a library, only warnings are printed,
unless the application has configured structlog. A program prints text on a terminal and one JSON
object per line elsewhere. A line names cell, session, job and node. Control characters and line
ends in text lines are escaped, and the lines of a traceback are indented.
Never does: standard output, which is for data. Read next: cli/options.py, escaping.py.

structlog imports rich, which takes a fifth of the start of a command that logs nothing. So a
command imports it with the first line that it writes.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from eventsched.escaping import escape_controls, escape_line

if TYPE_CHECKING:
    from structlog.typing import EventDict, ExcInfo, Processor

_PLAIN = ("stack", "exception")
"""Values that the renderer accepts as strings only."""
JOB_ATTRIBUTES = ("session", "job", "attempt", "trace_id", "span_id")
"""Attributes of a log record from a worker process (node/process_pool.py)."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
"""The methods of a logger that a program may leave out; it writes every other line."""


class Logger:
    """A logger of structlog, which is imported with the first line that is written."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        if _postponed and _LEVELS.get(method, logging.ERROR) < _postponed[0].level:
            return _leave_out
        return getattr(_import_structlog().get_logger(self._name), method)


class _Configuration:
    """A configuration of structlog that has no effect before `apply`."""

    def __init__(self, level: int, apply: Callable[[], None]) -> None:
        self.level = level
        """Lines of a lower level are not written."""
        self.apply = apply


_postponed: list[_Configuration] = []
"""The configuration of this program, if structlog is not imported yet."""


def get_logger(name: str) -> Any:
    """Return the logger of this name. It has the methods of structlog's loggers."""
    return Logger(name)


def finish_configuration() -> None:
    """Configure structlog now if it was imported since `configure_logs`, as by another package."""
    if _postponed and "structlog" in sys.modules:
        _postponed.pop().apply()


def _import_structlog() -> Any:
    import structlog

    finish_configuration()
    return structlog


def _leave_out(*_: Any, **__: Any) -> None:
    """Write no line."""


def warn_on_stderr() -> None:
    """Print warnings on stderr, unless the application has configured structlog.

    Tracebacks show code without the values of variables, which may be speech or keys.
    """
    import structlog

    if not structlog.is_configured():
        *processors, _ = structlog.get_config()["processors"]  # the last one renders
        has_colors = bool(sys.stderr and sys.stderr.isatty() and not os.environ.get("NO_COLOR"))
        structlog.configure(
            processors=[*processors, *for_people(colors=has_colors)],
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # the current sys.stderr
        )


def configure_logs(verbose: int, *, quiet: bool, is_service: bool) -> None:
    """Configure the log lines of a program.

    Unless it is a service, structlog is imported and configured with the first line.

    Args:
        verbose: number of `-v`; each lowers the level by one step, down to DEBUG.
        quiet: log errors only.
        is_service: whether the default level is INFO instead of WARNING.
    """
    default_level = logging.INFO if is_service else logging.WARNING
    level = logging.ERROR if quiet else max(default_level - 10 * verbose, logging.DEBUG)
    _postponed[:] = [_Configuration(level, partial(_configure, level))]
    if is_service:
        _import_structlog()
    finish_configuration()
    logging.lastResort = UnconfiguredHandler(logging.WARNING)


def _configure(level: int) -> None:
    """Configure structlog for a program."""
    import structlog

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
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # the current sys.stderr
        cache_logger_on_first_use=False,
    )


class UnconfiguredHandler(logging.Handler):
    """Writes records of the module `logging` through structlog, unless `logging` is configured.

    Libraries of a node's handler use `logging`; their lines name job and session too.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            names = [name for name in JOB_ATTRIBUTES if name in vars(record)]
            values = {name: vars(record)[name] for name in names}
            if record.exc_info:
                values["exc_info"] = record.exc_info
            elif record.exc_text:
                values["exception"] = record.exc_text
            write = _import_structlog().get_logger().log
            write(record.levelno, record.getMessage(), logger=record.name, **values)
        except Exception:  # noqa: BLE001 - as every handler of `logging` does
            self.handleError(record)


def for_people(**options: Any) -> list[Processor]:
    """Return the last processors of log lines on a terminal.

    An exception is a plain traceback without local variables, which may be secrets.

    Args:
        options: options of structlog's ConsoleRenderer.
    """
    import structlog

    renderer = structlog.dev.ConsoleRenderer(exception_formatter=_write_traceback, **options)
    return [_escape_values, renderer]


class _Unquoted:
    """Text that the renderer prints without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _escape_values(_: Any, __: str, event: EventDict) -> EventDict:
    """Escape control characters and line ends; values without them stay unchanged."""
    return {escape_line(name): _escape_value(name, value) for name, value in event.items()}


def _escape_value(name: str, value: Any) -> Any:
    if name == "exc_info":  # for `_write_traceback`
        return value
    text = value if isinstance(value, str) else repr(value)
    if name in _PLAIN:
        return _indented(text)
    escaped = escape_line(text)
    if escaped == text:
        return value
    return _Unquoted(escaped)


def _write_traceback(out: TextIO, exc_info: ExcInfo) -> None:
    """Write a traceback without local variables, with its control characters escaped."""
    import structlog

    traceback = io.StringIO()
    structlog.dev.plain_traceback(traceback, exc_info)
    out.write(_indented(traceback.getvalue()))


def _indented(text: str) -> str:
    """Return lines of a traceback, none of which looks like a line of the log."""
    return textwrap.indent(escape_controls(text), "    ", lambda _: True)
