"""A stream that is missing cannot be told from an empty one by reading it."""

from __future__ import annotations

import pytest

import projections
from eventsched.errors import ServerUnavailable
from eventsched.history.log import History
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.store.client import Client
from tests.fixtures_store import TimedStore
from tests.scripts.jobs_of import speak


async def test_a_log_that_is_missing_is_not_taken_as_empty(
    redis: Client, store: TimedStore
) -> None:
    await speak(store, "s1", count=3)
    views = ProjectionStore(store.transport, store.cell, now_ms=lambda: store.at_ms)
    history = History(views, None, projections.core)
    entries = [entry async for entry in history.entries()]
    log = store.keys.log
    stored = await redis.dump(log) or b""
    await redis.delete(log)
    assert [entry async for entry in history.entries()] == []  # a cell without an event
    with pytest.raises(ServerUnavailable, match="the log of cell"):
        await anext(history.entries(entries[0][0]))
    await redis.restore(log, 0, stored)
    projector = Projector(views, projections.core)
    while (await projector.step()).state != "idle":
        pass
    stored = await redis.dump(log) or b""
    await redis.delete(log)
    with pytest.raises(ServerUnavailable, match="the log of cell"):
        await anext(history.entries())
    await redis.restore(log, 0, stored)
    assert [entry async for entry in history.entries()] == entries
