"""What the library says when nobody has said how: warnings, on stderr.

Owns: structlog's configuration where the application has none; its own always counts.
Never does: stdout. Read next: cli/logs.py (the program's own).
"""

from __future__ import annotations

import logging
import sys

import structlog


def warn_on_stderr() -> None:
    """Unless the application has configured structlog, only warnings are printed, on stderr."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # as it is by then
        )
