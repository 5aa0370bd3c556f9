"""The tasks that a client's sessions of one cell share.

Owns: batching of appends and finalizes over all sessions, the reader of their outboxes, keepalives,
the present owner of each session in this client, the end of sessions whose block did not see it.
Must not: number or resend chunks (append_buffer.py, session.py).
Read next: store/batcher.py, subscription.py, session.py, wait_notice.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import anyio.abc

from eventsched.client.subscription import Subscription, SubscriptionReader
from eventsched.client.wait_notice import WaitNotice
from eventsched.errors import Refused, SessionClosedError, SessionSuperseded, SessionUnknown
from eventsched.logs import get_logger
from eventsched.store.batcher import Batcher
from eventsched.store.cell import Store
from eventsched.store.retry import Backoff, happens_within
from eventsched.store.session_commands import Chunk, Finalize, Postponed, Receipt

APPEND_ITEMS_MAX = 16
FINALIZE_ITEMS_MAX = 8
"""Chunks and finalizes in one call: about a millisecond, in which Redis serves no other client."""
APPEND_BYTES_MAX = 1024 * 1024
KEEPALIVE_S = 15
"""A session that sent nothing for so long sends a keepalive; a quarter of the setting `idle_ms` if
this is shorter."""
TICK_S = 1.0

log = get_logger("eventsched.client.session")


class Producer(Protocol):
    """A session as the multiplexer sees it."""

    id: str
    epoch: int
    quiet_s: int
    """Seconds since the session sent anything."""

    @property
    def confirmed(self) -> str:
        """Id of the last entry of the outbox that was handled; empty if none was."""

    def _on_end(self, refused: Refused) -> None:
        """The producer no longer owns the session, or the records of the session are deleted."""


class CellMultiplexer:
    """Sends and receives for all sessions of one cell while `run` runs."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.listener = SubscriptionReader(store)
        self.appends: Batcher[Chunk, Receipt | Postponed | Refused] = Batcher(
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
        self._producers: dict[str, Producer] = {}
        """The present owner of each session, by id of the session."""
        self._tasks: anyio.abc.TaskGroup | None = None
        self._wait_notice = WaitNotice(store)
        self._keepalive_s: float = KEEPALIVE_S
        self._ticks = 0

    @property
    def producers(self) -> list[Producer]:
        """The producers that are kept alive."""
        return list(self._producers.values())

    def register(self, producer: Producer) -> None:
        """Keep this producer alive. Of two owners of a session the one with the lower epoch ends.

        Replies arrive in any order, so the lower epoch may be registered last.
        """
        other = self._producers.get(producer.id)
        if other is None:
            self._producers[producer.id] = producer
            return
        replaced, owner = sorted((other, producer), key=lambda each: each.epoch)
        self._producers[producer.id] = owner
        fields = {"epoch": str(owner.epoch)}
        replaced._on_end(SessionSuperseded("SESSION_SUPERSEDED", fields))

    def unregister(self, producer: Producer) -> bool:
        """Stop keeping this producer alive; return whether it was. Another owner is not touched."""
        if self._producers.get(producer.id) is not producer:
            return False
        del self._producers[producer.id]
        return True

    async def run(self) -> None:
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self.appends.run)
                self._tasks.start_soon(self.finalizes.run)
                self._tasks.start_soon(self.listener.run)
                self._tasks.start_soon(self._keep_alive)
        finally:
            self._tasks = None

    def finish(
        self, session: str, subscription: Subscription, request_close: Callable[[], Awaitable[None]]
    ) -> None:
        """Close a session, however long the server is away, and read its outbox to the end.

        Its block has ended without the reply that it is closed. Its results go on until it is.
        """
        if self._tasks is not None:
            self._tasks.start_soon(self._finish, session, subscription, request_close)
        else:  # the client has ended before the session
            subscription.end()

    async def _finish(
        self, session: str, subscription: Subscription, request_close: Callable[[], Awaitable[None]]
    ) -> None:
        backoff = Backoff(self.store.transport, log, cell=self.store.cell)
        try:
            while not subscription.closed.is_set():
                async with backoff.attempt():
                    with suppress(SessionClosedError):  # it is closing: its outcomes still arrive
                        await request_close()
                    await happens_within(self.store.transport, KEEPALIVE_S, subscription.closed)
        except Refused as refused:
            log.warning("session not closed", session=session, code=refused.code)
            subscription.fail(refused)
        finally:
            self.listener.remove(subscription)
            subscription.end()

    async def _append(self, chunks: Sequence[Chunk]) -> list[Receipt | Postponed | Refused]:
        # Chunks have numbers, so a repeated call stores none of them twice.
        return await Backoff(self.store.transport).call(lambda: self.store.append_audio(chunks))

    async def _finalize(self, requests: Sequence[Finalize]) -> list[Receipt | Refused]:
        # A request names its utterance, so a repeated call completes none twice.
        return await Backoff(self.store.transport).call(
            lambda: self.store.finalize_utterances(requests)
        )

    async def _keep_alive(self) -> None:
        backoff = Backoff(self.store.transport, log, cell=self.store.cell)
        while True:
            await self.store.transport.sleep(TICK_S)
            for producer in self._producers.values():
                producer.quiet_s += 1
            waited_s = self.listener.count_second()
            async with backoff.attempt():
                await self._wait_notice.look(waited_s)
                if self._producers:
                    due_s = await self._keepalive_due_s()
                    due = [p for p in self._producers.values() if p.quiet_s >= due_s]
                    await self.send_keepalives(due)

    async def _keepalive_due_s(self) -> float:
        """After how many quiet seconds a keepalive is due. The setting is read once a minute."""
        if self._ticks % 60 == 0:
            settings = await self.store.read_settings()
            self._keepalive_s = min(KEEPALIVE_S, settings.idle_ms / 4_000)
        self._ticks += 1
        return self._keepalive_s

    async def send_keepalives(self, producers: Sequence[Producer]) -> None:
        """Keep these sessions open, and confirm what they have handled."""
        for start in range(0, len(producers), APPEND_ITEMS_MAX):
            batch = producers[start : start + APPEND_ITEMS_MAX]
            replies = await self.store.keep_alive([(p.id, p.epoch, p.confirmed) for p in batch])
            for producer, refused in zip(batch, replies, strict=True):
                producer.quiet_s = 0
                # A producer that closed its session, or was replaced during the call, is not
                # registered any more.
                if refused is not None and self.unregister(producer):
                    log.warning("session gone", session=producer.id, code=refused.code)
                    if isinstance(refused, SessionSuperseded | SessionUnknown):
                        producer._on_end(refused)
