"""English speech to words, offline.

Owns: one pocketsphinx decoder and its model, which its wheel carries.
Never does: scheduling, or leaving its thread. It is bound by the CPU (0.2 of real time) and holds
the interpreter's lock meanwhile, so it belongs in a process of its own. Read next: nodes.py.
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
    """Raises SpeechNotInstalled unless a Recogniser can be made here; cheap, loads no model."""
    _pocketsphinx()


def _pocketsphinx() -> Any:
    try:
        import pocketsphinx
    except ImportError as error:
        raise SpeechNotInstalled from error
    return pocketsphinx


class Recogniser:
    """A decoder that is kept: loading its model takes far longer than a sentence."""

    def __init__(self) -> None:
        self._pocketsphinx = _pocketsphinx()
        self._decoder = self._pocketsphinx.Decoder(loglevel="FATAL", samprate=RATE)

    def recognise(self, pcm: bytes) -> str:
        """The words of one utterance (mono PCM16 at 16 kHz), lower case; empty when none.

        The last word is only heard with some silence behind it: 200 ms will do.
        """
        if not self._holds_speech(pcm):
            return ""  # asked nevertheless, the decoder makes up a word
        decoder = self._decoder
        decoder.start_utt()
        try:
            decoder.process_raw(pcm, full_utt=True)
        finally:
            decoder.end_utt()  # or the decoder would refuse the next utterance
        heard = decoder.hyp()
        return heard.hypstr if heard else ""

    def _holds_speech(self, pcm: bytes) -> bool:
        detector = self._pocketsphinx.Vad(sample_rate=RATE)  # it remembers: a new one each time
        size = detector.frame_bytes
        frames = (pcm[at : at + size] for at in range(0, len(pcm) - size + 1, size))
        return any(detector.is_speech(frame) for frame in frames)
