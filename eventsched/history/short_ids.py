"""Session ids that are shortened to a beginning that no other session has, as commands take them.

Owns: the search for the sessions that begin with a text.
Must not: be used for calls of clients, or for acts that cannot be undone; those take whole ids.
Read next: source.py, cli/history.py.
"""

from __future__ import annotations

import re

from eventsched.errors import InvalidMessage
from eventsched.history.source import HistorySource
from eventsched.projection.store import ProjectionStore

CHARACTERS_MIN = 4
"""A shorter text is a whole name."""
SESSIONS_MAX = 200_000
"""Sessions of a cell that are searched, the newest ones."""
PAGE = 5_000
NAMED_MAX = 3
"""Sessions that a message names."""
_SHORT = re.compile(r"(?:(?P<cell>[a-z0-9]{1,16})\.)?(?P<name>[A-Za-z0-9_-]{1,64})")


async def expand(source: HistorySource, text: str) -> str:
    """Return the text with the whole id of the session at its start.

    Args:
        source: The cells.
        text: A session, `<session>/<part>`, or `<session>:<utterance>:<target>`. Any other text, a
            session that exists, and a text with which no session begins are returned unchanged.

    Raises:
        InvalidMessage: Several sessions begin with the text.
    """
    match = _SHORT.match(text)
    if match is None or text[match.end() :][:1] not in ("", "/", ":"):
        return text
    name, rest = match["name"], text[match.end() :]
    if len(name) < CHARACTERS_MIN or rest.count(":") > 2:
        return text
    found: list[str] = []
    for cell in source.cells:
        store = source.projection_store(cell)
        if store is None or match["cell"] not in (None, cell):
            continue
        if await _exists(store, name):
            return text
        found += [store.keys.full(each) for each in await _beginning_with(store, name)]
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
