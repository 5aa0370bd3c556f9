"""File locks that end with the process that took them, however it ends.

Owns: flock without waiting, and letting go in forked children.
Never does: wait (callers poll with a bound). Read next: embedded.py.
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
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """True when nobody else holds the file. Refused, a held shared lock may be lost."""
        return self._try(fcntl.LOCK_EX)

    def release(self) -> None:
        """Close the file; copies that another process inherited keep the lock."""
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


def _let_go_in_child() -> None:
    """A forked child shares the open file: it would hold the lock after its parent is killed.

    Closing the child's copy leaves the parent's lock alone (unlocking would not).
    """
    for lock in list(_open):
        lock.release()


os.register_at_fork(after_in_child=_let_go_in_child)
