"""Heartbeats, from outside the handlers' thread: a busy handler does not make its node lost.

Owns: the heartbeat loop, and a thread with its own event loop and connection that runs it.
Never does: judging what the server says: it is handed to the registration (registration.py).
Read next: registration.py, lua/heartbeat_node.lua.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol, TypeAlias

import anyio
import anyio.to_thread
import structlog

from eventsched.errors import NodeSuperseded, NodeUnknown, ServerUnavailable
from eventsched.schema.keys import cell_of
from eventsched.store.cell import NodeGrant, Store
from eventsched.store.client import open_client
from eventsched.store.retry import Backoff
from eventsched.store.transport import RedisTransport

Held: TypeAlias = tuple[str, int]
"""An attempt: job key and number."""
CONNECT_S = 1.0
JOIN_S = 2.0

log = structlog.get_logger("eventsched.node.node")


class Body(Protocol):
    """What beats: the registration. `held` is read from the heart's thread."""

    grant: NodeGrant

    def held(self) -> Sequence[Held]: ...

    def load(self) -> int: ...

    def lost(self, attempts: Sequence[Held]) -> None:
        """These are no longer this registration's."""

    def ended(self, error: Exception) -> None:
        """The registration is no longer the current one, or nobody says that it is alive."""


Post: TypeAlias = Callable[[Callable[[], None]], object]
"""Runs a call where the body lives."""


async def beat(store: Store, body: Body, post: Post) -> None:
    """Say that the registration is alive, until it no longer is."""
    backoff = Backoff(store.transport, log, node=body.grant.node)
    while True:
        async with backoff.attempt():
            try:
                await _beat_once(store, body, post)
            except (NodeUnknown, NodeSuperseded) as error:
                post(partial(body.ended, error))
                return
            await store.transport.sleep(body.grant.heartbeat_ms / 1_000)


async def _beat_once(store: Store, body: Body, post: Post) -> None:
    held, grant = body.held(), body.grant
    gone = set(await store.heartbeat_node(grant.node, grant.epoch, load=body.load(), held=held))
    if gone:
        lost = [attempt for attempt in held if attempt[0] in gone]
        post(partial(body.lost, lost))


@asynccontextmanager
async def beating(store: Store, body: Body, url: str) -> AsyncIterator[None]:
    """The heart beats while the block lasts: in a thread of its own if it can connect to `url`."""
    if url:
        heart = _Thread(body, url)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await heart.stop()
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat, store, body, lambda call: call())
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


class _Thread:
    """A thread with its own event loop: it beats even while a handler keeps the other loop busy."""

    def __init__(self, body: Body, url: str) -> None:
        self._body = body
        self._url = url
        self._home = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._must_stop = False
        self._stop: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._main, name="heartbeat", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """The thread has ended when this returns, or does as soon as its server answers."""
        with self._lock:
            self._must_stop = True
            if self._stop is not None:
                self._stop()
        await anyio.to_thread.run_sync(self._thread.join, JOIN_S)

    def _main(self) -> None:
        anyio.run(self._live)

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as scope:
            with self._lock:
                self._stop = lambda: loop.call_soon_threadsafe(scope.cancel)
                if self._must_stop:
                    return
            try:
                await self._connect_and_beat()
            except Exception as error:  # noqa: BLE001 - told where the registration lives
                self._home.call_soon_threadsafe(partial(self._body.ended, error))
            finally:
                with self._lock:
                    self._stop = None

    async def _connect_and_beat(self) -> None:
        cell = cell_of(self._body.grant.node)
        while True:
            try:
                with anyio.CancelScope(shield=True):  # half open it could not be closed
                    client = await open_client(self._url)
                try:
                    store = Store(RedisTransport(client, client), cell)
                    await beat(store, self._body, self._home.call_soon_threadsafe)
                    return
                finally:
                    with anyio.CancelScope(shield=True):
                        await client.aclose()
            except ServerUnavailable as error:
                log.warning("no heartbeat: server away", error=str(error))
                await anyio.sleep(CONNECT_S)
