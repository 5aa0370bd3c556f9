"""A process's connection: the server found, found fit, its cells listed, a store for each.

Owns: what every entrance (library, roles, command line) does before its first call.
Never does: start a server itself (server/), decide anything. Read next: cell.py, schema/keys.py.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from eventsched.errors import InvalidMessage, ServerUnavailable
from eventsched.schema import keys
from eventsched.schema.settings import Settings, checked
from eventsched.schema.validation import check_between
from eventsched.server.embedded import DEFAULT_DATA, use
from eventsched.server.folder import PROGRAM
from eventsched.store.cell import Store
from eventsched.store.client import Client, ServerFacts, check_server, open_client
from eventsched.store.transport import RedisTransport, answering, retry_policy

CELLS_MAX = 64
CLOSE_S = 1.0
STREAM_READS = ("XRANGE", "XREVRANGE", "XREAD")
"""redis-py makes a dict of each entry; the transport takes them flat, as the server sends them."""
log = structlog.get_logger("eventsched.store.connection")


@dataclass(frozen=True, slots=True)
class Connection:
    """Open while its block lasts."""

    url: str = field(repr=False)
    """It may hold a password: messages show `display_url(url)`."""
    facts: ServerFacts
    transport: RedisTransport
    stores: Mapping[str, Store]
    """By cell, in the order that places names."""

    @property
    def cells(self) -> list[str]:
        return list(self.stores)

    def store_of(self, full_id: str) -> Store:
        """The store of the cell that `<cell>.<name>` names; InvalidMessage if there is none."""
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
) -> AsyncIterator[Connection]:
    """Find the server, or start one in `data`, and make sure that its cells exist.

    `cells` counts for a server that has none yet (default 1); a server that has another number
    refuses it. `settings` given here replace those of existing cells. Without `create` there must
    be cells: nothing is made, and a server is started only over the data of an earlier one.
    Raises ServerUnavailable, InvalidMessage.
    """
    if cells is not None:
        check_between("cells", cells, 1, CELLS_MAX)
    wanted = checked(settings or {})
    if not (create or url or os.environ.get("EVENTSCHED_URL")):
        _check_folder(data or DEFAULT_DATA)
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(use(url, data=data))
        calling = await _opened(stack, address)
        with answering():
            facts = await check_server(calling)
        if create and facts.primary:
            raise ServerUnavailable(
                f"this server is a replica and takes no writes: name its primary, {facts.primary}"
            )
        for warning in facts.warnings:
            log.debug("server", warning=warning)
        transport = RedisTransport(calling, await _opened(stack, address))
        with answering():
            names = await (_list_cells(calling, cells) if create else _find_cells(calling))
        stores = {name: Store(transport, name) for name in names}
        if create:
            await _configure(stores.values(), wanted)
        yield Connection(address, facts, transport, stores)


def _check_folder(folder: Path) -> None:
    """There is something to read here: a server ran in this folder once."""
    if not (folder / PROGRAM).exists():
        raise ServerUnavailable(
            f"no server has run in {folder}: start one with `eventsched up`, "
            f"or say where it is with --data or --url"
        )


async def _configure(stores: Iterable[Store], settings: Mapping[str, int]) -> None:
    wanted = msgspec.to_builtins(Settings()) | dict(settings)
    for store in stores:
        await store.configure_cell(wanted, overwrite=False)
        if settings:
            await store.configure_cell(settings, overwrite=True)


async def _opened(stack: AsyncExitStack, url: str) -> Client:
    client = await open_client(url)
    stack.push_async_callback(_closed, client)
    if isinstance(client, Redis):
        client.set_retry(retry_policy())
        for command in STREAM_READS:
            client.response_callbacks.pop(command, None)
    return client


async def _closed(client: Client) -> None:
    """Its connections are closed, also when who used them was cancelled."""
    with anyio.move_on_after(CLOSE_S, shield=True):
        await client.aclose()


async def _find_cells(client: Client) -> list[str]:
    """The cells that somebody else has fixed."""
    names = await _kept_cells(client)
    if not names:
        raise ServerUnavailable(
            "this server holds nothing of eventsched yet: start `eventsched up` with the same "
            "--url or --data first"
        )
    return names


async def _list_cells(client: Client, wanted: int | None) -> list[str]:
    """The cells, fixed by whoever came first."""
    fresh = ",".join(f"c{number}" for number in range(wanted or 1))
    raw: Any = client
    if not await raw.exists(keys.CELLS):  # a server that is full could not take even this
        await raw.set(keys.CELLS, fresh, nx=True)
    names = await _kept_cells(client)
    if wanted is not None and wanted != len(names):
        raise InvalidMessage.of(
            "cells",
            f"this server has {len(names)}, fixed at its first start",
            f"leave --cells out, or use {len(names)}",
        )
    return names


async def _kept_cells(client: Client) -> list[str]:
    """The cells that the server's key lists; none without it. Anything else there is not ours."""
    raw: Any = client
    try:
        kept = await raw.get(keys.CELLS)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        kept = b"another type"
    if kept is None:
        return []
    names: list[str] = kept.decode(errors="replace").split(",")
    if not all(keys.CELL.fullmatch(name) for name in names):
        raise ServerUnavailable(
            f"the key {keys.CELLS} holds {kept!r:.80} instead of the names of cells: "
            f"it is not from eventsched, use another database"
        )
    return names
