"""Rows of the benchmark `growth` about the archive: the history of one session.

Owns: an archive of many small segments, sealed and packed as an archiver does.
Never does: compare sizes (growth.py). Read next: archive/segments.py, archive/packer.py.

`python -m benchmarks.micro.growth_archive SEGMENTS` measures one size and prints the figures.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import projections
from benchmarks.micro.figures import BenchFailed
from benchmarks.micro.growth_row import Row
from benchmarks.micro.stage import Stage
from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.sealer import Sealer
from eventsched.archive.segments import Segments
from eventsched.history.log import EntryFilter, History
from eventsched.runtime import run_async
from eventsched.schema.events import FIELDS
from eventsched.store.transport import Entry

CELL, WANTED = "c0", "wanted"
START_MS, EVERY_MS = 1_700_000_000_000, 100_000
ENTRIES = 4
SESSIONS = 997
"""Sessions that take turns; the read models keep no more."""
WITH_WANTED = 3
"""Segments that have the wanted session."""
SINGLE = 16
"""Segments after the last pack."""


@contextmanager
def archive_of(count: int, folder: Path | None = None) -> Iterator[Path]:
    """An archive of this many segments and SINGLE more; the wanted session is in WITH_WANTED."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "archive"
        archive, key = ArchiveFolder.open_or_create(path, None)
        archive.cell(CELL).path.mkdir(mode=0o700)
        sealer = Sealer(archive.cell(CELL), key, projections.core)
        wanted = {count * part // WITH_WANTED for part in range(WITH_WANTED)}
        for n in range(count + SINGLE):
            names = [f"s{(n * ENTRIES + each) % SESSIONS}" for each in range(ENTRIES)]
            if n in wanted:
                names[0] = WANTED
            sealer.add([_entry(n, each, name) for each, name in enumerate(names)])
            sealer.seal()
            sealer.pack()
        yield path


def _entry(segment: int, seq: int, session: str) -> Entry:
    name = f"{CELL}.{session}".encode()
    values = [b"SessionOpened", b"1", name, b"", b"", b"", b"", b'{"tenant":"t"}', b""]
    fields = [
        part for name, value in zip(FIELDS, values, strict=True) for part in (name.encode(), value)
    ]
    return f"{START_MS + segment * EVERY_MS}-{seq}", fields


async def _history(path: Path) -> int:
    """Read the history of the wanted session; return how many files of segments were opened."""
    archive = ArchiveFolder.open(path)
    history = await History.open(None, archive, projections.core, cell=CELL)
    entries = [entry async for entry in history.entries(where=EntryFilter(session=WANTED))]
    if len(entries) != WITH_WANTED:
        raise BenchFailed(f"the history of the session has {len(entries)} entries")
    return len(archive.cell(CELL).checked_files)


_FILES: dict[int, float] = {}
"""Number of segments -> files that were opened: a repetition would open the same."""


async def files_of_history(_: Stage, segments: int) -> float:
    """Files of segments that the history of one session opens in an archive of this size."""
    if segments not in _FILES:
        with archive_of(segments) as path:
            _FILES[segments] = float(await _history(path))
    return _FILES[segments]


ARCHIVE_ROWS = (
    Row(
        "history of one session, by archived segments", "files of segments",
        (128, 256, 512), 0.1, files_of_history,
        before="147 / 275 / 531",
    ),
)  # fmt: skip


# --- one size -----------------------------------------------------------------------------------


async def measure(count: int) -> dict[str, float]:
    """Seconds of sealing and packing an archive of this size, and of reading one session."""
    began_s = time.perf_counter()
    with archive_of(count) as path:
        figures = {"segments": float(count), "seal_and_pack_s": time.perf_counter() - began_s}
        began_s = time.perf_counter()
        figures["files_opened"] = float(await _history(path))
        figures["history_s"] = time.perf_counter() - began_s
        began_s = time.perf_counter()
        segments = ArchiveFolder.open(path).cell(CELL).signed_records()
        figures["open_s"] = time.perf_counter() - began_s
        figures["index_bytes_a_segment"] = _index_bytes(segments) / max(1, segments.packed)
        figures["files"] = float(len(list((path / CELL).iterdir())))
    figures["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
    return figures


def _index_bytes(segments: Segments) -> int:
    return sum(len(pack.tail()) - len(pack.footer()) for pack in segments.packs)


async def _print(count: int) -> None:
    figures = await measure(count)
    sys.stdout.write(json.dumps({name: round(value, 3) for name, value in figures.items()}) + "\n")


if __name__ == "__main__":
    run_async(lambda: _print(int(sys.argv[1])))
