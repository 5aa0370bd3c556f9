"""The files of the console, which `make console` builds into `static/`.

Owns: reading them once, the content type of each. Never does: serve. Read next: console.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

STATIC = Path(__file__).with_name("static")
INDEX = "index.html"
MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".wav": "audio/wav",
}
"""Suffix of a file -> its media type, the same on every machine; plain text for others."""


class ConsoleFile(NamedTuple):
    """One file, as a gateway serves it."""

    content: bytes
    media_type: str


def read_console(folder: Path = STATIC) -> dict[str, ConsoleFile]:
    """Return the files of a build by their paths; none if there is no build."""
    if not (folder / INDEX).is_file():
        return {}
    return {
        path.relative_to(folder).as_posix(): ConsoleFile(
            path.read_bytes(), MEDIA_TYPES.get(path.suffix, "text/plain")
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
