"""A client of the protocol in Python: a producer and a node, as the driver runs them.

    python -m eventsched.conformance.reference producer|node --url URL --token TOKEN --scenario NAME

Owns: one simple way to obey docs/protocol.md, to compare with and to start from.
Never does: use the library; applications in Python do, and need no gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import signal
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

FINAL = {1000, 1008, 1009, 4400, 4404, 4409, 4429}
"""Close codes after which connecting again does not help."""
PAUSE_S, PAUSE_S_MAX, TRIES = 0.4, 2.0, 10
CHUNK = bytes(range(1, 101)) * 32
"""100 ms of PCM16 at 16 kHz."""
LAST = 1 << 31
_OUTCOMES = {"result", "no_speech", "failed", "missing"}


class Client:
    """A connection that is made again after it breaks. Its subclasses handle the frames."""

    path = ""
    tries_max = TRIES
    """After so many tries without a connection the client ends."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.replace("http", "ws", 1) + self.path
        self.subprotocols = ["eventsched.v1"]
        self.token = token
        self.socket: ClientConnection | None = None

    def first_frame(self) -> dict[str, Any]:
        raise NotImplementedError

    async def on_frame(self, frame: dict[str, Any]) -> None:
        raise NotImplementedError

    async def on_binary(self, data: bytes) -> None:
        """Audio arrived."""

    def on_broken(self) -> None:
        """The connection broke."""

    def has_ended(self) -> bool:
        raise NotImplementedError

    def connects_again(self, code: int) -> bool:
        return code not in FINAL

    async def send(self, frame: dict[str, Any] | bytes) -> None:
        """Send a frame; one for a broken connection is dropped, and sent after the next."""
        if self.socket is None:
            return
        try:
            data = frame if isinstance(frame, bytes) else msgspec.json.encode(frame).decode()
            await self.socket.send(data)
        except ConnectionClosed:
            self.socket = None

    async def run(self) -> int:
        """Connect until the work has ended; return the exit code."""
        async for socket in self._connections():
            code = await self._serve(socket)
            self.socket = None
            self.on_broken()
            if self.has_ended():
                return 0
            if not self.connects_again(code):
                return 1
        return 1

    async def _connections(self) -> AsyncIterator[ClientConnection]:
        tries = 0
        while tries < self.tries_max:
            try:
                async with connect(
                    self.url,
                    proxy=None,
                    subprotocols=cast("Any", self.subprotocols),
                    additional_headers={"authorization": f"Bearer {self.token}"},
                ) as socket:
                    yield socket
                    tries = 0
            except (OSError, InvalidHandshake):
                tries += 1
            await self.pause(tries)

    async def pause(self, tries: int) -> None:
        """Wait before the next try to connect."""
        longest = min(PAUSE_S_MAX, PAUSE_S * 2**tries)
        await asyncio.sleep(longest * random.uniform(0.5, 1))

    async def _serve(self, socket: ClientConnection) -> int:
        """Handle frames until the connection ends; return its close code."""
        self.socket = socket
        await self.send(self.first_frame())
        try:
            async for received in socket:
                if isinstance(received, bytes):
                    await self.on_binary(received)
                else:
                    await self.on_frame(msgspec.json.decode(received))
        except ConnectionClosed:
            pass
        return socket.close_code or 1006


