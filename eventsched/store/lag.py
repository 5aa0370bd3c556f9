"""How far behind consumers are, by counters of our own.

Owns: one cell's distances: entries of `log` that a projection set has not folded and saved, or
the archive does not hold, and entries of `work` that nobody has dispatched.
Never does: trust a consumer group's own `lag` (a restart makes it unknown), write.
Read next: lua/save_views.lua (which counts), history/status.py and roles/backpressure.py (which
ask).
"""

from __future__ import annotations

from typing import Any, Protocol

from eventsched.schema.keys import Keys
from eventsched.store.replies import decode_text, named_fields_of
from eventsched.store.transport import Transport

ARCHIVE = "archive"
"""The consumer group of the archive; it passes entries as they are sealed."""


class Cell(Protocol):
    """One cell's calls: a Store, or Views."""

    keys: Keys
    transport: Transport


class ConsumerLag:
    """The counts of one cell; each a fixed number of cheap reads."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._keys = cell.keys

    async def folding(self) -> list[str]:
        """The sets that fold the log of this cell: whoever has had a hold on it."""
        if not await self._command("EXISTS", self._keys.log):
            return []
        groups = await self._command("XINFO", self._keys.log, before_key=("GROUPS",))
        names = sorted(decode_text(named_fields_of(group)["name"]) for group in groups)
        return [name for name in names if await self._passed(name) is not None]

    async def passed(self) -> dict[str, int]:
        """Entries of the log that each set is done with, those gone before it came included."""
        return {name: await self._passed(name) or 0 for name in await self.folding()}

    async def of_set(self, projection_set: str) -> int:
        """Entries of the log that the set has not folded and saved; all, if it never ran."""
        kept = await self._command("XLEN", self._keys.log)
        if not kept:
            return 0
        reply = await self._command("XINFO", self._keys.log, before_key=("STREAM",))
        stream = named_fields_of(reply)
        passed = await self._passed(projection_set)
        return int(min(kept, stream["entries-added"] - (passed or 0)))

    async def of_archive(self) -> int | None:
        """Entries of the log that the archive does not hold yet; none without an archive."""
        if not await self._command("EXISTS", self._keys.archive):
            return None
        return await self.of_set(ARCHIVE)

    async def of_work(self) -> int:
        """`work` is trimmed as it is dispatched: what is in it is what is left."""
        return int(await self._command("XLEN", self._keys.dispatch))

    async def _passed(self, projection_set: str) -> int | None:
        kept = await self._command("HGET", self._keys.lease(projection_set), "passed")
        return None if kept is None else int(kept)

    async def _command(
        self, name: str, key: str, *more: str, before_key: tuple[str, ...] = ()
    ) -> Any:
        return await self._cell.transport.command(name, *before_key, key, *more, key=key)
