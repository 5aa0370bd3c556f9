"""Checks of a data folder, which names a program to run and an address to connect to.

Owns: the checks of owner, mode and links, each with a remedy in its message; the short path to a
socket whose own path is too long.
Never does: change an existing folder. Read next: embedded.py.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from eventsched.errors import ServerUnavailable
from eventsched.private_files import FOLDER_MODE, make_private_folder, warn_if_exchangeable

PROGRAM = "program"
"""File with the path of the program that wrote the data; another version may not read them."""
_NAMES = (
    PROGRAM, "server.json", "server.lock", "server.log", "users", "watchdog.lock",
    "appendonlydir", "dump.rdb",
)  # fmt: skip
"""Names that a user process, the watchdog or the server opens in the folder."""
_APPEND_ONLY = "appendonlydir"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_REMEDY = "name a folder of your own with --data, or a server with --url"


def open_data_folder(data: Path) -> Path:
    """Create the data folder if it is missing, check it and return its absolute path.

    Raises:
        ServerUnavailable: the folder or one of its files belongs to another user or is a link, or
            other users may access the folder.
    """
    if data.is_symlink():
        raise ServerUnavailable(
            f"the data folder {data} is a link: name the folder that it points to, "
            f"--data {shlex.quote(str(data.resolve()))}"
        )
    make_private_folder(data)
    folder = data.resolve()
    _check_owner(folder, os.stat(folder), "the data folder")
    mode = stat.S_IMODE(os.stat(folder).st_mode)
    if mode & _OTHERS:
        raise ServerUnavailable(
            f"other users may open the data folder {folder} (mode {mode:o}): check that all files "
            f"in it are yours, then run: chmod 700 {shlex.quote(str(folder))}; or name another "
            f"folder with --data"
        )
    for path in _paths_to_check(folder):
        _check_file(path)
    warn_if_exchangeable(folder, "data folder")
    return folder


def _paths_to_check(folder: Path) -> Iterator[Path]:
    """Yield the paths that user processes, the watchdog and the server open in the folder.

    A file may be missing.
    """
    yield from (folder / name for name in _NAMES)
    if (folder / _APPEND_ONLY).is_dir():
        yield from (folder / _APPEND_ONLY).iterdir()


def _check_file(path: Path) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        raise ServerUnavailable(
            f"{path} is a link, and a data folder must contain its files itself: "
            f"replace the link by the file, or name another folder with --data"
        )
    _check_owner(path, status, "the file")


def _check_owner(path: Path, status: os.stat_result, kind: str) -> None:
    if status.st_uid != os.geteuid():
        raise ServerUnavailable(
            f"{kind} {path} belongs to user {status.st_uid}, not to the current user "
            f"{os.geteuid()}: {_REMEDY}"
        )


def _runtime_folder() -> str:
    """Return XDG_RUNTIME_DIR, or an empty text if it is not a private folder of this user.

    A command that runs as root may have the variable of the user who called it. This user could
    put another folder, with another server, in the place of a folder below.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    try:
        status = os.lstat(runtime)
    except (OSError, ValueError):
        return ""
    is_private = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == FOLDER_MODE
    return runtime if stat.S_ISDIR(status.st_mode) and is_private else ""


def short_path(folder: Path) -> Path:
    """Return a path of some 50 characters to `folder`, through a link in a private folder.

    The kernel limits a socket's path to some 100 characters. The short path is a function of the
    folder's path, so all processes of this user get the same one. Raises OSError if another user
    has created a file in its place. A warning names a place in which another user may exchange the
    private folder.
    """
    private = Path(_runtime_folder() or tempfile.gettempdir(), f"eventsched-{os.geteuid()}")
    make_private_folder(private)
    status = os.lstat(private)
    is_private = status.st_uid == os.geteuid() and not status.st_mode & _OTHERS
    if not stat.S_ISDIR(status.st_mode) or not is_private:
        raise PermissionError(f"{private} is not a private folder of this user")
    warn_if_exchangeable(private, "folder of the short path to the socket")
    link = private / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    if not link.is_symlink() or os.readlink(link) != str(folder):
        draft = link.with_name(f"{link.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        draft.symlink_to(folder)
        draft.replace(link)  # two processes at the same time create the same link
    return link
