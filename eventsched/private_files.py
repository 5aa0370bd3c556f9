"""Folders and files that only their owner may read.

Owns: making a folder with mode 0700 and a file with mode 0600 whatever the umask, opening a file
without following a link, replacing a file as a whole.
Never does: change the mode of a file or a folder that was there before.
Read next: server/folder.py, which checks a data folder.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def make_private_folder(folder: Path) -> None:
    """`folder` exists. Each folder that was missing on its path now has mode 0700."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_private_folder(folder.parent)
    try:
        folder.mkdir(mode=FOLDER_MODE)
    except FileExistsError:
        if not folder.is_dir():  # another process may have made it in between
            raise


def open_private(path: Path, flags: int) -> int:
    """A descriptor of a regular file of this user; a file that is made has mode 0600.

    Raises OSError for a link, for a file of another user and for what is no regular file.
    """
    # O_NONBLOCK: opening a FIFO would wait for its other end.
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags, FILE_MODE)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(descriptor)
        raise OSError(errno.EPERM, "not a regular file of this user", str(path))
    return descriptor


def read_private(path: Path, bytes_max: int) -> bytes:
    """At most `bytes_max` bytes from the end of the file. Raises OSError as `open_private` does."""
    with open(open_private(path, os.O_RDONLY), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - bytes_max))
        return file.read(bytes_max)


def private_file(path: Path) -> BinaryIO:
    """The file, empty and open for writing. Raises OSError as `open_private` does."""
    return open(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb")


def replace_private(path: Path, content: bytes) -> None:
    """The file holds `content`; another process sees the old content or the new, never a part."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    with private_file(draft) as file:
        file.write(content)
    draft.replace(path)
