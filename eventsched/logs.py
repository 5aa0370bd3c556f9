"""Log lines on standard error: structlog's configuration for the library and for programs.

Owns: warnings only where the application has not configured structlog; for programs, lines for
people on a terminal and one JSON object a line elsewhere. A line names cell, session, job, node.
Never does: standard output, which belongs to data. Read next: cli/options.py.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def warn_on_stderr() -> None:
    """Unless the application has configured structlog, only warnings are printed, on stderr."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # as it is by then
        )


def configure_logs(verbose: int, *, quiet: bool, is_service: bool) -> None:
    """Services log what they do, other commands warn; `-v` logs more, `-q` errors only."""
    usual = logging.INFO if is_service else logging.WARNING
    level = logging.ERROR if quiet else max(usual - 10 * verbose, logging.DEBUG)
    is_terminal = sys.stderr.isatty()
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=True, pad_event_to=28)
        if is_terminal
        else structlog.processors.JSONRenderer()
    )
    shape: list[Any] = [] if is_terminal else [structlog.processors.format_exc_info]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(
                fmt="%H:%M:%S.%f" if is_terminal else "iso", utc=not is_terminal
            ),
            *shape,
            renderer,
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # as it is by then
        cache_logger_on_first_use=False,
    )
