"""The dead letters of a cell, as the command line and gateways show them.

Owns: reading them by pages, the fields of their JSON. Must not: retry them.
Read next: lua/include/dead_letters.lua, cli/dead_letters.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from eventsched.store.cell import Store
from eventsched.store.replies import fields_of

PAGE = 500


async def read_dead_letters(store: Store, after: str = "") -> AsyncIterator[dict[str, Any]]:
    """Yield the dead letters of a cell, oldest first.

    Args:
        store: The cell.
        after: Id of the entry after which to start; empty for the first.
    """
    low = f"({after}" if after else "-"
    while page := await store.read_range(store.keys.dead_letters, low, "+", PAGE):
        for entry_id, flat in page:
            text = {k.decode(): v.decode(errors="replace") for k, v in fields_of(flat).items()}
            yield {
                "id": f"{store.cell}/{entry_id}",
                "source": text.get("from", ""),
                "source_id": text.get("id", ""),
                "kind": text.get("k", ""),
                "reason": text.get("reason", ""),
                "partial": text.get("partial") == "1",
                "data": text.get("d", ""),
            }
        low = f"({page[-1][0]}"
