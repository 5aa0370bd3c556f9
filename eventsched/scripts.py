"""Loads the Lua scripts: one file per decision, an include per shared part.

Owns: reading lua/ from the package, resolving `-- include: name` (each once, before its user).
Never does: I/O with Redis. Read next: lua/README.md, store.py.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_INCLUDE = re.compile(r"^-- include: (\w+)$")


class IncludeError(Exception):
    """Raised when an include is missing or leads back to itself."""


@dataclass(frozen=True, slots=True)
class Script:
    """One script as the server gets it."""

    name: str
    source: str
    sha: str


def names() -> list[str]:
    """Every script there is."""
    folder = files("eventsched") / "lua"
    return sorted(f.name[:-4] for f in folder.iterdir() if f.name.endswith(".lua"))


@cache
def load(name: str) -> Script:
    """The script with its includes in place."""
    source = "".join(_expand(_read(f"{name}.lua"), done=set(), open_=()))
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _read(path: str) -> str:
    file = files("eventsched").joinpath("lua", *path.split("/"))
    if not file.is_file():
        raise IncludeError(f"no such Lua file: {path}")
    return file.read_text(encoding="utf-8")


def _expand(source: str, *, done: set[str], open_: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    for line in source.splitlines(keepends=True):
        match = _INCLUDE.match(line.rstrip("\n"))
        if match is None:
            lines.append(line)
            continue
        name = match[1]
        if name in open_:
            raise IncludeError(f"circular include: {' -> '.join((*open_, name))}")
        if name not in done:
            lines += _expand(_read(f"include/{name}.lua"), done=done, open_=(*open_, name))
            done.add(name)
    return lines
