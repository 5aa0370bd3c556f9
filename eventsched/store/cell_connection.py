"""Calls one cell: runs its functions, reads its streams and its settings.

Owns: the transport, the keys and the clock argument that every call of a cell needs.
Must not: know a script's arguments or reply; the subclasses do.
Read next: session_commands.py (one concern), cell.py (all of them), projection/store.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from eventsched.errors import CellUnknown, UnexpectedReply
from eventsched.schema.ids import START
from eventsched.schema.keys import Keys
from eventsched.schema.settings import Settings
from eventsched.store.replies import fields_of, stored_number
from eventsched.store.transport import Arg, Entry, Transport, entries_of

CALLS_MAX = 500
"""Reads that are sent together."""


class CellConnection:
    """One cell of a server. Cells that were created with a manual clock use `now_ms`."""

    def __init__(
        self, transport: Transport, cell: str, *, now_ms: Callable[[], int] | None = None
    ) -> None:
        self.transport = transport
        self.cell = cell
        self.keys = Keys(cell)
        self._now_ms = now_ms

    async def run(self, script: str, *args: Arg) -> Any:
        """Run the function of a script and return its reply. Raises Refused, ServerUnavailable."""
        now = self._now_ms() if self._now_ms else ""
        return await self.transport.run(script, self.keys.declared, [now, *args])

    async def read_many(self, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        """The replies of reads in their order, with one round trip for each CALLS_MAX of them.

        Each call is the name of a command that changes nothing, a key of the cell, and more
        arguments. The reads are not atomic.
        """
        replies: list[Any] = []
        for first in range(0, len(calls), CALLS_MAX):
            replies += await self.transport.commands(calls[first : first + CALLS_MAX])
        return replies

    async def read_range(
        self, key: str, low: str, high: str, count: int, *, newest_first: bool = False
    ) -> list[Entry]:
        """Up to `count` entries of a stream from `low` to `high`; `(` before an id excludes it."""
        parts = ("XREVRANGE", key, high, low) if newest_first else ("XRANGE", key, low, high)
        return entries_of(await self.transport.command(*parts, "COUNT", count, key=key))

    async def read_settings(self) -> Settings:
        """The cell's settings; a setting that the cell does not store has its default.

        Raises:
            CellUnknown: The cell is not configured.
        """
        stored = await self.read_hash(self.keys.settings)
        if not stored and await self._has_no_clock():
            raise CellUnknown.of(self.cell)
        return settings_of(stored)

    async def _has_no_clock(self) -> bool:
        """Whether the cell is not configured: each configured cell stores its clock."""
        clock = self.keys.clock
        return bool(await self.transport.command("EXISTS", clock, key=clock) == 0)

    async def read_hash(self, key: str) -> dict[str, str]:
        """The fields of a hash as text; empty if the key does not exist."""
        return text_fields_of(await self.transport.command("HGETALL", key, key=key))

    async def read_numbers(self, key: str) -> dict[str, int]:
        """The fields of a hash as whole numbers. Raises UnexpectedReply for any other value."""
        return numbers_of(key, await self.read_hash(key))

    async def first_id(self, key: str) -> str:
        """Id of the oldest entry that a stream still has; `0-0` if it has none."""
        oldest = await self.read_range(key, "-", "+", 1)
        return oldest[0][0] if oldest else START

    async def last_id(self, key: str) -> str:
        """Id of the newest entry that a stream still has; `0-0` if it has none."""
        newest = await self.read_range(key, "-", "+", 1, newest_first=True)
        return newest[0][0] if newest else START


def text_fields_of(reply: Any) -> dict[str, str]:
    """The fields in a reply of HGETALL as text."""
    fields = fields_of(reply).items()
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields}


def numbers_of(key: str, stored: Mapping[str, str]) -> dict[str, int]:
    """The fields of a hash as whole numbers. Raises UnexpectedReply for any other value."""
    return {name: stored_number(value, f"{key} {name}") for name, value in stored.items()}


def settings_of(stored: Mapping[str, str]) -> Settings:
    """The settings in the fields of the key `settings`; a missing field has its default."""
    fields = {name: text for name, text in stored.items() if name in Settings.__struct_fields__}
    try:
        return msgspec.convert(fields, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise UnexpectedReply(
            f"the key `settings` of the cell has another value than eventsched writes: {error}; "
            "correct or delete the field"
        ) from None


def name_list(names: Sequence[str]) -> str:
    """A set of names as scripts take it: sorted and joined, so that equal sets are equal text."""
    return ",".join(sorted(set(names)))
