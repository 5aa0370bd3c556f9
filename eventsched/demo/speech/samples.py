"""The bundled recordings: three speakers, three sentences each, spoken by synthetic voices.

Owns: reading voices/index.json and the WAV files beside it.
Must not: create them (tools/make_speech.py).
Read next: recogniser.py.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import msgspec

from eventsched.audio.wav import RATE, read_wav

BYTES_PER_MS = RATE * 2 // 1000


class Utterance(msgspec.Struct, frozen=True):
    """One sentence and its place in the recording."""

    text: str
    from_ms: int
    to_ms: int


class Sample(msgspec.Struct, frozen=True):
    """One speaker's recording."""

    speaker: str
    voice: str
    utterances: tuple[Utterance, ...]

    def pcm(self) -> bytes:
        """The whole recording: mono PCM16 at 16 kHz.

        The file is compressed in blocks; the padding of its last block is left out.
        """
        with as_file(files(__package__) / "voices" / f"{self.speaker}.wav") as path:
            return read_wav(path)[: self.utterances[-1].to_ms * BYTES_PER_MS]

    def spoken(self) -> list[bytes]:
        """The audio of each sentence, without the silence between them."""
        pcm = self.pcm()
        return [pcm[u.from_ms * BYTES_PER_MS : u.to_ms * BYTES_PER_MS] for u in self.utterances]


def sample_wav() -> Path:
    """Return the path of a bundled recording, to try a node or a session with.

    It has three English sentences with pauses of 400 ms, 9 s, spoken by a synthetic voice.

    Returns:
        The path of a WAV file, which `read_wav` and `eventsched stream` read.
    """
    return Path(__file__).parent / "voices" / "anna.wav"


def samples() -> list[Sample]:
    """All bundled recordings."""
    index = files(__package__) / "voices" / "index.json"
    return msgspec.json.decode(index.read_bytes(), type=list[Sample])
