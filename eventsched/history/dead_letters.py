"""The dead letters of a cell, as the command line and gateways show them.

Owns: reading them by pages, the fields of their JSON. Must not: retry them.
Read next: lua/include/dead_letters.lua, cli/dead_letters.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from eventsched.history.event_json import HIDDEN_REASON
from eventsched.schema.nesting import check_json
from eventsched.store.cell import Store
from eventsched.store.replies import fields_of
from eventsched.store.transport import Entry

PAGE = 500
_OF_FUNCTIONS = ("dispatch", "timers")
COUNTED_MAX = 10_000
"""Dead letters that `count_of_view` looks at."""


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


async def count_of_view(store: Store, read_model: str, revision: str) -> int:
    """Return how many events the records of a revision lack, because they could not be folded."""
    count = looked_at = 0
    async for letter in read_dead_letters(store):
        looked_at += 1
        count += _lacks(letter["data"], read_model, revision)
        if looked_at == COUNTED_MAX:
            break
    return count


def _lacks(data: str, read_model: str, revision: str) -> bool:
    """Whether a dead letter of a projector names the revision."""
    try:
        context = msgspec.json.decode(check_json(data.encode()))
        return bool(context["revisions"][read_model] == revision)
    except (msgspec.DecodeError, KeyError, TypeError):
        return False  # of a function, or of another form


def without_reason(letter: dict[str, Any]) -> dict[str, Any]:
    """Return a dead letter without the message of an exception, which may quote a text.

    Functions have no texts: the reasons of their dead letters stay.
    """
    return letter if letter["source"] in _OF_FUNCTIONS else letter | {"reason": HIDDEN_REASON}


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
