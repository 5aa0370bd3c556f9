"""WAV files as the mono PCM16 that recognisers expect.

Owns: reading a file (any encoding that WAV commonly holds), mixing down, resampling.
Never does: sending. Read next: chunks.py (chunks), client/session.py (producing).

Decoding is miniaudio's: one small wheel, no further dependency, every common encoding (8 to 64
bits, float, A-law, mu-law, ADPCM). Its resampler is linear and lets 10 kHz fold back at -10 dB,
into the band that consonants live in; ours is the textbook windowed sinc, below -60 dB.
"""

from __future__ import annotations

import math
import os
import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache
from operator import mul

from eventsched.errors import InvalidMessage

RATE = 16_000
FILE_BYTES_MAX = 1 << 30
ZEROS = 14
"""Zero crossings of the filter on each side: its steepness and its cost."""
PASS = 0.92
"""Where the pass band ends, as a part of the lower rate's half."""


def read_wav(path: str | os.PathLike[str], *, rate: int = RATE) -> bytes:
    """Read a WAV file as mono PCM16 (16 bits, little-endian), whatever its encoding.

    Args:
        path: The file, at most 1 GiB.
        rate: Sample rate of the returned audio in Hz.

    Raises:
        InvalidMessage: The file cannot be read, is no WAV file, or has no audio.
    """
    name = os.fspath(path)
    try:
        size = os.stat(name).st_size
        if size > FILE_BYTES_MAX:
            raise _bad(name, f"at most {FILE_BYTES_MAX} bytes, got {size}", "cut the file")
        with open(name, "rb") as file:
            return parse_wav(file.read(), rate=rate, name=name)
    except OSError as error:
        raise _bad(name, error.strerror or "unreadable", "name a file that can be read") from error


def parse_wav(data: bytes, *, rate: int = RATE, name: str = "wav") -> bytes:
    """As `read_wav`, from the bytes of a file."""
    if data[:4] not in (b"RIFF", b"RIFX", b"RF64") or data[8:12] != b"WAVE":
        raise _bad(name, "not a WAV file", "convert it, such as with sox FILE out.wav")
    import miniaudio  # type: ignore[import-untyped]  # loaded where it is needed

    try:
        info = miniaudio.wav_get_info(data)
        decoded = miniaudio.decode(
            data, miniaudio.SampleFormat.SIGNED16, nchannels=1, sample_rate=info.sample_rate
        )
    except miniaudio.MiniaudioError as error:
        raise _bad(name, f"unreadable WAV ({error})", "convert it to 16-bit PCM") from error
    if not decoded.samples:
        raise _bad(name, "a WAV file without audio", "record again")
    samples = resample(decoded.samples, info.sample_rate, rate)
    if sys.byteorder == "big":
        samples.byteswap()
    return samples.tobytes()


def resample(samples: array[int], source: int, target: int) -> array[int]:
    """The samples at another rate, band-limited: what cannot be shown there is left out."""
    if source == target:
        return samples
    common = math.gcd(source, target)
    up, down = target // common, source // common
    filters = _filters(up, down)
    width = len(filters[0])
    padded = [0] * (width // 2) + samples.tolist() + [0] * width  # a list: no boxing per tap
    # Output k is at input position k * down / up; `width / 2` zeros stand before the first.
    count = -(-len(samples) * up // down)
    out = array("h", bytes(2 * count))
    for k in range(count):
        at, phase = divmod(k * down, up)
        start = at + 1
        value = sum(map(mul, padded[start : start + width], filters[phase]))
        out[k] = max(-32_768, min(32_767, round(value)))
    return out


@lru_cache(maxsize=8)
def _filters(up: int, down: int) -> Sequence[Sequence[float]]:
    """One windowed sinc per phase, each scaled to pass a constant unchanged."""
    cutoff = min(1.0, up / down) * PASS
    half = math.ceil(ZEROS / cutoff)
    return [_sinc(phase / up, cutoff, half) for phase in range(up)]


def _sinc(offset: float, cutoff: float, half: int) -> list[float]:
    """Taps at input positions 1-half ... half around an output that lies `offset` after 0."""
    taps = []
    for position in range(1 - half, half + 1):
        x = position - offset
        angle = math.pi * cutoff * x
        window = 0.42 + 0.5 * math.cos(math.pi * x / half) + 0.08 * math.cos(2 * math.pi * x / half)
        taps.append((math.sin(angle) / angle if angle else 1.0) * max(0.0, window))
    total = sum(taps)
    return [tap / total for tap in taps]


def _bad(name: str, limit: str, remedy: str) -> InvalidMessage:
    return InvalidMessage.of(name, limit, remedy)
