"""Connects a process: finds the server, checks it, lists its cells, opens a store for each.

Owns: the steps that the library, the roles and the command line take before their first call.
Must not: start a server itself (server/ does), or decide anything.
Read next: cell.py (the calls), client.py (the checks), schema/keys.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from eventsched.addresses import display_url
from eventsched.errors import (
    InvalidMessage,
    ServerAway,
    ServerUnavailable,
    UnexpectedReply,
)
from eventsched.logs import get_logger
from eventsched.schema import keys
from eventsched.schema.settings import Settings, parse_settings
from eventsched.schema.validation import check_between
from eventsched.server.choice import DATA_VARIABLE, URL_VARIABLE, choose_server
from eventsched.server.embedded import use
from eventsched.server.folder import PROGRAM
from eventsched.store.access import check_access
from eventsched.store.cell import Store
from eventsched.store.client import Client, ServerFacts, check_server, open_client
from eventsched.store.error_replies import translate_errors
from eventsched.store.retry import Backoff, EventLoopTime
from eventsched.store.transport import RedisTransport, retry_policy

CELLS_MAX = 64
CLOSE_S = 1.0
STREAM_READS = ("XRANGE", "XREVRANGE", "XREAD", "XREADGROUP")
"""redis-py converts their entries to dicts; the transport takes them as the server sends them."""
log = get_logger("eventsched.store.connection")


@dataclass(frozen=True, slots=True)
class Connection:
    """A server and its cells. It is open inside the block of `open_connection`."""

    url: str = field(repr=False)
    """May contain a password: messages show `display_url(url)`."""
    facts: ServerFacts
    transport: RedisTransport
    stores: Mapping[str, Store]
    """By cell, in the order in which names are assigned to cells."""
    settings: Mapping[str, int] | None = None
    """Settings of the cells that this process creates; None if it may not create cells."""

    @property
    def cells(self) -> list[str]:
        return list(self.stores)

    async def create_cells(self) -> None:
        """Create the cells again on a server that has lost its data, as at the first start.

        Raises ServerUnavailable if this process may not create cells, or if the server has others.
        """
        if self.settings is None:
            raise ServerUnavailable("this process may not create cells: start a role")
        names = ",".join(self.cells)
        await self.transport.command("SET", keys.CELLS, names, "NX", key=keys.CELLS)
        stored = await self.transport.command("GET", keys.CELLS, key=keys.CELLS)
        if stored != names.encode():
            raise ServerUnavailable(f"the server has other cells now: {stored!r:.80}, not {names}")
        await _configure(self.stores.values(), self.settings)
        log.warning("cells created, the server had lost them", cells=names)

    def store_of(self, full_id: str) -> Store:
        """The store for `<cell>.<name>`. Raises InvalidMessage for an unknown cell."""
        store = self.stores.get(keys.cell_of(full_id))
        if store is None:
            raise InvalidMessage.of(
                "id", f"{full_id!r} names no cell of {', '.join(self.stores)}", "check the id"
            )
        return store


@asynccontextmanager
async def open_connection(
    url: str | None = None,
    *,
    data: Path | None = None,
    create: bool = True,
    cells: int | None = None,
    settings: Mapping[str, int] | None = None,
    wait: bool = False,
) -> AsyncIterator[Connection]:
    """Find the server, or start one in `data`, and make sure that its cells exist.

    Args:
        url: Address of the server.
        data: Folder of an embedded server. Without both, `choose_server` finds the server in the
            environment.
        create: Create missing cells. Without it the cells must exist, and an embedded server is
            started only if `data` has the data of an earlier one.
        cells: Number of cells of a new server (default 1); an existing server must have as many.
        settings: Replace these settings of all cells.
        wait: Wait for a named server that is away, without a limit. Any other error is raised at
            once.

    Raises ServerUnavailable, InvalidMessage.
    """
    if cells is not None:
        check_between("cells", cells, 1, CELLS_MAX)
    new_settings = parse_settings(settings or {})
    choice = choose_server(url, data)
    if not (create or choice.url):
        _check_folder(choice.folder)
    async with use(url, data=data) as address:
        backoff = Backoff(EventLoopTime(), log, server=display_url(address))
        errors = ServerAway if wait and choice.url else ()
        while True:
            async with AsyncExitStack() as stack, backoff.attempt(errors):
                connection = await _connect(stack, address, create, cells, new_settings)
                connected = stack.pop_all()
                break
        async with connected:
            yield connection


async def _connect(
    stack: AsyncExitStack,
    address: str,
    create: bool,
    cells: int | None,
    settings: Mapping[str, int],
) -> Connection:
    """Open the clients, check the server and its user, and return the connection."""
    calling = await _open(stack, address)
    with translate_errors():
        facts = await check_server(calling)
    if create and facts.primary:
        raise ServerAway(
            f"this server is a replica and takes no writes: name its primary, {facts.primary}"
        )
    for warning in facts.warnings:
        log.debug("server", warning=warning)
    transport = RedisTransport(calling, await _open(stack, address))
    with translate_errors():
        names = await (_list_cells(calling, cells) if create else _find_cells(calling))
        stores = {name: Store(transport, name) for name in names}
        if create:
            await check_access(calling, stores[names[0]].keys.log)
    if create:
        await _configure(stores.values(), settings)
    return Connection(address, facts, transport, stores, settings if create else None)


def _check_folder(folder: Path) -> None:
    """Raises ServerUnavailable unless a server has run in this folder."""
    if not (folder / PROGRAM).exists():
        raise ServerUnavailable(
            f"no server has run in {folder}: start one with `eventsched up`, "
            f"or name the server with --url, --data, {URL_VARIABLE} or {DATA_VARIABLE}"
        )


async def _configure(stores: Iterable[Store], settings: Mapping[str, int]) -> None:
    initial = msgspec.to_builtins(Settings()) | dict(settings)
    for store in stores:
        await store.configure_cell(initial, overwrite=False)
        if settings:
            await store.configure_cell(settings, overwrite=True)


async def _open(stack: AsyncExitStack, url: str) -> Client:
    client = await open_client(url)
    stack.push_async_callback(_close, client)
    if isinstance(client, Redis):
        client.set_retry(retry_policy())
        for command in STREAM_READS:
            client.response_callbacks.pop(command, None)
    return client


async def _close(client: Client) -> None:
    """Close its connections, also if the caller was cancelled."""
    with anyio.move_on_after(CLOSE_S, shield=True):
        await client.aclose()


async def _find_cells(client: Client) -> list[str]:
    """The cells that the server has."""
    names = await _read_cells(client)
    if not names:
        raise ServerUnavailable(
            "this server holds nothing of eventsched yet: start `eventsched up` with the same "
            "--url or --data first"
        )
    return names


async def _list_cells(client: Client, count: int | None) -> list[str]:
    """The cells that the server has; a new server gets `count` cells, by default 1."""
    new_names = ",".join(f"c{number}" for number in range(count or 1))
    raw: Any = client
    if not await raw.exists(keys.CELLS):  # so that a server without free memory can still be read
        await raw.set(keys.CELLS, new_names, nx=True)
    names = await _read_cells(client)
    if count is not None and count != len(names):
        raise InvalidMessage.of(
            "cells",
            f"this server has {len(names)}, fixed at its first start",
            f"leave --cells out, or use {len(names)}",
        )
    return names


async def _read_cells(client: Client) -> list[str]:
    """The cells that the server's key lists; empty without the key. Rejects any other content."""
    raw: Any = client
    try:
        value = await raw.get(keys.CELLS)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        value = b"another type"
    if value is None:
        return []
    names: list[str] = value.decode(errors="replace").split(",")
    if not all(keys.CELL.fullmatch(name) for name in names):
        raise UnexpectedReply(
            f"the key {keys.CELLS} holds {value!r:.80} instead of the names of cells: "
            f"it is not from eventsched, use another database"
        )
    return names
