"""How many entries each consumer of a cell still has to process.

Owns: the lag of each projection set and of the archive on `log`, and of dispatch on `dispatch`.
Must not: use the `lag` of a consumer group, which is unknown after a restart; write.
Read next: lua/save_views.lua (counts entries), history/status.py, roles/backpressure.py.
"""

from __future__ import annotations

from typing import Any, Protocol

from eventsched.schema.keys import Keys
from eventsched.store.replies import decode_text, named_fields_of, stored_number
from eventsched.store.transport import Transport

ARCHIVE = "archive"
"""The consumer group of the archive; a sealed entry is processed."""


class Cell(Protocol):
    """What the reads need of a cell's connection."""

    keys: Keys
    transport: Transport


class ConsumerLag:
    """The lag of a cell's consumers; each takes a fixed number of cheap reads."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._keys = cell.keys

    async def projection_sets(self) -> list[str]:
        """The sets that have held a lease in this cell."""
        if not await self._command("EXISTS", self._keys.log):
            return []
        groups = await self._command("XINFO", self._keys.log, before_key=("GROUPS",))
        names = sorted(decode_text(named_fields_of(group)["name"]) for group in groups)
        return [name for name in names if await self._processed(name) is not None]

    async def processed(self) -> dict[str, int]:
        """Log entries that each set has processed, including those trimmed before its start."""
        return {name: await self._processed(name) or 0 for name in await self.projection_sets()}

    async def of_set(self, projection_set: str) -> int:
        """Log entries that the set has not folded and saved; all of them if it never ran."""
        length = await self._command("XLEN", self._keys.log)
        if not length:
            return 0
        reply = await self._command("XINFO", self._keys.log, before_key=("STREAM",))
        stream = named_fields_of(reply)
        processed = await self._processed(projection_set)
        return int(min(length, stream["entries-added"] - (processed or 0)))

    async def of_archive(self) -> int | None:
        """Log entries that the archive does not hold yet; none without an archive."""
        if not await self._command("EXISTS", self._keys.archive):
            return None
        return await self.of_set(ARCHIVE)

    async def of_dispatch(self) -> int:
        """Entries of the dispatch stream, which is trimmed as its entries are dispatched."""
        return int(await self._command("XLEN", self._keys.dispatch))

    async def _processed(self, projection_set: str) -> int | None:
        key = self._keys.lease(projection_set)
        value = await self._command("HGET", key, "passed")
        return None if value is None else stored_number(value, key)

    async def _command(
        self, name: str, key: str, *more: str, before_key: tuple[str, ...] = ()
    ) -> Any:
        return await self._cell.transport.command(name, *before_key, key, *more, key=key)
