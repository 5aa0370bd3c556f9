"""Opens files of an archive, which another user may have made.

Owns: opening a regular file, and refusing links, which may lead out of the archive, and pipes and
devices, which may never end; reading a small file with a bound.
Must not: know what a file has.
Read next: layout.py, sealed_file.py.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from eventsched.errors import ArchiveError


class FileFault(ArchiveError):
    """Raised when a file of an archive must not be read; `what` says why, without its name."""

    def __init__(self, path: Path, what: str) -> None:
        self.what = what
        super().__init__(f"{path} {what}")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises FileFault for a link and any other kind."""
    # O_NONBLOCK: without it, opening a FIFO waits for its other end.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise FileFault(path, "is missing") from error
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
