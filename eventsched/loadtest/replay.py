"""Replays conversations against a server and records what every listener heard.

Owns: opening, speaking at each segment's moment, listening, closing; what was heard and when.
Never does: judge (judge.py), start processes (cli/loadtest.py).
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
"""A file whose listeners hear nothing new for so long after its end is given up, and judged."""
BYTES_PER_MS = 32


class ForeignNode(EventschedError):
    """Raised when somebody else's node took a job of the replay."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One outcome at one listener."""

    listener: str
    session: str
    target: str
    utterance: int
    delivery_no: int
    outcome: str
    started_ms: float
    """When its handler started; 0 when there is no result."""
    heard_ms: float


@dataclass
class Record:
    """What a replay saw."""

    sessions: list[str] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    truncated: int = 0
    chunks: int = 0
    done_s: float = 0.0
    """Speech that has been sent."""


@dataclass
class _Ready:
    """A speaker's session and how much it has to hear."""

    speaker: Speaker
    session: Session
    owed: int
    heard: int = 0


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
        """A room for each file: two files may have one name, and any name is a file's."""
        self.record = Record()

    async def run(self) -> Record:
        """Everything was said, and heard or given up."""
        begins = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for conversation in self.conversations:
                tasks.start_soon(self._converse, conversation, begins)
        return self.record

    async def _converse(self, conversation: Conversation, begins: float) -> None:
        room = f"loadtest-{self._run_id}-{next(self._rooms)}"
        async with AsyncExitStack() as stack:
            ready = []
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
                ready.append(_Ready(speaker, session, _owed(conversation, speaker)))
            async with anyio.create_task_group() as tasks:
                for one in ready:
                    tasks.start_soon(self._listen, one)
                await self._speak_all(ready, begins)
                await self._until_heard(ready)
                tasks.cancel_scope.cancel()

    async def _speak_all(self, ready: Sequence[_Ready], begins: float) -> None:
        async with anyio.create_task_group() as tasks:
            for one in ready:
                tasks.start_soon(self._speak, one, begins)

    async def _speak(self, one: _Ready, begins: float) -> None:
        for segment in one.speaker.segments:
            for start_ms, ms, end_of_utterance in segment.chunks():
                due = begins + (start_ms + ms) / 1000 / self.speed
                await anyio.sleep(max(0.0, due - time.monotonic()))
                await self._append(
                    one.session, bytes(ms * BYTES_PER_MS), end_of_utterance=end_of_utterance
                )
            self.record.done_s += segment.ms / 1000

    async def _append(self, session: Session, payload: bytes, *, end_of_utterance: bool) -> None:
        while True:
            try:
                await session.append(payload, end_of_utterance=end_of_utterance)
            except Backpressure as pressed:
                await anyio.sleep(pressed.retry_after_ms / 1000)
                continue
            self.record.chunks += 1
            return

    async def _listen(self, one: _Ready) -> None:
        async for outcome in one.session.results():
            match outcome:
                case Truncated():
                    self.record.truncated += 1
                case Partial():
                    pass
                case _:
                    one.heard += 1
                    self.record.heard.append(_heard(one.session.id, outcome))

    async def _until_heard(self, ready: Sequence[_Ready]) -> None:
        await _stable(lambda: sum(one.heard for one in ready), upto=sum(one.owed for one in ready))


def _owed(conversation: Conversation, listener: Speaker) -> int:
    """A listener hears every utterance of the others, in its language."""
    return sum(
        segment.utterances
        for speaker in conversation.speakers
        if speaker is not listener
        for segment in speaker.segments
    )


async def _stable(count: Callable[[], int], *, upto: int) -> None:
    """Until `count` has come to `upto`, or has not moved for a long while."""
    seen, moved = -1, time.monotonic()
    while seen < upto and time.monotonic() - moved < STALLED_S:
        if count() != seen:
            seen, moved = count(), time.monotonic()
        await anyio.sleep(0.05)


def _heard(listener: str, outcome: FinalOutcome) -> Heard:
    """What one listener heard. A result says in its source text when its handler started."""
    try:
        started_ms = float(outcome.source_text) if isinstance(outcome, Result) else 0.0
    except ValueError:
        raise ForeignNode(
            f"a node that is not of this replay answered {outcome.session}: "
            f"end it, or replay on another server"
        ) from None
    return Heard(
        listener,
        outcome.session,
        outcome.target,
        outcome.utterance,
        outcome.delivery_no,
        outcome.outcome,
        started_ms,
        time.time() * 1000,
    )


def out_of_order(heard: Sequence[Heard]) -> int:
    """Outcomes that a listener heard before an earlier one of the same speaker and target."""
    last: dict[tuple[str, str, str], int] = {}
    count = 0
    for one in heard:
        key = (one.listener, one.session, one.target)
        count += one.delivery_no < last.get(key, -1)
        last[key] = max(one.delivery_no, last.get(key, -1))
    return count


def heard_twice(heard: Sequence[Heard]) -> int:
    """Outcomes that a listener heard more than once."""
    seen = Counter((one.listener, one.session, one.target, one.delivery_no) for one in heard)
    return sum(times - 1 for times in seen.values())
