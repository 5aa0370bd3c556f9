"""Endpointing: which audio of a stream is speech, and where an utterance ends.

Owns: the settings of endpointing, the state machine from probabilities of speech to segments.
Must not: do I/O, read a clock, send audio (client/speech_intake.py).
Read next: speech_detector.py (the probabilities), docs/utterances.md (a picture).

The detector gives the probability of speech of each frame of 32 ms. An utterance begins with the
first speech of at least `speech_ms_min`, and ends `hangover_ms` after its last speech. Silence
before and after it is left out, except for `silence_ms_max`, in which the soft start and end of
words lie. Speech that does not pause would be cut by the server amid a word. Therefore an
utterance that becomes too long ends at a short pause or at its quietest place: its last seconds are
held until the place is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from eventsched.audio.chunks import SAMPLE_BYTES
from eventsched.errors import InvalidMessage
from eventsched.schema.validation import check_between

FRAME_MS = 32
HANGOVER_MS_MIN, HANGOVER_MS_MAX = 100, 2_000
SPEECH_MS_MAX = 1_000
SILENCE_MS_MAX = 1_000
START, STAY = 0.5, 0.35
"""Probabilities from which a frame begins speech, and continues it."""
SOUND_GAP_MS = 200
"""Silence that ends a sound which was too short to begin an utterance."""
SHORT_PAUSE_MS = 160
"""A pause of this length ends an utterance that is too long."""


class Endpointing(msgspec.Struct, frozen=True, kw_only=True):
    """How a session finds the ends of its utterances; see `Client.session`.

    A value out of bounds raises InvalidMessage.
    """

    hangover_ms: int = 500
    """Silence after speech that ends the utterance, 100 to 2,000 ms."""
    speech_ms_min: int = 100
    """A sound with less speech is no utterance and is left out, 0 to 1,000 ms."""
    silence_ms_max: int = 300
    """At most so much silence is sent before and after the speech of an utterance, 0 to 1,000 ms,
    and at most `hangover_ms`."""

    def __post_init__(self) -> None:
        check_between("hangover_ms", self.hangover_ms, HANGOVER_MS_MIN, HANGOVER_MS_MAX)
        check_between("speech_ms_min", self.speech_ms_min, 0, SPEECH_MS_MAX)
        check_between("silence_ms_max", self.silence_ms_max, 0, SILENCE_MS_MAX)
        if self.silence_ms_max > self.hangover_ms:
            raise InvalidMessage.of(
                "silence_ms_max", f"at most hangover_ms, {self.hangover_ms}", "choose less"
            )


class UtteranceLimits(NamedTuple):
    """What the server does without endpointing, and endpointing must come before."""

    utterance_ms: int
    """Longest utterance."""
    held_ms: int
    """How long the end of an utterance that is too long may be held: less than a pause."""


class Segment(NamedTuple):
    """Audio of an utterance."""

    pcm: bytes
    is_end: bool
    """Whether the utterance ends with this audio, which may be empty."""
    end: int
    """Position in the stream, in bytes, at which this audio ends."""


class Detector(Protocol):
    """Gives the probability of speech of each frame, in order."""

    def feed(self, pcm: bytes) -> Sequence[float]:
        """Return the probabilities of the frames that this audio completes."""


class _Frame(NamedTuple):
    """32 ms of audio."""

    pcm: bytes
    speech: float
    """Probability of speech."""
    power: float

    @property
    def is_speech(self) -> bool:
        return self.speech >= STAY


class Endpointer:
    """Finds the utterances in a stream of PCM16.

    Args:
        settings: When an utterance begins and ends.
        rate: Sample rate of the audio in Hz.
        limits: The limits of an utterance.
        detector: Gives the probabilities of the frames of this audio.
    """

    def __init__(
        self, settings: Endpointing, rate: int, limits: UtteranceLimits, detector: Detector
    ) -> None:
        self._settings = settings
        self._rate = rate
        self._limits = limits
        self._detector = detector
        self._pcm = bytearray()
        """Audio of frames that have no probability yet."""
        self._frames = 0
        """How many frames have a probability."""
        self._held: list[_Frame] = []
        """Frames that are not sent: silence, the possible start of speech, or a possible end."""
        self._is_speech = False
        """Whether an utterance has begun."""
        self._speech_ms = 0
        """Speech among the held frames while no utterance has begun."""
        self._silent_ms = 0
        """Since the last speech."""
        self._sent_ms = 0
        """Length of the part of the utterance that is sent."""

    @property
    def position(self) -> int:
        """Bytes of the stream so far, with the silence that `finish` added."""
        return self._frame_end(self._frames) + len(self._pcm)

    @property
    def decided(self) -> int:
        """Position before which all audio is returned in a segment, or left out for ever."""
        return self._frame_end(self._frames - len(self._held))

    def feed(self, pcm: bytes) -> list[Segment]:
        """Return what this audio adds to utterances, in order."""
        self._pcm += pcm
        return _joined(
            segment
            for speech in self._detector.feed(pcm)
            for segment in self._take(self._next_frame(speech))
        )

    def finish(self) -> list[Segment]:
        """End the current utterance and return the rest of it; nothing if none has begun.

        Silence completes the last frame. The stream may continue.
        """
        end = self.position
        missing = self._frame_end(self._frames + 1) - end if self._pcm else 0
        segments = self.feed(bytes(max(0, missing)))
        while self._frame_end(self._frames) < end:  # a resampler returns its audio later
            segments += self.feed(bytes(self._frame_end(1)))
        self._speech_ms = 0
        if self._is_speech:
            segments.append(self._end(len(self._held)))
        return _joined(segments)

    # --- frames ------------------------------------------------------------------------------

    def _frame_end(self, count: int) -> int:
        """Bytes of the first `count` frames; a frame need not be a whole number of samples."""
        return count * FRAME_MS * self._rate // 1_000 * SAMPLE_BYTES

    def _next_frame(self, speech: float) -> _Frame:
        size = self._frame_end(self._frames + 1) - self._frame_end(self._frames)
        self._frames += 1
        pcm = bytes(self._pcm[:size])
        del self._pcm[:size]
        return _Frame(pcm, speech, _power(pcm))

    def _take(self, frame: _Frame) -> list[Segment]:
        self._held.append(frame)
        if frame.is_speech if self._is_speech or self._speech_ms else frame.speech >= START:
            self._silent_ms = 0
        else:
            self._silent_ms += FRAME_MS
        return self._continue() if self._is_speech else self._begin()

    def _begin(self) -> list[Segment]:
        """Begin an utterance with the held frames once they have enough speech."""
        if not self._silent_ms:
            self._speech_ms += FRAME_MS
            if self._speech_ms >= self._settings.speech_ms_min:
                self._is_speech, self._sent_ms, self._speech_ms = True, 0, 0
                return [self._send(len(self._held))]
        elif self._silent_ms > SOUND_GAP_MS:
            self._speech_ms = 0
        if not self._speech_ms:
            self._drop_silence()
        return []

    def _continue(self) -> list[Segment]:
        """Send the held frames of the utterance, hold them, or end it."""
        if self._silent_ms >= self._settings.hangover_ms:
            return [self._end(0)]
        length_ms = self._sent_ms + FRAME_MS * len(self._held)
        if length_ms > self._limits.utterance_ms - self._limits.held_ms:
            return self._end_long(length_ms)
        if self._silent_ms <= self._settings.silence_ms_max:
            return [self._send(len(self._held))]
        return []

    def _end_long(self, length_ms: int) -> list[Segment]:
        """End an utterance that is too long at a short pause, else at its quietest place."""
        if self._silent_ms >= min(SHORT_PAUSE_MS, self._settings.hangover_ms):
            first = max(0, len(self._held) - self._silent_ms // FRAME_MS - 2)
            return [self._end(first + _quietest(self._held[first:]))]
        if length_ms + FRAME_MS > self._limits.utterance_ms:
            return [self._end(_quietest(self._held))]
        return []

    def _end(self, count: int) -> Segment:
        """End the utterance after so many held frames. The next may begin with the others."""
        segment = self._send(count)._replace(is_end=True)
        self._is_speech = any(frame.is_speech for frame in self._held)
        self._sent_ms = self._speech_ms = 0
        if not self._is_speech:
            self._drop_silence()
        return segment

    def _send(self, count: int) -> Segment:
        frames, self._held = self._held[:count], self._held[count:]
        self._sent_ms += FRAME_MS * len(frames)
        return Segment(b"".join(frame.pcm for frame in frames), False, self.decided)

    def _drop_silence(self) -> None:
        """Keep only the held frames that the next utterance may begin with."""
        surplus = len(self._held) - self._settings.silence_ms_max // FRAME_MS
        del self._held[: max(0, surplus)]


def _power(pcm: bytes) -> float:
    import numpy as np

    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    return float(np.dot(samples, samples))


def _quietest(frames: Sequence[_Frame]) -> int:
    """Return how many frames lie before the end of the quietest one.

    Its neighbours count as well. Of frames within 3 dB it is the one in the middle.
    """

    def order(at: int) -> tuple[int, int]:
        loudest = max(each.power for each in frames[at - 1 : at + 2])
        return int(loudest).bit_length(), abs(2 * at - len(frames) + 1)

    return 1 + min(range(1, len(frames) - 1), key=order, default=len(frames) - 1)


def _joined(segments: Iterable[Segment]) -> list[Segment]:
    """Join segments up to the end of each utterance, and leave out empty ones."""
    joined: list[Segment] = []
    for segment in segments:
        if joined and not joined[-1].is_end:
            joined[-1] = segment._replace(pcm=joined[-1].pcm + segment.pcm)
        elif segment.pcm or segment.is_end:
            joined.append(segment)
    return joined
