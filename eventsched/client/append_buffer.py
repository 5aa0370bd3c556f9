"""The chunks of one session that must be sent, or may have to be sent again.

Owns: the number of the next chunk, the chunks that no server has confirmed (pending), and the last
ones that a server has confirmed (stored), both bounded.
Must not: do I/O, read a clock, or interpret audio.
Read next: session.py, which sends what this buffer holds.

A chunk is pending from the moment its append is accepted until a reply confirms it: a lost reply
leaves it pending, and it is sent before any later chunk. A confirmed chunk is kept for a while,
because a failover can lose what a server confirmed; the server then expects an earlier number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec

from eventsched.store.session_commands import Chunk

STORED_CHUNKS_MAX = 256
"""Confirmed chunks beyond this number are dropped, whatever their length."""
PENDING_BYTES_MAX = 32 * 1024 * 1024
"""Beyond it the buffer is full: the session takes no audio until a server confirms some."""


class StoredLimits(msgspec.Struct, frozen=True):
    """How much confirmed audio a session keeps: what a failover may lose, and no more."""

    ms: int = 4_000
    """Length of the audio."""
    bytes: int = 128 * 1024
    """Size of its chunks."""


class AppendBuffer:
    """Chunks in the order of their numbers: first the stored ones, then the pending ones."""

    def __init__(self, next_seq: int = 0, limits: StoredLimits | None = None) -> None:
        self.next_seq = next_seq
        """Number of the next chunk that is added."""
        self._stored: deque[Chunk] = deque()
        self._stored_bytes = self._stored_ms = 0
        self._limits = limits or StoredLimits()
        self._pending: deque[Chunk] = deque()
        self._pending_bytes = 0

    def __len__(self) -> int:
        """How many chunks are pending."""
        return len(self._pending)

    @property
    def is_full(self) -> bool:
        """Whether more than PENDING_BYTES_MAX are pending."""
        return self._pending_bytes > PENDING_BYTES_MAX

    def add(self, chunks: Sequence[Chunk]) -> None:
        """The chunks are pending; their numbers follow from `next_seq`."""
        self._pending.extend(chunks)
        self._pending_bytes += sum(len(chunk.payload) for chunk in chunks)
        self.next_seq += len(chunks)

    def batch(self, *, chunks_max: int, bytes_max: int) -> list[Chunk]:
        """The first pending chunks within both bounds; at least one if any is pending."""
        return _within(self._pending, chunks_max, bytes_max)

    def confirm(self, count: int) -> None:
        """The first `count` pending chunks are stored on the server."""
        for _ in range(count):
            chunk = self._pending.popleft()
            self._pending_bytes -= len(chunk.payload)
            self._stored.append(chunk)
            self._stored_bytes += len(chunk.payload)
            self._stored_ms += chunk.ms
        while self._stores_too_much:
            oldest = self._stored.popleft()
            self._stored_bytes -= len(oldest.payload)
            self._stored_ms -= oldest.ms

    @property
    def _stores_too_much(self) -> bool:
        is_too_much = self._stored_ms > self._limits.ms or self._stored_bytes > self._limits.bytes
        return is_too_much or len(self._stored) > STORED_CHUNKS_MAX

    def resend(
        self, batch: Sequence[Chunk], *, expected: int, chunks_max: int, bytes_max: int
    ) -> list[Chunk]:
        """The first chunks from number `expected` on, within both bounds; empty if it is not held.

        The server lost chunks that it had confirmed, and expects them again. They end with the
        batch.
        """
        chunks = (chunk for chunk in chain(self._stored, batch) if chunk.seq >= expected)
        first = _within(chunks, chunks_max, bytes_max)
        return first if first and first[0].seq == expected else []

    def withdraw(self, seq: int) -> None:
        """Remove the pending chunks from number `seq` on; their numbers are assigned again."""
        while self._pending and self._pending[-1].seq >= seq:
            chunk = self._pending.pop()
            self._pending_bytes -= len(chunk.payload)
            self.next_seq = chunk.seq


def _within(chunks: Iterable[Chunk], chunks_max: int, bytes_max: int) -> list[Chunk]:
    """The first chunks within both bounds; at least one if there is any."""
    first: list[Chunk] = []
    size = 0
    for chunk in chunks:
        size += len(chunk.payload)
        if first and (size > bytes_max or len(first) == chunks_max):
            break
        first.append(chunk)
    return first
