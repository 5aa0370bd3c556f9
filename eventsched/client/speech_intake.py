"""The audio of one session on its way through endpointing.

Owns: the order of the audio, running the detector in a thread, the chunks of what it finds.
Must not: send chunks (session.py), or decide what is speech (audio/endpointing.py).
Read next: session.py, audio/endpointing.py.

Audio waits here from the call that appends it until a thread has taken it. So a cancelled call
loses nothing, and the next call continues with it.
"""

from __future__ import annotations

from collections import deque

import msgspec
from anyio import to_thread

from eventsched.audio.chunks import SAMPLE_BYTES, AudioChunk, pcm_ms, split_audio
from eventsched.audio.endpointing import Endpointer, Endpointing, Segment, UtteranceLimits
from eventsched.audio.speech_detector import SpeechDetector
from eventsched.errors import InvalidMessage
from eventsched.schema.settings import Settings

UTTERANCE_MARGIN_MS = 100
"""How much shorter than the server's limit an utterance is."""
HELD_MS_MAX = 2_500


class _Audio:
    """The audio of one call."""

    def __init__(self, pcm: bytes, *, end_of_utterance: bool, traceparent: str) -> None:
        self.pcm = pcm
        self.end_of_utterance = end_of_utterance
        self.traceparent = traceparent


class SpeechIntake:
    """Makes chunks of the speech in the audio of a session.

    Args:
        settings: When an utterance begins and ends.
        rate: Sample rate of the audio in Hz.
        limits: The limits of an utterance.
        bytes_max: The limit of a chunk's payload.
    """

    def __init__(
        self, settings: Endpointing, rate: int, limits: UtteranceLimits, *, bytes_max: int
    ) -> None:
        self._settings = settings
        self._rate = rate
        self._limits = limits
        self._bytes_max = bytes_max
        self._waiting: deque[_Audio] = deque()
        self._chunks: list[AudioChunk] = []
        """Chunks that a thread has made and no call has taken."""
        self._endpointer: Endpointer | None = None

    def add(self, audio: object, *, end_of_utterance: bool, traceparent: str = "") -> _Audio:
        """Add audio in the order of the calls. Raises InvalidMessage if it is not PCM16.

        Args:
            audio: Bytes of PCM16.
            end_of_utterance: The current utterance ends with this audio.
            traceparent: Of the utterances that end in this audio; may be empty.
        """
        if not isinstance(audio, bytes | bytearray | memoryview):
            raise InvalidMessage.of("audio", "bytes of PCM16 expected", "pass bytes, not a list")
        pcm = bytes(audio)
        pcm_ms(len(pcm), self._rate)
        added = _Audio(pcm, end_of_utterance=end_of_utterance, traceparent=traceparent)
        self._waiting.append(added)
        return added

    def withdraw(self, audio: _Audio) -> bool:
        """Remove audio that no thread has taken. Return whether it was removed."""
        if audio not in self._waiting:
            return False
        self._waiting.remove(audio)
        return True

    async def take(self, *, ends: bool = False, traceparent: str = "") -> list[AudioChunk]:
        """Return the chunks that follow from the audio that waits. Call it one at a time.

        Args:
            ends: The current utterance ends after this audio.
            traceparent: Of that utterance; may be empty.
        """
        if ends:
            self.add(b"", end_of_utterance=True, traceparent=traceparent)
        if self._waiting:
            await to_thread.run_sync(self._process)
        chunks, self._chunks = self._chunks, []
        return chunks

    def _process(self) -> None:
        if self._endpointer is None:  # loading the model takes a while
            detector = SpeechDetector(self._rate)
            self._endpointer = Endpointer(self._settings, self._rate, self._limits, detector)
        while self._waiting:
            audio = self._waiting.popleft()
            segments = self._endpointer.feed(audio.pcm)
            if audio.end_of_utterance:
                segments += self._endpointer.finish()
            for segment in segments:
                self._chunks += self._split(segment, audio.traceparent)

    def _split(self, segment: Segment, traceparent: str) -> list[AudioChunk]:
        *chunks, last = split_audio(
            segment.pcm,
            "pcm16",
            self._rate,
            end_of_utterance=segment.is_end,
            bytes_max=self._bytes_max,
        )
        if segment.is_end:
            last = msgspec.structs.replace(last, end_of_utterance=True, traceparent=traceparent)
        return [*chunks, last]


def limits_of(settings: Settings, rate: int) -> UtteranceLimits:
    """Return limits with which endpointing ends an utterance before the server does."""
    bytes_ms = settings.audio_bytes_max * 1_000 // (rate * SAMPLE_BYTES)
    longest_ms = min(settings.audio_ms_max, bytes_ms) - UTTERANCE_MARGIN_MS
    return UtteranceLimits(longest_ms, min(HELD_MS_MAX, settings.pause_ms * 5 // 6))
