"""`url`: a server with every role running, as `eventsched up` leaves it."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest_asyncio

from eventsched.roles.runner import running
from eventsched.store.connection import open_connection
from tests.server_kinds import Server


@pytest_asyncio.fixture
async def url(server: Server, cells: Callable[[], str]) -> AsyncIterator[str]:
    up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def run() -> None:
        async with open_connection(server.url) as connection, running(connection):
            up.set_result(connection.url)
            await over.wait()

    task = asyncio.create_task(run())
    yield await up
    over.set()
    await task
