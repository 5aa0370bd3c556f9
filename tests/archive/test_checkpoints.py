"""The archiver writes checkpoints into a second place, and keeps one that it cannot follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from eventsched.archive.archiver import Archiver
from eventsched.archive.checkpoints import CheckpointFolder, checkpoint_of, read_checkpoint
from eventsched.archive.config import ArchiveSettings
from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.signing import fingerprint
from eventsched.archive.verifier import Verifier
from eventsched.errors import ArchiveError
from tests.archive.archives import Archived, seal_all
from tests.archive.sealed import CELL, seal_entries, seal_more


def archiver_of(archived: Archived, place: Path) -> Archiver:
    checkpoints = CheckpointFolder(place, archived.folder.public)
    return archived.archiver(checkpoints=checkpoints)


async def seal(archived: Archived, place: Path) -> list[Any]:
    """Seal all of the log; return the errors that were logged."""
    archiver = archiver_of(archived, place)
    with capture_logs() as lines:
        await seal_all(archiver)
    await archiver.release()
    return [line for line in lines if line["log_level"] == "error"]


async def test_the_newest_head_of_the_cell_is_in_the_second_place(
    archived: Archived, tmp_path: Path
) -> None:
    place, cell = tmp_path / "elsewhere", archived.store.cell
    for _ in range(2):
        await archived.talk("s1", 2)
        assert await seal(archived, place) == []
        assert (place / f"{cell}.json").read_bytes() == checkpoint_of(archived.folder)
    assert [path.name for path in place.iterdir()] == [f"{cell}.json"]
    assert (place.stat().st_mode & 0o777, (place / f"{cell}.json").stat().st_mode & 0o777) == (
        0o700, 0o600,
    )  # fmt: skip
    report = Verifier(archived.path, checkpoint=place).run()
    assert (report.problems, report.checkpoints, report.key_from) == ([], 1, "checkpoint")


async def test_a_checkpoint_that_was_missing_is_written_by_the_next_archiver(
    archived: Archived, tmp_path: Path
) -> None:
    await archived.talk()
    await archived.seal()
    assert await seal(archived, tmp_path / "elsewhere") == []
    assert (tmp_path / "elsewhere" / f"{archived.store.cell}.json").exists()


async def test_archiving_continues_if_the_second_place_cannot_be_written(
    archived: Archived, tmp_path: Path
) -> None:
    place, cell = tmp_path / "elsewhere", archived.store.cell
    place.mkdir()
    (place / f"{cell}.json").write_bytes(b"{}\n")
    await archived.talk("s1", 2)
    first, *_ = await seal(archived, place)
    assert first["event"] == "checkpoint not written"
    assert "cannot be read" in first["error"]
    assert (place / f"{cell}.json").read_bytes() == b"{}\n"
    report = Verifier(archived.path).run()
    assert (report.problems, report.events) == ([], len(await archived.log()))


def checkpoints_of(path: Path, place: Path) -> tuple[CheckpointFolder, ArchiveFolder]:
    folder = ArchiveFolder.open(path)
    return CheckpointFolder(place, folder.public), folder


def update(path: Path, place: Path) -> None:
    checkpoints, folder = checkpoints_of(path, place)
    checkpoints.update(CELL, folder.cell(CELL).records())


def test_a_checkpoint_stays_if_the_archive_was_cut_or_sealed_again(tmp_path: Path) -> None:
    path, place = tmp_path / "archive", tmp_path / "elsewhere"
    seal_entries(path, [2, 3])
    update(path, place)
    stored = (place / f"{CELL}.json").read_bytes()
    for file in path.glob(f"{CELL}/*-000002_*"):
        file.unlink()
    with pytest.raises(ArchiveError, match="has 2 segments, the archive 1; find out why"):
        update(path, place)
    seal_more(path, [2, 3])  # another history, signed with the same key
    with pytest.raises(ArchiveError, match="differs from segment 1: history was sealed again"):
        update(path, place)
    seal_more(path, [5])
    with pytest.raises(ArchiveError, match="differs from segment 1"):
        update(path, place)
    assert (place / f"{CELL}.json").read_bytes() == stored
    assert not Verifier(path).run().problems
    assert Verifier(path, checkpoint=place).run().problems
    (place / f"{CELL}.json").rename(tmp_path / "evidence.json")
    update(path, place)
    assert not Verifier(path, checkpoint=place).run().problems


def test_another_file_in_the_second_place_is_not_replaced(tmp_path: Path) -> None:
    path, place = tmp_path / "archive", tmp_path / "elsewhere"
    seal_entries(path, [2])
    update(path, place)
    file, aside = place / f"{CELL}.json", tmp_path / "aside.json"
    checkpoints, folder = checkpoints_of(path, place)
    (place / "c1.json").write_bytes(file.read_bytes())
    with pytest.raises(ArchiveError, match="is of cell c0"):
        checkpoints.update("c1", folder.cell(CELL).records())
    file.rename(aside)
    file.symlink_to(aside)
    with pytest.raises(ArchiveError, match="is a link"):
        update(path, place)
    file.unlink()
    foreign = checkpoint_of(seal_entries(tmp_path / "other", [2]))
    file.write_bytes(foreign)
    with pytest.raises(ArchiveError, match="is not signed by key"):
        update(path, place)
    assert file.read_bytes() == foreign


def test_a_folder_of_checkpoints_is_read_whole(tmp_path: Path) -> None:
    path, place = tmp_path / "archive", tmp_path / "elsewhere"
    public = seal_entries(path, [2]).public
    place.mkdir()
    with pytest.raises(ArchiveError, match="has no checkpoint"):
        read_checkpoint(place, public)
    update(path, place)
    (place / "c1.json.7.part").write_bytes(b"half")
    (stored,) = read_checkpoint(place, public)
    assert (stored.file, stored.head.segments) == (place / f"{CELL}.json", 1)


def test_a_second_place_in_the_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    for place in (path, path / "checkpoints"):
        with pytest.raises(ArchiveError, match="is in the archive: choose a folder on another"):
            ArchiveSettings.into(path, None, audio=False, checkpoints=place)


def test_a_new_key_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with capture_logs() as lines:
        folder, _ = ArchiveFolder.open_or_create(path, None)
        ArchiveFolder.open_or_create(path, None)
    (line,) = [line for line in lines if "new key" in line["event"]]
    assert (line["file"], line["key"]) == (f"{path}.key", fingerprint(folder.public))
    assert line["log_level"] == "warning"
