"""Archive and log are read as one history: each event once, in order, while entries are trimmed."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from eventsched.archive.layout import ArchiveFolder
from eventsched.errors import ArchiveError
from eventsched.formatting import utc_time
from eventsched.history import index, log
from eventsched.history.log import EntryFilter, History
from eventsched.projection.fold import Folding, decode_event
from eventsched.schema.events import Event
from eventsched.schema.ids import ms_of, parse_id
from eventsched.store.transport import Arg, Entry
from tests.archive.archives import CORE, Archived, views_of


class Interleaved:
    """A transport that lets other things happen before each call."""

    def __init__(self, inner: Any, meanwhile: Any) -> None:
        self._inner, self._meanwhile = inner, meanwhile

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        await self._meanwhile()
        return await self._inner.run(script, keys, args)

    async def command(self, *parts: Arg, key: str) -> Any:
        await self._meanwhile()
        return await self._inner.command(*parts, key=key)

    async def commands(self, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        return [await self.command(*call, key=str(call[1])) for call in calls]

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        raise AssertionError("a reader of history does not wait")

    async def read_group(
        self, key: str, group: str, consumer: str, *, block_ms: int, count: int, noack: bool = True
    ) -> list[Entry]:
        raise AssertionError("a reader of history does not wait")

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a reader of history does not wait")


class Meanwhile:
    """Random steps of speech, sealing and trimming; records all entries that were ever logged."""

    def __init__(self, archived: Archived, seed: int) -> None:
        self.archived, self.rng = archived, random.Random(seed)
        self.archiver = archived.archiver()
        self.all: list[Entry] = []
        self.left = 60

    async def __call__(self) -> None:
        if self.left <= 0:
            return
        self.left -= 1
        match self.rng.randrange(5):
            case 0:
                await self.archived.talk(self.rng.choice(["s1", "s2"]))
                await self.note()
            case 1:
                await self.archiver.step(now=self.rng.random() < 0.3)
            case 2:
                await self.archived.project()
            case _:
                await self.archived.trim()
                await self.note()

    async def note(self) -> None:
        after = self.all[-1][0] if self.all else "0-0"
        self.all += await self.archived.log(after)


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "READ_MAX", 5)
    monkeypatch.setattr(index, "IDS_MAX", 3)
    monkeypatch.setattr(index, "RANGE_MAX", 5)


async def read(history: History, *args: Any, **kwargs: Any) -> list[Entry]:
    return [entry async for entry in history.entries(*args, **kwargs)]


async def busy(archived: Archived, seed: int) -> tuple[Meanwhile, History]:
    """A log that is mostly sealed and trimmed, and a reader while that continues."""
    meanwhile = Meanwhile(archived, seed)
    await archived.set(log_keep_ms=0, archive_entries_max=meanwhile.rng.choice([7, 23, 60]))
    await archived.talk("s1", 6)
    await archived.talk("s2", 6)
    await meanwhile.note()
    await archived.project()
    for _ in range(8):
        await meanwhile.archiver.step(now=True)
    await archived.trim()
    await meanwhile.note()
    views = views_of(archived.store, Interleaved(archived.store.transport, meanwhile))
    return meanwhile, await archived.history(store=views)


@pytest.mark.parametrize("seed", range(6))
async def test_no_gap_and_no_overlap_while_others_seal_and_trim(
    archived: Archived, seed: int
) -> None:
    meanwhile, history = await busy(archived, seed)
    entries = await read(history)
    assert entries == meanwhile.all[: len(entries)]
    assert parse_id(entries[-1][0]) >= parse_id(meanwhile.all[0][0])
    assert await archived.views.trimmed_count(), "entries were trimmed"
    meanwhile.left = 0
    rest = await read(history, entries[-1][0])
    assert entries + rest == meanwhile.all


@pytest.mark.parametrize("seed", range(6))
async def test_a_sessions_index_has_no_gap_and_no_overlap(archived: Archived, seed: int) -> None:
    meanwhile, history = await busy(archived, seed)
    entries = await read(history, where=EntryFilter(session="s1"))
    meanwhile.left = 0
    rest = await read(history, entries[-1][0], where=EntryFilter(session="s1"))
    assert entries + rest == [entry for entry in meanwhile.all if b"s1" in entry[1][5]]


@pytest.mark.parametrize("seed", range(6))
async def test_a_nodes_index_has_no_gap_and_no_overlap_while_it_is_trimmed(
    archived: Archived, seed: int
) -> None:
    meanwhile, history = await busy(archived, seed)
    where = EntryFilter(node=archived.store.keys.full("n1"))
    entries = await read(history, where=where)
    meanwhile.left = 0
    rest = await read(history, entries[-1][0], where=where)
    assert entries + rest == [entry for entry in meanwhile.all if entry[1][9].endswith(b".n1")]


async def test_ids_that_a_repeated_save_has_added_are_read_once(archived: Archived) -> None:
    await archived.talk("s1", 4)
    await archived.project()
    key = archived.store.keys.session_index("s1")
    ids = await archived.store.transport.command("LRANGE", key, 0, -1, key=key)
    await archived.store.transport.command("RPUSH", key, *ids[-5:], key=key)
    history = await archived.history(archive=None)
    entries = await read(history, where=EntryFilter(session="s1"))
    assert [entry[0].encode() for entry in entries] == ids


async def test_filters_by_range_job_and_node_return_the_matching_entries(
    archived: Archived,
) -> None:
    meanwhile, history = await busy(archived, 1)
    meanwhile.left = 0
    everything = meanwhile.all
    after, upto = everything[5][0], everything[-6][0]
    assert await read(history, after, upto) == everything[6:-5]
    assert await read(history, upto, after) == []
    job = next(entry[1][7] for entry in everything[20:] if entry[1][7])
    of_job = [entry for entry in everything if entry[1][7] == job]
    assert await read(history, where=EntryFilter(job=job.decode())) == of_job
    node = archived.store.keys.full("n1")
    of_node = [entry for entry in everything if entry[1][9] == node.encode()]
    assert await read(history, where=EntryFilter(node=node)) == of_node
    assert await read(history, after, upto, where=EntryFilter(node=node)) == [
        entry for entry in everything[6:-5] if entry in of_node
    ]


async def test_the_archive_alone_is_read_without_a_server(archived: Archived) -> None:
    meanwhile, _ = await busy(archived, 2)
    meanwhile.left = 0
    await meanwhile.archiver.release()
    await archived.seal()
    await meanwhile.note()
    alone = await History.open(None, archived.folder, CORE, cell=archived.store.cell)
    entries = await read(alone)
    assert entries == meanwhile.all


@pytest.mark.parametrize("seed", range(6))
async def test_read_models_at_any_event_equal_the_fold_from_the_start(
    archived: Archived, seed: int
) -> None:
    meanwhile, history = await busy(archived, seed)
    meanwhile.left = 0
    rng = random.Random(seed)
    for cut in sorted(rng.sample(range(len(meanwhile.all)), 6)):
        folded = Folding(CORE.projections, [""] * len(CORE.projections), complete=True)
        for entry in meanwhile.all[: cut + 1]:
            event = decode_event(entry)
            assert isinstance(event, Event)
            folded.fold(event, atomic=False)
        folding = await history.folding_at(meanwhile.all[cut][0])
        for part, expected in zip(folding.parts, folded.parts, strict=True):
            assert part.views == expected.views


async def test_a_trimmed_log_without_its_archive_is_refused(archived: Archived) -> None:
    meanwhile, _ = await busy(archived, 3)
    meanwhile.left = 0
    history = await archived.history(archive=None)
    left = await archived.log()
    since = re.escape(utc_time(ms_of(left[0][0]) + 1))
    with pytest.raises(ArchiveError, match=f"since {since}; .*--archive DIR or EVENTSCHED_ARCHIVE"):
        await read(history)
    assert await read(history, left[0][0]) == left[1:]


async def test_a_copy_that_ends_before_the_log_begins_is_refused(
    archived: Archived, tmp_path: Path
) -> None:
    await archived.set(log_keep_ms=0)
    await archived.talk("s1", 6)
    await archived.seal()
    shutil.copytree(archived.path, tmp_path / "copy")
    await archived.talk("s1", 12)
    await archived.project()
    await archived.seal()
    assert await archived.trim()
    history = await archived.history(archive=ArchiveFolder.open(tmp_path / "copy"))
    with pytest.raises(ArchiveError, match="old copy"):
        await read(history)


async def test_the_archive_of_another_cell_is_refused(archived: Archived, tmp_path: Path) -> None:
    await archived.talk("s1", 2)
    await archived.seal()
    other, _ = ArchiveFolder.open_or_create(tmp_path / "other", None)
    with pytest.raises(ArchiveError, match="not the archive of cell"):
        await archived.history(archive=other)
