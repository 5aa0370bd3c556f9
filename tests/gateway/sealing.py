"""An archive that a gateway reads, and sealing the log of a running system into it.

archive = Sealing(tmp_path / "archive")
async with gateway_system(server.url, cell) as system:
    await archive.seal(system)
"""

from __future__ import annotations

from pathlib import Path

from eventsched.archive.archiver import Archiver
from eventsched.archive.layout import ArchiveFolder
from eventsched.projection.store import ProjectionStore
from tests.archive.archives import CORE, seal_all
from tests.gateway.gateways import GatewaySystem


class Sealing:
    """An archive in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder, self._key = ArchiveFolder.open_or_create(path, None)

    async def seal(self, system: GatewaySystem) -> None:
        """Seal the log of the first cell, with audio; the gateway then reads the archive."""
        (store, *_) = system.es.stores.values()
        archiver = Archiver(
            ProjectionStore(store.transport, store.cell),
            self.folder.cell(store.cell), self._key, CORE, audio=True,
        )  # fmt: skip
        await seal_all(archiver)
        await archiver.release()
        system.gateway.archive = ArchiveFolder.open(self.path)
