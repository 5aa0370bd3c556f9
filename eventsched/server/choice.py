"""The choice of the server that a process uses.

Owns: the order in which arguments, options and environment variables count. The library, the
commands and the nodes have no order of their own.
Never does: connect to a server, or start one. Read next: embedded.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

URL_VARIABLE = "EVENTSCHED_URL"
DATA_VARIABLE = "EVENTSCHED_DATA"
DEFAULT_DATA = Path(".eventsched")


class Source(NamedTuple):
    """A way to name the server, as the library and the commands have it."""

    library: str
    command: str
    meaning: str


PRECEDENCE = (
    Source("argument `url`", "`--url URL`", "the server at this address"),
    Source("argument `data`", "`--data DIR`", "the embedded server of this folder"),
    Source(f"`{URL_VARIABLE}`", f"`{URL_VARIABLE}`", "the server at this address"),
    Source(f"`{DATA_VARIABLE}`", f"`{DATA_VARIABLE}`", "the embedded server of this folder"),
    Source(
        f"`./{DEFAULT_DATA}`",
        f"`./{DEFAULT_DATA}`",
        "the embedded server of the folder in which the process was started",
    ),
)
"""From the first that counts to the last. An empty variable counts as not set."""


class ServerChoice(NamedTuple):
    """The server of a process."""

    url: str
    """Its address; empty for the embedded server of `folder`."""
    folder: Path


def choose_server(url: str | None = None, data: Path | None = None) -> ServerChoice:
    """Return the server that the arguments name, else the one that the environment names.

    Args:
        url: an address of a server.
        data: a folder of an embedded server.
    """
    if url or data is not None:
        return ServerChoice(url or "", data or DEFAULT_DATA)
    folder = os.environ.get(DATA_VARIABLE)
    return ServerChoice(os.environ.get(URL_VARIABLE, ""), Path(folder) if folder else DEFAULT_DATA)
