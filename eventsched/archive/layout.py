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
    DIR/<cell>/<first>_<last>.pack.parquet       the files of many segments (pack.py)
    DIR/<cell>/set-aside/<first>_<last>/         segments that the log has lost (set_aside.py)
    DIR.key                               the private key: beside the folder, not in it

A segment that is in a pack may have its own files, too; then the pack is read. `*.part` is an
incomplete file; `lock` is empty. Names follow from the range of ids alone, so an
archiver that repeats the unfinished work of another writes the same files.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from eventsched.archive.files import read_small
from eventsched.archive.manifest import (
    RECORD_BYTES_MAX,
    Record,
    Segment,
    SegmentTree,
    decode,
    encode,
)
from eventsched.archive.pack import Pack
from eventsched.archive.segments import Segments
from eventsched.archive.signing import (
    PUBLIC_FILE_BYTES_MAX,
    SigningKey,
    decode_public,
    fingerprint,
    public_line,
)
from eventsched.errors import ArchiveError
from eventsched.private_files import (
    PART,
    create_private,
    make_private_folder,
    private_file,
    sync_folder,
)
from eventsched.schema.ids import (
    BEFORE_FIRST,
    EntryId,
    check_id,
    format_id,
    padded_id,
    parse_id,
)
from eventsched.schema.keys import CELL

PUBLIC = "archive.pub"
LOCK = "lock"
"""An empty file in a cell's folder; its writer locks it."""
SET_ASIDE = "set-aside"
NOTE = "note.json"
"""In each folder of segments that are set aside; written last."""
KINDS = ("events", "sessions", "snapshot", "audio")
_STEM = r"\d{15,20}-\d{6,20}_\d{15,20}-\d{6,20}"
RECORD = re.compile(rf"{_STEM}\.json")
SEGMENT = re.compile(rf"({_STEM})\.({'|'.join(KINDS)})\.parquet")
PACK = re.compile(rf"{_STEM}\.pack\.parquet")


def file_stem(first: str, last: str) -> str:
    return f"{padded_id(first)}_{padded_id(last)}"


def file_name(stem: str, kind: str) -> str:
    return f"{stem}.{kind}.parquet"


def record_name(segment: Segment) -> str:
    return f"{file_stem(segment.first, segment.last)}.json"


def pack_name(first: str, last: str) -> str:
    return file_name(file_stem(first, last), "pack")


