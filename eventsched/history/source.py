"""Opens the history of each cell, from its server, from an archive, or from both.

Owns: the list of cells, the cell in which an entity's events are, the newest known entry.
Must not: fold events.
Read next: log.py (the history of a cell), reader.py, audit/service.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from eventsched.archive.layout import ArchiveFolder
from eventsched.errors import InvalidMessage, NotFound
from eventsched.history.log import History
from eventsched.history.position import LogPosition
from eventsched.projection.installed import load_sets
from eventsched.projection.protocol import ProjectionSet, indexing_set
from eventsched.projection.store import ProjectionStore
from eventsched.schema import keys
from eventsched.schema.ids import START, parse_id
from eventsched.store.cell import Store
from eventsched.store.transport import Transport


class Server(Protocol):
    """A server that a connection or a client is connected to."""

    @property
    def cells(self) -> list[str]:
        """Names of the cells."""

    @property
    def stores(self) -> Mapping[str, Store]:
        """The store of each cell."""


class HistorySource:
    """The events of every cell. Without a connection it ends with the archive."""

    def __init__(
        self,
        connection: Server | None,
        archive: ArchiveFolder | None = None,
        sets: Sequence[ProjectionSet] | None = None,
    ) -> None:
        assert connection or archive
        self.connection = connection
        self.archive = archive
        self.sets = load_sets() if sets is None else sets
        self.indexing_set = indexing_set(self.sets)
        self._histories: dict[str, History] = {}

    @property
    def cells(self) -> list[str]:
        if self.connection is not None:
            return self.connection.cells
        assert self.archive is not None
        return sorted(self.archive.cells(), key=lambda name: (len(name), name))

    def projection_store(self, cell: str) -> ProjectionStore | None:
        """The cell's part on the server; None if there is only an archive."""
        if self.connection is None:
            return None
        store = self.connection.stores[cell]
        return ProjectionStore(store.transport, store.cell)

    def complete(self, name: str) -> str:
        """`<cell>.<name>`. Raises InvalidMessage if the cell is unknown, or the name is empty."""
        full = keys.complete(name, self.cells)
        if keys.cell_of(full) not in self.cells:
            raise InvalidMessage.of(
                "id", f"{full!r} names no cell of {', '.join(self.cells)}", "check the id"
            )
        if not keys.name_of(full):  # an empty name would select the events of the whole cell
            raise InvalidMessage.of("id", f"{full!r} has no name after its cell", "check the id")
        return full

    async def history_for(self, full_id: str) -> History:
        """The history of the cell of `<cell>.<name>`."""
        return await self.history_of(keys.cell_of(full_id))

    async def history_of(self, cell: str) -> History:
        """The history of a cell."""
        if cell not in self._histories:
            self._histories[cell] = await History.open(
                self.projection_store(cell), self.archive, self.indexing_set, cell=cell
            )
        return self._histories[cell]

    async def last_id(self, cell: str) -> str:
        """Id of the newest known entry."""
        store = self.projection_store(cell)
        if store is not None:
            return await store.last_id(store.keys.log)
        assert self.archive is not None
        head = self.archive.cell(cell).signed_records().head
        return head.last if head is not None else START

    async def check_not_ahead(self, cell: str, at: LogPosition, field: str) -> None:
        """Raises InvalidMessage if the position is in the future, or after the archive's end."""
        last = await self.last_id(cell)
        if parse_id(at.first) <= parse_id(last):
            return
        if self.connection is None:
            raise InvalidMessage.of(
                field, f"{at.text} is behind the archive's end, {last}", "or read the server, too"
            )
        if at.ms > await _server_ms(self.connection.stores[cell].transport, cell):
            raise InvalidMessage.of(
                field, f"{at.text} is in the future", f"the newest entry of {cell} is {last}"
            )


_NUMBER = re.compile(r"[0-9]{1,16}")


def session_of_job(key: str) -> str:
    """The session of a job's key. Raises NotFound if the text is not a key."""
    parts = key.split(":")
    if len(parts) != 6 or not all(parts) or not _NUMBER.fullmatch(parts[2]):
        raise NotFound(f"no job {key}")
    return parts[1]


async def _server_ms(transport: Transport, cell: str) -> int:
    seconds, micros = await transport.command("TIME", key=keys.Keys(cell).log)
    return int(seconds) * 1_000 + int(micros) // 1_000
