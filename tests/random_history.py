"""Cells with a random history, and how tests project and read it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from eventsched.history.source import HistorySource
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.schema.events import Event
from eventsched.store.client import Client, check_server
from eventsched.store.connection import Connection
from tests.fixtures_store import TimedStore
from tests.scripts.test_any_sequence import Play


async def source_of(store: TimedStore, redis: Client) -> HistorySource:
    """The history of the store's cell, read from the server alone."""
    facts = await check_server(redis)
    return HistorySource(Connection("", facts, store.transport, {store.cell: store}))  # type: ignore[arg-type]


class CoreProjector:
    """Projects the log of a cell with the set `core`, a batch at a time."""

    def __init__(self, store: TimedStore, batch: int = 500) -> None:
        core = load_core()
        self.views = ProjectionStore(store.transport, store.cell, now_ms=lambda: store.at_ms)
        self._projector = Projector(self.views, core, batch_max=batch)

    async def step(self) -> str:
        return (await self._projector.step()).state

    async def all(self) -> None:
        while await self.step() == "folded":
            pass

    async def release(self) -> None:
        await self._projector.release()


async def random_log(store: TimedStore, seed: int, steps: int) -> Sequence[Event]:
    """The log of a cell after `steps` random calls."""
    play = Play(store, random.Random(seed))
    for _ in range(steps):
        await play.rng.choice(play.steps())()
    return await store.log()


def with_data(event: Event, **changes: Any) -> Event:
    """The event with other data."""
    return msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, **changes))
