"""Endpointing of a producer's numbered chunks: which are sent, and where an utterance ends.

Owns: the decision for each chunk, the detector's thread.
Must not: send chunks (producer_audio.py), decide what is speech (audio/endpointing.py).
Read next: producer_audio.py, docs/adr/0029-endpointing-in-the-gateway.md.

Every chunk keeps its number: a chunk with speech is stored whole, a chunk without speech as an
empty one, which takes a number and no memory. So a session continues at any gateway as without
endpointing. A chunk is not acknowledged while it may still become the start of an utterance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from eventsched.audio.chunks import AudioChunk
from eventsched.audio.endpointing import Endpointer, Endpointing, Segment
from eventsched.audio.speech_detector import SpeechDetector, check_installed
from eventsched.client.speech_intake import limits_of
from eventsched.errors import InvalidMessage, MissingDependencyError
from eventsched.gateway.detector_threads import DetectorThreads
from eventsched.gateway.session_frames import Finalize
from eventsched.schema.settings import Settings

CHUNK_MS_MAX = 100
"""A chunk ends at most one utterance: the silence between two is longer."""
SAMPLE_RATES = (8_000, 16_000)
_SILENCE = AudioChunk(0, b"", end_of_utterance=True)

Decided: TypeAlias = AudioChunk | Finalize


def check_audio(encoding: str, sample_rate: int) -> None:
    """Check that endpointing can process this audio. Raises InvalidMessage."""
    if encoding != "pcm16":
        raise InvalidMessage.of("encoding", "pcm16 with endpointing", "send PCM16")
    if sample_rate not in SAMPLE_RATES:
        rates = " or ".join(f"{rate:,}" for rate in SAMPLE_RATES)
        raise InvalidMessage.of("sample_rate", f"{rates} Hz with endpointing", "resample")


def check_detector() -> None:
    """Check that the detector is installed. Raises InvalidMessage."""
    try:
        check_installed()
    except MissingDependencyError as error:
        raise InvalidMessage.of(
            "endpointing", f"not at this gateway: {error}", "send finalize instead"
        ) from None


class _Pending(NamedTuple):
    """A chunk that is not decided, and its place in the stream of the endpointer, in bytes."""

    start: int
    end: int
    chunk: AudioChunk


class SpeechChunks:
    """Decides about the chunks of one connection, in order.

    Args:
        load: Returns what finds the utterances in the audio of these chunks. Called in a thread
            before the first chunk: a detector has megabytes, and a session may never have audio.
        threads: Where the detector runs.
        tenant: Tenant of the session.
    """

    def __init__(
        self, load: Callable[[], Endpointer], threads: DetectorThreads, tenant: str
    ) -> None:
        self._load = load
        self._endpointer: Endpointer | None = None
        self._threads = threads
        self._tenant = tenant
        self._pending: deque[_Pending] = deque()
        self._speech: deque[tuple[int, int]] = deque()
        """Start and end of each stretch that is sent, from the first undecided chunk on."""
        self._ends: deque[int] = deque()
        """Positions at which an utterance ends."""

    async def feed(self, chunks: Sequence[AudioChunk]) -> list[Decided]:
        """Add chunks; return those that are decided now, with the ends of utterances."""
        await self._threads.run(self._tenant, self._feed, chunks)
        return self._decided(self._loaded.decided)

    async def finish(self) -> list[Decided]:
        """Decide about all chunks: the current utterance ends with them."""
        if self._endpointer is None:  # there is no audio to decide about
            return []
        await self._threads.run(self._tenant, self._finish)
        return self._decided(self._loaded.position)

    def close(self) -> None:
        """Release the detector: ended tasks and threads may keep this object."""
        self._endpointer = None

    @property
    def _loaded(self) -> Endpointer:
        if self._endpointer is None:
            self._endpointer = self._load()
        return self._endpointer

    def _feed(self, chunks: Sequence[AudioChunk]) -> None:
        endpointer = self._loaded
        for chunk in chunks:
            start = endpointer.position
            self._pending.append(_Pending(start, start + len(chunk.payload), chunk))
            self._add(endpointer.feed(chunk.payload))

    def _finish(self) -> None:
        self._add(self._loaded.finish())

    def _add(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            if segment.pcm:
                self._speech.append((segment.end - len(segment.pcm), segment.end))
            if segment.is_end:
                self._ends.append(segment.end)

    def _decided(self, position: int) -> list[Decided]:
        """Return the chunks that end at or before this position, and the ends before the others."""
        decided: list[Decided] = []
        while True:
            first = self._pending[0] if self._pending else None
            if self._ends and (first is None or self._ends[0] <= first.start):
                self._ends.popleft()
                decided.append(Finalize())
            elif first is None or first.end > position:
                return decided
            else:
                self._pending.popleft()
                decided.append(first.chunk if self._has_speech(first) else _SILENCE)

    def _has_speech(self, chunk: _Pending) -> bool:
        while self._speech and self._speech[0][1] <= chunk.start:
            self._speech.popleft()
        return bool(self._speech) and self._speech[0][0] < chunk.end


def speech_chunks(
    settings: Settings, rate: int, threads: DetectorThreads, tenant: str
) -> SpeechChunks:
    """Return the endpointing of a session; its first chunk loads the detector.

    Args:
        settings: The settings of the session's cell.
        rate: Sample rate in Hz.
        threads: Where the detector runs.
        tenant: Tenant of the session.
    """

    def load() -> Endpointer:
        return Endpointer(Endpointing(), rate, limits_of(settings, rate), SpeechDetector(rate))

    return SpeechChunks(load, threads, tenant)
