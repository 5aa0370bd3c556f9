"""Checks that hold for every test of the scripts.

Each call that runs alone refuses and appends only what the header of its script names, and each
event decodes. At the end the authoritative state equals the fold of the log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from eventsched.store.client import Client
from tests.fixtures_store import TimedStore
from tests.scripts.headers import HeaderCheckingTransport
from tests.scripts.session_state import assert_sessions_are_folded


@pytest_asyncio.fixture(name="store")
async def store_held_to_headers_and_log(
    store: TimedStore, redis: Client
) -> AsyncIterator[TimedStore]:
    store.transport = HeaderCheckingTransport(redis, redis)
    yield store
    await assert_sessions_are_folded(store)
