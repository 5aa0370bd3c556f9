"""One node process of a chaos run that speaks the protocol of a gateway.

    python -m tests.chaos.gateway_worker URL TOKEN NAME SLOTS LANGS RTF SPEED

Owns: the same answers as the handlers of worker.py, over a WebSocket that is cut.
Must not: use the library's node. Read next: worker.py, speech.py.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from eventsched.conformance.reference import Worker
from tests.chaos import speech
from tests.chaos.worker import SUPERSEDED

_SUPERSEDED_CODE = 4409


class GatewayWorker(Worker):
    """A node whose attempts go on while its connection is broken."""

    tries_max = 1_000_000

    def __init__(
        self, url: str, token: str, name: str, slots: int, langs: list[str], pace: float
    ) -> None:
        super().__init__(url, token)
        self._declared = {"name": name, "slots": slots, "targets": langs, "version": "gateway"}
        self._pace = pace
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._is_ready = False
        self._last_error: dict[str, Any] = {}
        self.is_superseded = False

    def first_frame(self) -> dict[str, Any]:
        return super().first_frame() | self._declared

    def connects_again(self, code: int) -> bool:
        self.is_superseded = code == _SUPERSEDED_CODE
        goes_on = super().connects_again(code)
        if not goes_on:
            sys.stderr.write(f"closed for good with {code} after {self._last_error}\n")
        return goes_on

    async def on_frame(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "error":
            self._last_error = frame
        await super().on_frame(frame)

    def held(self) -> list[tuple[str, int]]:
        return [*super().held(), *self._running]

    def forget(self, key: tuple[str, int]) -> None:
        super().forget(key)
        if task := self._running.pop(key, None):
            task.cancel()

    async def on_registered(self, frame: dict[str, Any]) -> None:
        if self.epoch not in (0, frame["epoch"]):
            for key in list(self._running):
                self.forget(key)
        await super().on_registered(frame)
        if not self._is_ready:
            self._is_ready = True
            sys.stdout.write(f"ready: {self._declared['name']}\n")
            sys.stdout.flush()

    async def report(self, key: tuple[str, int], audio: bytes) -> None:
        self._running[key] = asyncio.create_task(self._process(key, audio))

    async def _process(self, key: tuple[str, int], audio: bytes) -> None:
        job, attempt = key
        started_ms, audio_s = time.time() * 1_000, len(audio) / speech.BYTES_PER_MS / 1_000
        await asyncio.sleep(speech.holds_s(job, audio_s * self._pace))
        outcome: dict[str, Any]
        if speech.is_silent(job):
            outcome = {"type": "no_speech"}
        elif attempt == 1 and speech.fails_first(job):
            outcome = {"type": "fail", "code": "CHAOS", "retryable": True}
        else:
            text, source_text = speech.digest(audio, 0), f"{started_ms:.3f}"
            outcome = {"type": "result", "text": text, "source_text": source_text}
        self.results[key] = outcome | {"job": job, "attempt": attempt}
        del self._running[key]
        await self.send(self.results[key])


async def main(*arguments: str) -> int:
    """Return 0 when drained, 3 when superseded, 1 when the gateway takes it no more."""
    url, token, name, slots, langs, rtf, speed = arguments
    pace = float(rtf) / float(speed)
    worker = GatewayWorker(url, token, name, int(slots), langs.split(","), pace)
    code = await worker.run()
    return SUPERSEDED if worker.is_superseded else code


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
