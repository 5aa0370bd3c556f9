"""Container formats of audio, recognised by their first bytes.

Owns: the signatures, and the check for MPEG and ADTS frames, which have no signature.
Must not: decode audio, do I/O. Read next: audio/wav.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

HEAD_BYTES = 3_200
"""Bytes needed to recognise a format: two frames of any MPEG audio. 100 ms of PCM16 at 16 kHz."""
WAV_FORMS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_SIGNATURES: Sequence[tuple[int, bytes, str]] = (
    (0, b"OggS", "Ogg"),
    (0, b"fLaC", "FLAC"),
    (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (4, b"ftyp", "MP4"),
    (0, b"riff\x2e\x91\xcf\x11", "Wave64"),
    (0, b"caff", "CAF"),
    (0, b".snd", "AU"),
    (0, b"#!AMR", "AMR"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF"),
)
"""Offset, bytes at it, name."""
_FRAMES_MIN = 2
"""Consecutive frame headers required, because quiet PCM16 often looks like a single one."""
_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""(MPEG version, layer) -> kbit/s by index from 1.

Version 2 includes 2.5; its layers II and III have the same rates.
"""
_RATES = (44_100, 48_000, 32_000)


def is_wav(head: bytes) -> bool:
    """Whether these are the first bytes of a WAV file."""
    return head[:4] in WAV_FORMS and head[8:12] == b"WAVE"


def container_of(head: bytes) -> str | None:
    """Return the name of the container format.

    None for a WAV file, and for anything that is not recognised.
    """
    for offset, signature, name in _SIGNATURES:
        if head.startswith(signature, offset):
            return name
    if head[:4] in WAV_FORMS:
        return None if is_wav(head) else f"RIFF ({_four(head[8:12])})"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    if _is_id3(head) or _has_frames(head, _mpeg_frame):
        return "MP3"
    return "AAC" if _has_frames(head, _adts_frame) else None


def _four(code: bytes) -> str:
    return code.decode("ascii", "replace").strip() or "unknown"


def _is_id3(head: bytes) -> bool:
    """ID3v2: two bytes of version that are never FF, flags, a size of four 7-bit bytes."""
    if head[:3] != b"ID3" or len(head) < 10:
        return False
    return max(head[3:5]) < 0xFF and max(head[6:10]) < 0x80


def _has_frames(head: bytes, frame: Callable[[bytes], tuple[int, bytes] | None]) -> bool:
    """Whether `head` consists of consecutive frames of one kind."""
    at = count = 0
    kind = b""
    while at + 7 <= len(head):  # the longer of the two headers
        header = frame(head[at : at + 7])
        if header is None or (count and header[1] != kind):
            return False
        size, kind = header
        at, count = at + size, count + 1
    return count >= _FRAMES_MIN


def _mpeg_frame(header: bytes) -> tuple[int, bytes] | None:
    """Return the frame's size and the header bits common to a stream; None if it is no header."""
    if header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    index, rate_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or index in (0, 15) or rate_index == 3:
        return None
    generation = 1 if version == 3 else 2
    rate = _RATES[rate_index] // {3: 1, 2: 2, 0: 4}[version]
    bits = 1_000 * _KBITS[generation, min(layer, 3 if generation == 1 else 2)][index - 1]
    if layer == 1:
        size = (12 * bits // rate + padding) * 4
    else:
        size = (72 if (generation, layer) == (2, 3) else 144) * bits // rate + padding
    return size, bytes([header[1] & 0xFE, rate_index])


def _adts_frame(header: bytes) -> tuple[int, bytes] | None:
    """The same for AAC in ADTS."""
    if header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 0xF > 12:
        return None
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return (size, bytes([header[1], header[2] & 0xFC])) if size >= 7 else None
