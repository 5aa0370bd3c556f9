"""The folder of an archive: names of files, listing, writing.

Owns: names; atomic writes; permissions, which give only the owner access, whatever the umask; the
checks of records that another user may have made: names, sizes, order, and the signature.
Must not: read Parquet.
Read next: manifest.py (the records), sealed_file.py (reads files), sealer.py (writes them).

    DIR/archive.pub                       the public key; marks the folder as an archive
    DIR/<cell>/<first>_<last>.json        record of a segment, written last
    DIR/<cell>/<first>_<last>.events.parquet     a row per entry
    DIR/<cell>/<first>_<last>.sessions.parquet   session -> its rows
    DIR/<cell>/<first>_<last>.snapshot.parquet   read models at the last entry
    DIR/<cell>/<first>_<last>.audio.parquet      with --audio: the chunks of each utterance
    DIR/<cell>/set-aside/<first>_<last>/         segments that the log has lost (set_aside.py)
    DIR.key                               the private key: beside the folder, not in it

`*.part` is an incomplete file; `lock` is empty. Names follow from the range of ids alone, so an
archiver that repeats the unfinished work of another writes the same files.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from eventsched.archive.files import read_small
from eventsched.archive.manifest import Record, SegmentTree, decode, encode
from eventsched.archive.signing import (
    PUBLIC_FILE_BYTES_MAX,
    SigningKey,
    decode_public,
    fingerprint,
    public_line,
)
from eventsched.errors import ArchiveError
from eventsched.private_files import make_private_folder, private_file
from eventsched.schema.ids import check_id, padded_id
from eventsched.schema.keys import CELL

PUBLIC = "archive.pub"
PART = ".part"
LOCK = "lock"
"""An empty file in a cell's folder; its writer locks it."""
SET_ASIDE = "set-aside"
NOTE = "note.json"
"""In each folder of segments that are set aside; written last."""
KINDS = ("events", "sessions", "snapshot", "audio")
RECORD_BYTES_MAX = 64 * 1_024
_STEM = r"\d{15}-\d{6,19}_\d{15}-\d{6,19}"
RECORD = re.compile(rf"{_STEM}\.json")
SEGMENT = re.compile(rf"({_STEM})\.({'|'.join(KINDS)})\.parquet")


def file_stem(first: str, last: str) -> str:
    return f"{padded_id(first)}_{padded_id(last)}"


def file_name(stem: str, kind: str) -> str:
    return f"{stem}.{kind}.parquet"


class SetAsideNote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Segments that were set aside, because the log had lost them."""

    cell: str
    key: str
    """Fingerprint of the archive's public key."""
    first_segment: int
    segments: int
    entries: int
    first: str
    """Id of their first entry."""
    last: str
    head: str
    """Root of the tree over all segments up to the last of these."""
    why: str
    """Empty if the folder has no note, likewise `by`."""
    by: str

    @classmethod
    def of(cls, tail: Sequence[Record], *, key: str, why: str, by: str) -> SetAsideNote:
        """Return the note for the last segments of an archive."""
        first, last = tail[0], tail[-1]
        return cls(
            cell=first.cell,
            key=key,
            first_segment=first.n,
            segments=len(tail),
            entries=sum(record.events for record in tail),
            first=first.first,
            last=last.last,
            head=last.head.root,
            why=why,
            by=by,
        )


