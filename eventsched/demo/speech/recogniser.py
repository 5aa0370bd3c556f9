"""An offline recogniser of English speech.

Owns: one pocketsphinx decoder with the model in its wheel.
Must not: use threads. Recognition is bound by the CPU (0.2 of real time) and holds the interpreter
lock, so it belongs in a process of its own.
Read next: nodes.py.
"""

from __future__ import annotations

from typing import Any

from eventsched.errors import EventschedError

RATE = 16_000
INSTALL = "pip install 'eventsched[speech]'"


class SpeechNotInstalled(EventschedError):
    """Raised when the recogniser is not installed; the message says which extra installs it."""

    def __init__(self) -> None:
        super().__init__(f"the speech recogniser is not installed; remedy: {INSTALL}")


def require_recogniser() -> None:
    """Raise SpeechNotInstalled if the recogniser is not installed. Loads no model."""
    _pocketsphinx()


def _pocketsphinx() -> Any:
    try:
        import pocketsphinx
    except ImportError as error:
        raise SpeechNotInstalled from error
    return pocketsphinx


class Recogniser:
    """A decoder for many utterances: loading its model takes far longer than one utterance."""

    def __init__(self) -> None:
        self._pocketsphinx = _pocketsphinx()
        self._decoder = self._pocketsphinx.Decoder(loglevel="FATAL", samprate=RATE)

    def recognise(self, pcm: bytes) -> str:
        """The words of one utterance (mono PCM16 at 16 kHz) in lower case; empty without speech.

        The last word is only recognised if some silence follows it; 200 ms are enough.
        """
        if not self._holds_speech(pcm):
            return ""  # the decoder would return a word for noise
        decoder = self._decoder
        decoder.start_utt()
        try:
            decoder.process_raw(pcm, full_utt=True)
        finally:
            decoder.end_utt()  # else the decoder refuses the next utterance
        hypothesis = decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""

    def _holds_speech(self, pcm: bytes) -> bool:
        detector = self._pocketsphinx.Vad(
            sample_rate=RATE
        )  # stateful, so a new one for each utterance
        size = detector.frame_bytes
        frames = (pcm[at : at + size] for at in range(0, len(pcm) - size + 1, size))
        return any(detector.is_speech(frame) for frame in frames)
