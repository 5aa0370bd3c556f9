"""The entries of an index are read as a range of the log while most of the log is in the index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from eventsched.history import index
from eventsched.history.index import IndexReader
from eventsched.projection.store import ProjectionStore
from eventsched.schema.ids import START, parse_id
from eventsched.store.client import Client
from eventsched.store.transport import Arg, Entry, Transport
from tests.fixtures_store import TimedStore

PAGE = 16
ENTRIES = 5 * PAGE


class Counting:
    """A transport that counts reads of the log and the entries that they name or return."""

    def __init__(self, transport: Transport, log: str) -> None:
        self._transport, self._log = transport, log
        self.ranges = self.single = 0

    async def command(self, *parts: Arg, key: str) -> Any:
        self.ranges += parts[:2] == ("XRANGE", self._log)
        return await self._transport.command(*parts, key=key)

    async def commands(self, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        self.single += sum(call[:2] == ("XRANGE", self._log) for call in calls)
        return await self._transport.commands(calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "IDS_MAX", PAGE)
    monkeypatch.setattr(index, "RANGE_MAX", 2 * (PAGE + 1))


async def indexed(store: TimedStore, redis: Client, every: Sequence[int]) -> list[str]:
    """A log with an index that lists the entry after each of these numbers of other entries."""
    log, ids = store.keys.log, list[str]()
    for others in every:
        for _ in range(others):
            await redis.xadd(log, {"t": "other"})
        await redis.xadd(log, {"t": "listed"})
        ids.append(await store.last_id(log))
    await redis.rpush(store.keys.session_index("s"), *ids)
    return ids


async def read(store: TimedStore) -> tuple[list[Entry], Counting]:
    """All entries of the index, and how they were read."""
    counting = Counting(store.transport, store.keys.log)
    views = ProjectionStore(cast("Transport", counting), store.cell)
    reader = IndexReader(views, store.keys.session_index("s"), "core")
    entries: list[Entry] = []
    after = parse_id(START)
    while ids := (await reader.read(after))[1]:
        entries += await reader.entries(ids)
        after = parse_id(ids[-1])
    return entries, counting


@pytest.mark.parametrize("others", [0, 1])
async def test_a_session_that_fills_half_of_the_log_is_read_in_ranges(
    store: TimedStore, redis: Client, others: int
) -> None:
    ids = await indexed(store, redis, [others] * ENTRIES)
    entries, counting = await read(store)
    assert [entry[0] for entry in entries] == ids
    assert {entry[1][1] for entry in entries} == {b"listed"}
    assert (counting.ranges, counting.single) == (5, 0)


async def test_a_session_among_many_is_read_entry_by_entry_after_the_first_page(
    store: TimedStore, redis: Client
) -> None:
    ids = await indexed(store, redis, [5] * ENTRIES)
    entries, counting = await read(store)
    assert [entry[0] for entry in entries] == ids
    assert counting.ranges == 1
    assert ENTRIES - 2 * PAGE < counting.single < ENTRIES


@pytest.mark.parametrize("others", [0, 5])
async def test_an_entry_that_the_log_has_no_longer_is_left_out(
    store: TimedStore, redis: Client, others: int
) -> None:
    ids = await indexed(store, redis, [others] * ENTRIES)
    gone = {ids[0], ids[PAGE], ids[PAGE + 1], ids[-1]}
    await redis.xdel(store.keys.log, *gone)
    entries, _ = await read(store)
    assert [entry[0] for entry in entries] == [id_ for id_ in ids if id_ not in gone]
