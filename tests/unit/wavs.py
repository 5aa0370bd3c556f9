"""WAV files made of raw sample values, in every form and encoding.

Owns: headers, finished or not; packing samples; the value of a sample in units of PCM16.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
ONES = 0xFFFF_FFFF
LONG_ONES = 0xFFFF_FFFF_FFFF_FFFF
_GUID_TAIL = bytes.fromhex("800000aa00389b71")


class Encoding(NamedTuple):
    """How one sample is stored."""

    tag: int
    bits: int

    def __str__(self) -> str:
        return f"{'float' if self.tag == FLOAT else 'int'}{self.bits}"

    def pack(self, value: float, endian: str) -> bytes:
        """One sample: a whole number, or a float where 1 is full scale."""
        if self.tag == FLOAT:
            return struct.pack(f"{endian}{'f' if self.bits == 32 else 'd'}", value)
        if self.bits == 8:
            return struct.pack("B", int(value) + 128)
        size = self.bits // 8
        return int(value).to_bytes(size, "little" if endian == "<" else "big", signed=True)

    def in_pcm16(self, value: float) -> Fraction:
        """Its value where full scale is 32,768."""
        if self.tag == FLOAT:
            return Fraction(value) * 32_768
        return Fraction(int(value)) * Fraction(2) ** (16 - self.bits)


ENCODINGS = [
    *(Encoding(PCM, bits) for bits in (8, 16, 24, 32, 64)),
    *(Encoding(FLOAT, bits) for bits in (32, 64)),
]


def fmt_body(
    encoding: Encoding, channels: int, rate: int, *, endian: str = "<", extensible: bool = False
) -> bytes:
    frame = encoding.bits // 8 * channels
    tag = EXTENSIBLE if extensible else encoding.tag
    head = struct.pack(
        f"{endian}HHIIHH", tag, channels, rate, rate * frame & ONES, frame, encoding.bits
    )
    if not extensible:
        return head
    guid = struct.pack(f"{endian}IHH", encoding.tag, 0, 0x10) + _GUID_TAIL
    return head + struct.pack(f"{endian}HHI", 22, encoding.bits, 0) + guid


def chunk(name: bytes, body: bytes, *, endian: str = "<", size: int | None = None) -> bytes:
    """A chunk of a file; `size`: what its header says, whatever it holds."""
    declared = len(body) if size is None else size
    return name + struct.pack(f"{endian}I", declared) + body + bytes(len(body) % 2)


def wav_of(
    fmt: bytes,
    data: bytes,
    *,
    form: bytes = b"RIFF",
    riff_size: int | None = None,
    data_size: int | None = None,
    ds64: tuple[int, int] | None = None,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A file; the sizes are right where none are named. `ds64`: sizes of RIFF and data."""
    endian = ">" if form == b"RIFX" else "<"
    chunks = b""
    if ds64 is not None:
        chunks += chunk(b"ds64", struct.pack("<QQQI", *ds64, 0, 0))
    chunks += before + chunk(b"fmt ", fmt, endian=endian)
    chunks += chunk(b"data", data, endian=endian, size=data_size) + after
    size = len(chunks) + 4 if riff_size is None else riff_size
    return form + struct.pack(f"{endian}I", size) + b"WAVE" + chunks


def packed(encoding: Encoding, frames: Sequence[Sequence[float]], endian: str = "<") -> bytes:
    return b"".join(encoding.pack(value, endian) for frame in frames for value in frame)
