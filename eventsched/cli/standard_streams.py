"""Standard input, output and error of the program, whatever is at their other end.

Owns: three open descriptors, text in any encoding, what becomes of a write that fails.
Never does: import more than Python's own and errors.py: it runs at the program's first line.
Read next: app.py, which ends the program by `OutputFailed`.

Output that cannot be written ends the command: by one line, or quietly where its reader has gone.
Errors and log lines that cannot be written are lost, and the command goes on.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
import threading
from typing import Any

from eventsched.errors import EventschedError

_DESCRIPTORS = ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY))
_ERRORS = "eventsched.plain"
_PLAIN = {"→": "->", "–": "-", "…": "...", "“": '"', "”": '"'}  # noqa: RUF001
"""What the commands themselves print beyond ASCII; other characters are escaped."""


class OutputFailed(EventschedError):
    """Raised when standard output cannot be written."""

    is_closed = False
    """Its reader has gone, as `head` does: nothing is to be said."""

    @classmethod
    def of(cls, error: OSError) -> OutputFailed:
        made = cls(f"cannot write to standard output: {error.strerror}")
        made.is_closed = error.errno == errno.EPIPE
        return made


def open_standard_streams() -> None:
    """The descriptors 0, 1 and 2 are open; sys.stdout and sys.stderr take any text.

    A descriptor that was closed would become that of the next file or socket, which prints and
    closes would then hit: it is opened on the null device.
    """
    for descriptor, flags in _DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free one is this
    codecs.register_error(_ERRORS, _as_plain)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the whole program
    sys.stdout = _text(_Output(1), sys.stdout)
    sys.stderr = _text(_ErrorOutput(2), sys.stderr)


def _text(raw: io.RawIOBase, replaced: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(replaced, "encoding", None) or "utf-8",
        errors=_ERRORS,
        line_buffering=True if raw.fileno() == 2 else raw.isatty(),
    )


def _as_plain(error: UnicodeError) -> tuple[str, int]:
    """The characters that the encoding lacks, in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = (_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(plain), error.end


class _ErrorOutput(io.RawIOBase):
    """Writes to a descriptor; what cannot be written is dropped."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        while self._error is None:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # a pipe or terminal that another process made so
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._error = error
        return len(data)


class _Output(_ErrorOutput):
    """Writes to a descriptor. The first write that fails in the main thread raises OutputFailed."""

    _is_raised = False

    def write(self, data: Any) -> int:
        count = super().write(data)
        if self._error is None or self._is_raised:
            return count
        if threading.current_thread() is not threading.main_thread():
            return count  # a thread that draws would print a traceback: the main one writes soon
        self._is_raised = True
        raise OutputFailed.of(self._error)
