"""Rows of the benchmark `growth` about the archive: the history of one session.

Owns: an archive of many small segments, sealed and packed as an archiver does; one of very many
packs, whose segments share their files but for the segments with the wanted session.
Never does: compare sizes (growth.py). Read next: archive/segments.py, archive/packer.py.

`python -m benchmarks.micro.growth_archive SEGMENTS` measures one size of the latter and prints the
figures. Its records, heads, indexes and signatures are real.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import projections
from benchmarks.micro.figures import BenchFailed
from benchmarks.micro.growth_row import Row
from benchmarks.micro.stage import Stage
from eventsched.archive.footer import joined_footer
from eventsched.archive.layout import ArchiveFolder, file_name, file_stem, pack_name
from eventsched.archive.manifest import FileSum, Record, Segment, SegmentTree
from eventsched.archive.packer import PACK_SEGMENTS, PackTables, tail_of
from eventsched.archive.sealer import Sealer
from eventsched.archive.segment import RowBuffer, sessions_parquet, snapshot_parquet
from eventsched.archive.segments import Segments
from eventsched.history.log import EntryFilter, History
from eventsched.runtime import run_async
from eventsched.schema.events import FIELDS
from eventsched.store.transport import Entry

CELL, WANTED = "c0", "wanted"
START_MS, EVERY_MS = 1_700_000_000_000, 100_000
SESSIONS_OF_SEGMENT = 40
"""Sessions that only one segment has: 5,120 in the index of a pack."""
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
        wanted = _wanted_of(count)
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


def _wanted_of(count: int) -> set[int]:
    """The segments that have the wanted session; fewer than WITH_WANTED in a tiny archive."""
    return {count * part // WITH_WANTED for part in range(WITH_WANTED)}


async def _history(path: Path, expected: int) -> int:
    """Read the history of the wanted session; return how many files of segments were opened."""
    archive = ArchiveFolder.open(path)
    history = await History.open(None, archive, projections.core, cell=CELL)
    entries = [entry async for entry in history.entries(where=EntryFilter(session=WANTED))]
    if len(entries) != expected:
        raise BenchFailed(f"the history of the session has {len(entries)} entries")
    return len(archive.cell(CELL).checked_files)


_FILES: dict[int, float] = {}
"""Number of segments -> files that were opened: a repetition would open the same."""


async def files_of_history(_: Stage, segments: int) -> float:
    """Files of segments that the history of one session opens in an archive of this size."""
    if segments not in _FILES:
        with archive_of(segments) as path:
            _FILES[segments] = float(await _history(path, len(_wanted_of(segments))))
    return _FILES[segments]


ARCHIVE_ROWS = (
    Row(
        "history of one session, by archived segments", "files of segments",
        (128, 256, 512), 0.1, files_of_history,
        before="147 / 275 / 531",
    ),
)  # fmt: skip


# --- one size -----------------------------------------------------------------------------------


@contextmanager
def packs_of(count: int) -> Iterator[Path]:
    """An archive of so many packs of PACK_SEGMENTS segments; three segments have the session."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "archive"
        archive, key = ArchiveFolder.open_or_create(path, None)
        folder = archive.cell(CELL)
        folder.path.mkdir(mode=0o700)
        files = {name: _files(name) for name in ("other", WANTED)}
        with BytesIO(files["other"]["events"]) as events:
            footer = joined_footer([(0, events)])
        wanted = {count * PACK_SEGMENTS * part // WITH_WANTED for part in range(WITH_WANTED)}
        tree, peaks, head = SegmentTree(), [], None
        for number in range(count):
            tables = PackTables(SegmentTree.at(head, peaks) if head else SegmentTree())
            numbers = range(number * PACK_SEGMENTS, (number + 1) * PACK_SEGMENTS)
            name = pack_name(_ids(numbers[0])[0], _ids(numbers[-1])[1])
            with folder.new_file(name) as out:
                for n in numbers:
                    contents = files[WANTED if n in wanted else "other"]
                    if n in wanted:
                        contents = contents | {"events": _events(n, WANTED)}
                    segment = _segment(n, contents)
                    tree.add(segment)
                    head = tree.head_after(segment, skipped=0).signed(key)
                    out.write(b"".join(contents.values()))
                    sessions = [f"s{n}.{each}" for each in range(SESSIONS_OF_SEGMENT)]
                    sessions += [WANTED] if n in wanted else []
                    line = tables.add(Record.of(segment, head), out.tell(), sessions)
                    out.write(line)
                content, index = tables.finish()
                out.write(tail_of(content, index.signed(key), footer))
            peaks = tree.peaks
        yield path


def _ids(n: int) -> tuple[str, str]:
    """First and last id of a segment."""
    return _entry(n, 0, "")[0], _entry(n, ENTRIES - 1, "")[0]


def _events(n: int, session: str) -> bytes:
    rows = RowBuffer()
    rows.add([_entry(n, each, session if not each else "s0") for each in range(ENTRIES)], (-1, 0))
    return rows.parquet()


def _files(session: str) -> dict[str, bytes]:
    return {
        "events": _events(0, session),
        "sessions": sessions_parquet({session: [0], "s0": [1, 2, 3]}),
        "snapshot": snapshot_parquet([]),
    }


def _segment(n: int, contents: Mapping[str, bytes]) -> Segment:
    first, last = _ids(n)
    stem = file_stem(first, last)
    return Segment(
        n=n, cell=CELL, first=first, last=last, events=ENTRIES, root="0" * 64, is_full=True,
        versions={},
        files=[
            FileSum(
                name=file_name(stem, kind), bytes=len(content), sha256=sha256(content).hexdigest()
            )
            for kind, content in contents.items()
        ],
    )  # fmt: skip


async def measure(count: int) -> dict[str, float]:
    """Seconds of reading one session from an archive of at least so many segments, in packs."""
    packs = -(-count // PACK_SEGMENTS)
    with packs_of(packs) as path:
        figures = {"segments": float(packs * PACK_SEGMENTS)}
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        figures["files_opened"] = float(await _history(path, WITH_WANTED))
        figures["history_s"] = time.perf_counter() - began_s
        figures["history_cpu_s"] = time.process_time() - began_cpu_s
        began_s = time.perf_counter()
        segments = ArchiveFolder.open(path).cell(CELL).signed_records()
        figures["open_s"] = time.perf_counter() - began_s
        figures["index_mb"] = _index_bytes(segments) / 1e6
    figures["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
    return figures


def _index_bytes(segments: Segments) -> int:
    return sum(len(pack.tail()) - len(pack.footer()) for pack in segments.packs)


async def _print(count: int) -> None:
    figures = await measure(count)
    sys.stdout.write(json.dumps({name: round(value, 3) for name, value in figures.items()}) + "\n")


if __name__ == "__main__":
    run_async(lambda: _print(int(sys.argv[1])))
