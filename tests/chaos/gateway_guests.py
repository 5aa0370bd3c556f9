"""Producers of a chaos run that speak the protocol of a gateway, as a browser does.

Owns: short sessions over WebSockets through a proxy that cuts them; each is resumed at whichever
gateway answers. What they send and receive goes into the record of the other producers.
Must not: use the library's session. Read next: producer.py (the record), gateways.py.
"""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import Any

import structlog

from eventsched.conformance.reference import Producer
from tests.chaos import speech
from tests.chaos.record import GUEST_CHUNKS, Plan, ReceivedOutcome, Record, Spoken

log = structlog.get_logger("chaos.gateway_guests")
_OUTCOMES = {"result", "no_speech", "failed", "missing"}
_SESSION_S_MAX = 120.0
"""A guest that has not ended by then has lost its session, and is counted as unfinished."""


class GatewayGuest(Producer):
    """One session: speaks, closes, and waits for its outcomes."""

    tries_max = 1_000

    def __init__(self, url: str, token: str, chaos_record: Record, rng: Random) -> None:
        self._chaos_record, self._rng = chaos_record, rng
        self._spoken = Spoken(is_guest=True)
        self._cut_after = rng.randint(2, 8) if rng.random() < 0.3 else 0
        """The number of frames after which the guest breaks its first connection; 0: never."""
        self.last_error: dict[str, Any] = {}
        super().__init__(url, token)

    def begin(self) -> None:
        """Its audio has the name of the session, which is not known before `opened`."""

    def first_frame(self) -> dict[str, Any]:
        if self.opened:
            self._chaos_record.resumed += 1
            return super().first_frame()
        targets = self._rng.choice([["es"], ["en", "es"]])
        tenant = self._rng.choice(["guest", "other"])
        return {"type": "open", "source": "en", "targets": targets, "tenant": tenant}

    def connects_again(self, code: int) -> bool:
        """After an `open` without an answer, another session is opened."""
        return super().connects_again(code) or not self.opened

    async def on_frame(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "opened":
            self._note_opened(frame)
        elif kind == "error":
            self.last_error = frame
        elif kind == "backpressure":
            self._chaos_record.backpressure += 1
        elif kind == "truncated":
            self._spoken.truncated += 1
        await super().on_frame(frame)
        self._spoken.acked = max(self._spoken.acked, self.acked)
        self._spoken.results_ended = self.is_closed
        await self._cut()

    async def on_outcome(self, frame: dict[str, Any]) -> None:
        self._spoken.received.append(
            ReceivedOutcome(
                session=frame["session"],
                target=frame["target"],
                utterance=frame["utterance"],
                delivery_no=frame["delivery_no"],
                outcome=frame["type"],
                text=frame.get("text") or "",
            )
        )
        self.received = frame["id"]
        await self.send({"type": "confirm", "id": frame["id"]})

    def _note_opened(self, frame: dict[str, Any]) -> None:
        if not self.opened:
            self._chaos_record.sessions[frame["session"]] = self._spoken
            self._speak_of(frame["session"])
        elif not self._spoken.acked <= frame["next_seq"] <= len(self.chunks):
            self._chaos_record.broken.append(
                f"{frame['session']}: resumed at {frame['next_seq']}, {self._spoken.acked} "
                f"acknowledged, {len(self.chunks)} to send"
            )

    def _speak_of(self, session: str) -> None:
        """All audio of the session, with ends of utterances in it."""
        count = self._rng.randint(*GUEST_CHUNKS)
        for number in range(count):
            chunk = speech.chunk(session, number, self._rng.choice([20, 100, 300]))
            self.chunks.append(chunk)
            self._spoken.sizes.append(len(chunk))
            if number + 1 < count and self._rng.random() < 0.3:
                self.requests.append((number + 1, {"type": "finalize"}))
        self.requests.append((count, {"type": "close"}))

    async def _cut(self) -> None:
        self._cut_after -= 1
        if self._cut_after == 0 and self.socket is not None:
            self.socket.transport.abort()


class GatewayGuests:
    """Guests one after the other, as long as new guests come."""

    def __init__(self, plan: Plan, chaos_record: Record, seed: int) -> None:
        self._plan, self._chaos_record = plan, chaos_record
        self._rng = Random(f"gateway-{seed}")
        self._ends = time.monotonic() + plan.guests_s

    async def run(self) -> None:
        plan = self._plan
        while time.monotonic() < self._ends:
            guest = GatewayGuest(plan.gateway, plan.token, self._chaos_record, self._rng)
            try:
                async with asyncio.timeout(_SESSION_S_MAX):
                    code = await guest.run()
            except TimeoutError:
                code = 1
            if code:
                session = guest.opened.get("session")
                log.warning("session is gone", session=session, error=guest.last_error)
                self._chaos_record.unfinished += 1
            await asyncio.sleep(self._rng.uniform(0.05, 0.5))
