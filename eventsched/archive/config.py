"""Settings of the archiver role: a folder, its key, and whether audio is archived.

Owns: opening the archive, and making an archiver for each cell.
Must not: archive.
Read next: archiver.py, roles/runner.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.signing import SigningKey
from eventsched.errors import require_packages
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.store.cell import Store

if TYPE_CHECKING:
    from eventsched.archive.archiver import Archiver


class ArchiveSettings(msgspec.Struct, frozen=True):
    """The folder for segments, the key that signs them, and whether audio is archived."""

    folder: ArchiveFolder
    key: SigningKey
    audio: bool

    @classmethod
    def into(cls, folder: Path, key: Path | None, *, audio: bool) -> ArchiveSettings:
        """Open the archive in this folder; create it and its key if the folder is empty.

        Raises ArchiveError for any other folder or key, MissingDependencyError.
        """
        require_packages("pyarrow", "cryptography")
        return cls(*ArchiveFolder.open_or_create(folder, key), audio)

    def archiver(self, store: Store, *, owner: str | None = None) -> Archiver:
        """An archiver for the cell of the store; `owner` identifies it as owner of the lease."""
        from eventsched.archive.archiver import Archiver

        core = load_core()
        projection_store = ProjectionStore(store.transport, store.cell)
        return Archiver(
            projection_store,
            self.folder.cell(store.cell),
            self.key,
            core,
            audio=self.audio,
            owner=owner,
        )
