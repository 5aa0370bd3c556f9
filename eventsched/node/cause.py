"""The cause of a failure in the code of a user, in one line.

Owns: the type, the first line, the place and the traceback of an exception, each bounded.
Must not: log, or decide who may see it.
Read next: executor.py (failed handlers), cli/node.py (a module that cannot be imported).

No function here raises an error or returns a text without a bound, whatever the class of the
exception does: its methods, attributes and metaclass are code of the user.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from eventsched.node.job import is_a, outcome_of

TYPE_CHARACTERS_MAX = 64
MESSAGE_CHARACTERS_MAX = 200
PLACE_CHARACTERS_MAX = 100
TRACE_CHARACTERS_MAX = 20_000
TEXT_CHARACTERS_MAX = 10_000
"""Of an exception's text only so much is searched for its first line."""
GROUPS_MAX = 100
_INNER = ("<frozen importlib", "importlib/__init__.py")
_name_of: Any = type.__dict__["__name__"].__get__
"""The name of a class, whatever its metaclass answers."""
_traceback_of: Any = BaseException.__dict__["__traceback__"].__get__
_exceptions_of: Any = BaseExceptionGroup.__dict__["exceptions"].__get__


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
    for _ in range(GROUPS_MAX):
        if not is_a(error, BaseExceptionGroup):
            break
        inner = _exceptions_of(error)
        error = next((each for each in inner if _is_no_outcome(each)), inner[0])
    message, place = _text_of(error), _place_of(_traceback_of(error))
    if is_a(error, SyntaxError):
        message, place = _of_syntax(error, message, place)
    return Cause(
        _first_line(_name_of(type(error)), TYPE_CHARACTERS_MAX),
        _first_line(message, MESSAGE_CHARACTERS_MAX),
        _first_line(place, PLACE_CHARACTERS_MAX),
    )


def trace_of(error: BaseException) -> tuple[str, bool]:
    """Return the traceback of an exception, and whether Python can print it whole.

    A longer traceback than TRACE_CHARACTERS_MAX loses its middle. If the text of the exception
    cannot be printed, the traceback ends with the name of its class.
    """
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001 - of an attribute or of the metaclass
        lines = traceback.format_tb(_traceback_of(error))
        return shorten("".join([*lines, _name_of(type(error))]), TRACE_CHARACTERS_MAX), False
    return shorten(text, TRACE_CHARACTERS_MAX), len(text) <= TRACE_CHARACTERS_MAX


def is_odd(error: BaseException) -> bool:
    """Whether the exception hides its class, so that code which asks for it may fail."""
    try:
        return error.__class__ is not type(error)
    except BaseException:  # noqa: BLE001 - of an attribute of a user's own class
        return True


def shorten(text: str, characters_max: int) -> str:
    """Return valid text of at most this length; a longer text loses its middle."""
    if len(text) > characters_max:
        half = characters_max // 2
        text = f"{text[:half]}\n…\n{text[-half:]}"
    return text.encode(errors="replace").decode()


def _is_no_outcome(error: BaseException) -> bool:
    try:
        return outcome_of(error) is None
    except RecursionError:  # groups in groups
        return True


def _text_of(error: BaseException) -> str:
    """Return the beginning of the text: a class may return a text of any type and length."""
    try:
        return str.__getitem__(str(error), slice(0, TEXT_CHARACTERS_MAX))
    except BaseException:  # noqa: BLE001 - `__str__` of a user's own class may raise
        return ""


def _of_syntax(error: Any, message: str, place: str) -> tuple[str, str]:
    try:
        return f"{error.msg or ''}", f"{Path(error.filename or '?').name}:{error.lineno or 0}"
    except BaseException:  # noqa: BLE001 - of an attribute of a user's own class
        return message, place


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
    text = str.__getitem__(text, slice(0, TEXT_CHARACTERS_MAX))
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = line.encode(errors="replace").decode()
    return line if len(line) <= characters_max else line[: characters_max - 1] + "…"
