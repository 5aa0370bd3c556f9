"""Heartbeats, from outside the handlers' thread: a busy handler does not make its node lost.

Owns: the heartbeat loop, a thread with its own event loop and connection that runs it, and its
silence when the handlers' event loop is gone or does not turn: a node that serves nothing must not
be given jobs.
Never does: judging what the server says: it is handed to the registration (registration.py).
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
import structlog

from eventsched.errors import NodeSuperseded, NodeUnknown, ServerUnavailable
from eventsched.schema.keys import cell_of
from eventsched.store.cell import Store
from eventsched.store.client import open_client
from eventsched.store.node_commands import NodeGrant
from eventsched.store.retry import Backoff
from eventsched.store.transport import RedisTransport

Held: TypeAlias = tuple[str, int]
"""An attempt: job key and number."""
CONNECT_S = 1.0
JOIN_S = 2.0
LOOP_SILENT_S = 60.0
"""How long the handlers' event loop may be busy without a turn. By then the leases of its jobs have
ended, but for those that were extended, which takes a turn."""

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


async def beat(store: Store, body: Body, post: Post, turns: Callable[[], bool]) -> None:
    """Say that the registration is alive, until it no longer is; nothing while `turns()` is false.

    `turns` says whether the event loop that serves does anything.
    """
    backoff = Backoff(store.transport, log, node=body.grant.node)
    while True:
        async with backoff.attempt():
            try:
                if turns():
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
        tasks.start_soon(beat, store, body, lambda call: call(), lambda: True)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


class LoopGone(Exception):
    """Raised when the event loop that is watched was closed."""


class LoopWatch:
    """Whether an event loop turns, asked from another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, node: str) -> None:
        self._loop = loop
        self._node = node
        self._asked_s: float | None = None
        """When the loop was asked to turn, and has not yet."""
        self._is_silent = False

    def turns(self) -> bool:
        """Whether it runs and has turned within LOOP_SILENT_S. Raises LoopGone.

        A log line says when that changes.
        """
        if self._loop.is_closed():
            raise LoopGone("event loop closed")
        now_s = time.monotonic()
        asked_s = self._asked_s
        if asked_s is None:
            asked_s = self._asked_s = now_s
            with suppress(RuntimeError):  # closed a moment ago
                self._loop.call_soon_threadsafe(self._turned)
        silent_s = now_s - asked_s
        is_silent = silent_s > LOOP_SILENT_S or not self._loop.is_running()
        if is_silent != self._is_silent:
            self._is_silent = is_silent
            if is_silent:
                log.error("no heartbeat: event loop stands still", node=self._node, s=int(silent_s))
            else:
                log.warning("event loop turns again", node=self._node)
        return not is_silent

    def _turned(self) -> None:
        self._asked_s = None


class _Thread:
    """A thread with its own event loop: it beats even while a handler keeps the other loop busy."""

    def __init__(self, body: Body, url: str) -> None:
        self._body = body
        self._url = url
        self._home = asyncio.get_running_loop()
        self._watch = LoopWatch(self._home, body.grant.node)
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
            except LoopGone as error:
                log.error("no heartbeat any more", node=self._body.grant.node, error=str(error))
            except Exception as error:  # noqa: BLE001 - told where the registration lives
                self._post(partial(self._body.ended, error))
            finally:
                with self._lock:
                    self._stop = None

    def _post(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: `turns` says so
            self._home.call_soon_threadsafe(call)

    async def _connect_and_beat(self) -> None:
        cell = cell_of(self._body.grant.node)
        while not self._home.is_closed():
            try:
                with anyio.CancelScope(shield=True):  # half open it could not be closed
                    client = await open_client(self._url)
                try:
                    store = Store(RedisTransport(client, client), cell)
                    await beat(store, self._body, self._post, self._watch.turns)
                    return
                finally:
                    with anyio.CancelScope(shield=True):
                        await client.aclose()
            except ServerUnavailable as error:
                log.warning("no heartbeat: server away", error=str(error))
                await anyio.sleep(CONNECT_S)
