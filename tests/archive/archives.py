"""A cell with events to archive, and an archive for it.

Owns: sessions with results, archivers over a folder, sealing and trimming to the end.
Must not: assert.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import projections
from eventsched.archive.archiver import Archiver
from eventsched.archive.commands import ArchiveCommands
from eventsched.archive.layout import ArchiveFolder
from eventsched.history.log import History
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.store.node_commands import NodeGrant
from eventsched.store.session_commands import SessionGrant
from eventsched.store.transport import Entry
from tests.fixtures_store import TimedStore

CORE = projections.core
STEPS_MAX = 10_000


LOST = {"why": "the disk is lost", "by": "ann@host"}
"""Who abandons an archive, and why."""


def views_of(store: TimedStore, transport: Any = None) -> ProjectionStore:
    return ProjectionStore(transport or store.transport, store.cell, now_ms=lambda: store.at_ms)


class Archived:
    """A cell with sessions, and its archive."""

    def __init__(self, store: TimedStore, path: Path) -> None:
        self.store = store
        self.views = views_of(store)
        self.path = path
        self.folder, self.key = ArchiveFolder.open_or_create(path, None)
        self.node: NodeGrant | None = None
        self.sessions: dict[str, SessionGrant] = {}
        self.seqs: dict[str, int] = {}

    # --- events ---------------------------------------------------------------------------

    async def talk(self, name: str = "s1", utterances: int = 1) -> None:
        """Add utterances of a session, each with its result."""
        self.node = self.node or await self.store.join(slots=8)
        if name not in self.sessions:
            self.sessions[name], self.seqs[name] = await self.store.open(name), 0
        for _ in range(utterances):
            await self.store.say(self.sessions[name], self.seqs[name])
            await self.store.say(self.sessions[name], self.seqs[name] + 1, end_of_utterance=True)
            self.seqs[name] += 2
            self.store.tick(10)
            await self.store.dispatch()
            message = (await self.store.inbox(self.node))[-1]
            await self.store.answer(self.node, message)
            self.store.tick(10)

    async def close(self, name: str) -> None:
        grant = self.sessions.pop(name)
        await self.store.close_session(grant.session, grant.epoch)

    async def set(self, **settings: int) -> None:
        await self.store.configure_cell(settings, overwrite=True)

    async def project(self) -> None:
        """Project all events of the log."""
        projector = Projector(self.views, CORE)
        while (await projector.step()).state == "folded":
            pass
        await projector.release()

    # --- the archive ------------------------------------------------------------------------

    def archiver(self, transport: Any = None, path: Path | None = None, **options: Any) -> Archiver:
        folder = (ArchiveFolder.open(path) if path else self.folder).cell(self.store.cell)
        views = views_of(self.store, transport)
        return Archiver(views, folder, options.pop("key", self.key), CORE, **options)

    async def seal(self, **options: Any) -> int:
        """Seal all of the log; return the number of new segments."""
        archiver = self.archiver(**options)
        sealed = await seal_all(archiver)
        await archiver.release()
        return sealed

    async def trim(self) -> int:
        """Trim all that may be trimmed; return the number of entries."""
        count = 0
        for _ in range(STEPS_MAX):
            trimmed = await ArchiveCommands(self.views).trim()
            count += trimmed.count
            if not trimmed.is_more:
                await ArchiveCommands(self.views).trim_node_indexes()
                return count
        raise AssertionError(f"trimming does not end within {STEPS_MAX} calls")

    async def history(self, **options: Any) -> History:
        archive = options.pop("archive", self.folder)
        return await History.open(options.pop("store", self.views), archive, CORE, **options)

    async def log(self, after: str = "0-0") -> list[Entry]:
        """The entries that the log still has."""
        return await self.views.read_log(after, 1_000_000)


async def seal_all(archiver: Archiver) -> int:
    sealed = 0
    for _ in range(STEPS_MAX):
        result = await archiver.step(now=True)
        sealed += result.state == "sealed"
        if result.state in ("idle", "standby"):
            return sealed
    raise AssertionError("sealing never ends")
