"""The speakers of the demo: they send bundled recordings and receive each other's outcomes.

Owns: pacing, marking the end of each sentence, collecting the received outcomes.
Must not: read the log (scoreboard.py).
Read next: client/session.py, run.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from eventsched.client.results import FinalOutcome, Partial, Truncated
from eventsched.client.session import Session
from eventsched.demo.speech.samples import BYTES_PER_MS, Sample

CHUNK_MS = 100
STAGGER_MS = 700
"""Time between the starts of two speakers, so that they talk at once, but not in step."""
WAIT_S = 60.0
"""How long after the last word all outcomes must have been received."""


@dataclass(slots=True)
class Speaker:
    """One speaker with a recording, a session and the outcomes that it received."""

    sample: Sample
    session: Session
    listen_language: str
    received: list[FinalOutcome] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.sample.speaker

    async def speak(self, starts_ms: int, speed: float) -> None:
        """Send every sentence at its time in the recording, and mark its end."""
        begins = anyio.current_time() + starts_ms / 1_000 / speed
        for utterance, pcm in zip(self.sample.utterances, self.sample.spoken(), strict=True):
            size = CHUNK_MS * BYTES_PER_MS
            for at in range(0, len(pcm), size):
                chunk = pcm[at : at + size]
                # A chunk is complete once its last sample was spoken.
                spoken_ms = utterance.from_ms + (at + len(chunk)) / BYTES_PER_MS
                await anyio.sleep_until(begins + spoken_ms / 1_000 / speed)
                await self.session.append(chunk, end_of_utterance=at + size >= len(pcm))


class Conversation:
    """The speakers of one room, each with an open session."""

    def __init__(self, speakers: Sequence[Speaker]) -> None:
        self.speakers = speakers
        utterances = sum(len(speaker.sample.utterances) for speaker in speakers)
        self._expected = (len(speakers) - 1) * utterances
        self._all_received = anyio.Event()

    async def run(self, speed: float) -> None:
        """Let all speak and listen, and close the sessions once all outcomes are received.

        A closed session receives nothing more, so all stay open until the last outcome, or until
        WAIT_S have passed.
        """
        async with anyio.create_task_group() as listening:
            for speaker in self.speakers:
                listening.start_soon(self._listen, speaker)
            async with anyio.create_task_group() as speaking:
                for number, speaker in enumerate(self.speakers):
                    speaking.start_soon(speaker.speak, number * STAGGER_MS, speed)
            with anyio.move_on_after(WAIT_S):
                await self._all_received.wait()
            async with anyio.create_task_group() as closing:
                for speaker in self.speakers:
                    closing.start_soon(_close, speaker.session)
            listening.cancel_scope.cancel()

    async def _listen(self, speaker: Speaker) -> None:
        async for outcome in speaker.session.results():
            if isinstance(outcome, Partial | Truncated):
                continue
            speaker.received.append(outcome)
            if sum(len(each.received) for each in self.speakers) == self._expected:
                self._all_received.set()

    def expected_languages(self) -> dict[str, list[str]]:
        """The listen languages of the others by speaker: each needs one job an utterance."""
        return {
            speaker.name: sorted(
                {other.listen_language for other in self.speakers if other is not speaker}
            )
            for speaker in self.speakers
        }

    def delivery_faults(self) -> list[str]:
        """One line for each listener that did not receive all outcomes of a speaker in order."""
        faults = []
        for listener in self.speakers:
            for speaker in self.speakers:
                numbers = [
                    outcome.delivery_no
                    for outcome in listener.received
                    if outcome.session == speaker.session.id
                    and outcome.target == listener.listen_language
                ]
                expected = range(len(speaker.sample.utterances)) if speaker is not listener else ()
                if numbers != list(expected):
                    faults.append(
                        f"{listener.name} received {numbers} of {speaker.name}, "
                        f"expected {list(expected)}"
                    )
        return faults


async def _close(session: Session) -> None:
    await session.close()
    session.detach()  # the session is closed: its block need not close it again
