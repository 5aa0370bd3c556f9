"""Parts of `bench archive`, each one round's measurement.

Owns: sealing from Redis and from memory, verifying, finding one session among many events; an
archive of many events: the log's own, again and again under other names and times.
Never does: live work. Read next: archive/sealer.py, archive/verifier.py, history/log.py.
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
    stage: Stage, views: ProjectionStore, log: list[Entry], core: ProjectionSet
) -> Figures:
    """The archiver as it runs, from an empty folder to the log's end."""
    await stage.redis.delete(views.keys.archive, views.keys.lease("archive"))
    with _empty(stage, views.cell) as (folder, key):
        archiver = Archiver(views, folder, key, core)
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
    """Gathering decodes and folds each entry; sealing makes trees, columns, files, signature."""
    some = log[:ENTRIES_MAX]
    with _empty(stage, cell) as (folder, key):
        sealer = Sealer(folder, key, core)
        async with metering(stage.redis) as gather:
            sealer.add(some)
        async with metering(stage.redis) as seal:
            sealer.seal()
    return {"gather and fold": gather.per_item(len(some)), "seal": seal.per_item(len(some))}


async def verify(stage: Stage, archive: ArchiveFolder, events: int) -> Figures:
    async with metering(stage.redis) as cost:
        report = Verifier(archive.path).run()
    if report.problems or report.events != events:
        raise BenchFailed(f"{report.events} of {events} events, {report.problems[:1]}")
    return cost.per_item(events)


async def find(stage: Stage, history: History, log: list[Entry]) -> Figures:
    """The whole history of one session, opening the archive included."""
    session = next(fields[5] for _, fields in log if fields[5]).decode().partition(".")[2]
    begins = time.perf_counter()
    async with metering(stage.redis) as cost:
        found = [
            entry async for entry in history.entries(where=EntryFilter(session=renamed(session, 0)))
        ]
    if not found:
        raise BenchFailed(f"nothing was found of {session}")
    return cost.per_item(1) | {"found": len(found), "seconds": time.perf_counter() - begins}


def renamed(session: str, round_: int) -> str:
    """`session-00007` in the n-th telling of the log."""
    return session.replace("session-", f"s{round_}-", 1)


def fill(
    archive: ArchiveFolder, key: SigningKey, cell: str, core: ProjectionSet,
    log: list[Entry], at_least: int,
) -> int:  # fmt: skip
    """Seal the log again and again, under other names and times; how many events that made.

    Without read models: nobody looks at them here, and folding them takes most of the time.
    """
    folder = archive.cell(cell)
    folder.path.mkdir()
    sealer = Sealer(folder, key, ProjectionSet(core.name, (), core.sessions))
    span_ms = ms_of(log[-1][0]) - ms_of(log[0][0]) + 1
    count = round_ = 0
    while count < at_least:
        for first in range(0, len(log), ENTRIES_MAX):
            some = log[first : first + ENTRIES_MAX]
            sealer.add([_again(entry, round_, round_ * span_ms) for entry in some])
            sealer.seal()
        count, round_ = count + len(log), round_ + 1
    return count


def _again(entry: Entry, round_: int, later_ms: int) -> Entry:
    (ms, seq), fields = parse_id(entry[0]), entry[1]
    name = b"s%d-" % round_
    return format_id(ms + later_ms, seq), [one.replace(b"session-", name) for one in fields]
