"""Benchmark `gateway-sessions`: live sessions in real time whose clients speak to one gateway.

Owns: a speaker that uses a WebSocket, and the levels.
Never does: judge a level (sessions.py). Read next: sessions.py, raw_socket.py.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

import msgspec

from benchmarks.micro.append import CHUNK
from benchmarks.micro.figures import BenchFailed
from benchmarks.micro.fleet import Fleet, live_sessions
from benchmarks.micro.gateway import open_session, reading
from benchmarks.micro.raw_socket import BINARY, TEXT, RawSocket, frame
from benchmarks.micro.sessions import Sessions, Speaker
from benchmarks.micro.stage import Stage
from benchmarks.micro.tokens import Tokens
from eventsched.gateway.session_frames import ACK_MS
from eventsched.store.cell import Store

LEVELS = (50, 100, 150, 200, 300, 400, 500, 600, 750, 1_000)
CHUNKS_MAX = 90
"""Chunks of an utterance: the server ends none for its length, whose number would be unknown."""
FINALIZE = frame(TEXT, msgspec.json.encode({"type": "finalize"}))


class GatewaySessions(Sessions, frozen=True, kw_only=True):
    """The clients are in this process; the gateway has one of its own, as roles and node have."""

    name: ClassVar = "gateway-sessions"
    what: ClassVar = "live sessions through one gateway: more of them until p99 > 10 ms"

    levels: tuple[int, ...] = LEVELS

    @asynccontextmanager
    async def speakers(
        self, stage: Stage, count: int
    ) -> AsyncIterator[tuple[Store, Fleet, Sequence[Speaker]]]:
        """Yield clients of a gateway, and the processes that serve them."""
        async with live_sessions(stage, 0) as (store, fleet, _), Tokens(stage) as tokens:
            url = await fleet.gateway(tokens.keys)
            speakers = [
                SocketSpeaker(*await open_session(url, tokens.token(), ["es"]))
                for _ in range(count)
            ]
            async with reading([speaker.read() for speaker in speakers]):
                yield store, fleet, speakers
            for speaker in speakers:
                speaker.close()


class SocketSpeaker:
    """A speaker that uses a WebSocket."""

    def __init__(self, socket: RawSocket, session: str) -> None:
        self.session = session
        self.late = 0
        self._socket = socket
        self._late_after_s: deque[float] = deque()
        """For each chunk that is not acknowledged."""
        self._acknowledged = self._utterance = self._chunks = 0

    async def say(self, *, end_of_utterance: bool, late_after_s: float) -> Sequence[int]:
        """Send a chunk, and `finalize` if the utterance ends; do not wait for the `ack`."""
        number = self._acknowledged + len(self._late_after_s)
        self._late_after_s.append(late_after_s + ACK_MS / 1_000)
        chunk = frame(BINARY, struct.pack(">I", number) + CHUNK)
        self._chunks += 1
        ends = end_of_utterance or self._chunks == CHUNKS_MAX
        await self._socket.send(chunk + (FINALIZE if ends else b""))
        if not ends:
            return ()
        self._chunks = 0
        self._utterance += 1
        return (self._utterance - 1,)

    async def read(self) -> None:
        """Receive acknowledgements and results, and confirm the results."""
        while True:
            reply = msgspec.json.decode(await self._socket.receive())
            match reply["type"]:
                case "ack":
                    now_s = time.perf_counter()
                    while self._acknowledged < reply["next_seq"]:
                        self._acknowledged += 1
                        self.late += now_s > self._late_after_s.popleft()
                case "result":
                    await self._socket.send_text(type="confirm", id=reply["id"])
                case "error":
                    raise BenchFailed(f"refused: {reply}")

    def close(self) -> None:
        """End the connection at once."""
        self._socket.close()
