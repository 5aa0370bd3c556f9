"""A cell with things to archive, and an archive for it.

Owns: speaking and answering, archivers over a folder, sealing and trimming until nothing is left.
Never does: assert.
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


def views_of(store: TimedStore, transport: Any = None) -> ProjectionStore:
    return ProjectionStore(transport or store.transport, store.cell, now_ms=lambda: store.at_ms)


class Archived:
    """A cell, its archive, and somebody who speaks."""

    def __init__(self, store: TimedStore, path: Path) -> None:
        self.store = store
        self.views = views_of(store)
        self.path = path
        self.folder, self.key = ArchiveFolder.open_or_create(path, None)
        self.node: NodeGrant | None = None
        self.sessions: dict[str, SessionGrant] = {}
        self.seqs: dict[str, int] = {}

    # --- what happens -----------------------------------------------------------------------

    async def talk(self, name: str = "s1", utterances: int = 1) -> None:
        """Utterances of a session, each with its result."""
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
        """Views and indexes are as far as the log."""
        one = Projector(self.views, CORE)
        while (await one.step()).state == "folded":
            pass
        await one.release()

    # --- the archive ------------------------------------------------------------------------

    def archiver(self, transport: Any = None, path: Path | None = None, **given: Any) -> Archiver:
        folder = (ArchiveFolder.open(path) if path else self.folder).cell(self.store.cell)
        views = views_of(self.store, transport)
        return Archiver(views, folder, given.pop("key", self.key), CORE, **given)

    async def seal(self, **given: Any) -> int:
        """All of the log is sealed; into how many segments."""
        one = self.archiver(**given)
        sealed = await seal_all(one)
        await one.release()
        return sealed

    async def trim(self) -> int:
        """All that may go has gone; how many entries."""
        count = 0
        for _ in range(STEPS_MAX):
            trimmed = await ArchiveCommands(self.views).trim()
            count += trimmed.count
            if not trimmed.is_more:
                return count
        raise AssertionError("trimming never ends")

    async def history(self, **given: Any) -> History:
        archive = given.pop("archive", self.folder)
        return await History.open(given.pop("store", self.views), archive, CORE, **given)

    async def log(self, after: str = "0-0") -> list[Entry]:
        """What the log still has."""
        return await self.views.read_log(after, 1_000_000)


async def seal_all(one: Archiver) -> int:
    sealed = 0
    for _ in range(STEPS_MAX):
        stepped = await one.step(now=True)
        sealed += stepped.state == "sealed"
        if stepped.state in ("idle", "standby"):
            return sealed
    raise AssertionError("sealing never ends")