class Producer(Client):
    """Speaks for 3 s, waits for the outcome, speaks for 1 s, and closes the session."""

    path = "/v1/sessions"

    def __init__(self, url: str, token: str) -> None:
        super().__init__(url, token)
        self.opened: dict[str, Any] = {}
        self.chunks: list[bytes] = []
        """Every chunk so far, by its number."""
        self.requests: list[tuple[int, dict[str, Any]]] = []
        """(number of the next chunk, frame): sent when every chunk below is sent."""
        self.sent = self.acked = 0
        self.requests_sent = 0
        self.received = ""
        """Id of the last outcome."""
        self.is_closed = False
        self.begin()

    def begin(self) -> None:
        """Say what is said first."""
        self._speak(30, {"type": "finalize"})

    def _speak(self, chunks: int, request: dict[str, Any]) -> None:
        for _ in range(chunks):
            number = len(self.chunks)
            self.chunks.append(bytes(CHUNK[number:] + CHUNK[:number]))
        self.requests.append((len(self.chunks), request))

    def first_frame(self) -> dict[str, Any]:
        if not self.opened:
            return {"type": "open", "source": "en", "targets": ["es"]}
        return {
            "type": "resume",
            "session": self.opened["session"],
            "resume_token": self.opened["resume_token"],
            "results_after": self.received,
        }

    def has_ended(self) -> bool:
        return self.is_closed

    async def on_frame(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "opened":
                self.opened = frame
                self.sent = self.acked = frame["next_seq"]
                # The audio after a request that took effect is stored; others are sent again.
                self.requests_sent = sum(at < self.sent for at, _ in self.requests)
            case "ack":
                self.acked = max(self.acked, frame["next_seq"])
            case "error" if frame["code"] == "SEQ_GAP":
                self.sent = frame["expected"]
                self.requests_sent = sum(at < self.sent for at, _ in self.requests)
            case kind if kind in _OUTCOMES:
                await self.on_outcome(frame)
            case "closed":
                self.is_closed = True
            case _:  # frames of later versions too
                return
        await self.pump()

    async def on_outcome(self, frame: dict[str, Any]) -> None:
        self.received = frame["id"]
        await self.send({"type": "confirm", "id": frame["id"]})
        if len(self.requests) == 1:
            self._speak(10, {"type": "close"})

    def may_send(self, number: int) -> bool:
        """Whether the credit permits the chunk."""
        waiting = self.chunks[self.acked : number + 1]
        size = sum(map(len, waiting))
        has_credit = len(waiting) <= self.opened["credit_chunks"]
        return bool(has_credit and size <= self.opened["credit_bytes"])

    async def pump(self) -> None:
        """Send what the credit permits, in order."""
        while True:
            requests = self.requests[self.requests_sent :]
            if requests and requests[0][0] <= self.sent:
                self.requests_sent += 1
                await self.send(requests[0][1])
            elif self.sent < len(self.chunks) and self.may_send(self.sent):
                self.sent += 1
                await self.send(struct.pack(">I", self.sent - 1) + self.chunks[self.sent - 1])
            else:
                return


class Worker(Client):
    """A node that answers each job with the number of bytes of its audio."""

    path = "/v1/nodes"

    def __init__(self, url: str, token: str) -> None:
        super().__init__(url, token)
        self.registration_token = secrets.token_hex(16)
        self.epoch = 0
        self.refs: dict[int, tuple[str, int]] = {}
        self.audio: dict[tuple[str, int], bytes] = {}
        """What arrived of the audio of each running attempt."""
        self.results: dict[tuple[str, int], dict[str, Any]] = {}
        """The result of each attempt that is not recorded."""
        self.is_draining = self.is_drained = False
        self._heartbeat: asyncio.Task[None] | None = None

    def held(self) -> list[tuple[str, int]]:
        """The attempts that go on after a broken connection."""
        return list(self.results)

    def owned(self) -> list[tuple[str, int]]:
        """The attempts of the node, also those whose audio has not arrived."""
        return list(dict.fromkeys([*self.audio, *self.held()]))

    def first_frame(self) -> dict[str, Any]:
        return {
            "type": "register",
            "name": "conformance",
            "sources": ["en"],
            "targets": ["es"],
            "slots": 4,
            "registration_token": self.registration_token,
            "held": _named(self.held()),
        }

    def has_ended(self) -> bool:
        return self.is_drained

    def on_broken(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()

    async def on_frame(self, frame: dict[str, Any]) -> None:
        key = (str(frame.get("job", "")), int(frame.get("attempt", 0)))
        match frame["type"]:
            case "registered":
                await self.on_registered(frame)
            case "job":
                self.refs[frame["ref"]] = key
                self.audio[key] = b""
            case "cancel" | "recorded":
                self.forget(key)
            case "error" if frame["code"] == "NODE_DRAINED":
                self.is_drained = True
            case "error" if key[0]:
                self.forget(key)
            case "heartbeat":
                for each in self.owned():
                    if each[0] in frame["lost"]:
                        self.forget(each)
            case "drained":
                self.is_drained = True

    async def on_registered(self, frame: dict[str, Any]) -> None:
        self.refs.clear()
        self.audio.clear()  # the gateway sends these attempts again
        if self.epoch not in (0, frame["epoch"]):
            self.results.clear()
        self.epoch = frame["epoch"]
        for result in list(self.results.values()):
            await self.send(result)
        if self.is_draining:
            await self.drain()
        self._heartbeat = asyncio.create_task(self._beat(frame["heartbeat_ms"] / 1_000))

    async def _beat(self, period_s: float) -> None:
        while self.socket is not None:
            await asyncio.sleep(period_s)
            await self.send({"type": "heartbeat", "held": _named(self.owned())})

    def forget(self, key: tuple[str, int]) -> None:
        """The attempt is recorded, or no longer this node's."""
        self.audio.pop(key, None)
        self.results.pop(key, None)

    async def on_binary(self, data: bytes) -> None:
        if len(data) < 8:
            return
        ref, number = struct.unpack_from(">II", data)
        key = self.refs.get(ref, ("", 0))
        if key not in self.audio:
            return
        self.audio[key] += data[8:]
        if number & LAST:
            await self.report(key, self.audio.pop(key))

    async def report(self, key: tuple[str, int], audio: bytes) -> None:
        text = str(len(audio))
        self.results[key] = {"type": "result", "job": key[0], "attempt": key[1], "text": text}
        await self.send(self.results[key])

    async def drain(self) -> None:
        self.is_draining = True
        await self.send({"type": "drain"})

    async def run(self) -> int:
        def on_signal() -> None:
            task = asyncio.ensure_future(self.drain())
            self._tasks.add(task)

        self._tasks: set[asyncio.Future[None]] = set()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_signal)
        return await super().run()


def _named(attempts: list[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"job": job, "attempt": attempt} for job, attempt in attempts]


def arguments() -> argparse.ArgumentParser:
    """The arguments that the driver passes to a program."""
    parser = argparse.ArgumentParser(prog="reference")
    parser.add_argument("kind", choices=("producer", "node"))
    for name in ("--url", "--token", "--scenario"):
        parser.add_argument(name, required=True)
    return parser


def main() -> None:
    words = arguments().parse_args()
    client = (Producer if words.kind == "producer" else Worker)(words.url, words.token)
    sys.exit(asyncio.run(client.run()))


if __name__ == "__main__":
    main()
