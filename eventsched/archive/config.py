"""Settings of the archiver role: a folder, its key, and whether audio is archived.

Owns: opening the archive, and making an archiver for each cell.
Must not: archive.
Read next: archiver.py, roles/runner.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from eventsched.archive.checkpoints import CheckpointFolder
from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.signing import SigningKey
from eventsched.errors import ArchiveError, require_packages
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.store.cell import Store

if TYPE_CHECKING:
    from eventsched.archive.archiver import Archiver


class ArchiveSettings(msgspec.Struct, frozen=True):
    """The folder for segments, the key that signs them, and what else is stored."""

    folder: ArchiveFolder
    key: SigningKey
    audio: bool
    checkpoints: CheckpointFolder | None = None
    """The second place, which has the newest checkpoint of each cell."""

    @classmethod
    def into(
        cls, folder: Path, key: Path | None, *, audio: bool, checkpoints: Path | None = None
    ) -> ArchiveSettings:
        """Open the archive in this folder; create it and its key if the folder is empty.

        Raises ArchiveError for any other folder or key, MissingDependencyError.
        """
        require_packages("pyarrow", "cryptography")
        archive, signing_key = ArchiveFolder.open_or_create(folder, key)
        if checkpoints is None:
            return cls(archive, signing_key, audio)
        if archive.path.resolve() in (checkpoints.resolve(), *checkpoints.resolve().parents):
            raise ArchiveError(
                f"{checkpoints} is in the archive: choose a folder on another disk or machine"
            )
        second = CheckpointFolder(checkpoints, archive.public)
        return cls(archive, signing_key, audio, second)

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
            checkpoints=self.checkpoints,
        )
