"""The cause of a failure in the code of a user, in one line.

Owns: the type, the first line and the place of an exception, each bounded.
Must not: log, or decide who may see it.
Read next: executor.py (failed handlers), cli/node.py (a module that cannot be imported).
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from eventsched.node.job import outcome_of

TYPE_CHARACTERS_MAX = 64
MESSAGE_CHARACTERS_MAX = 200
PLACE_CHARACTERS_MAX = 100
_INNER = ("<frozen importlib", "importlib/__init__.py")


class Cause(NamedTuple):
    """Why code failed."""

    type: str
    """Name of the exception's class, at most 64 characters."""
    message: str
    """First line of its text, at most 200 characters; it may have personal data."""
    place: str
    """File and line where it was raised, such as `workers.py:12`, at most 100 characters."""

    def __str__(self) -> str:
        text = f"{self.type}: {self.message}" if self.message else self.type
        return f"{text} at {self.place}" if self.place else text


def cause_of(error: BaseException) -> Cause:
    """Return the cause of an exception; of a group, of its first exception that is no outcome."""
    while isinstance(error, BaseExceptionGroup):
        error = next(
            (inner for inner in error.exceptions if outcome_of(inner) is None),
            error.exceptions[0],
        )
    if isinstance(error, SyntaxError):
        place = f"{Path(error.filename or '?').name}:{error.lineno or 0}"
        message = error.msg or ""
    else:
        place = _place_of(error.__traceback__)
        message = _text_of(error)
    return Cause(
        _first_line(type(error).__name__, TYPE_CHARACTERS_MAX),
        _first_line(message, MESSAGE_CHARACTERS_MAX),
        _first_line(place, PLACE_CHARACTERS_MAX),
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - `__str__` of a user's own class may raise
        return ""


def _place_of(trace: TracebackType | None) -> str:
    """Return the file and the line of the innermost frame that is not of Python's import."""
    place = ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not any(inner in name for inner in _INNER):
            place = f"{Path(name).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _first_line(text: str, characters_max: int) -> str:
    """Return the first line that is not blank, valid and shortened."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = line.encode(errors="replace").decode()
    return line if len(line) <= characters_max else line[: characters_max - 1] + "…"
