"""Segments that were set aside, in an archive that somebody else has made.

They are verified like all segments: no link is followed, sizes are bounded, and each signed head
covers all segments up to its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from eventsched.archive.layout import (
    NOTE,
    SET_ASIDE,
    ArchiveFolder,
    CellFolder,
    SetAsideNote,
)
from eventsched.archive.manifest import RECORD_BYTES_MAX, Record, encode
from eventsched.archive.set_aside import is_in_log
from eventsched.archive.signing import SigningKey
from eventsched.archive.verifier import Verifier
from eventsched.errors import ArchiveError
from tests.archive.archives import Archived
from tests.archive.sealed import CELL, seal_entries, seal_more, set_aside
from tests.archive.test_foreign_archive import READERS, moved_behind_a_link
from tests.failures.programs import ask


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An archive of two segments, from which two were set aside."""
    path = seal_entries(tmp_path / "archive", [4, 2, 3]).path
    set_aside(path, 2)
    seal_more(path, range(20, 25))
    return path


def folder_of(path: Path) -> Path:
    """The folder of the segments that were set aside."""
    (folder,) = (path / CELL / SET_ASIDE).iterdir()
    return folder


def problems(path: Path) -> list[str]:
    found = [str(problem) for problem in Verifier(path).run().problems]
    assert found
    return found


def rewrite(path: Path, edit: Callable[[Record], Record]) -> None:
    """Change the record of the first segment that was set aside, and sign its head."""
    file = min(folder_of(path).glob("*.json"))
    record = edit(msgspec.json.decode(file.read_bytes(), type=Record))
    key = SigningKey.read(path.with_name(f"{path.name}.key"))
    file.write_bytes(encode(replace(record, head=record.head.signed(key))) + b"\n")


def test_an_archive_with_segments_that_were_set_aside_is_verified_and_read(path: Path) -> None:
    report = Verifier(path).run()
    assert (report.problems, report.segments, report.events) == ([], 2, 9)
    (note,) = report.set_aside
    assert (note.first_segment, note.segments, note.entries) == (1, 2, 5)
    assert [read(path) for read in READERS.values()][:3] == [9] * 3


def test_a_tail_of_a_tail_is_verified(path: Path) -> None:
    """The main sequence no longer has the segments that the first tail follows from."""
    seal_more(path, range(30, 33))
    set_aside(path, 3)
    seal_more(path, range(40, 42))
    set_aside(path, 1)
    report = Verifier(path).run()
    assert report.problems == []
    assert len(report.set_aside) == 3


def test_a_reader_that_is_open_continues_after_segments_were_set_aside(tmp_path: Path) -> None:
    path = seal_entries(tmp_path / "archive", [4, 2, 3]).path
    cell = ArchiveFolder.open(path).cell(CELL)
    assert len(cell.signed_records()) == 3
    set_aside(path, 2)
    assert len(cell.signed_records()) == 1
    seal_more(path, range(20, 25))
    assert [record.events for record in cell.signed_records()] == [4, 5]


# --- links, kinds of files, sizes --------------------------------------------------------------


@pytest.mark.parametrize("which", ["all", "folder", "note", "record", "events"])
def test_no_link_is_followed(path: Path, which: str) -> None:
    folder = folder_of(path)
    target = {
        "all": folder.parent,
        "folder": folder,
        "note": folder / NOTE,
        "record": min(folder.glob("*.json")),
        "events": min(folder.glob("*.events.parquet")),
    }[which]
    moved_behind_a_link(target)
    assert any("is a link" in problem for problem in problems(path))


def test_a_folder_that_links_to_the_cell_does_not_have_its_segments_removed(path: Path) -> None:
    """The move of segments is completed in every folder that has a note."""
    cell = ArchiveFolder.open(path).cell(CELL)
    shutil.copy(folder_of(path) / NOTE, cell.path / NOTE)
    (cell.path / SET_ASIDE / "x").symlink_to(cell.path)
    with pytest.raises(ArchiveError, match="is a link"):
        cell.set_aside_folders()


@pytest.mark.parametrize("name", [NOTE, "*_*.json", "*.events.parquet"])
def test_a_pipe_is_refused_and_waits_for_nobody(path: Path, name: str) -> None:
    target = min(folder_of(path).glob(name))
    target.unlink()
    os.mkfifo(target)
    assert "is not a regular file" in problems(path)[0]


@pytest.mark.parametrize("name", [NOTE, "*_*.json"])
def test_notes_and_records_are_read_with_a_bound(path: Path, name: str) -> None:
    target = min(folder_of(path).glob(name))
    target.write_bytes(target.read_bytes() + b" " * RECORD_BYTES_MAX)
    assert "has more than 65,536 bytes" in problems(path)[0]


def test_a_file_that_no_segment_names_is_found(path: Path) -> None:
    (folder_of(path) / "x").write_bytes(b"")
    assert problems(path) == [
        f"{CELL}/{SET_ASIDE}/{folder_of(path).name}/x: is named by no segment"
    ]


def test_a_file_of_another_content_is_found_and_not_read(path: Path) -> None:
    target = min(folder_of(path).glob("*.events.parquet"))
    content = bytearray(target.read_bytes())
    content[10] ^= 1
    target.write_bytes(bytes(content))
    name = f"{CELL}/{SET_ASIDE}/{folder_of(path).name}/{target.name}"
    assert problems(path) == [f"{name}: is not the file that was sealed"]


