"""Decodes WAV files to the mono PCM16 that recognisers expect.

Owns: decoding samples, mixing to mono, resampling; all in blocks, from files and streams.
Must not: send audio. Read next: riff.py (headers), chunks.py (chunks), client/session.py
(producing).

numpy decodes linear samples exactly, so that the mean of the channels has no bias. miniaudio
decodes A-law, mu-law and ADPCM. soxr resamples; aliases stay below -60 dB. All three are imported
at their first use.
"""

from __future__ import annotations

import io
import os
import struct
from array import array
from typing import TYPE_CHECKING, BinaryIO

from eventsched.audio.containers import HEAD_BYTES, container_of, is_wav
from eventsched.audio.riff import FLOAT, RATE_MAX, RATE_MIN, RiffReader, WavFormat
from eventsched.errors import InvalidMessage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float64]
    """Samples of one channel, in units of PCM16."""

RATE = 16_000
FILE_BYTES_MAX = 1 << 30
PCM_BYTES_MAX = 1 << 30
"""The most PCM16 that a file may decode to: nine hours at 16 kHz."""
BLOCK_BYTES = 1 << 20
FULL_SCALE = 32_768
_FLOAT_MAX = 1_000.0
"""Float samples are clipped there, far beyond full scale, so that no sum overflows."""


def read_wav(path: str | os.PathLike[str], *, rate: int = RATE) -> bytes:
    """Read a WAV file as mono PCM16 (16 bits, little-endian): the mean of its channels.

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
            return _decode(file, rate, name)
    except OSError as error:
        raise _bad(name, error.strerror or "unreadable", "name a file that can be read") from error


def parse_wav(data: bytes, *, rate: int = RATE, name: str = "wav") -> bytes:
    """Decode the bytes of a WAV file; see `read_wav`."""
    return _decode(io.BytesIO(data), rate, name)


def resample(samples: array[int], source: int, target: int) -> array[int]:
    """Resample with a band limit. Raises InvalidMessage for a rate out of range."""
    if source == target:
        return samples
    import numpy as np

    resampler = Resampler(source, target)
    resampled = resampler.feed(np.frombuffer(samples, np.int16).astype(np.float64))
    out = array("h")
    out.frombytes(_pcm16(resampled).tobytes() + _pcm16(resampler.finish()).tobytes())
    return out


class WavDecoder:
    """Decodes a WAV file incrementally to mono PCM16.

    Args:
        rate: Sample rate of the returned audio in Hz.
        name: Name of the file in error messages.
    """

    def __init__(self, rate: int = RATE, name: str = "wav") -> None:
        self._rate = rate
        self._name = name
        self._riff = RiffReader(name)
        self._resampler: Resampler | None = None
        self._rest = b""
        """The first bytes of an incomplete frame."""
        self._has_audio = False

    def feed(self, data: bytes | memoryview) -> bytes:
        """Return the audio of all complete frames. Raises InvalidMessage if it is no WAV."""
        audio = self._riff.feed(data)
        form = self._riff.format
        if form is None or not len(audio):
            return b""
        frames = self._rest + bytes(audio)
        whole = len(frames) // form.block_bytes * form.block_bytes
        self._rest = frames[whole:]
        if not whole:
            return b""
        self._has_audio = True
        samples = _mono(memoryview(frames)[:whole], form, self._riff)
        if form.rate != self._rate:
            if self._resampler is None:
                self._resampler = Resampler(form.rate, self._rate)
            samples = self._resampler.feed(samples)
        return _pcm16(samples, "<").tobytes()

    def finish(self) -> bytes:
        """Return the rest of the audio. Raises InvalidMessage if there was none at all."""
        self._riff.finish()
        if not self._has_audio:
            raise _bad(self._name, "a WAV file without audio", "record again")
        return b"" if self._resampler is None else _pcm16(self._resampler.finish(), "<").tobytes()


class StreamDecoder:
    """Decodes a stream incrementally to mono PCM16 at 16 kHz.

    The first bytes determine the format: a WAV is decoded, another container is refused, everything
    else is raw PCM16, mono, 16 kHz.

    Args:
        name: Name of the stream in error messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._head = b""
        self._wav: WavDecoder | None = None
        self._is_decided = False

    def feed(self, data: bytes) -> bytes:
        """Return the decoded audio. Raises InvalidMessage for another container."""
        if self._wav is not None:
            return self._wav.feed(data)
        self._head += data
        if not self._is_decided:
            if len(self._head) < HEAD_BYTES:
                return b""
            return self._decide()
        return self._raw()

    def finish(self) -> bytes:
        """Return the rest of the audio. Raises InvalidMessage, also for a WAV without audio."""
        pcm = b"" if self._is_decided else self._decide()
        return pcm if self._wav is None else pcm + self._wav.finish()

    def _decide(self) -> bytes:
        """Choose the decoder by the first bytes, and decode them."""
        self._is_decided = True
        container = container_of(self._head)
        if container is not None:
            raise _bad(
                self._name,
                f"raw PCM16, mono, {RATE} Hz or a WAV expected, got {container}",
                f"decode it first: ffmpeg -i FILE -f s16le -ac 1 -ar {RATE} -",
            )
        if not is_wav(self._head):
            return self._raw()
        self._wav = WavDecoder(name=self._name)
        head, self._head = self._head, b""
        return self._wav.feed(head)

    def _raw(self) -> bytes:
        whole = len(self._head) // 2 * 2
        pcm, self._head = self._head[:whole], self._head[whole:]
        return pcm


