"""Whole systems for tests: a client on a fresh cell, with the roles running or moved by hand.

async with system(server.url, cell) as es: ...        real time, roles running
async with client_of(store) as es: ...                 the clock of `store`, no roles
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import anyio
import msgspec

import eventsched
from eventsched.client.client import Client, running_client
from eventsched.encryption.keystore import KeyStore
from eventsched.roles.runner import ROLES, running
from eventsched.schema.settings import Settings
from eventsched.store.cell import Store
from eventsched.store.client import check_server, open_client
from eventsched.store.connection import Connection
from eventsched.store.transport import RedisTransport

WITHIN_S = 20.0
SECOND = bytes(32_000)
"""One second of silence at 16 kHz."""


@asynccontextmanager
async def system(
    url: str,
    *cells: str,
    roles: Sequence[str] = tuple(ROLES),
    settings: Mapping[str, int] | None = None,
    key_store: KeyStore | None = None,
) -> AsyncIterator[Client]:
    """A client of these cells with the roles running, in real time."""
    async with AsyncExitStack() as stack:
        calling, blocking = await open_client(url), await open_client(url)
        stack.push_async_callback(calling.aclose)
        stack.push_async_callback(blocking.aclose)
        transport = RedisTransport(calling, blocking)
        stores = {cell: Store(transport, cell) for cell in cells}
        wanted = msgspec.to_builtins(Settings()) | dict(settings or {})
        for store in stores.values():
            await store.configure_cell(wanted, overwrite=False)
        facts = await check_server(calling)
        await stack.enter_async_context(running(Connection(url, facts, transport, stores), roles))
        yield await stack.enter_async_context(
            running_client(Client(stores, url=url, keys=key_store))
        )


@asynccontextmanager
async def client_of(store: Store, key_store: KeyStore | None = None) -> AsyncIterator[Client]:
    """Another process, as it were: a client of its own on the same cell."""
    async with running_client(Client({store.cell: store}, keys=key_store)) as client:
        yield client


@asynccontextmanager
async def serving(es: Client, *nodes: eventsched.Node) -> AsyncIterator[None]:
    """The nodes serve while the block lasts, and are registered when it starts."""
    async with anyio.create_task_group() as tasks:
        for node in nodes:
            tasks.start_soon(node.run, es)
            full_id = eventsched.schema.keys.complete(node.name, es.cells)
            await until(f"{node.name} serves", partial(is_registered, es, full_id))
        yield
        tasks.cancel_scope.cancel()


async def is_registered(es: Client, full_id: str) -> bool:
    store = es.store_of(full_id)
    fields = await store.read_hash(store.keys.node(eventsched.schema.keys.name_of(full_id)))
    return fields.get("status") == "alive"


async def until(
    what: str, holds: Callable[[], Awaitable[bool] | bool], within_s: float = WITHIN_S
) -> None:
    """Return as soon as `holds()`; TimeoutError naming `what` after `within_s`."""
    with anyio.move_on_after(within_s):
        while True:
            answer = holds()
            if answer if isinstance(answer, bool) else await answer:
                return
            await anyio.sleep(0.005)  # sleeps: asks again, within a bound
    raise TimeoutError(f"not within {within_s} s: {what}")
