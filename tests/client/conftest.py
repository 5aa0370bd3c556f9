"""`client`: a client of the fresh cell of `store`, whose clock and roles the test moves by hand. A
failed attempt is tried again at once.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from eventsched.client.client import Client
from tests.fixtures_store import TimedStore
from tests.systems import client_of


@pytest_asyncio.fixture
async def client(store: TimedStore) -> AsyncIterator[Client]:
    await store.configure_cell({"retry_backoff_ms": 0}, overwrite=True)
    # A client lives in one task, and a fixture's two halves run in two.
    opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def live() -> None:
        async with client_of(store) as es:
            opened.set_result(es)
            await over.wait()

    task = asyncio.create_task(live())
    yield await opened
    over.set()
    await task
