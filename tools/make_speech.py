# /// script
# requires-python = ">=3.11"
# dependencies = ["soundfile>=0.13,<1"]
# ///
"""Synthesise the bundled sentences with flite and write the time of each sentence.

    uv run tools/make_speech.py     # needs the program flite with the voices slt, rms and awb

The files are WAV with IMA ADPCM: four bits per sample, a quarter of PCM16. `read_wav` reads them.

Owns: eventsched/demo/speech/voices/*.wav and the times in voices/index.json; the sentences in that
file are its input. Never does: recognise speech. Read next: demo/speech/samples.py.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import wave
from array import array
from pathlib import Path

import soundfile

VOICES = Path(__file__).parent.parent / "eventsched" / "demo" / "speech" / "voices"
RATE = 16_000
PAUSE_MS = 400
"""Silence between two sentences of a file."""


def speak(text: str, voice: str) -> bytes:
    """Return the sentence as mono PCM16 at 16 kHz."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", file.name], check=True)
        with wave.open(file.name, "rb") as spoken:
            if spoken.getparams()[:3] != (1, 2, RATE):
                raise SystemExit(f"voice {voice} does not speak 16 kHz mono PCM16")
            pcm = spoken.readframes(spoken.getnframes())
    return pcm[: len(pcm) // 32 * 32]  # whole milliseconds


def write(path: Path, pcm: bytes) -> None:
    """Write a compressed WAV file; its last block ends with silence."""
    samples = memoryview(array("h", pcm))
    with soundfile.SoundFile(path, "w", RATE, channels=1, subtype="IMA_ADPCM") as file:
        file.buffer_write(samples, dtype="int16")


def main() -> None:
    index = json.loads((VOICES / "index.json").read_text())
    pause = bytes(PAUSE_MS * RATE // 1000 * 2)
    for speaker in index:
        pcm = bytearray()
        for utterance in speaker["utterances"]:
            pcm += pause if pcm else b""
            utterance["from_ms"] = len(pcm) // 32
            pcm += speak(utterance["text"], speaker["voice"])
            utterance["to_ms"] = len(pcm) // 32
        write(VOICES / f"{speaker['speaker']}.wav", bytes(pcm))
    (VOICES / "index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
