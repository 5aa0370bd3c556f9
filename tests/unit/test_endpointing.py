"""Endpointing finds the utterances of recordings with pauses, and none in silence and noise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest

from eventsched.audio.endpointing import (
    FRAME_MS,
    Endpointer,
    Endpointing,
    Segment,
    UtteranceLimits,
)
from eventsched.audio.speech_detector import SpeechDetector
from eventsched.errors import InvalidMessage
from tests.unit.speech_recordings import (
    RATE,
    Recording,
    clicks,
    hum,
    pink_noise,
    record,
    sentences,
)

LIMITS = UtteranceLimits(utterance_ms=9_900, held_ms=2_500)
APPEND_MS = 100
"""Audio of one call."""
TOLERANCE_MS = 10
"""The resolution with which the recordings have their speech."""
DELAY_MS_MAX = 300
"""How long after the hangover the end of an utterance is found, at most."""


class Utterance(NamedTuple):
    """An utterance that endpointing found, in ms of the recording."""

    start_ms: float
    end_ms: float
    found_ms: float


def utterances_of(recording: Recording, settings: Endpointing) -> list[Utterance]:
    """Feed a recording in real time; each utterance is a part of it without holes."""
    endpointer = Endpointer(settings, recording.rate, LIMITS, SpeechDetector(recording.rate))
    ms_bytes = recording.rate * 2 / 1_000
    step = int(APPEND_MS * ms_bytes)
    found: list[Utterance] = []
    pcm, position = b"", 0
    for start in range(0, len(recording.pcm), step):
        for segment in endpointer.feed(recording.pcm[start : start + step]):
            pcm += segment.pcm
            if segment.is_end:
                position = recording.pcm.index(pcm, position)
                end = position + len(pcm)
                now_ms = (start + step) / ms_bytes
                found.append(Utterance(position / ms_bytes, end / ms_bytes, now_ms))
                pcm, position = b"", end
    assert endpointer.finish() == []
    assert pcm == b""
    return found


def is_speech_in(recording: Recording, start_ms: float, end_ms: float) -> bool:
    return bool(recording.speech[int(start_ms) // 10 : int(end_ms) // 10 + 1].any())


@pytest.mark.parametrize(
    ("speaker", "rate", "noise"), [(0, 16_000, 100.0), (1, 8_000, 100.0), (2, 16_000, 0.0)]
)
def test_each_sentence_is_one_utterance_that_ends_soon_after_the_hangover(
    speaker: int, rate: int, noise: float
) -> None:
    settings = Endpointing()
    pauses_ms = (1_500, 700, 1_200, 2_000)
    recording = record(sentences(speaker), pauses_ms, rate=rate, noise=noise)
    found = utterances_of(recording, settings)
    assert len(found) == 3
    spoken_ms = 10 * np.flatnonzero(recording.speech)
    for utterance in found:
        inside = spoken_ms[(spoken_ms >= utterance.start_ms) & (spoken_ms < utterance.end_ms)]
        delay_ms = utterance.found_ms - (inside[-1] + 10) - settings.hangover_ms
        assert 0 <= delay_ms <= DELAY_MS_MAX
    between = [0.0, *(time for each in found for time in each[:2]), float(recording.ms)]
    assert not any(
        is_speech_in(recording, start, end - 10)
        for start, end in zip(between[::2], between[1::2], strict=True)
    ), "a word is cut, or left out"


@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_silence_and_noise_are_no_utterance(rate: int) -> None:
    count = 3 * RATE
    noises = [pink_noise(count, 100), pink_noise(count, 1_000)]
    noises += [hum(count, 1_000), clicks(count, 300)]
    recording = record(noises, (3_000, 0, 0, 0, 0), rate=rate)
    assert utterances_of(recording, Endpointing()) == []


@pytest.mark.parametrize("speaker", [0, 2])
def test_speech_without_a_pause_is_not_cut_amid_a_word(speaker: int) -> None:
    """The silence between sentences is as short as between words, and no other silence is."""
    parts = sentences(speaker) * 3
    recording = record(parts, (500, *(130,) * (len(parts) - 1), 1_000), rate=RATE, noise=30)
    found = utterances_of(recording, Endpointing())
    assert len(found) > 1
    for earlier, later in pairwise(found):
        assert earlier.end_ms == later.start_ms
        cut_ms = later.start_ms - TOLERANCE_MS
        assert not is_speech_in(recording, cut_ms, cut_ms)
    assert max(each.end_ms - each.start_ms for each in found) <= LIMITS.utterance_ms
    edges = [(0.0, found[0].start_ms), (found[-1].end_ms, float(recording.ms))]
    assert not any(is_speech_in(recording, start, end - 10) for start, end in edges)


# --- the state machine, with probabilities of the test -----------------------------------------


class Given:
    """A detector whose probabilities are given: one for each frame of 32 ms."""

    def __init__(self, probabilities: Sequence[float]) -> None:
        self._probabilities = list(probabilities)
        self._bytes = 0

    def feed(self, pcm: bytes) -> list[float]:
        self._bytes += len(pcm)
        count, self._bytes = divmod(self._bytes, FRAME_MS * RATE // 1_000 * 2)
        return [self._probabilities.pop(0) if self._probabilities else 0.0 for _ in range(count)]


def frames(count: int) -> bytes:
    return bytes(count * FRAME_MS * RATE // 1_000 * 2)


def endpointer_of(probabilities: Sequence[float], **settings: int) -> Endpointer:
    return Endpointer(Endpointing(**settings), RATE, LIMITS, Given(probabilities))


def lengths(segments: Sequence[Segment]) -> list[tuple[int, bool]]:
    """Return the length of each segment in frames, and whether the utterance ends with it."""
    return [(len(each.pcm) // len(frames(1)), each.is_end) for each in segments]


def test_a_sound_that_is_too_short_is_left_out() -> None:
    short = endpointer_of([0.9] * 3 + [0.0] * 20, speech_ms_min=100)
    assert short.feed(frames(23)) == []
    long = endpointer_of([0.9] * 4 + [0.0] * 20, speech_ms_min=100)
    assert [is_end for _, is_end in lengths(long.feed(frames(24)))] == [True]


def test_short_sounds_with_silence_between_them_do_not_add_up() -> None:
    endpointer = endpointer_of(([0.9] * 3 + [0.0] * 7) * 4, speech_ms_min=100)
    assert endpointer.feed(frames(40)) == []


def test_silence_before_and_after_speech_is_left_out_except_for_a_margin() -> None:
    endpointer = endpointer_of(
        [0.0] * 50 + [0.9] * 10 + [0.0] * 50, hangover_ms=320, silence_ms_max=96
    )
    (segment,) = lengths(endpointer.feed(frames(110)))
    assert segment == (3 + 10 + 3, True)


def test_a_pause_that_is_shorter_than_the_hangover_is_sent_whole() -> None:
    endpointer = endpointer_of(
        [0.9] * 10 + [0.0] * 9 + [0.9] * 5 + [0.0] * 10, hangover_ms=320, silence_ms_max=96
    )
    assert lengths(endpointer.feed(frames(34))) == [(10 + 9 + 5 + 3, True)]


def test_speech_is_sent_as_it_comes_and_its_end_may_be_empty() -> None:
    endpointer = endpointer_of([0.9] * 10 + [0.0] * 4, hangover_ms=128, silence_ms_max=96)
    assert lengths(endpointer.feed(frames(4))) == [(4, False)]
    assert lengths(endpointer.feed(frames(9))) == [(9, False)]
    assert lengths(endpointer.feed(frames(1))) == [(0, True)]


def test_finish_ends_the_utterance_with_the_incomplete_frame_and_the_stream_continues() -> None:
    endpointer = endpointer_of([0.9] * 5 + [0.9] + [0.0] * 3 + [0.9] * 5)
    assert lengths(endpointer.feed(frames(5) + bytes(100))) == [(5, False)]
    assert lengths(endpointer.finish()) == [(1, True)]
    assert endpointer.finish() == []
    assert lengths(endpointer.feed(frames(8))) == [(8, False)]


def test_finish_without_speech_sends_nothing() -> None:
    endpointer = endpointer_of([0.0] * 5)
    assert endpointer.feed(frames(5)) == []
    assert endpointer.finish() == []


def test_a_long_utterance_ends_in_the_middle_of_a_short_pause() -> None:
    long = (LIMITS.utterance_ms - LIMITS.held_ms) // FRAME_MS + 1
    endpointer = endpointer_of([0.9] * long + [0.0] * 5 + [0.9] * 20)
    segments = lengths(endpointer.feed(frames(long + 25)))
    assert segments == [(long + 2, True), (3 + 20, False)]


def test_the_held_end_of_a_long_utterance_is_bounded() -> None:
    count = 2 * LIMITS.utterance_ms // FRAME_MS
    endpointer = endpointer_of([0.9] * count)
    (first, *_) = lengths(endpointer.feed(frames(count)))
    assert first[1]
    assert first[0] * FRAME_MS <= LIMITS.utterance_ms


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"hangover_ms": 99}, "hangover_ms"),
        ({"hangover_ms": 2_001}, "hangover_ms"),
        ({"speech_ms_min": -1}, "speech_ms_min"),
        ({"silence_ms_max": 1_001}, "silence_ms_max"),
        ({"hangover_ms": 200, "silence_ms_max": 201}, "silence_ms_max"),
    ],
)
def test_a_setting_out_of_bounds_is_refused(settings: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidMessage, match=field):
        Endpointing(**settings)
