"""Archives made of entries alone: no server.

Owns: entries with given ids, archives with segments of given sizes, and the changes that the owner
of an archive's key can make: such an archive is signed, and may have anything in it.
Must not: assert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec

import projections
from eventsched.archive.layout import (
    NOTE,
    ArchiveFolder,
    CellFolder,
    SetAsideNote,
    file_stem,
)
from eventsched.archive.manifest import FileSum, Record, Segment, SegmentTree, encode
from eventsched.archive.packer import remove_packed_files
from eventsched.archive.sealer import Sealer
from eventsched.archive.signing import SigningKey, fingerprint
from eventsched.schema.events import FIELDS
from eventsched.store.transport import Entry

CELL = "c0"
START_MS = 1_700_000_000_000


def entry_at(number: int, *, data: bytes = b'{"tenant":"t"}', session: str = "s1") -> Entry:
    """The entry with this number in the log, from 0: an event of a session."""
    values = [b"SessionOpened", b"1", f"c0.{session}".encode(), b"", b"", b"", b"", data, b""]
    fields = [
        part for name, value in zip(FIELDS, values, strict=True) for part in (name.encode(), value)
    ]
    return f"{START_MS}-{number}", fields


def seal_entries(path: Path, sizes: Sequence[int], cell: str = CELL) -> ArchiveFolder:
    """An archive whose segments have so many entries."""
    folder, key = ArchiveFolder.open_or_create(path, None)
    cell_folder = folder.cell(cell)
    cell_folder.path.mkdir(mode=0o700)
    sealer = Sealer(cell_folder, key, projections.core)
    number = 0
    for size in sizes:
        sealer.add([entry_at(number + each) for each in range(size)])
        sealer.seal()
        number += size
    return folder


def seal_sessions(path: Path, segments: Sequence[Sequence[str]]) -> ArchiveFolder:
    """An archive whose segments have an entry of each of these sessions. Nothing is packed."""
    folder, key = ArchiveFolder.open_or_create(path, None)
    cell_folder = folder.cell(CELL)
    cell_folder.path.mkdir(mode=0o700)
    sealer = Sealer(cell_folder, key, projections.core)
    number = 0
    for sessions in segments:
        sealer.add([entry_at(number + at, session=each) for at, each in enumerate(sessions)])
        sealer.seal()
        number += len(sessions)
    return folder


def sealer_of(path: Path) -> Sealer:
    """The sealer of an archive's cell, as an archiver opens it."""
    folder, key = ArchiveFolder.open_or_create(path, None)
    return Sealer(folder.cell(CELL), key, projections.core)


def pack_all(path: Path) -> int:
    """Pack as an archiver does, and remove the packed files as the next one does. Return packs."""
    sealer, count = sealer_of(path), 0
    while sealer.pack():
        count += 1
    remove_packed_files(sealer.folder)
    return count


def set_aside(path: Path, segments: int, cell: str = CELL) -> Path:
    """Set the last segments of an archive aside, and return their folder."""
    folder = ArchiveFolder.open(path).cell(cell)
    tail = folder.records()[-segments:]
    key = fingerprint(ArchiveFolder.open(path).public)
    note = SetAsideNote.of(tail, key=key, why="the log has lost them", by="ann@host")
    target = folder.path_of(note)
    target.mkdir(parents=True, mode=0o700)
    for record in tail:
        names = [file.name for file in record.files]
        for name in [*names, f"{file_stem(record.first, record.last)}.json"]:
            (folder.path / name).rename(target / name)
    (target / NOTE).write_bytes(encode(note) + b"\n")
    return target


def seal_more(path: Path, numbers: Sequence[int], cell: str = CELL) -> None:
    """Seal a further segment, of the entries with these numbers."""
    folder, key = ArchiveFolder.open_or_create(path, None)
    sealer = Sealer(folder.cell(cell), key, projections.core)
    sealer.add([entry_at(number) for number in numbers])
    sealer.seal()


def sign_again(path: Path, edit: Callable[[Segment], Segment], cell: str = CELL) -> None:
    """Change the segments as the owner of the key can: all records follow and are signed."""
    key = SigningKey.read(path.with_name(f"{path.name}.key"))
    folder, tree = CellFolder(path / cell), SegmentTree()
    for record, name in zip(folder.records(), folder.record_names(), strict=True):
        segment = edit(record.segment)
        tree.add(segment)
        head = tree.head_after(segment, skipped=0).signed(key)
        (path / cell / name).write_bytes(encode(Record.of(segment, head)) + b"\n")


def replace_file(path: Path, kind: str, content: bytes, cell: str = CELL, n: int = 0) -> None:
    """Replace a file of segment `n`, and sign its sum."""

    def edit(segment: Segment) -> Segment:
        if segment.n != n:
            return segment
        name = segment.file(kind).name
        (path / cell / name).write_bytes(content)
        sums = [file for file in segment.files if file.name != name]
        sums.append(FileSum(name=name, bytes=len(content), sha256=sha256(content).hexdigest()))
        return msgspec.structs.replace(segment, files=sums)

    sign_again(path, edit, cell)
