"""The structure of a WAV file: its format and the position of its audio.

Owns: incremental reading of RIFF, RIFX, RF64 and BW64 headers; checking the format.
Must not: decode samples, do I/O. Read next: audio/wav.py.

A recorder writes the sizes last. If it was killed, or wrote to a pipe, they are 0 or all ones: then
the audio extends to the end of the input.
"""

from __future__ import annotations

import struct
from enum import Enum, auto
from typing import Literal

import msgspec

from eventsched.audio.containers import container_of, is_wav
from eventsched.errors import InvalidMessage

RATE_MIN, RATE_MAX = 4_000, 384_000
"""Hz. No recorder writes a rate outside of this range."""
CHANNELS_MAX = 256
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
MS_ADPCM, A_LAW, MU_LAW, IMA_ADPCM = 2, 6, 7, 0x11
COMPRESSED = (MS_ADPCM, A_LAW, MU_LAW, IMA_ADPCM)
WIDTHS = {PCM: (1, 2, 3, 4, 8), FLOAT: (4, 8)}
"""Bytes per sample of the linear formats."""
_FMT_BYTES_MIN, _FMT_BYTES_MAX = 16, 4_096
_DS64_BYTES_MIN = 16
_FOUR_ONES, _EIGHT_ONES = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF
_SUBFORMAT = (0, 0x10, bytes.fromhex("800000aa00389b71"))
"""The rest of the GUID after the tag in WAVE_FORMAT_EXTENSIBLE."""


class WavFormat(msgspec.Struct, frozen=True):
    """The sample format of a file."""

    form: bytes
    """The first four bytes of the file; RIFX is big-endian."""
    tag: int
    """PCM, FLOAT or one of COMPRESSED; for EXTENSIBLE, the tag in its GUID."""
    channels: int
    rate: int
    block_bytes: int
    """The smallest unit of decoding: a frame of all channels, or a block of ADPCM."""
    width: int
    """Bytes per sample of a linear format; 0 for others."""
    fmt: bytes
    """The whole body of the `fmt ` chunk."""

    @property
    def endian(self) -> Literal["<", ">"]:
        return ">" if self.form == b"RIFX" else "<"


class _State(Enum):
    FORM = auto()
    CHUNK = auto()
    FMT = auto()
    DS64 = auto()
    SKIP = auto()
    AUDIO = auto()
    END = auto()


