"""Replays conversations against a server and records the outcomes that every listener receives.

Owns: opening sessions, sending audio at the time of each segment, listening, closing.
Must not: judge (judge.py), start processes (cli/loadtest.py).
Read next: rttm.py, judge.py.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count

import anyio

from eventsched.client.client import Client
from eventsched.client.results import FinalOutcome, Partial, Result, Truncated
from eventsched.client.session import Session
from eventsched.errors import Backpressure, EventschedError
from eventsched.loadtest.rttm import Conversation, Speaker

STALLED_S = 120.0
"""A replay whose listeners receive nothing for so long after its end is judged as it is."""
BYTES_PER_MS = 32


class ForeignNode(EventschedError):
    """Raised when a node that does not belong to the replay took one of its jobs."""


@dataclass(frozen=True, slots=True)
class Received:
    """One outcome as one listener received it."""

    listener: str
    session: str
    target: str
    utterance: int
    delivery_no: int
    outcome: str
    started_ms: float
    """When its handler started; 0 if the outcome is no result."""
    received_ms: float


@dataclass
class Record:
    """The sessions of a replay and the outcomes that they received."""

    sessions: list[str] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    truncated: int = 0
    chunks: int = 0
    done_s: float = 0.0
    """Seconds of speech that were sent."""


@dataclass
class Participant:
    """A speaker with an open session, and how many outcomes it is to receive."""

    speaker: Speaker
    session: Session
    expected: int
    received: int = 0


class Replay:
    """All conversations at once, at `speed` times their pace."""

    def __init__(
        self, es: Client, conversations: Sequence[Conversation], *, speed: float, run_id: str
    ) -> None:
        self._es = es
        self.conversations = conversations
        self.speed = speed
        self._run_id = run_id
        self._rooms = count()
        """Number of the next room: rooms are numbered, because files may have equal names."""
        self.record = Record()

    async def run(self) -> Record:
        """Replay everything; returns once all outcomes are received, or none has come for long."""
        begins = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for conversation in self.conversations:
                tasks.start_soon(self._converse, conversation, begins)
        return self.record

    async def _converse(self, conversation: Conversation, begins: float) -> None:
        room = f"loadtest-{self._run_id}-{next(self._rooms)}"
        async with AsyncExitStack() as stack:
            participants = []
            for speaker in conversation.speakers:
                session = await stack.enter_async_context(
                    self._es.session(
                        tenant="loadtest",
                        source="en",
                        targets=[],
                        room=room,
                        listen_language=speaker.listen_language,
                    )
                )
                self.record.sessions.append(session.id)
                expected = expected_outcomes(conversation, speaker)
                participants.append(Participant(speaker, session, expected))
            async with anyio.create_task_group() as tasks:
                for participant in participants:
                    tasks.start_soon(self._listen, participant)
                await self._speak_all(participants, begins)
                await self._until_received(participants)
                tasks.cancel_scope.cancel()

    async def _speak_all(self, participants: Sequence[Participant], begins: float) -> None:
        async with anyio.create_task_group() as tasks:
            for participant in participants:
                tasks.start_soon(self._speak, participant, begins)

    async def _speak(self, participant: Participant, begins: float) -> None:
        for segment in participant.speaker.segments:
            for start_ms, ms, end_of_utterance in segment.chunks():
                due = begins + (start_ms + ms) / 1000 / self.speed
                await anyio.sleep(max(0.0, due - time.monotonic()))
                await self._append(
                    participant.session, bytes(ms * BYTES_PER_MS), end_of_utterance=end_of_utterance
                )
            self.record.done_s += segment.ms / 1000

    async def _append(self, session: Session, payload: bytes, *, end_of_utterance: bool) -> None:
        while True:
            try:
                await session.append(payload, end_of_utterance=end_of_utterance)
            except Backpressure as refused:
                payload = payload[refused.accepted_bytes :]
                await anyio.sleep(refused.retry_after_ms / 1000)
                continue
            self.record.chunks += 1
            return

    async def _listen(self, participant: Participant) -> None:
        async for outcome in participant.session.results():
            match outcome:
                case Truncated():
                    self.record.truncated += 1
                case Partial():
                    pass
                case _:
                    participant.received += 1
                    self.record.received.append(_received(participant.session.id, outcome))

    async def _until_received(self, participants: Sequence[Participant]) -> None:
        expected = sum(participant.expected for participant in participants)
        await _until_stable(lambda: sum(each.received for each in participants), expected)


def expected_outcomes(conversation: Conversation, listener: Speaker) -> int:
    """A listener receives one outcome for every utterance of the others."""
    return sum(
        segment.utterances
        for speaker in conversation.speakers
        if speaker is not listener
        for segment in speaker.segments
    )


async def _until_stable(count: Callable[[], int], expected: int) -> None:
    """Wait until `count()` is `expected`, or has not changed for STALLED_S."""
    last, changed_s = -1, time.monotonic()
    while last < expected and time.monotonic() - changed_s < STALLED_S:
        if count() != last:
            last, changed_s = count(), time.monotonic()
        await anyio.sleep(0.05)


def _received(listener: str, outcome: FinalOutcome) -> Received:
    """One outcome of one listener. The source text of a result is the start of its handler."""
    try:
        started_ms = float(outcome.source_text) if isinstance(outcome, Result) else 0.0
    except ValueError:
        raise ForeignNode(
            f"a node that does not belong to this load test answered {outcome.session}: "
            f"stop that node, or use another server"
        ) from None
    return Received(
        listener,
        outcome.session,
        outcome.target,
        outcome.utterance,
        outcome.delivery_no,
        outcome.outcome,
        started_ms,
        time.time() * 1000,
    )


def out_of_order(received: Sequence[Received]) -> int:
    """How many outcomes a listener received after a later one of the same speaker and target."""
    last: dict[tuple[str, str, str], int] = {}
    count = 0
    for receipt in received:
        key = (receipt.listener, receipt.session, receipt.target)
        count += receipt.delivery_no < last.get(key, -1)
        last[key] = max(receipt.delivery_no, last.get(key, -1))
    return count


def received_twice(received: Sequence[Received]) -> int:
    """How many outcomes listeners received more than once."""
    times = Counter(
        (receipt.listener, receipt.session, receipt.target, receipt.delivery_no)
        for receipt in received
    )
    return sum(count - 1 for count in times.values())
