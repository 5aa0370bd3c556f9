"""Checkpoints: signed heads that are stored in another place than the archive.

Owns: the form of a checkpoint (a line of JSON for each cell), reading it from a file or a folder,
and the folder into which the archiver writes the newest head of each cell.
Must not: verify segments.
Read next: manifest.py (the heads), verifier.py (compares them with the archive).

A checkpoint shows what the archive itself cannot: segments that were removed from its end, and a
history that was sealed again with the same key. So the archiver replaces a stored checkpoint only
by a head that follows it. Otherwise the stored one stays, as the evidence.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from eventsched.archive.files import read_named, read_small
from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.manifest import Record, TreeHead, decode, encode
from eventsched.archive.signing import fingerprint
from eventsched.errors import ArchiveError
from eventsched.private_files import PART, make_private_folder, private_file, sync_folder

CHECKPOINT_BYTES_MAX = 16 << 20
SUFFIX = ".json"


class StoredHead(msgspec.Struct, frozen=True):
    """A head of a checkpoint, and the file that has it."""

    head: TreeHead
    file: Path


def checkpoint_of(folder: ArchiveFolder) -> bytes:
    """The newest signed head of each cell, a line each, to be stored elsewhere."""
    lines = []
    for name in folder.cells():
        records = folder.cell(name).records()
        if records.head is not None:
            lines.append(encode(records.head) + b"\n")
    if not lines:
        raise ArchiveError(f"{folder.path} has no segment yet")
    return b"".join(lines)


def read_checkpoint(path: Path, public: bytes) -> list[StoredHead]:
    """The heads of a checkpoint: of a file, or of each `.json` file of a folder.

    Raises ArchiveError unless this key signed them all.
    """
    if not path.is_dir():
        return _read_file(path, public)
    heads = [
        head
        for file in sorted(path.iterdir())
        if file.suffix == SUFFIX
        for head in _read_file(file, public)
    ]
    if not heads:
        raise ArchiveError(f"the folder {path} has no checkpoint")
    return heads


def _read_file(path: Path, public: bytes) -> list[StoredHead]:
    return _decode(read_named(path, CHECKPOINT_BYTES_MAX, "checkpoint"), path, public)


def _decode(content: bytes, path: Path, public: bytes) -> list[StoredHead]:
    lines = content.splitlines(keepends=True)
    heads = [decode(line, TreeHead, f"checkpoint {path}") for line in lines]
    if not heads or len({head.cell for head in heads}) != len(heads):
        raise ArchiveError(f"checkpoint {path} has no heads, or two of one cell")
    for head in heads:
        if not head.is_signed_by(public):
            raise ArchiveError(f"checkpoint {path} is not signed by key {fingerprint(public)}")
    return [StoredHead(head, path) for head in heads]


class CheckpointFolder:
    """The folder that has the newest checkpoint of each cell, `<cell>.json`.

    Args:
        path: The folder; it is created for its owner only.
        public: The key of the archive.
    """

    def __init__(self, path: Path, public: bytes) -> None:
        self.path = path
        self._public = public

    def update(self, cell: str, records: Sequence[Record]) -> None:
        """Store the newest head of a cell.

        Raises:
            ArchiveError: The archive does not have the segments of the stored checkpoint, or the
                file cannot be read or written. The stored checkpoint is unchanged.
        """
        if not records:
            return
        file, head = self.path / f"{cell}{SUFFIX}", records[-1].head
        try:
            make_private_folder(self.path)
            if os.path.lexists(file):
                stored = _decode(read_small(file, CHECKPOINT_BYTES_MAX), file, self._public)[0].head
                _check_follows(file, cell, stored, records)
                if stored == head:
                    return
            self._write(file, encode(head) + b"\n")
        except OSError as error:
            raise ArchiveError(f"cannot write {file}: {error.strerror or error}") from error

    def _write(self, file: Path, content: bytes) -> None:
        part = file.with_name(f"{file.name}.{os.getpid()}{PART}")
        with private_file(part) as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
        sync_folder(self.path)


def _check_follows(file: Path, cell: str, stored: TreeHead, records: Sequence[Record]) -> None:
    """Raise ArchiveError unless the archive has the segments of the stored head."""
    count = stored.segments
    if stored.cell != cell:
        what = f"is of cell {stored.cell}"
    elif count > len(records):
        what = f"has {count} segments, the archive {len(records)}"
    elif records[count - 1].head != stored:
        what = f"differs from segment {count - 1}: history was sealed again or set aside"
    else:
        return
    raise ArchiveError(
        f"the checkpoint {file} {what}; find out why, then move the file away: the archiver then "
        "writes a new one"
    )
