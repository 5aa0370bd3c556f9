"""The audio of each chunk and the expected outcome of each job, computed from their names.

Owns: the bytes of each chunk, and how each job ends. So a result shows whether exactly the
acknowledged audio reached its node, once and in order.
"""

from __future__ import annotations

import hashlib
from random import Random

from eventsched.audio.chunks import pcm_bytes

RATE = 16_000
BYTES_PER_MS = 32
LONG_S = 5.0


def chunk(session: str, seq: int, ms: int) -> bytes:
    """The audio of one chunk, distinct from that of any other."""
    return Random(f"{session}/{seq}").randbytes(ms * BYTES_PER_MS)


def digest(audio: bytes, padding_ms: int) -> str:
    """The text of the result for this audio and its padding of silence."""
    return hashlib.sha256(audio + bytes(pcm_bytes(padding_ms, RATE))).hexdigest()[:24]


def is_silent(job: str) -> bool:
    """One job in 37 has no text."""
    return _number(job) % 37 == 0


def fails_first(job: str) -> bool:
    """The first attempt of one job in 23 fails, retryable."""
    return _number(job) % 23 == 1


def holds_s(job: str, audio_s: float) -> float:
    """How long the handler of a job takes: of one job in 41 longer than *node_lost_ms*, so that
    its node may wake up while another node has the job.
    """
    return LONG_S if _number(job) % 41 == 2 else audio_s


def _number(job: str) -> int:
    return int.from_bytes(hashlib.sha256(job.encode()).digest()[:4], "big")
