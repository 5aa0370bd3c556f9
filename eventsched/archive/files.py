"""Opens files of an archive, which another user may have made.

Owns: opening a regular file, or a range of it, and refusing links, which may lead out of the
archive, and pipes and devices, which may never end; reading a small file with a bound.
Must not: know what a file has.
Read next: layout.py, sealed_file.py.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, cast

from eventsched.errors import ArchiveError


class FileFault(ArchiveError):
    """Raised when a file of an archive must not be read; `what` says why, without its name."""

    def __init__(self, path: Path, what: str, *, is_missing: bool = False) -> None:
        self.what = what
        self.is_missing = is_missing
        super().__init__(f"{path} {what}")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises FileFault for a link and any other kind."""
    # O_NONBLOCK: without it, opening a FIFO waits for its other end.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise FileFault(path, "is missing", is_missing=True) from error
    except OSError as error:
        what = "is a link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        raise FileFault(path, what) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileFault(path, "is not a regular file")
    return open(path, "rb", opener=lambda _path, _flags: descriptor)


def read_small(path: Path, bytes_max: int) -> bytes:
    """The content of a regular file of at most so many bytes. Raises FileFault."""
    with open_regular(path) as file:
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise FileFault(path, f"has more than {bytes_max:,} bytes")
    return content


def read_named(path: Path, bytes_max: int, kind: str) -> bytes:
    """The content of a file that the caller's user has named, also behind a link.

    Args:
        path: The file.
        bytes_max: The most bytes that it may have.
        kind: What the file should be, for messages.

    Raises ArchiveError.
    """
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise ArchiveError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > bytes_max:
        raise ArchiveError(f"{path} is no {kind}: more than {bytes_max:,} bytes")
    return content


def open_range(path: Path, start: int, size: int, name: str) -> BinaryIO:
    """Open a range of a regular file as a file of its own. Raises FileFault as `open_regular`.

    Args:
        path: The file.
        start: First byte of the range.
        size: Bytes of the range.
        name: Name of the range, for messages.
    """
    return cast("BinaryIO", io.BufferedReader(_FileRange(open_regular(path), start, size, name)))


class _FileRange(io.RawIOBase):
    """A range of an open file, which it closes."""

    def __init__(self, file: BinaryIO, start: int, size: int, name: str) -> None:
        super().__init__()
        self.name = name
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), max(0, self._size - self._at))
        data = os.pread(self.fileno(), count, self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, (0, self._at, self._size)[whence] + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()
        super().close()