def first_id_of(name: str) -> EntryId:
    """The first id in the name of a file of a segment or pack."""
    return parse_id(name.partition("_")[0])


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
    """The segments of a cell. A record or index is read once, unless its file is replaced.

    Args:
        path: The folder.
        cell: The cell; by default the name of the folder.
        public: The key of the archive; `signed_records` needs it.
    """

    def __init__(self, path: Path, cell: str = "", public: bytes = b"") -> None:
        self.path = path
        self.cell = cell or path.name
        self.checked_files: dict[str, tuple[int, ...]] = {}
        """Path of a file -> its state when it was checked (sealed_file.py)."""
        self._public = public
        self._read: dict[tuple[str, int], Record] = {}
        self._packs: dict[tuple[str, int], Pack] = {}
        self._listed = Segments([], [], self._packed_record)
        self._signed: list[Record] = []
        """Records after the packs that the key is known to have signed."""
        self._signed_from = -1
        """Number of the first of them; -1 if none is known."""
        self._tree = SegmentTree()
        self._lock = threading.Lock()

    def signed_records(self) -> Segments:
        """All segments, in order, up to the last head, which the archive's key has signed.

        The key has also signed the index of each pack. The last head covers every record. Whether
        the key is the right one is for the caller to know. Raises ArchiveError if a record is not
        covered by the last head, or that not signed.
        """
        with self._lock:
            segments = self.records()
            for pack in segments.packs:
                pack.check_signed(self._public)
            single, signed = segments.single, self._signed
            # Some may have been packed or set aside meanwhile.
            if self._signed_from != segments.packed or single[: len(signed)] != signed:
                self._tree, signed = segments.tree_of_packs(), []
            self._signed_from = -1
            for record in single[len(signed) :]:
                self._check_signed(record, segments.skipped, single[-1])
            self._signed, self._signed_from = list(single), segments.packed
            return segments

    def _check_signed(self, record: Record, skipped: int, last: Record) -> None:
        if not self._tree.follows(record, skipped=skipped):
            raise ArchiveError(
                f"{self.path}: segment {record.n} does not follow from the segments up to it"
            )
        if record is last and not record.head.is_signed_by(self._public):
            key = fingerprint(self._public)
            raise ArchiveError(f"{self.path}: segment {record.n} is not signed by key {key}")

    def records(self) -> Segments:
        """All segments, in order. Raises ArchiveError if they are not one sequence."""
        names = self.names()
        packs = self._open_packs(name for name in names if PACK.fullmatch(name))
        packed, last = (packs[-1].index.end, packs[-1].last) if packs else (0, BEFORE_FIRST)
        single = self._read_records(
            name for name in names if RECORD.fullmatch(name) and first_id_of(name) > last
        )
        check_sequence(self.path, single, start=packed, after=last)
        self._listed = Segments(packs, single, self._packed_record)
        return Segments(packs, single, self._packed_record)

    def readable_records(self) -> tuple[list[Record], list[tuple[str, str]]]:
        """The segments whose records can be read, and (file, fault) for each other file.

        For a folder that `records` refuses. The segments have increasing numbers; some are missing.
        Raises ArchiveError if the folder is a link.
        """
        found: dict[int, Record] = {}
        packs: list[Pack] = []
        faults: list[tuple[str, str]] = []

        def add(name: str, read: Callable[[], Record]) -> None:
            try:
                record = read()
                check_id(record.first), check_id(record.last)
            except (ArchiveError, ValueError) as error:
                faults.append((name, str(error)))
                return
            if found.setdefault(record.n, record) != record:
                faults.append((name, f"is another record of segment {record.n}"))

        for name in filter(PACK.fullmatch, self.names()):
            try:
                packs.append(self._open_pack(name))
            except ArchiveError as error:
                faults.append((name, str(error)))
        packs.sort(key=lambda pack: pack.index.first_segment)
        self._listed = Segments(packs, [], self._packed_record)
        for pack in packs:
            for n in pack.numbers:
                add(pack.path.name, partial(self._packed_record, pack, n))
        for name in self.record_names():
            add(name, partial(self.read, name))
        return [found[n] for n in sorted(found)], faults

    def listed_records(self) -> list[Record]:
        """The segments that have files of their own, in order. Raises ArchiveError for others."""
        return self._read_records(self.record_names())

    def _read_records(self, names: Iterable[str]) -> list[Record]:
        found: dict[tuple[str, int], Record] = {}
        for name in names:
            file = (name, os.lstat(self.path / name).st_ino)
            found[file] = self._read.get(file) or self.read(name)
        self._read = found
        return sorted(found.values(), key=lambda record: record.n)

    def _open_packs(self, names: Iterable[str]) -> list[Pack]:
        found: dict[tuple[str, int], Pack] = {}
        before: Pack | None = None
        for name in sorted(names, key=first_id_of):
            file = (name, os.lstat(self.path / name).st_ino)
            found[file] = pack = self._packs.get(file) or self._open_pack(name)
            pack.check_follows(before)
            before = pack
        self._packs = found
        return list(found.values())

    def _open_pack(self, name: str) -> Pack:
        pack = Pack.open(self.path / name)
        if pack.index.cell != self.cell or pack_name(pack.index.first, pack.index.last) != name:
            raise ArchiveError(f"{self.path / name} is the pack of other segments")
        return pack

    def pack_with(self, segment: Segment, *, again: bool = False) -> Pack | None:
        """The pack that has this segment, as last listed; None if it has files of its own.

        With `again` the packs are listed again.
        """
        if again:
            packs = self._open_packs(name for name in self.names() if PACK.fullmatch(name))
            self._listed = Segments(packs, [], self._packed_record)
        pack = self._listed.pack_of(segment.n)
        ids = check_id(segment.first), check_id(segment.last)
        return pack if pack is not None and pack.ids(segment.n) == ids else None

    def _packed_record(self, pack: Pack, n: int) -> Record:
        first, last = pack.ids(n)
        name = f"{file_stem(format_id(*first), format_id(*last))}.json"
        record = self._decode(pack.record_line(n), name, pack.path / name)
        if record.n != n:
            raise ArchiveError(f"{pack.path / name} is the record of another segment")
        return record

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
        return self._decode(read_small(path, RECORD_BYTES_MAX), name, path)

    def _decode(self, line: bytes, name: str, path: Path) -> Record:
        record = decode(line, Record, str(path))
        stem = file_stem(record.first, record.last)
        if f"{stem}.json" != name or record.cell != self.cell:
            raise ArchiveError(f"{path} is the record of another segment")
        names = [file.name for file in record.files]
        if len(set(names)) < len(names) or not set(names) <= {file_name(stem, k) for k in KINDS}:
            raise ArchiveError(f"{path} names files that are not of its segment")
        return record

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically and to disk; replace an existing one."""
        with self.new_file(name) as file:
            file.write(content)

    @contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        """A file that replaces an existing one, atomically and on disk, unless the body raises."""
        part = self.path / f"{name}.{os.getpid()}{PART}"
        try:
            with private_file(part) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except Exception:
            part.unlink(missing_ok=True)
            raise
        part.replace(self.path / name)

    def write_record(self, record: Record) -> None:
        """Add a segment. Its files are on disk before its record."""
        sync_folder(self.path)
        self.write(record_name(record), encode(record) + b"\n")
        sync_folder(self.path)

    def remove_unfinished(self) -> list[str]:
        """Remove files of segments without a record, left by an archiver that was interrupted.

        The caller must have the lock.
        """
        segments = self.records()
        named = {file.name for record in segments.single for file in record.files}
        packed_to = segments.ids(segments.packed - 1)[1] if segments.packed else BEFORE_FIRST
        unfinished = [
            name
            for name in sorted(os.listdir(self.path))
            if _is_part(name)
            or (SEGMENT.fullmatch(name) and name not in named and first_id_of(name) > packed_to)
        ]
        for name in unfinished:
            (self.path / name).unlink(missing_ok=True)
        return unfinished


def _is_part(name: str) -> bool:
    target = name.removesuffix(PART).rpartition(".")[0]
    forms = (RECORD, SEGMENT, PACK)
    return name.endswith(PART) and any(form.fullmatch(target) for form in forms)


def check_sequence(
    path: Path, records: Sequence[Record], *, start: int = 0, after: EntryId = BEFORE_FIRST
) -> None:
    """Raises ArchiveError unless these are segments 0, 1, 2, … with increasing ranges.

    Args:
        path: Their folder, for messages.
        records: The records.
        start: Number of the first of them.
        after: Last id before them.
    """
    last = after
    for n, record in enumerate(records, start):
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
    with suppress(FileExistsError):
        create_private(path, content)
    sync_folder(path.parent)