class CellFolder:
    """The segments of a cell. A record is read once, unless its file is replaced.

    Args:
        path: The folder.
        cell: The cell; by default the name of the folder.
        public: The key of the archive; `signed_records` needs it.
    """

    def __init__(self, path: Path, cell: str = "", public: bytes = b"") -> None:
        self.path = path
        self.cell = cell or path.name
        self.checked_files: dict[str, tuple[int, ...]] = {}
        """Name of a file -> its state when it was checked (sealed_file.py)."""
        self._public = public
        self._read: dict[tuple[str, int], Record] = {}
        self._signed: list[Record] = []
        self._tree = SegmentTree()
        self._lock = threading.Lock()

    def signed_records(self) -> list[Record]:
        """All segments, in order, up to the last head, which the archive's key has signed.

        The last head covers every record. Whether the key is the right one is for the caller to
        know. Raises ArchiveError if a record is not covered by the last head, or that not signed.
        """
        with self._lock:
            records = self.records()
            if records[: len(self._signed)] != self._signed:  # some were set aside meanwhile
                self._tree, self._signed = SegmentTree(), []
            try:
                for record in records[len(self._signed) :]:
                    self._check_signed(record, records[0].head.skipped, records[-1])
            except ArchiveError:
                self._tree, self._signed = SegmentTree(), []
                raise
            self._signed = records
            return list(records)

    def _check_signed(self, record: Record, skipped: int, last: Record) -> None:
        if not self._tree.follows(record, skipped=skipped):
            raise ArchiveError(
                f"{self.path}: segment {record.n} does not follow from the segments up to it"
            )
        if record is last and not record.head.is_signed_by(self._public):
            key = fingerprint(self._public)
            raise ArchiveError(f"{self.path}: segment {record.n} is not signed by key {key}")

    def records(self) -> list[Record]:
        """All segments, in order. Raises ArchiveError if they are not one sequence."""
        records = self.listed_records()
        check_sequence(self.path, records)
        return records

    def listed_records(self) -> list[Record]:
        """The segments that are in the folder, in order. Raises ArchiveError for other records."""
        found: dict[tuple[str, int], Record] = {}
        for name in self.record_names():
            file = (name, os.lstat(self.path / name).st_ino)
            found[file] = self._read.get(file) or self.read(name)
        self._read = found
        return sorted(found.values(), key=lambda record: record.n)

    def record_names(self) -> list[str]:
        return [name for name in self.names() if RECORD.fullmatch(name)]

    def names(self) -> list[str]:
        """The files in the folder, without the lock and incomplete files.

        Raises ArchiveError if the folder is a link, which may lead out of the archive.
        """
        if self.path.is_symlink():
            raise ArchiveError(f"{self.path} is a link")
        if not self.path.is_dir():
            return []
        names = os.listdir(self.path)
        others = (LOCK, NOTE, SET_ASIDE)
        return sorted(name for name in names if name not in others and not name.endswith(PART))

    def path_of(self, note: SetAsideNote) -> Path:
        """The folder for these segments that are set aside."""
        return self.path / SET_ASIDE / file_stem(note.first, note.last)

    def set_aside_folders(self) -> list[Path]:
        """The folders of segments that are set aside.

        One without a note (`has_note`) is left by a move that was interrupted, or its note is lost.
        Raises ArchiveError if a folder is a link, which may lead out of the archive.
        """
        path = self.path / SET_ASIDE
        names = sorted(os.listdir(path)) if path.is_dir() else []
        folders = [path / name for name in names]
        for folder in [path, *folders]:
            if folder.is_symlink():
                raise ArchiveError(f"{folder} is a link")
        return folders

    @staticmethod
    def has_note(path: Path) -> bool:
        """Whether a folder of segments that are set aside has its note, which is written last."""
        return os.path.lexists(path / NOTE)

    def set_aside_note(self, path: Path) -> SetAsideNote:
        """The note in a folder of segments that are set aside. Raises ArchiveError."""
        note = path / NOTE
        return decode(read_small(note, RECORD_BYTES_MAX), SetAsideNote, str(note))

    def read(self, name: str) -> Record:
        """The record with this name. Raises ArchiveError if it names files of another segment."""
        path = self.path / name
        record = decode(read_small(path, RECORD_BYTES_MAX), Record, str(path))
        stem = file_stem(record.first, record.last)
        if f"{stem}.json" != name or record.cell != self.cell:
            raise ArchiveError(f"{path} is the record of another segment")
        names = [file.name for file in record.files]
        if len(set(names)) < len(names) or not set(names) <= {file_name(stem, k) for k in KINDS}:
            raise ArchiveError(f"{path} names files that are not of its segment")
        return record

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically and to disk; replace an existing one."""
        part = self.path / f"{name}.{os.getpid()}{PART}"
        with private_file(part) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path / name)

    def write_record(self, record: Record) -> None:
        """Add a segment. Its files are on disk before its record."""
        sync_folder(self.path)
        self.write(f"{file_stem(record.first, record.last)}.json", encode(record) + b"\n")
        sync_folder(self.path)

    def remove_unfinished(self) -> list[str]:
        """Remove files of segments without a record, left by an archiver that was interrupted.

        The caller must have the lock.
        """
        named = {file.name for record in self.records() for file in record.files}
        unfinished = [
            name
            for name in sorted(os.listdir(self.path))
            if name not in named and (SEGMENT.fullmatch(name) or _is_part(name))
        ]
        for name in unfinished:
            (self.path / name).unlink(missing_ok=True)
        return unfinished


def _is_part(name: str) -> bool:
    target = name.removesuffix(PART).rpartition(".")[0]
    return name.endswith(PART) and bool(RECORD.fullmatch(target) or SEGMENT.fullmatch(target))


def check_sequence(path: Path, records: list[Record]) -> None:
    """Raises ArchiveError unless these are segments 0, 1, 2, … with increasing ranges."""
    last = (-1, 0)
    for n, record in enumerate(records):
        if record.n != n:
            raise ArchiveError(f"{path}: segment {n} is missing")
        first = check_id(record.first)
        if not last < first <= check_id(record.last):
            raise ArchiveError(f"{path}: segment {n} does not follow the one before it")
        last = check_id(record.last)


class ArchiveFolder:
    """An archive: a folder per cell, and one key."""

    def __init__(self, path: Path, public: bytes) -> None:
        self.path = path
        self.public = public
        self._cells: dict[str, CellFolder] = {}

    @classmethod
    def open(cls, path: Path) -> ArchiveFolder:
        """Open an existing archive. Raises ArchiveError for any other folder."""
        if not path.is_dir():
            raise ArchiveError(f"there is no folder {path}")
        public = path / PUBLIC
        if not os.path.lexists(public):
            raise ArchiveError(f"{path} is no archive: it has no {PUBLIC}")
        return cls(path, decode_public(read_small(public, PUBLIC_FILE_BYTES_MAX), public))

    @classmethod
    def open_or_create(cls, path: Path, key_path: Path | None) -> tuple[ArchiveFolder, SigningKey]:
        """Open an archive and its key; create both in an empty folder. Raises ArchiveError.

        Processes that create the same archive at the same time get the same key.
        """
        key_path = key_path or path.with_name(f"{path.resolve().name}.key")
        if (path / PUBLIC).is_file():
            _check_owner(path)
            return _with_key(cls.open(path), key_path)
        if path.exists() and not _may_become_archive(path):
            raise ArchiveError(f"{path} is no archive and not empty: choose another folder")
        _check_owner(path)
        key = SigningKey.read_or_create(key_path)
        make_private_folder(path)
        _create(path / PUBLIC, public_line(key.public))
        return _with_key(cls.open(path), key_path)

    def cells(self) -> list[str]:
        return sorted(
            name
            for name in os.listdir(self.path)
            if CELL.fullmatch(name) and (self.path / name).is_dir()
        )

    def cell(self, name: str) -> CellFolder:
        """The folder of a cell; it may not exist yet."""
        return self._cells.setdefault(name, CellFolder(self.path / name, public=self.public))


def _check_owner(path: Path) -> None:
    """Raise ArchiveError if another user owns the folder or may write to it."""
    if not path.exists():
        return
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise ArchiveError(
            f"{path} belongs to user {status.st_uid}, not to the current user {os.geteuid()}: "
            "choose a folder of your own, or run as its owner"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ArchiveError(
            f"others may write to {path} (mode {stat.S_IMODE(status.st_mode):o}): check that its "
            f"files are yours, then chmod go-w {shlex.quote(str(path))}"
        )


def _may_become_archive(path: Path) -> bool:
    """Whether the folder is empty, or has only what another process is creating now."""
    return path.is_dir() and all(name == PUBLIC or name.endswith(PART) for name in os.listdir(path))


def _with_key(folder: ArchiveFolder, key_path: Path) -> tuple[ArchiveFolder, SigningKey]:
    key = SigningKey.read(key_path)
    if key.public != folder.public:
        raise ArchiveError(f"{key_path} is not the key of {folder.path}")
    return folder, key


def _create(path: Path, content: bytes) -> None:
    """Create a file unless it exists; of two concurrent writers the first wins."""
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    with private_file(part) as file:
        file.write(content)
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    finally:
        part.unlink()
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Write the names in the folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
