"""Heartbeats of a registration, sent from a thread of their own.

A handler that keeps its event loop busy must not make its node lost, so heartbeats need a thread
with an event loop and a connection of its own. A node whose event loop has stopped must not get
jobs, so heartbeats pause while that loop does not run callbacks.

Owns: the loop that sends heartbeats, its thread, and watching the handlers' event loop.
Must not: act on the reply of the server; the registration does (registration.py).
Read next: registration.py, lua/heartbeat_node.lua.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Protocol, TypeAlias

import anyio
import anyio.to_thread

from eventsched.errors import NodeDrainedError, NodeSuperseded, NodeUnknown
from eventsched.logs import get_logger
from eventsched.schema.keys import cell_of
from eventsched.store.cell import Store
from eventsched.store.client import open_client
from eventsched.store.node_commands import NodeGrant
from eventsched.store.retry import Backoff, EventLoopTime
from eventsched.store.transport import RedisTransport

AttemptId: TypeAlias = tuple[str, int]
"""Job key and number of an attempt."""
JOIN_S = 2.0
LOOP_SILENT_S = 60.0
"""How long the handlers' event loop may run no callback before heartbeats pause. By then the leases
of its jobs have expired: an extension needs a callback."""

log = get_logger("eventsched.node.node")


class Registered(Protocol):
    """A registration as heartbeats see it. The heartbeat thread calls `attempts` and `load`."""

    grant: NodeGrant

    def attempts(self) -> Sequence[AttemptId]: ...

    def load(self) -> int: ...

    def on_lost(self, attempts: Sequence[AttemptId]) -> None:
        """These attempts no longer belong to the registration."""

    def on_end(self, error: Exception) -> None:
        """The registration is no longer the current one, or heartbeats have failed."""


Post: TypeAlias = Callable[[Callable[[], None]], object]
"""Runs a callback in the event loop of the registration."""


async def send_heartbeats(
    store: Store, registration: Registered, post: Post, is_serving: Callable[[], bool]
) -> None:
    """Send heartbeats until the registration is over; none while `is_serving()` is false."""
    backoff = Backoff(store.transport, log, node=registration.grant.node)
    while True:
        async with backoff.attempt():
            try:
                if is_serving():
                    await _send_heartbeat(store, registration, post)
            except (NodeUnknown, NodeSuperseded, NodeDrainedError) as error:
                post(partial(registration.on_end, error))
                return
            await store.transport.sleep(registration.grant.heartbeat_ms / 1_000)


async def _send_heartbeat(store: Store, registration: Registered, post: Post) -> None:
    attempts, grant = registration.attempts(), registration.grant
    lost_jobs = set(
        await store.heartbeat_node(
            grant.node, grant.epoch, load=registration.load(), attempts=attempts
        )
    )
    if lost_jobs:
        lost = [attempt for attempt in attempts if attempt[0] in lost_jobs]
        post(partial(registration.on_lost, lost))


@asynccontextmanager
async def sending_heartbeats(
    store: Store, registration: Registered, url: str
) -> AsyncIterator[None]:
    """Send heartbeats while the block lasts: from a thread if it can connect to `url`."""
    if url:
        thread = _HeartbeatThread(registration, url)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await thread.stop()
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_heartbeats, store, registration, lambda call: call(), lambda: True)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


class LoopGone(Exception):
    """Raised when the watched event loop is closed."""


class LoopWatch:
    """Detects from another thread whether an event loop still runs callbacks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, node: str) -> None:
        self._loop = loop
        self._node = node
        self._scheduled_s: float | None = None
        """When a callback was scheduled that has not run yet."""
        self._is_silent = False

    def is_turning(self) -> bool:
        """Whether the loop has run a callback within LOOP_SILENT_S. Raises LoopGone.

        A log line reports each change.
        """
        if self._loop.is_closed():
            raise LoopGone("event loop closed")
        now_s = time.monotonic()
        scheduled_s = self._scheduled_s
        if scheduled_s is None:
            scheduled_s = self._scheduled_s = now_s
            with suppress(RuntimeError):  # the loop was closed a moment ago
                self._loop.call_soon_threadsafe(self._on_turn)
        silent_s = now_s - scheduled_s
        is_silent = silent_s > LOOP_SILENT_S or not self._loop.is_running()
        if is_silent != self._is_silent:
            self._is_silent = is_silent
            if is_silent:
                log.error("heartbeats paused: event loop blocked", node=self._node, s=int(silent_s))
            else:
                log.warning("heartbeats resumed", node=self._node)
        return not is_silent

    def _on_turn(self) -> None:
        self._scheduled_s = None


class _HeartbeatThread:
    """Sends heartbeats from a thread with an event loop and a connection of its own."""

    def __init__(self, registration: Registered, url: str) -> None:
        self._registration = registration
        self._url = url
        self._home = asyncio.get_running_loop()
        self._watch = LoopWatch(self._home, registration.grant.node)
        self._lock = threading.Lock()
        self._must_stop = False
        self._stop: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._main, name="heartbeat", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End the thread and wait for it, at most JOIN_S: it may wait for its server."""
        with self._lock:
            self._must_stop = True
            if self._stop is not None:
                self._stop()
        await anyio.to_thread.run_sync(self._thread.join, JOIN_S)

    def _main(self) -> None:
        anyio.run(self._run)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as scope:
            with self._lock:
                self._stop = lambda: loop.call_soon_threadsafe(scope.cancel)
                if self._must_stop:
                    return
            try:
                await self._connect_and_send()
            except LoopGone as error:
                log.error("heartbeats ended", node=self._registration.grant.node, error=str(error))
            except Exception as error:  # noqa: BLE001 - raised in the registration's event loop
                self._post(partial(self._registration.on_end, error))
            finally:
                with self._lock:
                    self._stop = None

    def _post(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: `is_turning` raises LoopGone
            self._home.call_soon_threadsafe(call)

    async def _connect_and_send(self) -> None:
        node = self._registration.grant.node
        backoff = Backoff(EventLoopTime(), log, node=node)
        while not self._home.is_closed():
            async with backoff.attempt():
                with anyio.CancelScope(shield=True):  # a cancelled connect would leak a connection
                    client = await open_client(self._url)
                try:
                    store = Store(RedisTransport(client, client), cell_of(node))
                    await send_heartbeats(
                        store, self._registration, self._post, self._watch.is_turning
                    )
                    return
                finally:
                    with anyio.CancelScope(shield=True):
                        await client.aclose()
