"""Standard input, output and error of the program.

Owns: the file descriptors 0, 1 and 2, text in any encoding, the handling of failed writes.
Never does: import anything but the standard library and errors.py, since it runs first.
Read next: app.py, which handles `OutputFailed`.

A failed write to stdout ends the command with one line on stderr, or without a message if the
reader closed the pipe. A failed write to stderr is ignored, and the command continues.
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
"""ASCII for the characters that commands print; other characters are escaped."""


class OutputFailed(EventschedError):
    """Raised when a write to standard output fails."""

    is_closed = False
    """Whether the reader closed the pipe, as `head` does; no message is printed then."""

    @classmethod
    def of(cls, error: OSError) -> OutputFailed:
        """Return the error for a failed write."""
        result = cls(f"cannot write to standard output: {error.strerror}")
        result.is_closed = error.errno == errno.EPIPE
        return result


def open_standard_streams() -> None:
    """Open the descriptors 0, 1 and 2, and let sys.stdout and sys.stderr take any text.

    A closed descriptor is opened on the null device. Otherwise the next file or socket would get
    its number, and output would be written to that file.
    """
    for descriptor, flags in _DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number: this descriptor
    codecs.register_error(_ERRORS, _as_plain)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the whole program
    sys.stdout = _text_stream(_Output(1), sys.stdout)
    sys.stderr = _text_stream(_ErrorOutput(2), sys.stderr)


def _text_stream(raw: io.RawIOBase, previous: Any) -> io.TextIOWrapper:
    """Return a text stream with the encoding of `previous`, which may be None."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(previous, "encoding", None) or "utf-8",
        errors=_ERRORS,
        line_buffering=True if raw.fileno() == 2 else raw.isatty(),
    )


def _as_plain(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII for the characters that the encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    plain = (_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing)
    return "".join(plain), error.end


class _ErrorOutput(io.RawIOBase):
    """A stream to a descriptor that ignores failed writes."""

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
            except BlockingIOError:  # another process set the pipe or terminal to non-blocking
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._error = error
        return len(data)


class _Output(_ErrorOutput):
    """A stream to a descriptor. The first failed write of the main thread raises OutputFailed."""

    _is_raised = False

    def write(self, data: Any) -> int:
        count = super().write(data)
        if self._error is None or self._is_raised:
            return count
        if threading.current_thread() is not threading.main_thread():
            return count  # raising here prints a traceback; the main thread writes soon
        self._is_raised = True
        raise OutputFailed.of(self._error)
