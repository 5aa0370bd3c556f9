"""The dead letters of a cell, as the command line and gateways show them.

Owns: reading them by pages, the fields of their JSON. Must not: retry them.
Read next: lua/include/dead_letters.lua, cli/dead_letters.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from eventsched.store.cell import Store
from eventsched.store.replies import fields_of
from eventsched.store.transport import Entry

PAGE = 500


async def read_dead_letters(store: Store, after: str = "") -> AsyncIterator[dict[str, Any]]:
    """Yield the dead letters of a cell, oldest first.

    Args:
        store: The cell.
        after: Id of the entry after which to start; empty for the first.
    """
    low = f"({after}" if after else "-"
    while page := await store.read_range(store.keys.dead_letters, low, "+", PAGE):
        for entry in page:
            yield _letter(store, entry)
        low = f"({page[-1][0]}"


async def read_dead_letter(store: Store, entry_id: str) -> dict[str, Any] | None:
    """Return the dead letter of a cell with this id; None if there is none."""
    entries = await store.read_range(store.keys.dead_letters, entry_id, entry_id, 1)
    return _letter(store, entries[0]) if entries else None


def _letter(store: Store, entry: Entry) -> dict[str, Any]:
    entry_id, flat = entry
    text = {k.decode(): v.decode(errors="replace") for k, v in fields_of(flat).items()}
    return {
        "id": f"{store.cell}/{entry_id}",
        "source": text.get("from", ""),
        "source_id": text.get("id", ""),
        "kind": text.get("k", ""),
        "reason": text.get("reason", ""),
        "partial": text.get("partial") == "1",
        "data": text.get("d", ""),
    }
