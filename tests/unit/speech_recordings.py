"""Recordings with known pauses, made of the bundled sentences.

Owns: the recordings, and where they have speech: the frames of 10 ms above a level that the
synthetic voices, which have no noise, never reach in a pause.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from eventsched.demo.speech.samples import samples

RATE = 16_000
LEVEL = 60.0
"""Root mean square above which 10 ms of a clean recording are speech."""


class Recording(NamedTuple):
    """PCM16 and its speech."""

    pcm: bytes
    rate: int
    speech: NDArray[np.bool_]
    """For each 10 ms, whether it is speech."""
    pauses_ms: tuple[int, ...]
    """Silence before each sentence, and after the last one."""

    @property
    def ms(self) -> int:
        return len(self.pcm) * 500 // self.rate


def sentences(speaker: int) -> list[NDArray[np.float64]]:
    """Return the sentences of a speaker, without the silence around them."""
    return [_trimmed(np.frombuffer(each, np.int16)) for each in samples()[speaker].spoken()]


def _trimmed(sentence: NDArray[np.int16]) -> NDArray[np.float64]:
    clean = sentence.astype(np.float64)
    loud = np.flatnonzero(speech_of(clean))
    return clean[loud[0] * RATE // 100 : (loud[-1] + 1) * RATE // 100]


def speech_of(clean: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for each 10 ms of a clean recording whether it is speech."""
    size = RATE // 100
    frames = clean[: len(clean) // size * size].reshape(-1, size)
    is_speech: NDArray[np.bool_] = np.sqrt((frames**2).mean(axis=1)) > LEVEL
    return is_speech


def record(
    parts: list[NDArray[np.float64]], pauses_ms: tuple[int, ...], *, rate: int, noise: float = 0.0
) -> Recording:
    """Join sentences with pauses, add pink noise of this level, and resample."""
    pieces = [np.zeros(pauses_ms[0] * RATE // 1_000)]
    for part, pause_ms in zip(parts, pauses_ms[1:], strict=True):
        pieces += [part, np.zeros(pause_ms * RATE // 1_000)]
    clean = np.concatenate(pieces)
    noisy = clean + pink_noise(len(clean), noise)
    audio = soxr.resample(noisy, RATE, rate) if rate != RATE else noisy
    return Recording(as_pcm(audio), rate, speech_of(clean), pauses_ms)


def pink_noise(count: int, level: float) -> NDArray[np.float64]:
    """Return noise of this root mean square whose power falls with the frequency."""
    spectrum = np.fft.rfft(np.random.default_rng(1).normal(size=count))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), count)
    scaled: NDArray[np.float64] = noise / max(float(np.sqrt((noise**2).mean())), 1e-9) * level
    return scaled


def hum(count: int, level: float) -> NDArray[np.float64]:
    """Return the hum of a mains supply at 50 Hz with four overtones."""
    seconds = np.arange(count) / RATE
    tone = np.zeros(count)
    for n in range(1, 6):
        tone += np.sin(2 * np.pi * 50 * n * seconds) / n
    scaled: NDArray[np.float64] = tone / np.sqrt((tone**2).mean()) * level
    return scaled


def clicks(count: int, level: float) -> NDArray[np.float64]:
    """Return the clicks of a keyboard, three in a second."""
    generator = np.random.default_rng(2)
    audio = np.zeros(count)
    for start in range(0, count - 400, 5_300):
        audio[start : start + 400] = generator.normal(size=400) * np.exp(-np.arange(400) / 80)
    scaled: NDArray[np.float64] = audio / np.sqrt((audio**2).mean()) * level
    return scaled


def as_pcm(audio: NDArray[np.float64]) -> bytes:
    return np.clip(audio, -32_768, 32_767).astype("<i2").tobytes()
