"""The producers of a chaos run, and the record of acknowledged chunks and received outcomes.

    python -m tests.chaos.producer URL PLAN.json RECORD.json

Owns: a replay of conversations, and guests: short sessions that are opened, detached, resumed and
closed, some of them through gateways. This process is never killed; its connections are cut all the
time.
Must not: judge (judge.py). Read next: record.py, gateway_guests.py.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import anyio
import msgspec
import structlog

import eventsched
from eventsched.client.results import FinalOutcome
from eventsched.client.session import Session
from eventsched.loadtest import replay as loadtest
from eventsched.loadtest.replay import Replay
from eventsched.loadtest.rttm import Conversation, Segment, Speaker
from eventsched.logs import configure_logs
from tests.chaos import speech
from tests.chaos.gateway_guests import GatewayGuests
from tests.chaos.record import GUEST_CHUNKS, Plan, ReceivedOutcome, Record, Spoken

log = structlog.get_logger("chaos.producer")


class ChaosReplay(Replay):
    """The replay of the load test, with distinct audio for each chunk, and a record."""

    def __init__(
        self,
        es: eventsched.Client,
        conversations: Sequence[Conversation],
        speed: float,
        chaos_record: Record,
    ) -> None:
        super().__init__(es, conversations, speed=speed, run_id=secrets.token_hex(4))
        self.chaos_record = chaos_record

    async def _converse(self, conversation: Conversation, begins: float) -> None:
        """As in a load test, but listeners read to the end of their sessions."""
        room = f"{conversation.name}-{self._run_id}"[-64:]
        async with AsyncExitStack() as stack:
            participants = []
            for speaker in conversation.speakers:
                session = await stack.enter_async_context(
                    self._es.session(
                        "loadtest", "en", room=room, listen_language=speaker.listen_language
                    )
                )
                participants.append(
                    loadtest.Participant(
                        speaker, session, loadtest.expected_outcomes(conversation, speaker)
                    )
                )
            async with anyio.create_task_group() as tasks:
                for participant in participants:
                    tasks.start_soon(self._listen, participant)
                await self._speak_all(participants, begins)
                await self._until_received(participants)
                for participant in participants:
                    await close(self.chaos_record, participant.session)

    async def _append(self, session: Session, payload: bytes, *, end_of_utterance: bool) -> None:
        await say(
            self.chaos_record,
            session,
            len(payload) // speech.BYTES_PER_MS,
            end_of_utterance=end_of_utterance,
        )
        self.record.chunks += 1

    async def _listen(self, participant: loadtest.Participant) -> None:
        async for delivery in received_outcomes(self.chaos_record, participant.session):
            participant.received += not isinstance(delivery, eventsched.Truncated)


async def say(chaos_record: Record, session: Session, ms: int, *, end_of_utterance: bool) -> None:
    """Append a chunk; it is stored when this returns, or kept by the library to be sent first."""
    spoken = chaos_record.sessions.setdefault(session.id, Spoken())
    while True:
        payload = speech.chunk(session.id, session.next_seq, ms)
        try:
            await session.append(payload, end_of_utterance=end_of_utterance)
        except eventsched.Backpressure as refused:
            chaos_record.backpressure += 1
            await anyio.sleep(refused.retry_after_ms / 1_000)
            continue
        except eventsched.ServerUnavailable:
            chaos_record.unavailable += 1
            spoken.sizes.append(len(payload))  # accepted: it is sent before any later chunk
        else:
            spoken.sizes.append(len(payload))
            spoken.acked = len(spoken.sizes)
        assert session.next_seq == len(spoken.sizes), "the library numbers the chunks"
        return


async def close(chaos_record: Record, session: Session) -> None:
    """Close the session, however long the server is away."""
    spoken = chaos_record.sessions.setdefault(session.id, Spoken())
    while True:
        try:
            await session.close()
        except eventsched.ServerUnavailable:
            chaos_record.unavailable += 1
            continue
        spoken.acked = len(spoken.sizes)
        return


async def received_outcomes(
    chaos_record: Record, session: Session
) -> AsyncIterator[eventsched.Outcome]:
    """Yield the outcomes of a session, and record them."""
    spoken = chaos_record.sessions.setdefault(session.id, Spoken())
    async for delivery in session.results():
        if isinstance(delivery, eventsched.Truncated):
            spoken.truncated += 1
        elif not isinstance(delivery, eventsched.Partial):
            spoken.received.append(_received(delivery))
        yield delivery
    spoken.results_ended = True


def _received(delivery: FinalOutcome) -> ReceivedOutcome:
    return ReceivedOutcome(
        session=delivery.session,
        target=delivery.target,
        utterance=delivery.utterance,
        delivery_no=delivery.delivery_no,
        outcome=delivery.outcome,
        text=(delivery.text or "") if isinstance(delivery, eventsched.Result) else "",
    )


# --- guests ---------------------------------------------------------------------------------------


class Guests:
    """Short sessions without a room; some are detached and resumed by the same process."""

    def __init__(self, es: eventsched.Client, chaos_record: Record, plan: Plan, seed: int) -> None:
        self._es, self._chaos_record, self._rng = es, chaos_record, Random(seed)
        self._ends = time.monotonic() + plan.guests_s

    async def run(self) -> None:
        while time.monotonic() < self._ends:
            try:
                await self._run_guest()
            except eventsched.ServerUnavailable:
                self._chaos_record.unfinished += 1
            except eventsched.Backpressure as refused:
                self._chaos_record.backpressure += 1
                await anyio.sleep(refused.retry_after_ms / 1_000)
            except (eventsched.SessionUnknown, eventsched.SessionClosedError) as error:
                # Detached for longer than *idle_ms*, because the server was away; or lost with
                # the data of the server.
                log.warning("session is gone", code=error.code)
                self._chaos_record.unfinished += 1
            await anyio.sleep(self._rng.uniform(0.05, 0.5))

    async def _run_guest(self) -> None:
        tenant = self._rng.choice(["guest", "other"])
        targets = self._rng.choice([["es"], ["en", "es"]])
        last: eventsched.Outcome | None = None
        async with self._es.session(tenant, "en", targets) as session:
            self._chaos_record.sessions.setdefault(session.id, Spoken()).is_guest = True
            await self._speak(session)
            if self._rng.random() < 0.5:
                if self._rng.random() < 0.5:
                    last = await self._receive_first(session)
                session.detach()
            else:
                await close(self._chaos_record, session)
        if not session.is_detached:
            return await self._receive_all(session)
        await anyio.sleep(self._rng.uniform(0.0, 1.0))
        async with self._es.resume(session.id, session.resume_secret) as resumed:
            self._chaos_record.resumed += 1
            self._compare_position(resumed)
            if last is not None:
                resumed.results(after=last)
            await self._speak(resumed)
            await close(self._chaos_record, resumed)
        return await self._receive_all(resumed)

    def _compare_position(self, resumed: Session) -> None:
        """Check the next chunk number; audio that was neither acknowledged nor stored is lost."""
        spoken = self._chaos_record.sessions[resumed.id]
        if not spoken.acked <= resumed.next_seq <= len(spoken.sizes):
            self._chaos_record.broken.append(
                f"{resumed.id}: resumed at {resumed.next_seq}, "
                f"{spoken.acked} acknowledged, {len(spoken.sizes)} sent"
            )
        del spoken.sizes[resumed.next_seq :]
        spoken.acked = len(spoken.sizes)

    async def _speak(self, session: Session) -> None:
        for _ in range(self._rng.randint(*GUEST_CHUNKS)):
            ms = self._rng.choice([20, 100, 300])
            await say(self._chaos_record, session, ms, end_of_utterance=self._rng.random() < 0.3)
            await anyio.sleep(self._rng.uniform(0.0, 0.05))

    async def _receive_first(self, session: Session) -> eventsched.Outcome | None:
        async for delivery in received_outcomes(self._chaos_record, session):
            return delivery
        return None

    async def _receive_all(self, session: Session) -> None:
        """The results go on after the block, until the session's end."""
        async for _ in received_outcomes(self._chaos_record, session):
            pass


