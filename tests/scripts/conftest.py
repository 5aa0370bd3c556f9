"""What holds for every test of the scripts, beside what it says itself.

Each call that runs alone refuses and appends only what its script's header names, and each event
decodes; at the end decided state equals the fold of the log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from eventsched.store.client import Client
from tests.fixtures_store import TimedStore
from tests.scripts.folded import assert_sessions_are_folded
from tests.scripts.headers import HeldToHeaders


@pytest_asyncio.fixture(name="store")
async def store_held_to_headers_and_log(
    store: TimedStore, redis: Client
) -> AsyncIterator[TimedStore]:
    store.transport = HeldToHeaders(redis, redis)
    yield store
    await assert_sessions_are_folded(store)
