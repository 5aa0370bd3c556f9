"""The log of the cell, read while it grows, and compared with the archive at the end.

Owns: a copy of every entry that was ever in the log, made without the product's history.
Read next: run.py, judge.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio

from eventsched.archive.layout import ArchiveFolder
from eventsched.errors import ServerUnavailable
from eventsched.history.log import History
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.schema import codec
from eventsched.schema.events import Event
from eventsched.schema.ids import START, parse_id
from eventsched.store.cell import Store
from eventsched.store.transport import Entry

READ_COUNT = 5_000
EVERY_S = 0.5
"""Far more often than entries are trimmed."""
DIFFERENCES_MAX = 3


class LogFollower:
    """Collects the entries of the log.

    Args:
        store: the cell.
        entries: the entries so far.
    """

    def __init__(self, store: Store, entries: Sequence[Entry] = ()) -> None:
        self._store = store
        self.entries = list(entries)
        self.events: list[Event] = [codec.decode(*entry) for entry in entries]

    async def run(self) -> None:
        """Read new entries until cancelled."""
        while True:
            with suppress(ServerUnavailable):  # the next read continues at the same entry
                await self.catch_up()
            await anyio.sleep(EVERY_S)

    async def catch_up(self) -> None:
        """Read to the end of the log."""
        while True:
            after = self.entries[-1][0] if self.entries else START
            new = await self._store.read_range(self._store.keys.log, f"({after}", "+", READ_COUNT)
            self.entries += new
            self.events += [codec.decode(*entry) for entry in new]
            if len(new) < READ_COUNT:
                return


async def read_history(store: Store, archive: Path | None) -> list[Entry]:
    """All entries of the log, those that were trimmed from the archive."""
    projection_store = ProjectionStore(store.transport, store.cell)
    folder = ArchiveFolder.open(archive) if archive else None
    history = await History.open(projection_store, folder, load_core())
    return [entry async for entry in history.entries()]


def differences(followed: Sequence[Entry], history: Sequence[Entry]) -> list[str]:
    """Entries that archive and log together have lost or changed, up to the last followed one."""
    end = parse_id(followed[-1][0])
    before = dict(followed)
    after = {entry_id: fields for entry_id, fields in history if parse_id(entry_id) <= end}
    changed = [
        entry_id for entry_id in before.keys() | after.keys()
        if before.get(entry_id) != after.get(entry_id)
    ]  # fmt: skip
    shown = [
        f"history: entry {entry_id} was {before.get(entry_id)}, is {after.get(entry_id)}"
        for entry_id in sorted(changed)[:DIFFERENCES_MAX]
    ]
    more = len(changed) - len(shown)
    return shown + [f"history: {more} more entries differ"] * (more > 0)
