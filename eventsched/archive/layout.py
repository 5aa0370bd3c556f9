"""Where things are in an archive's folder.

Owns: names of files; listing; that a file appears whole or not at all, and that folders and files
are their owner's alone, whatever the umask.
Never does: look into Parquet. Read next: manifest.py, sealer.py.

    DIR/archive.pub                       the public key; says that this is an archive
    DIR/<cell>/<first>_<last>.json        record of one segment, written last
    DIR/<cell>/<first>_<last>.events.parquet     a row per entry
    DIR/<cell>/<first>_<last>.sessions.parquet   session -> its rows
    DIR/<cell>/<first>_<last>.snapshot.parquet   read models at the last entry
    DIR/<cell>/<first>_<last>.audio.parquet      with --audio: the chunks of each utterance
    DIR.key                               the private key: beside the folder, not in it

`*.part` is a file in the making and `lock` an empty one, of no meaning. Names follow from the
range of ids alone, so one archiver that does again what another left unfinished writes the same
files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from eventsched.archive.manifest import Record, decode, encode
from eventsched.archive.signing import SigningKey, public_line, read_public
from eventsched.errors import ArchiveError
from eventsched.private_files import make_private_folder, private_file
from eventsched.schema.ids import check_id, padded_id
from eventsched.schema.keys import CELL

PUBLIC = "archive.pub"
PART = ".part"
LOCK = "lock"
"""In a cell's folder, empty: whoever writes there holds it."""
KINDS = ("events", "sessions", "snapshot", "audio")
_STEM = r"\d{15}-\d{6,19}_\d{15}-\d{6,19}"
RECORD = re.compile(rf"{_STEM}\.json")
SEGMENT = re.compile(rf"({_STEM})\.({'|'.join(KINDS)})\.parquet")


def stem(first: str, last: str) -> str:
    return f"{padded_id(first)}_{padded_id(last)}"


class CellFolder:
    """The segments of one cell. Records that were read once are not read again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cell = path.name
        self._read: dict[str, Record] = {}

    def records(self) -> list[Record]:
        """Every segment, in order. Raises ArchiveError where they do not make one sequence."""
        names = self.record_names()
        for name in names:
            if name not in self._read:
                self._read[name] = self.read(name)
        found = sorted((self._read[name] for name in names), key=lambda one: one.n)
        check_sequence(self.path, found)
        return found

    def record_names(self) -> list[str]:
        return [name for name in self.names() if RECORD.fullmatch(name)]

    def names(self) -> list[str]:
        """What is in the folder, without what is in the making."""
        if not self.path.is_dir():
            return []
        found = os.listdir(self.path)
        return sorted(name for name in found if name != LOCK and not name.endswith(PART))

    def read(self, name: str) -> Record:
        path = self.path / name
        record = decode(_content(path), Record, str(path))
        if f"{stem(record.first, record.last)}.json" != name or record.cell != self.cell:
            raise ArchiveError(f"{path} is the record of another segment")
        return record

    def write(self, name: str, content: bytes) -> None:
        """The file is there, whole and on disk; if it was, it is replaced."""
        part = self.path / f"{name}.{os.getpid()}{PART}"
        with private_file(part) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path / name)

    def write_record(self, record: Record) -> None:
        """The segment counts from now on: its files are on disk before their record is."""
        sync_folder(self.path)
        self.write(f"{stem(record.first, record.last)}.json", encode(record) + b"\n")
        sync_folder(self.path)

    def remove_unfinished(self) -> list[str]:
        """Files of ours that no record names: left by an archiver that ended before its record.

        For who holds the lock.
        """
        named = {one.name for record in self.records() for one in record.files}
        gone = [
            name
            for name in sorted(os.listdir(self.path))
            if name not in named and (SEGMENT.fullmatch(name) or _is_part(name))
        ]
        for name in gone:
            (self.path / name).unlink(missing_ok=True)
        return gone


def _is_part(name: str) -> bool:
    whole = name.removesuffix(PART).rpartition(".")[0]
    return name.endswith(PART) and bool(RECORD.fullmatch(whole) or SEGMENT.fullmatch(whole))


def check_sequence(path: Path, records: list[Record]) -> None:
    """Raises ArchiveError unless these are segments 0, 1, 2, … with ranges that follow on."""
    last = (-1, 0)
    for n, record in enumerate(records):
        if record.n != n:
            raise ArchiveError(f"{path}: segment {n} is missing")
        first = check_id(record.first)
        if not last < first <= check_id(record.last):
            raise ArchiveError(f"{path}: segment {n} does not follow the one before it")
        last = check_id(record.last)


class ArchiveFolder:
    """One archive: a folder per cell, under one key."""

    def __init__(self, path: Path, public: bytes) -> None:
        self.path = path
        self.public = public
        self._cells: dict[str, CellFolder] = {}

    @classmethod
    def open(cls, path: Path) -> ArchiveFolder:
        """One that is there. Raises ArchiveError for any other folder."""
        if not path.is_dir():
            raise ArchiveError(f"there is no folder {path}")
        if not (path / PUBLIC).is_file():
            raise ArchiveError(f"{path} is no archive: it has no {PUBLIC}")
        return cls(path, read_public(path / PUBLIC))

    @classmethod
    def open_or_make(cls, path: Path, key_path: Path | None) -> tuple[ArchiveFolder, SigningKey]:
        """The archive and its key; both are made for an empty folder. Raises ArchiveError."""
        key_path = key_path or path.with_name(f"{path.resolve().name}.key")
        if (path / PUBLIC).is_file():
            return _with_key(cls.open(path), key_path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ArchiveError(f"{path} is no archive and not empty: choose another folder")
        key = SigningKey.read(key_path) if key_path.exists() else SigningKey.make()
        if not key_path.exists():
            key.write(key_path)
        make_private_folder(path)
        _place(path / PUBLIC, public_line(key.public))
        return _with_key(cls.open(path), key_path)

    def cells(self) -> list[str]:
        return sorted(
            name
            for name in os.listdir(self.path)
            if CELL.fullmatch(name) and (self.path / name).is_dir()
        )

    def cell(self, name: str) -> CellFolder:
        """Its folder, which need not be there yet."""
        return self._cells.setdefault(name, CellFolder(self.path / name))


def _with_key(folder: ArchiveFolder, key_path: Path) -> tuple[ArchiveFolder, SigningKey]:
    key = SigningKey.read(key_path)
    if key.public != folder.public:
        raise ArchiveError(f"{key_path} is not the key of {folder.path}")
    return folder, key


def _place(path: Path, content: bytes) -> None:
    """Write a file that is not there yet; of two that do so at once the first stays."""
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
    """Names in the folder are on disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArchiveError(f"cannot read {path}: {error.strerror}") from error
