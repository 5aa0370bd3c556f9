"""Whatever somebody without the key does to an archive is found: 10,000 changes at random."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from eventsched.archive import verifier
from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.verifier import Verifier, checkpoint_of
from eventsched.errors import ArchiveError
from tests.archive.archives import CORE, Archived, seal_all
from tests.archive.tampering import Files, Tamperer, files_of

CHANGES = 1_000

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that no record names are looked at again a moment later: here nobody writes."""
    monkeypatch.setattr(verifier, "RELIST_S", 0)


class Folder:
    """The archive on disk, whose files are changed and put back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.untouched = self._there = files_of(path)

    def holds(self, files: Files) -> None:
        """From now on the folder has exactly these."""
        for name in self._there.keys() - files.keys():
            (self.path / name).unlink()
        for name, content in files.items():
            if self._there.get(name) != content:
                (self.path / name).write_bytes(content)
        self._there = files

    def is_found(self, checkpoint: Path | None = None) -> bool:
        try:
            return next(Verifier(self.path, checkpoint=checkpoint).problems(), None) is not None
        except ArchiveError:
            return True


async def sealed(archived: Archived) -> Folder:
    """Three small segments with audio."""
    await archived.set(archive_entries_max=9)
    one = archived.archiver(audio=True)
    await one.step()
    await archived.talk("s1", 3)
    await archived.talk("s2", 3)
    await seal_all(one)
    await one.release()
    assert len(archived.folder.cell(archived.store.cell).records()) == 3
    return Folder(archived.path)


@pytest.mark.parametrize("seed", range(10))
async def test_every_change_is_found(archived: Archived, seed: int) -> None:
    folder = await sealed(archived)
    assert not folder.is_found(), "untouched"
    tamperer = Tamperer(folder.untouched, seed)
    done: dict[str, int] = {}
    for _ in range(CHANGES):
        kind, files = tamperer.change()
        folder.holds(files)
        assert folder.is_found(), kind
        folder.holds(folder.untouched)
        done[kind] = done.get(kind, 0) + 1
    assert not folder.is_found(), "put back"
    assert len(done) == len(tamperer.kinds)


async def test_what_is_cut_off_or_sealed_anew_is_found_by_a_checkpoint(
    archived: Archived, tmp_path: Path
) -> None:
    folder = await sealed(archived)
    kept = tmp_path / "kept"
    kept.write_bytes(checkpoint_of(ArchiveFolder.open(archived.path)))
    assert not folder.is_found(kept)
    tamperer = Tamperer(folder.untouched, 1)
    for _ in range(200):
        folder.holds(tamperer.truncated())
        assert not folder.is_found(), "nobody can see that without a checkpoint"
        assert folder.is_found(kept)
        folder.holds(tamperer.resealed())
        assert not folder.is_found(), "nor that"
        assert folder.is_found(kept)
        folder.holds(folder.untouched)


async def test_a_checkpoint_stays_good_while_the_archive_grows(
    archived: Archived, tmp_path: Path
) -> None:
    folder = await sealed(archived)
    kept = tmp_path / "kept"
    kept.write_bytes(checkpoint_of(ArchiveFolder.open(archived.path)))
    archived.store.tick(20_000)
    await archived.talk("s3", 4)
    await archived.seal(audio=True)
    assert not Folder(folder.path).is_found(kept)


async def test_a_changed_checkpoint_is_refused(archived: Archived, tmp_path: Path) -> None:
    await sealed(archived)
    content = checkpoint_of(ArchiveFolder.open(archived.path))
    kept = tmp_path / "kept"
    for at in range(0, len(content), 7):
        changed = bytearray(content)
        changed[at] ^= 1
        kept.write_bytes(bytes(changed))
        with pytest.raises(ArchiveError, match="checkpoint"):
            Verifier(archived.path, checkpoint=kept)


async def test_every_snapshot_follows_from_the_entries(archived: Archived, tmp_path: Path) -> None:
    """An archiver that folds wrongly, with the key, is found by folding anew."""
    folder = await sealed(archived)
    assert not Verifier(folder.path, projection_set=CORE).run().problems
    wrong = archived.folder.cell(archived.store.cell).records()[1]
    name = wrong.file("snapshot").name
    shutil.copy(
        folder.path / archived.store.cell / archived.folder.cell(archived.store.cell).records()[2]
        .file("snapshot").name,
        folder.path / archived.store.cell / name,
    )  # fmt: skip
    told = [str(one) for one in Verifier(folder.path, projection_set=CORE).run().problems]
    assert any("does not follow from the entries" in one for one in told)
