"""Any change of an archive without its key is found: 2,000 random changes.

EXAMPLES=… asks for so many changes of each seed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eventsched.archive import verifier
from eventsched.archive.checkpoints import checkpoint_of
from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.verifier import Verifier
from eventsched.errors import ArchiveError
from tests.archive.archives import CORE, Archived, seal_all
from tests.archive.sealed import replace_file
from tests.archive.tampering import Files, Tamperer, files_of

SEEDS = 4
CHANGES = int(os.environ.get("EXAMPLES", "500"))

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait before files without a record are listed again: here no archiver writes."""
    monkeypatch.setattr(verifier, "RELIST_S", 0)


class Folder:
    """An archive on disk whose files are changed and restored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.original = self._files = files_of(path)

    def set(self, files: Files) -> None:
        """Make these the files of the folder."""
        for name in self._files.keys() - files.keys():
            (self.path / name).unlink()
        for name, content in files.items():
            if self._files.get(name) != content:
                (self.path / name).write_bytes(content)
        self._files = files

    def is_found(self, checkpoint: Path | None = None) -> bool:
        try:
            return next(Verifier(self.path, checkpoint=checkpoint).problems(), None) is not None
        except ArchiveError:
            return True


async def sealed(archived: Archived) -> Folder:
    """Three small segments with audio."""
    await archived.set(archive_entries_max=9)
    archiver = archived.archiver(audio=True)
    await archiver.step()
    await archived.talk("s1", 3)
    await archived.talk("s2", 3)
    await seal_all(archiver)
    await archiver.release()
    assert len(archived.folder.cell(archived.store.cell).records()) == 3
    return Folder(archived.path)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_every_change_is_found(archived: Archived, seed: int) -> None:
    folder = await sealed(archived)
    assert not folder.is_found(), "original"
    tamperer = Tamperer(folder.original, seed)
    changes: dict[str, int] = {}
    for _ in range(CHANGES):
        kind, files = tamperer.change()
        folder.set(files)
        assert folder.is_found(), kind
        folder.set(folder.original)
        changes[kind] = changes.get(kind, 0) + 1
    assert not folder.is_found(), "restored"
    assert len(changes) == len(tamperer.kinds)


async def test_a_checkpoint_finds_removed_segments_and_a_resealed_history(
    archived: Archived, tmp_path: Path
) -> None:
    folder = await sealed(archived)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_bytes(checkpoint_of(ArchiveFolder.open(archived.path)))
    assert not folder.is_found(checkpoint)
    tamperer = Tamperer(folder.original, 1)
    for _ in range(CHANGES // 10):
        folder.set(tamperer.truncated())
        assert not folder.is_found(), "not detectable without a checkpoint"
        assert folder.is_found(checkpoint)
        folder.set(tamperer.resealed())
        assert not folder.is_found(), "not detectable without a checkpoint"
        assert folder.is_found(checkpoint)
        folder.set(folder.original)


async def test_a_checkpoint_stays_good_while_the_archive_grows(
    archived: Archived, tmp_path: Path
) -> None:
    folder = await sealed(archived)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_bytes(checkpoint_of(ArchiveFolder.open(archived.path)))
    archived.store.tick(20_000)
    await archived.talk("s3", 4)
    await archived.seal(audio=True)
    assert not Folder(folder.path).is_found(checkpoint)


async def test_a_changed_checkpoint_is_refused(archived: Archived, tmp_path: Path) -> None:
    await sealed(archived)
    content = checkpoint_of(ArchiveFolder.open(archived.path))
    checkpoint = tmp_path / "checkpoint"
    for at in range(0, len(content), 7):
        changed = bytearray(content)
        changed[at] ^= 1
        checkpoint.write_bytes(bytes(changed))
        with pytest.raises(ArchiveError, match="checkpoint"):
            Verifier(archived.path, checkpoint=checkpoint)


async def test_every_snapshot_follows_from_the_entries(archived: Archived, tmp_path: Path) -> None:
    """A wrong snapshot by an archiver with the key is found by folding again."""
    folder = await sealed(archived)
    assert not Verifier(folder.path, projection_set=CORE).run().problems
    cell = archived.folder.cell(archived.store.cell)
    other = (cell.path / cell.records()[2].file("snapshot").name).read_bytes()
    replace_file(folder.path, "snapshot", other, archived.store.cell, n=1)
    problems = [str(each) for each in Verifier(folder.path, projection_set=CORE).run().problems]
    assert any("does not follow from the entries" in problem for problem in problems)
