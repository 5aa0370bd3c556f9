"""Session ids that are shortened to a beginning that no other session has, as commands take them.

Owns: the search for the sessions that begin with a text, on a server and in an archive.
Must not: be used for calls of clients, or for acts that cannot be undone; those take whole ids.
Read next: source.py, archive/segments.py, cli/history.py.
"""

from __future__ import annotations

import re
from functools import partial

from eventsched.archive.layout import CellFolder
from eventsched.archive.threads import in_thread
from eventsched.errors import InvalidMessage
from eventsched.history.source import HistorySource
from eventsched.projection.store import ProjectionStore

CHARACTERS_MIN = 4
"""A shorter text is a whole name."""
SESSIONS_MAX = 200_000
"""Sessions of a cell that are searched, the newest ones."""
PAGE = 5_000
SEGMENTS_MAX = 1_000
"""Segments of a cell in an archive that are searched, the newest ones."""
NAMED_MAX = 3
"""Sessions that a message names."""
_WHOLE = re.compile(r"[0-9a-f]{32}")
"""A name as `open_session` makes them."""
_SHORT = re.compile(r"(?:(?P<cell>[a-z0-9]{1,16})\.)?(?P<name>[A-Za-z0-9_-]{1,64})")


async def expand(source: HistorySource, text: str) -> str:
    """Return the text with the whole id of the session at its start.

    Args:
        source: The cells, of a server, an archive, or both.
        text: A session, `<session>/<part>`, or `<session>:<utterance>:<target>`. Any other text, a
            session that exists, and a text with which no session begins are returned unchanged.

    Raises:
        InvalidMessage: Several sessions begin with the text.
        ArchiveError: The archive is not as it was sealed.
    """
    match = _SHORT.match(text)
    if match is None or text[match.end() :][:1] not in ("", "/", ":"):
        return text
    name, rest = match["name"], text[match.end() :]
    if len(name) < CHARACTERS_MIN or rest.count(":") > 2 or _WHOLE.fullmatch(name):
        return text
    found: list[str] = []
    for cell in source.cells:
        if match["cell"] not in (None, cell):
            continue
        names: set[str] = set()
        store = source.projection_store(cell)
        if store is not None:
            if await _exists(store, name):
                return text
            names.update(await _beginning_with(store, name))
        if source.archive is not None:
            folder = source.archive.cell(cell)
            names.update(await in_thread(partial(_archived, folder, name)))
        if name in names:
            return text
        found += sorted(f"{cell}.{each}" for each in names)
    if not found:
        return text
    if len(found) > 1:
        named = ", ".join(found[:NAMED_MAX]) + ", …" * (len(found) > NAMED_MAX)
        raise InvalidMessage.of(
            "SESSION", f"{len(found)} sessions begin with {name!r}: {named}", "name more of the id"
        )
    return found[0] + rest


async def _exists(store: ProjectionStore, name: str) -> bool:
    index, record = store.keys.session_index(name), store.keys.session(name)
    replies = await store.read_many([("EXISTS", index), ("EXISTS", record)])
    return any(replies)


async def _beginning_with(store: ProjectionStore, beginning: str) -> list[str]:
    key = store.keys.session_index_ends
    found: list[str] = []
    for first in range(0, SESSIONS_MAX, PAGE):
        page = await store.transport.command("ZRANGE", key, first, first + PAGE - 1, "REV", key=key)
        found += [name for each in page if (name := each.decode()).startswith(beginning)]
        if len(page) < PAGE:
            break
    return sorted(found)


def _archived(folder: CellFolder, beginning: str) -> set[str]:
    """Return the sessions with events in the newest segments whose names begin so."""
    from eventsched.archive.sealed_file import open_sealed
    from eventsched.archive.segment import session_names

    segments = folder.signed_records()
    found: set[str] = set()
    for n in range(max(0, len(segments) - SEGMENTS_MAX), len(segments)):
        with open_sealed(folder, segments[n], "sessions") as file:
            found.update(name for name in session_names(file) if name.startswith(beginning))
    return found
