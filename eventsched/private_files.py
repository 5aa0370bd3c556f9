"""Folders and files that only their owner may read.

Owns: creating a folder with mode 0700 and a file with mode 0600, independent of the umask; opening
a file without following a link; creating and replacing a file atomically; writing the names in a
folder to disk; the warning about a folder that another user may exchange.
Never does: change the mode of an existing file or folder.
Read next: server/folder.py, which checks a data folder.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import shlex
import stat
from functools import cache
from pathlib import Path
from typing import BinaryIO

from eventsched.errors import EventschedError
from eventsched.logs import get_logger

FOLDER_MODE = 0o700
FILE_MODE = 0o600
PART = ".part"
"""Suffix of a file that is not complete."""
_OVERFLOW_UID = 65_534
"""Owner of files whose owner has no number in this user namespace."""
log = get_logger("eventsched.private_files")


class ReadableByOthers(EventschedError):
    """Raised when users other than the owner have a right to a file."""


def make_private_folder(folder: Path) -> None:
    """Create `folder` and all missing folders on its path with mode 0700."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_private_folder(folder.parent)
    try:
        folder.mkdir(mode=FOLDER_MODE)
    except FileExistsError:
        if not folder.is_dir():  # another process may have created it in the meantime
            raise


def exchangeable_in(folder: Path) -> Path | None:
    """The nearest folder above in which another user may exchange the folder on this path.

    None if there is none: each folder above belongs to this user or root, and others may not write
    to it, or only to their own entries (sticky).
    """
    for parent in folder.resolve().parents:
        status = parent.stat()
        may_write = status.st_mode & stat.S_IWOTH or (
            status.st_mode & stat.S_IWGRP and not is_private_group(status.st_gid)
        )
        if may_write and not status.st_mode & stat.S_ISVTX:
            return parent
        if status.st_uid not in (0, os.geteuid(), _OVERFLOW_UID):
            return parent
    return None


@cache
def is_private_group(group_id: int) -> bool:
    """Whether the group is that of this user alone.

    Many systems make a group with the name of each user, and folders that this group may write.
    Others put all users into one group, which is their primary group as well.
    """
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(group_id)
    except KeyError:
        return False
    members = {each.pw_name for each in pwd.getpwall() if each.pw_gid == group_id}
    return group.gr_name == user.pw_name and {*group.gr_mem, *members} <= {user.pw_name}


@cache
def warn_if_exchangeable(folder: Path, kind: str) -> None:
    """Log a line, once for each folder, if another user may put another folder in its place."""
    parent = exchangeable_in(folder)
    if parent is not None:
        log.warning(
            "another user may exchange a folder",
            kind=kind,
            folder=str(folder),
            writable=str(parent),
            remedy=f"move it to a place that only you may write to, or: chmod go-w {parent}",
        )


def open_private(path: Path, flags: int) -> int:
    """Open a regular file of this user and return its descriptor; a new file has mode 0600.

    Raises OSError for a link, a file of another user, or a file that is not regular.
    """
    # O_NONBLOCK: without it, opening a FIFO waits for its other end.
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags, FILE_MODE)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(descriptor)
        raise OSError(errno.EPERM, "not a regular file of this user", str(path))
    return descriptor


def read_private(path: Path, bytes_max: int) -> bytes:
    """Return the last `bytes_max` bytes of the file. Raises OSError as `open_private` does."""
    with open(open_private(path, os.O_RDONLY), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - bytes_max))
        return file.read(bytes_max)


def read_owned(path: Path, bytes_max: int) -> bytes:
    """Return the first `bytes_max` bytes of a file to which no other user has a right.

    Raises ReadableByOthers, or OSError as `open_private` does.
    """
    with open(open_private(path, os.O_RDONLY), "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ReadableByOthers(
                f"{path} is open to others (mode {mode:o}): check that it is yours, then "
                f"chmod 600 {shlex.quote(str(path))}"
            )
        return file.read(bytes_max)


def private_file(path: Path) -> BinaryIO:
    """Open the file for writing and truncate it. Raises OSError as `open_private` does."""
    return open(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb")


def create_private(path: Path, content: bytes) -> None:
    """Create the file with its whole content, on disk; no process reads a part of it.

    Raises FileExistsError if the file exists: of concurrent writers one succeeds.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    with private_file(part) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(part, path)
    finally:
        part.unlink()


def replace_private(path: Path, content: bytes) -> None:
    """Replace the file's content; other processes read the old content or the new, never a part."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    with private_file(draft) as file:
        file.write(content)
    draft.replace(path)


def sync_folder(path: Path) -> None:
    """Write the names in the folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
