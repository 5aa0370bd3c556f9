"""Rule 31, state follows from events: a killed server keeps jobs, slots, order and texts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
import msgspec
import pytest

from eventsched.errors import LeaseLost
from eventsched.schema.settings import Settings
from eventsched.server.testing import LocalServer
from eventsched.store.client import open_client
from eventsched.store.transport import RedisTransport
from tests.fixtures_store import TimedStore


@asynccontextmanager
async def store_on(server: LocalServer, at_ms: int) -> AsyncIterator[TimedStore]:
    """Cell c0 of the server, by a connection that knows nothing of an earlier one."""
    client = await open_client(server.url)
    store = TimedStore(RedisTransport(client, client), "c0")
    store.at_ms = at_ms
    await store.configure_cell(msgspec.to_builtins(Settings()), overwrite=False, manual_clock=True)
    yield store
    await client.aclose()


async def test_rule_31_a_restart_keeps_jobs_slots_order_and_texts(
    own_server: LocalServer,
) -> None:
    """Of three utterances the second has a result already, which waits behind the first."""
    own_server.call("CONFIG", "SET", "appendfsync", "always")
    async with store_on(own_server, 1_000_000) as store:
        node, session = await store.join(slots=2), await store.open()
        for seq in range(3):
            await store.say(session, seq, end_of_utterance=True)
        assert await store.dispatch() == 3
        first, second = await store.inbox(node)
        await store.answer(node, second)
        before = await store.log()
    await anyio.to_thread.run_sync(own_server.restart)
    async with store_on(own_server, store.at_ms) as store:
        assert await store.log() == before
        assert (await store.say(session, 2, end_of_utterance=True)).status == "duplicate"
        assert (await store.join()).epoch == node.epoch  # the same token, the same registration
        assert await store.dispatch() == 0
        assert await store.log() == before
        with pytest.raises(LeaseLost, match="DUPLICATE_RESULT"):
            await store.answer(node, second)
        third = (await store.inbox(node))[-1]
        for message in (third, first):
            await store.answer(node, message)
        numbers = [one["delivery_no"] for one in await store.out(session) if one["t"] == "result"]
        assert numbers == [0, 1, 2]
        types = await store.types()
        assert [types.count(one) for one in ("JobDispatched", "ResultRecorded")] == [3, 3]
