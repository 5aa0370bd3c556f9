"""Opens a file of a segment for reading, once it is known to be the file that was sealed.

Owns: the checks of a file before any of it is used: a regular file and no link, the size and the
SHA-256 of its record, bounded sizes after decompression.
Must not: read its rows (segment.py does), or check who signed the record (layout.py does).
Read next: pages.py, segment.py.

A file is checked when it is opened for the first time, and again if it has changed since then.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from eventsched.archive.files import FileFault, open_regular
from eventsched.archive.layout import CellFolder
from eventsched.archive.manifest import FileSum, Segment
from eventsched.archive.pages import find_fault
from eventsched.archive.segment import SCHEMAS

_BLOCK = 1 << 20
NOT_SEALED = "is not the file that was sealed"


def open_sealed(folder: CellFolder, segment: Segment, kind: str) -> BinaryIO:
    """Open the file of this kind of a segment for reading.

    Raises:
        FileFault: It is not the file that was sealed, or is too large after decompression.
        ArchiveError: The segment has no file of this kind.
    """
    file_sum = segment.file(kind)
    path = folder.path / file_sum.name
    file = open_regular(path)
    try:
        state = _state_of(file)
        if folder.checked_files.get(file_sum.name) != state:
            _check(file, path, file_sum, kind)
            folder.checked_files[file_sum.name] = state
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


def _state_of(file: BinaryIO) -> tuple[int, ...]:
    """Values of which one changes if the file changes."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _check(file: BinaryIO, path: Path, file_sum: FileSum, kind: str) -> None:
    if os.fstat(file.fileno()).st_size != file_sum.bytes or _sha256_of(file) != file_sum.sha256:
        raise FileFault(path, NOT_SEALED)
    fault = find_fault(file, SCHEMAS[kind])
    if fault:
        raise FileFault(path, fault)


def _sha256_of(file: BinaryIO) -> str:
    digest = sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
