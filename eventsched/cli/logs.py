"""Log lines on stderr: for people on a terminal, one JSON object a line elsewhere.

Owns: structlog's one configuration. A line names what it is about: cell, session, job, node.
Never does: stdout, which belongs to data. Read next: output.py.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure_logs(verbose: int, *, quiet: bool, is_service: bool) -> None:
    """Services say what they do, other commands warn; `-v` says more, `-q` errors only."""
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
