"""The demo's speakers: bundled recordings, said at their own pace, and what each listener hears.

Owns: pacing, marking the end of each sentence, collecting what was heard.
Never does: reading the log (scoreboard.py). Read next: client/session.py, run.py.
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
"""After so long the next speaker starts: they talk at once, but not in step."""
WAIT_S = 60.0
"""How long after the last word everything must have been heard."""


@dataclass(slots=True)
class Speaker:
    """One person: what they say, what they hear, in which language."""

    sample: Sample
    session: Session
    listen_language: str
    heard: list[FinalOutcome] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.sample.speaker

    async def speak(self, starts_ms: int, speed: float) -> None:
        """Say every sentence at its moment; the end of each is marked."""
        begins = anyio.current_time() + starts_ms / 1_000 / speed
        for utterance, pcm in zip(self.sample.utterances, self.sample.spoken(), strict=True):
            size = CHUNK_MS * BYTES_PER_MS
            for at in range(0, len(pcm), size):
                chunk = pcm[at : at + size]
                # A chunk exists once its last sample was spoken.
                spoken_ms = utterance.from_ms + (at + len(chunk)) / BYTES_PER_MS
                await anyio.sleep_until(begins + spoken_ms / 1_000 / speed)
                await self.session.append(chunk, end_of_utterance=at + size >= len(pcm))


class Conversation:
    """Speakers of one room, each with a session that is open."""

    def __init__(self, speakers: Sequence[Speaker]) -> None:
        self.speakers = speakers
        self._owed = (len(speakers) - 1) * sum(len(one.sample.utterances) for one in speakers)
        self._heard_all = anyio.Event()

    async def run(self, speed: float) -> None:
        """All speak and listen; returns when all was heard, or the wait was over, and closes.

        A session that closes hears nothing more, so all stay until everyone has heard all.
        """
        async with anyio.create_task_group() as listening:
            for speaker in self.speakers:
                listening.start_soon(self._listen, speaker)
            async with anyio.create_task_group() as speaking:
                for number, speaker in enumerate(self.speakers):
                    speaking.start_soon(speaker.speak, number * STAGGER_MS, speed)
            with anyio.move_on_after(WAIT_S):
                await self._heard_all.wait()
            async with anyio.create_task_group() as closing:
                for speaker in self.speakers:
                    closing.start_soon(_close, speaker.session)
            listening.cancel_scope.cancel()

    async def _listen(self, speaker: Speaker) -> None:
        async for outcome in speaker.session.results():
            if isinstance(outcome, Partial | Truncated):
                continue
            speaker.heard.append(outcome)
            if sum(len(one.heard) for one in self.speakers) == self._owed:
                self._heard_all.set()

    def owed_languages(self) -> dict[str, list[str]]:
        """Speaker -> the languages that the others hear: one job for each."""
        return {
            speaker.name: sorted(
                {one.listen_language for one in self.speakers if one is not speaker}
            )
            for speaker in self.speakers
        }

    def unheard(self) -> list[str]:
        """Who did not hear everything, in order and once, one line each."""
        found = []
        for listener in self.speakers:
            for speaker in self.speakers:
                numbers = [
                    one.delivery_no
                    for one in listener.heard
                    if one.session == speaker.session.id and one.target == listener.listen_language
                ]
                expected = range(len(speaker.sample.utterances)) if speaker is not listener else ()
                if numbers != list(expected):
                    found.append(
                        f"{listener.name} heard {numbers} of {speaker.name}, not {list(expected)}"
                    )
        return found


async def _close(session: Session) -> None:
    await session.close()
    session.detach()  # closed already: its block's end need not ask again
