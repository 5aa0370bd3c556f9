"""The archiver as a role: a folder, its key, and an archiver for each cell.

Owns: what somebody who runs the role has to say. Read next: archiver.py, ../running.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.signing import SigningKey
from eventsched.errors import require_packages
from eventsched.projection.protocol import indexing_set, load_sets
from eventsched.projection.store import ProjectionStore
from eventsched.store.cell import Store

if TYPE_CHECKING:
    from eventsched.archive.archiver import Archiver


class ArchiveSettings(msgspec.Struct, frozen=True):
    """Where segments go, who signs them, and whether utterances' audio goes with them."""

    folder: ArchiveFolder
    key: SigningKey
    audio: bool

    @classmethod
    def into(cls, folder: Path, key: Path | None, *, audio: bool) -> ArchiveSettings:
        """The archive in this folder; it and its key are made if it is empty.

        Raises ArchiveError for any other folder or key, and where a package is missing.
        """
        require_packages("pyarrow", "cryptography")
        return cls(*ArchiveFolder.open_or_make(folder, key), audio)

    def archiver(self, store: Store) -> Archiver:
        """One for the store's cell."""
        from eventsched.archive.archiver import Archiver

        core = indexing_set(load_sets())
        views = ProjectionStore(store.transport, store.cell)
        return Archiver(views, self.folder.cell(store.cell), self.key, core, audio=self.audio)
