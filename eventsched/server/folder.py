"""Whether a data folder may be obeyed: it names a program to run and an address to speak to.

Owns: the checks of owner, mode and links, each refusal with its remedy; the short path to a socket
whose own path is too long.
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
from eventsched.private_files import make_private_folder

PROGRAM = "program"
"""The file that names the program which wrote the data: another may not be able to read them."""
_NAMES = (
    PROGRAM, "server.json", "server.lock", "server.log", "users", "watchdog.lock",
    "appendonlydir", "dump.rdb",
)  # fmt: skip
"""What a user process, the watchdog or the server opens in the folder."""
_APPEND_ONLY = "appendonlydir"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_ELSEWHERE = "name a folder of your own with --data, or a server with --url"


def open_data_folder(data: Path) -> Path:
    """The absolute path of the data folder, made if it was missing.

    Raises ServerUnavailable unless the folder and what is obeyed in it belong to this user, nobody
    else may read it, and no link leads out of it.
    """
    if data.is_symlink():
        raise ServerUnavailable(
            f"the data folder {data} is a link: name the folder that it leads to, "
            f"--data {shlex.quote(str(data.resolve()))}"
        )
    make_private_folder(data)
    folder = data.resolve()
    _check_owner(folder, os.stat(folder), "the data folder")
    mode = stat.S_IMODE(os.stat(folder).st_mode)
    if mode & _OTHERS:
        raise ServerUnavailable(
            f"others may open the data folder {folder} (mode {mode:o}): see that all in it is "
            f"yours, then run: chmod 700 {shlex.quote(str(folder))}; or name another with --data"
        )
    for path in _obeyed_in(folder):
        _check_file(path)
    return folder


def _obeyed_in(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in _NAMES)
    if (folder / _APPEND_ONLY).is_dir():
        yield from (folder / _APPEND_ONLY).iterdir()


def _check_file(path: Path) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise ServerUnavailable(
            f"{path} is a link, and a data folder must hold its files itself: "
            f"put the file in its place, or name another folder with --data"
        )
    _check_owner(path, found, "the file")


def _check_owner(path: Path, found: os.stat_result, what: str) -> None:
    if found.st_uid != os.geteuid():
        raise ServerUnavailable(
            f"{what} {path} belongs to user {found.st_uid}, not to user {os.geteuid()} who runs "
            f"this: {_ELSEWHERE}"
        )


def short_path(folder: Path) -> Path:
    """A path of some 50 characters that leads to `folder`, by a link in a private folder.

    The kernel takes a socket's path up to some 100 characters only. The path follows from the
    folder's, so that every process of this user finds the same. Raises OSError where another user
    has taken its place.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = runtime if os.path.isdir(runtime) else tempfile.gettempdir()
    private = Path(base, f"eventsched-{os.geteuid()}")
    make_private_folder(private)
    found = os.lstat(private)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & _OTHERS:
        raise PermissionError(f"{private} is not a private folder of this user")
    link = private / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    if not link.is_symlink() or os.readlink(link) != str(folder):
        draft = link.with_name(f"{link.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        draft.symlink_to(folder)
        draft.replace(link)  # of two processes at once each leaves the same link
    return link