class Resampler:
    """Resamples blocks of samples, in units of PCM16."""

    def __init__(self, source: int, target: int) -> None:
        for name, rate in (("source rate", source), ("target rate", target)):
            if not RATE_MIN <= rate <= RATE_MAX:
                raise _bad(name, f"{RATE_MIN} to {RATE_MAX} Hz expected, got {rate}", "change it")
        import soxr

        self._stream = soxr.ResampleStream(source, target, 1, dtype="float64", quality="HQ")

    def feed(self, samples: Samples) -> Samples:
        """Return the resampled audio that is complete."""
        resampled: Samples = self._stream.resample_chunk(samples)
        return resampled

    def finish(self) -> Samples:
        """Return the rest of the resampled audio."""
        import numpy as np

        rest: Samples = self._stream.resample_chunk(np.empty(0, np.float64), last=True)
        return rest


def _decode(file: BinaryIO, rate: int, name: str) -> bytes:
    """Decode a file block by block."""
    decoder = WavDecoder(rate, name)
    pcm = io.BytesIO()  # getvalue() does not copy
    while block := file.read(BLOCK_BYTES):
        pcm.write(decoder.feed(block))
        if pcm.tell() > PCM_BYTES_MAX or file.tell() > FILE_BYTES_MAX:
            limit = f"at most {PCM_BYTES_MAX} bytes of PCM16 in {FILE_BYTES_MAX} bytes"
            raise _bad(name, limit, "cut the file")
    pcm.write(decoder.finish())
    return pcm.getvalue()


def _mono(frames: memoryview, form: WavFormat, riff: RiffReader) -> Samples:
    """Return the mean of the channels of whole frames or whole ADPCM blocks."""
    import numpy as np

    values = _linear(frames, form) if form.width else _compressed(frames, form, riff)
    by_channel = values.reshape(-1, form.channels).T
    total: Samples = np.zeros(by_channel.shape[1])
    for channel in by_channel:
        total += channel
    total *= _unit(form)  # a power of two is exact, so halves are rounded as halves
    total /= form.channels
    return total


def _unit(form: WavFormat) -> float:
    """The value of one quantisation step in units of PCM16."""
    if form.tag == FLOAT:
        return float(FULL_SCALE)
    return 2.0 ** (16 - 8 * form.width) if form.width else 1.0


def _linear(frames: memoryview, form: WavFormat) -> Samples:
    """Decode linear samples to numbers in which 0 is silence."""
    import numpy as np

    if form.tag == FLOAT:
        with np.errstate(all="ignore"):
            values = np.frombuffer(frames, f"{form.endian}f{form.width}").astype(np.float64)
        np.nan_to_num(values, copy=False, nan=0.0)
        return np.clip(values, -_FLOAT_MAX, _FLOAT_MAX, out=values)
    if form.width == 1:
        return np.frombuffer(frames, np.uint8).astype(np.float64) - 128.0
    if form.width == 3:
        return _decode_24_bit(frames, form.endian)
    return np.frombuffer(frames, f"{form.endian}i{form.width}").astype(np.float64)


def _decode_24_bit(frames: memoryview, endian: str) -> Samples:
    """Decode packed 24-bit samples to floats in the range of 24-bit integers."""
    import numpy as np

    padded = np.zeros((len(frames) // 3, 4), np.uint8)
    upper = slice(1, 4) if endian == "<" else slice(0, 3)
    padded[:, upper] = np.frombuffer(frames, np.uint8).reshape(-1, 3)
    return padded.view(f"{endian}i4").ravel().astype(np.float64) / 256.0


def _compressed(blocks: memoryview, form: WavFormat, riff: RiffReader) -> NDArray[np.int16]:
    """Decode A-law, mu-law or ADPCM blocks as a WAV file of their own."""
    import miniaudio  # type: ignore[import-untyped]
    import numpy as np

    size = f"{form.endian}I"
    chunks = b"".join(
        part
        for name, body in ((b"fmt ", form.fmt), (b"data", blocks))
        for part in (name, struct.pack(size, len(body)), body, bytes(len(body) % 2))
    )
    head = b"RIFX" if form.endian == ">" else b"RIFF"
    try:
        decoded = miniaudio.wav_read_s16(
            head + struct.pack(size, len(chunks) + 4) + b"WAVE" + chunks
        )
    except miniaudio.MiniaudioError as error:
        raise riff.unreadable(str(error)) from error
    return np.frombuffer(decoded.samples, np.int16)


def _pcm16(samples: Samples, endian: str = "=") -> NDArray[np.int16]:
    """Round to integers, halves to even, so that rounding has no bias."""
    import numpy as np

    pcm: NDArray[np.int16] = (
        np.rint(samples).clip(-FULL_SCALE, FULL_SCALE - 1).astype(f"{endian}i2")
    )
    return pcm


def _bad(name: str, limit: str, remedy: str) -> InvalidMessage:
    return InvalidMessage.of(name, limit, remedy)