# --- notes and signed heads --------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"cell": "c1"},
        {"key": "0" * 16},
        {"first_segment": 2},
        {"segments": 1},
        {"entries": 6},
        {"first": "1-0"},
        {"last": "9-0"},
        {"head": "0" * 64},
    ],
)
def test_a_note_describes_its_segments(path: Path, changes: dict[str, Any]) -> None:
    file = folder_of(path) / NOTE
    note = msgspec.json.decode(file.read_bytes(), type=SetAsideNote)
    file.write_bytes(encode(replace(note, **changes)) + b"\n")
    assert problems(path)[0].endswith(f"{NOTE}: does not describe the segments there")


def test_a_folder_without_its_note_is_listed_and_verified(path: Path) -> None:
    """The reason is unknown. The segments follow from those before them, or a problem says so."""
    (folder_of(path) / NOTE).unlink()
    report = Verifier(path).run()
    assert report.problems == []
    (note,) = report.set_aside
    assert (note.first_segment, note.segments, note.entries) == (1, 2, 5)
    assert (note.why, note.by) == ("", "")
    done = ask("", "audit", "verify", str(path))
    assert done.returncode == 0
    assert "2 segments" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[0].endswith("unknown reason: their folder has no note.json")
    rewrite(path, lambda record: replace(record, head=replace(record.head, root="0" * 64)))
    assert problems(path)[0].endswith("segment 1: does not follow from the segments up to it")


def test_what_is_no_folder_of_segments_is_found(path: Path) -> None:
    (path / CELL / SET_ASIDE / "x").write_bytes(b"")
    assert problems(path) == [f"{CELL}/{SET_ASIDE}/x: is not part of the archive"]


def test_files_without_note_and_record_are_found(path: Path) -> None:
    for file in folder_of(path).glob("*.json"):
        file.unlink()
    found = problems(path)
    assert found
    assert all(problem.endswith("is named by no segment") for problem in found)


def test_a_copy_of_a_folder_under_another_name_is_found(path: Path) -> None:
    shutil.copytree(folder_of(path), folder_of(path).with_name("copy"))
    assert problems(path)[0].endswith(f"copy/{NOTE}: does not describe the segments there")


@pytest.mark.parametrize(
    "changes",
    [
        {"cell": "c1"},
        {"segments": 3},
        {"skipped": 1},
        {"events": 5},
        {"last": "9-0"},
        {"root": "0" * 64},
        {"records": "0" * 64},
    ],
)
def test_a_signed_head_covers_all_segments_up_to_its_own(
    path: Path, changes: dict[str, Any]
) -> None:
    rewrite(path, lambda record: replace(record, head=replace(record.head, **changes)))
    found = problems(path)
    assert found[0].endswith("segment 1: does not follow from the segments up to it")


@pytest.mark.parametrize("changes", [{"events": 3}, {"is_full": True}, {"utterances": 1}])
def test_a_head_covers_the_record_of_its_segment(path: Path, changes: dict[str, Any]) -> None:
    rewrite(path, lambda record: replace(record, **changes))
    assert any("does not follow from the segments" in problem for problem in problems(path))


def test_a_head_by_another_key_is_found(path: Path) -> None:
    file = min(folder_of(path).glob("*_*.json"))
    record = msgspec.json.decode(file.read_bytes(), type=Record)
    head = record.head.signed(SigningKey.generate())
    file.write_bytes(encode(replace(record, head=head)) + b"\n")
    (problem,) = problems(path)
    assert "segment 1: is not signed by key" in problem


@pytest.mark.parametrize("place", [0, 1])
def test_a_segment_that_was_removed_is_found(path: Path, place: int) -> None:
    """With a note that describes the rest."""
    folder = CellFolder(folder_of(path), CELL)
    records = folder.listed_records()
    removed, (rest,) = records[place], [records[1 - place]]
    for file in folder.path.glob(f"{removed.file('events').name.partition('.')[0]}*"):
        file.unlink()
    (folder.path / NOTE).unlink()
    old = ArchiveFolder.open(path)
    note = SetAsideNote.of([rest], key=Verifier(path).report.key, why="w", by="b")
    target = old.cell(CELL).path_of(note)
    folder.path.rename(target)
    (target / NOTE).write_bytes(encode(note) + b"\n")
    if place == 1:  # the last one: as in the main sequence, only a checkpoint shows it
        assert Verifier(path).run().problems == []
    else:
        (problem,) = problems(path)
        assert problem.endswith("segment 2: does not follow from the segments up to it")


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_the_log_is_compared_with_a_verified_file_only(archived: Archived) -> None:
    await archived.talk("s1", 5)
    await archived.seal()
    folder = CellFolder(archived.path / archived.store.cell)
    record = folder.records()[-1]
    assert await is_in_log(archived.views, folder, record)
    target = folder.path / record.file("events").name
    content = bytearray(target.read_bytes())
    content[10] ^= 1
    target.write_bytes(bytes(content))
    with pytest.raises(ArchiveError, match="is not the file that was sealed"):
        await is_in_log(archived.views, folder, record)