class RiffReader:
    """Parses a WAV file incrementally and returns the bytes of its audio.

    Args:
        name: Name of the file in error messages.
    """

    def __init__(self, name: str) -> None:
        self.format: WavFormat | None = None
        """Set before `feed` returns the first audio."""
        self._name = name
        self._state = _State.FORM
        self._buffer = bytearray()
        self._needed = 12
        """Bytes that the state needs in the buffer; in SKIP, the bytes to skip."""
        self._left: int | None = 0
        """Remaining bytes of audio; None if the audio extends to the end of the input."""
        self._at = 0
        """Position in the file of the end of the buffer."""
        self._form = b"RIFF"
        self._riff_end: int | None = None
        """The end of the file by its header; None if the header does not say."""
        self._long_data = 0
        """Size of the audio by the chunk `ds64`."""
        self._is_empty = False
        """The size of the audio is 0, but the file continues after it by its header."""
        self._unread = b""
        """Audio that was read as the header of a chunk."""

    def feed(self, data: bytes | memoryview) -> memoryview:
        """Return the audio in the next part of the file. Raises InvalidMessage if it is no WAV."""
        rest = memoryview(data)
        while rest and self._state not in (_State.AUDIO, _State.END):
            if self._state is _State.SKIP:
                rest = self._skip(rest)
                continue
            taken = min(len(rest), self._needed - len(self._buffer))
            self._buffer += rest[:taken]
            self._at += taken
            rest = rest[taken:]
            if len(self._buffer) == self._needed:
                header, self._buffer = bytes(self._buffer), bytearray()
                self._step(header)
        if self._unread:
            rest, self._unread = memoryview(self._unread + bytes(rest)), b""
        if self._state is not _State.AUDIO:
            return memoryview(b"")
        return self._audio(rest)

    def finish(self) -> None:
        """End the input. Raises InvalidMessage if it has no audio."""
        if self._state is _State.FORM:
            raise self.bad_form(bytes(self._buffer))
        if self._state not in (_State.AUDIO, _State.END) and not self._is_empty:
            raise self.unreadable("it ends before its audio")

    def bad_form(self, head: bytes) -> InvalidMessage:
        """The error for input that does not begin like a WAV file."""
        container = container_of(head)
        problem = f"{container}, not a WAV file" if container else "not a WAV file"
        return InvalidMessage.of(self._name, problem, "convert it, such as with sox FILE out.wav")

    def unreadable(self, why: str) -> InvalidMessage:
        """The error for a WAV file that cannot be decoded."""
        return InvalidMessage.of(self._name, f"unreadable WAV ({why})", "convert it to 16-bit PCM")

    # --- one method per state ---------------------------------------------------------------

    def _step(self, header: bytes) -> None:
        match self._state:
            case _State.FORM:
                self._read_form(header)
            case _State.CHUNK:
                self._read_chunk(header)
            case _State.FMT:
                self.format = self._read_format(header)
                self._enter(_State.CHUNK, 8)
            case _State.DS64:
                riff_bytes, self._long_data = struct.unpack_from("<QQ", header)
                self._riff_end = _end(riff_bytes, _EIGHT_ONES)
                self._enter(_State.CHUNK, 8)
            case _:
                raise AssertionError(self._state)

    def _enter(self, state: _State, needed: int) -> None:
        self._state, self._needed = state, needed

    def _skip(self, rest: memoryview) -> memoryview:
        taken = min(len(rest), self._needed)
        self._needed -= taken
        self._at += taken
        if not self._needed:
            self._enter(_State.CHUNK, 8)
        return rest[taken:]

    def _audio(self, rest: memoryview) -> memoryview:
        if self._left is None:
            return rest
        audio = rest[: self._left]
        self._left -= len(audio)
        if not self._left:
            self._state = _State.END
        return audio

    def _read_form(self, header: bytes) -> None:
        if not is_wav(header):
            raise self.bad_form(header)
        self._form = header[:4]
        self._riff_end = _end(self._u32(header, 4), _FOUR_ONES)
        self._enter(_State.CHUNK, 8)

    def _read_chunk(self, header: bytes) -> None:
        name, size = header[:4], self._u32(header, 4)
        if self._is_empty and not self._is_chunk(name, size):
            self._unread = header
            self._begin_audio(None)
        elif name == b"data":
            self._read_data(size)
        elif name == b"fmt ":
            if not _FMT_BYTES_MIN <= size <= _FMT_BYTES_MAX:
                raise self.unreadable(f"a format of {size} bytes")
            self._enter(_State.FMT, size + size % 2)
        elif name == b"ds64" and _DS64_BYTES_MIN <= size <= _FMT_BYTES_MAX:
            self._enter(_State.DS64, size + size % 2)
        elif size:
            self._enter(_State.SKIP, size + size % 2)

    def _read_data(self, size: int) -> None:
        if self.format is None:
            raise self.unreadable("its audio comes before its format")
        if self._form in (b"RF64", b"BW64") and size in (0, _FOUR_ONES):
            size = self._long_data
        if size in (_FOUR_ONES, _EIGHT_ONES):
            self._begin_audio(None)
        elif size:
            self._begin_audio(size)
        elif self._riff_end is None or self._riff_end <= self._at:
            self._begin_audio(None)
        else:
            self._is_empty = True  # more chunks follow, or the audio itself

    def _begin_audio(self, size: int | None) -> None:
        self._state, self._left = _State.AUDIO, size

    def _is_chunk(self, name: bytes, size: int) -> bool:
        assert self._riff_end is not None
        is_name = all(0x20 <= letter < 0x7F for letter in name)
        return is_name and self._at + size <= self._riff_end

    def _u32(self, header: bytes, at: int) -> int:
        value: int = struct.unpack_from(">I" if self._form == b"RIFX" else "<I", header, at)[0]
        return value

    # --- the format -------------------------------------------------------------------------

    def _read_format(self, fmt: bytes) -> WavFormat:
        endian = ">" if self._form == b"RIFX" else "<"
        tag, channels, rate, _, block_bytes, bits = struct.unpack_from(f"{endian}HHIIHH", fmt)
        if tag == EXTENSIBLE:
            tag = self._subformat(endian, fmt)
        if not 1 <= channels <= CHANNELS_MAX:
            raise self.unreadable(f"1 to {CHANNELS_MAX} channels expected, got {channels}")
        if not RATE_MIN <= rate <= RATE_MAX:
            raise InvalidMessage.of(
                self._name,
                f"a sample rate of {RATE_MIN} to {RATE_MAX} Hz expected, got {rate}",
                "check how it was recorded, or convert it to 16000 Hz",
            )
        width = 0
        if tag in WIDTHS:
            width = (bits + 7) // 8
            if width not in WIDTHS[tag] or block_bytes != width * channels:
                raise self.unreadable(
                    f"{bits} bits a sample in {block_bytes} bytes for {channels} channels"
                )
        elif (
            tag not in COMPRESSED
            or not block_bytes
            or (tag in (A_LAW, MU_LAW) and block_bytes != channels)
        ):
            raise self.unreadable(f"encoding 0x{tag:04x} with blocks of {block_bytes} bytes")
        return WavFormat(self._form, tag, channels, rate, block_bytes, width, fmt)

    def _subformat(self, endian: str, fmt: bytes) -> int:
        if len(fmt) < 40:
            raise self.unreadable(f"an extensible format of {len(fmt)} bytes")
        tag, *rest = struct.unpack_from(f"{endian}IHH8s", fmt, 24)
        if tuple(rest) != _SUBFORMAT:
            raise self.unreadable(f"encoding {fmt[24:40].hex()}")
        subformat: int = tag
        return subformat


def _end(size: int, ones: int) -> int | None:
    """The end of a file with `size` bytes after its first eight; None if the size is not set."""
    return None if size in (0, ones) else size + 8
