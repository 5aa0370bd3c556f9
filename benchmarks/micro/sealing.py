"""The parts of benchmark `archive`; each function measures one round.

Owns: sealing from Redis and from memory, verifying, reading one session from many events; an
archive of many events, which are copies of the log with other names and times.
Never does: schedule jobs. Read next: archive/sealer.py, archive/verifier.py, history/log.py.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.micro.figures import BenchFailed, Figures
from benchmarks.micro.measure import metering
from benchmarks.micro.stage import Stage
from eventsched.archive.archiver import Archiver
from eventsched.archive.layout import ArchiveFolder, CellFolder
from eventsched.archive.sealer import Sealer
from eventsched.archive.signing import SigningKey
from eventsched.archive.verifier import Verifier
from eventsched.history.log import EntryFilter, History
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore
from eventsched.schema.ids import format_id, ms_of, parse_id
from eventsched.schema.settings import Settings
from eventsched.store.transport import Entry

ENTRIES_MAX = Settings().archive_entries_max


@contextmanager
def _empty(stage: Stage, cell: str) -> Iterator[tuple[CellFolder, SigningKey]]:
    path = stage.folder / "fresh"
    folder, key = ArchiveFolder.open_or_create(path, None)
    try:
        folder.cell(cell).path.mkdir()
        yield folder.cell(cell), key
    finally:
        shutil.rmtree(path)
        Path(f"{path}.key").unlink()


async def from_redis(
    stage: Stage, projection_store: ProjectionStore, log: list[Entry], core: ProjectionSet
) -> Figures:
    """Measure the archiver from an empty folder to the end of the log."""
    await stage.redis.delete(projection_store.keys.archive, projection_store.keys.lease("archive"))
    with _empty(stage, projection_store.cell) as (folder, key):
        archiver = Archiver(projection_store, folder, key, core)
        async with metering(stage.redis) as cost:
            while (await archiver.step(now=True)).state in ("buffered", "sealed"):
                pass
        await archiver.release()
        sealed = sum(record.events for record in folder.records())
    if sealed != len(log):
        raise BenchFailed(f"{sealed} of {len(log)} entries were sealed")
    return cost.per_item(sealed)


async def from_memory(
    stage: Stage, cell: str, log: list[Entry], core: ProjectionSet
) -> dict[str, Figures]:
    """Measure one segment: first decoding and folding its entries, then writing its files."""
    entries = log[:ENTRIES_MAX]
    with _empty(stage, cell) as (folder, key):
        sealer = Sealer(folder, key, core)
        async with metering(stage.redis) as gather:
            sealer.add(entries)
        async with metering(stage.redis) as seal:
            sealer.seal()
    count = len(entries)
    return {"gather and fold": gather.per_item(count), "seal": seal.per_item(count)}


async def verify(stage: Stage, archive: ArchiveFolder, events: int) -> Figures:
    """Measure the verification of the archive."""
    async with metering(stage.redis) as cost:
        report = Verifier(archive.path).run()
    if report.problems or report.events != events:
        raise BenchFailed(f"{report.events} of {events} events, {report.problems[:1]}")
    return cost.per_item(events)


async def find(stage: Stage, history: History, log: list[Entry]) -> Figures:
    """Measure reading the whole history of one session, opening the archive included."""
    session = next(fields[5] for _, fields in log if fields[5]).decode().partition(".")[2]
    start_s = time.perf_counter()
    async with metering(stage.redis) as cost:
        entries = [
            entry async for entry in history.entries(where=EntryFilter(session=renamed(session, 0)))
        ]
    if not entries:
        raise BenchFailed(f"no entry of {session} was found")
    return cost.per_item(1) | {"found": len(entries), "seconds": time.perf_counter() - start_s}


def renamed(session: str, copy: int) -> str:
    """Return the name of session `session-00007` in a copy of the log."""
    return session.replace("session-", f"s{copy}-", 1)


def fill(
    archive: ArchiveFolder, key: SigningKey, cell: str, core: ProjectionSet,
    log: list[Entry], at_least: int,
) -> int:  # fmt: skip
    """Seal copies of the log with other names and times and return the number of events.

    The segments have no read models: the benchmark does not use them, and folding takes most of
    the time.

    Args:
        archive: a new archive.
        key: the archive's key.
        cell: the cell of the log.
        core: the projection set, for its name.
        log: the entries to copy.
        at_least: minimum number of events.
    """
    folder = archive.cell(cell)
    folder.path.mkdir()
    sealer = Sealer(folder, key, ProjectionSet(core.name, (), core.sessions))
    span_ms = ms_of(log[-1][0]) - ms_of(log[0][0]) + 1
    count = copy = 0
    while count < at_least:
        for first in range(0, len(log), ENTRIES_MAX):
            entries = log[first : first + ENTRIES_MAX]
            sealer.add([_copy(entry, copy, copy * span_ms) for entry in entries])
            sealer.seal()
        count, copy = count + len(log), copy + 1
    return count


def _copy(entry: Entry, copy: int, later_ms: int) -> Entry:
    """Return the entry of a copy of the log, with another session name and a later time."""
    (ms, seq), fields = parse_id(entry[0]), entry[1]
    name = b"s%d-" % copy
    return format_id(ms + later_ms, seq), [field.replace(b"session-", name) for field in fields]
