"""What one client's sessions of one cell share: appends, finalizes, the listener, keepalives.

Owns: the tasks behind any number of sessions: those that append and finalize (coalesced), one
that listens, one that says which quiet sessions are still there.
Never does: numbering, resending (session.py).
Read next: store/batcher.py, subscription.py, session.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import anyio.abc
import structlog

from eventsched.client.subscription import SubscriptionReader
from eventsched.errors import Refused
from eventsched.store.batcher import Batcher
from eventsched.store.cell import Store
from eventsched.store.retry import Backoff
from eventsched.store.session_commands import Chunk, Finalize, Receipt

APPEND_ITEMS_MAX = 16
FINALIZE_ITEMS_MAX = 8
"""Chunks and finalizes a call: a millisecond of script time, in which nobody else is served."""
APPEND_BYTES_MAX = 1024 * 1024
KEEPALIVE_S = 15
"""Or a quarter of the cell's idle time, if that is set to less than a minute."""
TICK_S = 1.0

log = structlog.get_logger("eventsched.client.session")


class Producer(Protocol):
    """What the channel knows of a session."""

    id: str
    epoch: int
    quiet_s: int
    """Seconds since it sent anything."""

    @property
    def confirmed(self) -> str:
        """Last entry of its out stream that was handled; empty when none was."""


class CellMultiplexer:
    """Open while `run` runs."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.listener = SubscriptionReader(store)
        self.appends: Batcher[Chunk, Receipt | Refused] = Batcher(
            self._append,
            items_max=APPEND_ITEMS_MAX,
            in_flight=2,
            bytes_max=APPEND_BYTES_MAX,
            size_of=lambda chunk: len(chunk.payload),
        )
        self.finalizes: Batcher[Finalize, Receipt | Refused] = Batcher(
            self._finalize,
            items_max=FINALIZE_ITEMS_MAX,
            in_flight=2,
            bytes_max=APPEND_BYTES_MAX,
            size_of=lambda _: 0,
        )
        self.producers: dict[str, Producer] = {}
        self._keepalive_s: float = KEEPALIVE_S
        self._ticks = 0

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.appends.run)
            tasks.start_soon(self.finalizes.run)
            tasks.start_soon(self.listener.run)
            tasks.start_soon(self._keep_alive)

    async def _append(self, chunks: Sequence[Chunk]) -> list[Receipt | Refused]:
        # Sent twice is stored once: the numbers tell.
        return await Backoff(self.store.transport).call(lambda: self.store.append_audio(chunks))

    async def _finalize(self, asked: Sequence[Finalize]) -> list[Receipt | Refused]:
        # Asked twice is complete once: the index tells.
        return await Backoff(self.store.transport).call(
            lambda: self.store.finalize_utterances(asked)
        )

    async def _keep_alive(self) -> None:
        backoff = Backoff(self.store.transport, log, cell=self.store.cell)
        while True:
            await self.store.transport.sleep(TICK_S)
            for producer in self.producers.values():
                producer.quiet_s += 1
            async with backoff.attempt():
                if self.producers:
                    due_s = await self._due_s()
                    await self.greet([p for p in self.producers.values() if p.quiet_s >= due_s])

    async def _due_s(self) -> float:
        """After how much quiet a session says that it is there. Asked again once a minute."""
        if self._ticks % 60 == 0:
            kept = await self.store.read_hash(self.store.keys.settings)
            self._keepalive_s = min(KEEPALIVE_S, int(kept["idle_ms"]) / 4_000)
        self._ticks += 1
        return self._keepalive_s

    async def greet(self, producers: Sequence[Producer]) -> None:
        """These are still there, and have handled what they confirm."""
        for at in range(0, len(producers), APPEND_ITEMS_MAX):
            some = producers[at : at + APPEND_ITEMS_MAX]
            replies = await self.store.keep_alive([(p.id, p.epoch, p.confirmed) for p in some])
            for producer, refused in zip(some, replies, strict=True):
                producer.quiet_s = 0
                # One that closes at this moment has left already.
                if refused is not None and producer.id in self.producers:
                    del self.producers[producer.id]
                    log.warning("session gone", session=producer.id, code=refused.code)
