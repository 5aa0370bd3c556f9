"""File locks that the kernel releases when a process ends.

Owns: flock without waiting, and the release in forked child processes.
Never does: wait; callers poll with a bound. Read next: embedded.py.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FileLock:
    """One flock on one open file. The kernel releases it when the last copy of the file closes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1

    def try_shared(self) -> bool:
        """Take the shared lock; return False if another process has the exclusive lock."""
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Take the exclusive lock; return False if another process has a lock.

        A failed call may release the shared lock of this process.
        """
        return self._try(fcntl.LOCK_EX)

    def release(self) -> None:
        """Close the file; a process that inherited the open file keeps the lock."""
        if self.fd >= 0:
            _open.discard(self)
            os.close(self.fd)
            self.fd = -1

    def _try(self, mode: int) -> bool:
        if self.fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self.fd = os.open(self.path, flags, 0o600)
            _open.add(self)
        try:
            fcntl.flock(self.fd, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


_open: set[FileLock] = set()


def _release_in_child() -> None:
    """Close the locked files in a forked child, which would otherwise keep the locks.

    Closing the child's copy does not release the parent's lock; unlocking it would.
    """
    for lock in list(_open):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)
