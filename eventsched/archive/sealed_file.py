"""Opens a file of a segment for reading, once it is known to be the file that was sealed.

Owns: whether the file is in a pack; the checks of a file before any of it is used: a regular file
and no link, the size and the SHA-256 of its record, bounded sizes after decompression, and a footer
that agrees with the columns.
Must not: read its rows (segment.py does), or check who signed the record (layout.py does).
Read next: pages.py, segment.py.

A file is checked when it is opened for the first time, and again if it has changed since then.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from eventsched.archive.files import FileFault, open_range, open_regular
from eventsched.archive.layout import CellFolder
from eventsched.archive.manifest import FileSum, Segment
from eventsched.archive.pages import find_fault
from eventsched.archive.segment import SCHEMAS
from eventsched.archive.statistics import find_statistics_fault

_BLOCK = 1 << 20
NOT_SEALED = "is not the file that was sealed"


def open_sealed(folder: CellFolder, segment: Segment, kind: str) -> BinaryIO:
    """Open the file of this kind of a segment for reading.

    Raises:
        FileFault: It is not the file that was sealed, or is too large after decompression.
        ArchiveError: The segment has no file of this kind.
    """
    file_sum = segment.file(kind)
    try:
        file, path = _open(folder, segment, file_sum, again=False)
    except FileFault as fault:
        if not fault.is_missing:
            raise
        # The segment was packed, or taken out of its pack, since the folder was listed.
        file, path = _open(folder, segment, file_sum, again=True)
    return _checked(folder, file, path, file_sum)


def open_single(folder: CellFolder, segment: Segment, kind: str) -> BinaryIO:
    """Open the segment's own file of this kind, also if the segment is in a pack.

    Raises as `open_sealed`.
    """
    file_sum = segment.file(kind)
    path = folder.path / file_sum.name
    return _checked(folder, open_regular(path), path, file_sum)


def _open(
    folder: CellFolder, segment: Segment, file_sum: FileSum, *, again: bool
) -> tuple[BinaryIO, Path]:
    """The file, not checked, and its path for messages."""
    pack = folder.pack_with(segment, again=again)
    if pack is None:
        path = folder.path / file_sum.name
        return open_regular(path), path
    path = pack.path / file_sum.name
    place = pack.place_of(segment, file_sum.name)
    return open_range(pack.path, place, file_sum.bytes, str(path)), path


def _checked(folder: CellFolder, file: BinaryIO, path: Path, file_sum: FileSum) -> BinaryIO:
    try:
        name, state = str(path), _state_of(file)
        if folder.checked_files.get(name) != state:
            _check(file, path, file_sum)
            folder.checked_files[name] = state
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


def _state_of(file: BinaryIO) -> tuple[int, ...]:
    """Values of which one changes if the file changes."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _check(file: BinaryIO, path: Path, file_sum: FileSum) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size != file_sum.bytes or _sha256_of(file) != file_sum.sha256:
        raise FileFault(path, NOT_SEALED)
    fault = find_fault(file, SCHEMAS[file_sum.kind])
    if not fault and file_sum.kind == "events":
        fault = find_statistics_fault(file)
    if fault:
        raise FileFault(path, fault)


def _sha256_of(file: BinaryIO) -> str:
    digest = sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