# --- the process ----------------------------------------------------------------------------------


def conversations_of(plan: Plan) -> list[Conversation]:
    return [
        Conversation(
            name,
            tuple(
                Speaker(speaker, listen_language, tuple(Segment(*each) for each in segments))
                for speaker, listen_language, segments in speakers
            ),
        )
        for name, speakers in plan.conversations
    ]


async def main(*arguments: str) -> None:
    url, plan_path, record_path = arguments
    plan = msgspec.json.decode(Path(plan_path).read_bytes(), type=Plan)  # noqa: ASYNC240
    chaos_record = Record()
    try:
        async with eventsched.connect(url) as es, anyio.create_task_group() as tasks:
            for number in range(plan.guests):
                tasks.start_soon(Guests(es, chaos_record, plan, plan.seed * 1_000 + number).run)
            for number in range(plan.gateway_guests):
                tasks.start_soon(GatewayGuests(plan, chaos_record, plan.seed * 1_000 + number).run)
            replay = ChaosReplay(es, conversations_of(plan), plan.speed, chaos_record)
            tasks.start_soon(replay.run)
    finally:
        Path(record_path).write_bytes(msgspec.json.encode(chaos_record))  # noqa: ASYNC240


if __name__ == "__main__":
    configure_logs(0, quiet=False, is_service=True)
    anyio.run(main, *sys.argv[1:])
