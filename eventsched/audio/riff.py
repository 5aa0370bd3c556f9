"""The chunks of a WAV file: its format, and where its audio lies.

Owns: reading RIFF, RIFX, RF64 and BW64 headers from bytes that arrive in pieces; checking a format.
Never does: decoding samples, I/O. Read next: audio/wav.py.

A recorder writes the sizes last. Where it was killed, or wrote to a pipe, they are 0 or all ones:
then the audio goes to the end of the bytes.
"""

from __future__ import annotations

import struct
from enum import Enum, auto
from typing import Literal

import msgspec

from eventsched.audio.containers import container_of, is_wav
from eventsched.errors import InvalidMessage

RATE_MIN, RATE_MAX = 4_000, 384_000
"""Hz. Outside, the header is broken: no recorder writes it."""
CHANNELS_MAX = 256
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
MS_ADPCM, A_LAW, MU_LAW, IMA_ADPCM = 2, 6, 7, 0x11
COMPRESSED = (MS_ADPCM, A_LAW, MU_LAW, IMA_ADPCM)
WIDTHS = {PCM: (1, 2, 3, 4, 8), FLOAT: (4, 8)}
"""Bytes of a sample that linear formats have."""
_FMT_BYTES_MIN, _FMT_BYTES_MAX = 16, 4_096
_DS64_BYTES_MIN = 16
_FOUR_ONES, _EIGHT_ONES = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF
_SUBFORMAT = (0, 0x10, bytes.fromhex("800000aa00389b71"))
"""What follows the tag in the GUID of WAVE_FORMAT_EXTENSIBLE."""


class WavFormat(msgspec.Struct, frozen=True):
    """How the samples of a file are stored."""

    form: bytes
    """Its first four bytes; RIFX is big-endian."""
    tag: int
    """PCM, FLOAT or one of COMPRESSED, also where the header says EXTENSIBLE."""
    channels: int
    rate: int
    block_bytes: int
    """What is decoded at once at least: a frame of all channels, or a block of ADPCM."""
    width: int
    """Bytes of one sample of a linear format; 0 for others."""
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
    """Takes a WAV piece by piece and gives the bytes of its audio."""

    def __init__(self, name: str) -> None:
        """`name`: what errors call the file."""
        self.format: WavFormat | None = None
        """Known from the moment at which `feed` returns audio."""
        self._name = name
        self._state = _State.FORM
        self._held = bytearray()
        self._wanted = 12
        """Bytes that the state needs together; in SKIP, how many are passed over."""
        self._left: int | None = 0
        """Bytes of audio still to come; None: to the end."""
        self._at = 0
        """Where in the file the held bytes end."""
        self._form = b"RIFF"
        self._riff_end: int | None = None
        """Where the file ends by its header; None when the header does not say."""
        self._long_data = 0
        """Size of the audio by `ds64`."""
        self._is_empty = False
        """The audio's size was 0, yet the header says that more follows it."""
        self._unread = b""
        """Audio that was read as the header of a chunk."""

    def feed(self, data: bytes | memoryview) -> memoryview:
        """The audio in this piece of the file. Raises InvalidMessage when it is no WAV."""
        rest = memoryview(data)
        while rest and self._state not in (_State.AUDIO, _State.END):
            if self._state is _State.SKIP:
                rest = self._skip(rest)
                continue
            taken = min(len(rest), self._wanted - len(self._held))
            self._held += rest[:taken]
            self._at += taken
            rest = rest[taken:]
            if len(self._held) == self._wanted:
                held, self._held = bytes(self._held), bytearray()
                self._step(held)
        if self._unread:
            rest, self._unread = memoryview(self._unread + bytes(rest)), b""
        if self._state is not _State.AUDIO:
            return memoryview(b"")
        return self._audio(rest)

    def finish(self) -> None:
        """No more bytes. Raises InvalidMessage when no audio was found."""
        if self._state is _State.FORM:
            raise self.bad_form(bytes(self._held))
        if self._state not in (_State.AUDIO, _State.END) and not self._is_empty:
            raise self.unreadable("it ends before its audio")

    def bad_form(self, head: bytes) -> InvalidMessage:
        container = container_of(head)
        what = f"{container}, not a WAV file" if container else "not a WAV file"
        return InvalidMessage.of(self._name, what, "convert it, such as with sox FILE out.wav")

    def unreadable(self, why: str) -> InvalidMessage:
        return InvalidMessage.of(self._name, f"unreadable WAV ({why})", "convert it to 16-bit PCM")

    # --- one step a state -------------------------------------------------------------------

    def _step(self, held: bytes) -> None:
        match self._state:
            case _State.FORM:
                self._read_form(held)
            case _State.CHUNK:
                self._read_chunk(held)
            case _State.FMT:
                self.format = self._read_format(held)
                self._to(_State.CHUNK, 8)
            case _State.DS64:
                riff_bytes, self._long_data = struct.unpack_from("<QQ", held)
                self._riff_end = _end(riff_bytes, _EIGHT_ONES)
                self._to(_State.CHUNK, 8)
            case _:
                raise AssertionError(self._state)

    def _to(self, state: _State, wanted: int) -> None:
        self._state, self._wanted = state, wanted

    def _skip(self, rest: memoryview) -> memoryview:
        taken = min(len(rest), self._wanted)
        self._wanted -= taken
        self._at += taken
        if not self._wanted:
            self._to(_State.CHUNK, 8)
        return rest[taken:]

    def _audio(self, rest: memoryview) -> memoryview:
        if self._left is None:
            return rest
        audio = rest[: self._left]
        self._left -= len(audio)
        if not self._left:
            self._state = _State.END
        return audio

    def _read_form(self, held: bytes) -> None:
        if not is_wav(held):
            raise self.bad_form(held)
        self._form = held[:4]
        self._riff_end = _end(self._u32(held, 4), _FOUR_ONES)
        self._to(_State.CHUNK, 8)

    def _read_chunk(self, held: bytes) -> None:
        name, size = held[:4], self._u32(held, 4)
        if self._is_empty and not self._is_chunk(name, size):
            self._unread = held
            self._begin_audio(None)
        elif name == b"data":
            self._read_data(size)
        elif name == b"fmt ":
            if not _FMT_BYTES_MIN <= size <= _FMT_BYTES_MAX:
                raise self.unreadable(f"a format of {size} bytes")
            self._to(_State.FMT, size + size % 2)
        elif name == b"ds64" and _DS64_BYTES_MIN <= size <= _FMT_BYTES_MAX:
            self._to(_State.DS64, size + size % 2)
        elif size:
            self._to(_State.SKIP, size + size % 2)

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
            self._is_empty = True  # its header says that more follows: chunks, or the audio

    def _begin_audio(self, size: int | None) -> None:
        self._state, self._left = _State.AUDIO, size

    def _is_chunk(self, name: bytes, size: int) -> bool:
        assert self._riff_end is not None
        is_name = all(0x20 <= letter < 0x7F for letter in name)
        return is_name and self._at + size <= self._riff_end

    def _u32(self, held: bytes, at: int) -> int:
        value: int = struct.unpack_from(">I" if self._form == b"RIFX" else "<I", held, at)[0]
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
        found: int = tag
        return found


def _end(size: int, ones: int) -> int | None:
    """Where a file ends whose header says that so many bytes follow its first eight."""
    return None if size in (0, ones) else size + 8
