"""The reference client with one deliberate fault.

python -m tests.conformance.wrong_client FAULT producer|node --url URL --token TOKEN ...
"""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import Any

from eventsched.conformance.reference import LAST, Client, Producer, Worker, arguments
from eventsched.gateway.frames import Close


class WrongProducer(Producer):
    """A producer with one fault, named by `fault`."""

    fault = ""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(url, token)
        self.connections = 0
        self.frames = 0
        if self.fault == "token in the URL":
            self.url += f"?token={token}"
        if self.fault == "another path":
            self.url = self.url.replace("/v1", "")
        if self.fault == "no token":
            self.token = "none"
        if self.fault == "too little audio":
            self.chunks = self.chunks[:-1]
            self.requests = [(len(self.chunks), {"type": "finalize"})]
        if self.fault == "half a sample":
            self.chunks[2] += b"\x00"
        if self.fault == "no subprotocol":
            self.subprotocols = ["chat"]

    def first_frame(self) -> dict[str, Any]:
        self.connections += 1
        frame = super().first_frame()
        is_resume = self.connections > 1
        match self.fault:
            case "finalize first":
                return {"type": "finalize"}
            case "an unknown field":
                return frame | {"mood": "good"}
            case "opens again" if is_resume:
                return {"type": "open", "source": "en", "targets": ["es"]}
            case "another resume token" if is_resume:
                return frame | {"resume_token": "0" * 32}
            case "no results_after" if is_resume:
                return frame | {"results_after": ""}
            case "other audio when it is sent again" if is_resume:
                self.chunks = [chunk[::-1] for chunk in self.chunks]
        return frame

    def connects_again(self, code: int) -> bool:
        if self.fault == "gives up after close" and self.requests_sent > 1:
            return False
        return self.fault == "connects after the end" or super().connects_again(code)

    async def pause(self, tries: int) -> None:
        if self.fault == "no pause":
            return
        if self.fault == "no further connection":
            await asyncio.sleep(60)  # sleeps: longer than the driver waits
        await super().pause(tries)

    async def on_frame(self, frame: dict[str, Any]) -> None:
        self.frames += 1
        kind = frame["type"]
        match self.fault:
            case "gives up on unknown frames" if kind == "weather":
                self.hang_up()
            case "hangs up" if self.frames == 4:
                self.hang_up()
            case "hangs up in backpressure" if kind == "backpressure":
                self.hang_up()
            case "ignores gaps" if kind == "error":
                return
            case "sends nothing" if kind == "opened":
                return
            case "closes too early" if kind == "opened":
                self.requests = [(0, {"type": "close"})]
            case "confirms what it did not receive" if kind == "opened":
                await self.send({"type": "confirm", "id": "1800000000000-0"})
        await super().on_frame(frame)

    async def pump(self) -> None:
        if self.fault == "forgets finalize" and self.connections > 1:
            self.requests_sent = max(self.requests_sent, 1)
        await super().pump()

    def hang_up(self) -> None:
        assert self.socket is not None
        self.socket.transport.abort()

    async def on_outcome(self, frame: dict[str, Any]) -> None:
        if self.fault == "confirms nothing":
            self.received = frame["id"]
            if len(self.requests) == 1:
                self._speak(10, {"type": "close"})
            return
        await super().on_outcome(frame)

    def may_send(self, number: int) -> bool:
        return self.fault == "ignores the credit" or super().may_send(number)

    async def send(self, frame: dict[str, Any] | bytes) -> None:
        if self.fault == "leaves out a number" and isinstance(frame, bytes):
            (number,) = struct.unpack_from(">I", frame)
            frame = struct.pack(">I", number + (number > 4)) + frame[4:]
        await super().send(frame)

    async def run(self) -> int:
        code = await super().run()
        return 3 if self.fault == "another exit code" else code


class WrongNode(Worker):
    """A node with one fault, named by `fault`."""

    fault = ""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(url, token)
        self.cancelled: set[tuple[str, int]] = set()

    def connects_again(self, code: int) -> bool:
        if code == Close.LOST and self.fault == "ends when it is lost":
            return False
        return super().connects_again(code)

    def first_frame(self) -> dict[str, Any]:
        if self.fault == "another registration token":
            self.registration_token = self.registration_token[:-1] + str(self.epoch)
        return super().first_frame()

    def held(self) -> list[tuple[str, int]]:
        if self.fault == "holds nothing":
            return []
        if self.fault == "holds what is not complete":
            return [*self.audio, *self.results]
        return super().held()

    async def _beat(self, period_s: float) -> None:
        slower = 4 if self.fault == "rare heartbeats" else 1
        await super()._beat(period_s * slower)

    async def on_registered(self, frame: dict[str, Any]) -> None:
        if self.fault == "does not repeat results":
            self.results.clear()
        partly = dict(self.audio)
        await super().on_registered(frame)
        if self.fault == "keeps attempts of another epoch" and frame["epoch"] == 2:
            self.audio |= partly

    def forget(self, key: tuple[str, int]) -> None:
        if self.fault == "reports what is lost":
            return
        super().forget(key)

    async def on_binary(self, data: bytes) -> None:
        if self.fault == "reads one frame of audio" and len(data) >= 8:
            ref, number = struct.unpack_from(">II", data)
            if not number & LAST:
                self.audio[self.refs[ref]] = b""
                return
        await super().on_binary(data)

    async def report(self, key: tuple[str, int], audio: bytes) -> None:
        await super().report(key, audio)
        if self.fault == "two outcomes":
            await self.send({"type": "no_speech", "job": key[0], "attempt": key[1]})

    async def drain(self) -> None:
        if self.fault == "ignores SIGTERM":
            return
        if self.fault == "ends at SIGTERM" and self.socket is not None:
            self.socket.transport.abort()
            self.is_drained = True
            return
        await super().drain()


def main() -> None:
    fault = sys.argv.pop(1)
    words = arguments().parse_args()
    WrongProducer.fault = WrongNode.fault = fault
    kind = WrongProducer if words.kind == "producer" else WrongNode
    client: Client = kind(words.url, words.token)
    sys.exit(asyncio.run(client.run()))


if __name__ == "__main__":
    main()
