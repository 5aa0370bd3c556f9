"""Chunks of audio: how long they are, whether they will do, and how to cut longer audio.

Owns: rule 9 (duration of PCM16 and of Opus packets), the limits of a chunk, cutting.
Never does: I/O, decoding of Opus, numbering (client/session.py).
Read next: wav.py (files), client/session.py.

A PCM16 chunk is whole little-endian 16-bit mono samples. An Opus chunk is packets, each
preceded by its length as u16 big-endian; how long a packet plays is in its own header
(RFC 6716, 3.1 and 3.2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import msgspec

from eventsched.errors import ChunkTooLarge, InvalidMessage

Format: TypeAlias = Literal["pcm16", "opus"]

CHUNK_MS_MIN = 20
CHUNK_MS_MAX = 1_000
CHUNK_BYTES_MAX = 65_536
CUT_MS = 100
"""Longer audio is cut into chunks of this length."""
RATE_MIN, RATE_MAX = 8_000, 48_000
SAMPLE_BYTES = 2

OPUS_PACKET_MS_MAX = 120
_OPUS_HALF_MS = (
    *(20, 40, 80, 120) * 3,  # SILK, narrow to wide band: 10, 20, 40, 60 ms
    *(20, 40) * 2,  # hybrid: 10, 20 ms
    *(5, 10, 20, 40) * 4,  # CELT: 2.5, 5, 10, 20 ms
)
"""Length of one frame by the TOC byte's upper five bits, in half milliseconds."""


class Piece(msgspec.Struct, frozen=True):
    """One chunk's payload and how long it plays, not yet numbered."""

    ms: int
    payload: bytes


def cut(
    audio: bytes | Sequence[bytes],
    encoding: Format,
    rate: int,
    *,
    end_of_utterance: bool = False,
    bytes_max: int = CHUNK_BYTES_MAX,
) -> list[Piece]:
    """The chunks that hold this audio; raises InvalidMessage before anything was sent.

    Up to 1,000 ms and `bytes_max` bytes go as one chunk, longer audio as chunks of 100 ms whose
    last one takes what would be too short alone. `end_of_utterance` permits a short or an
    empty last chunk.
    """
    if encoding == "opus":
        packets = (
            split_opus(audio) if isinstance(audio, (bytes, bytearray)) else check_packets(audio)
        )
        return _cut_opus(packets, bytes_max, end_of_utterance=end_of_utterance)
    if not isinstance(audio, (bytes, bytearray, memoryview)):
        raise InvalidMessage.of("audio", "bytes of PCM16 expected", "pass bytes, not a list")
    return _cut_pcm(bytes(audio), rate, bytes_max, end_of_utterance=end_of_utterance)


def check_chunk(payload: bytes, ms: int, bytes_max: int, *, end_of_utterance: bool) -> None:
    """Refuse a chunk that is empty, too short, too long or too large."""
    if len(payload) > bytes_max:
        raise ChunkTooLarge(
            "CHUNK_TOO_LARGE",
            {
                "field": "audio",
                "limit": f"{bytes_max} bytes, got {len(payload)}",
                "remedy": "send shorter chunks",
            },
        )
    if ms > CHUNK_MS_MAX:
        raise InvalidMessage.of(
            "audio", f"at most {CHUNK_MS_MAX} ms a chunk, got {ms}", "send shorter chunks"
        )
    if ms < CHUNK_MS_MIN and not end_of_utterance:
        what = f"got {ms}" if payload else "got none"
        raise InvalidMessage.of(
            "audio",
            f"at least {CHUNK_MS_MIN} ms a chunk, {what}",
            "collect more before sending, or mark the last chunk final",
        )


# --- PCM16 ----------------------------------------------------------------------------------


def pcm_ms(size: int, rate: int) -> int:
    """How long `size` bytes of PCM16 play, to the nearest millisecond; some audio is never 0."""
    if size % SAMPLE_BYTES:
        raise InvalidMessage.of(
            "audio", f"whole 16-bit samples expected, got {size} bytes", "send an even number"
        )
    samples = size // SAMPLE_BYTES
    return max(1, (samples * 1_000 + rate // 2) // rate) if samples else 0


def pcm_bytes(ms: int, rate: int) -> int:
    """How many bytes of PCM16 play for `ms`."""
    return ms * rate // 1_000 * SAMPLE_BYTES


def _cut_pcm(pcm: bytes, rate: int, bytes_max: int, *, end_of_utterance: bool) -> list[Piece]:
    ms = pcm_ms(len(pcm), rate)
    if ms <= CHUNK_MS_MAX and len(pcm) <= bytes_max:
        check_chunk(pcm, ms, bytes_max, end_of_utterance=end_of_utterance)
        return [Piece(ms, pcm)]
    step, least = pcm_bytes(CUT_MS, rate), pcm_bytes(CHUNK_MS_MIN, rate)
    starts = list(range(0, len(pcm), step))
    if len(pcm) - starts[-1] <= least:  # the rest is too short alone, and still fits the last
        starts.pop()
    ends = [*starts[1:], len(pcm)]
    return [
        Piece(pcm_ms(end - start, rate), pcm[start:end])
        for start, end in zip(starts, ends, strict=True)
    ]


# --- Opus -----------------------------------------------------------------------------------


def packet_half_ms(packet: bytes) -> int:
    """How long one Opus packet plays, in half milliseconds, from its TOC byte and frame count."""
    if not packet:
        raise _bad_opus("a packet has at least its TOC byte, got none")
    frame = _OPUS_HALF_MS[packet[0] >> 3]
    code = packet[0] & 3
    if code == 3:
        return _many_frames(packet, frame)
    if code == 1 and len(packet) % 2 == 0:
        raise _bad_opus(f"two equal frames expected in {len(packet) - 1} bytes")
    if code == 2:
        _check_first_length(packet)
    return frame if code == 0 else 2 * frame


def _many_frames(packet: bytes, frame: int) -> int:
    if len(packet) < 2:
        raise _bad_opus("a packet of code 3 has a frame count byte")
    count = packet[1] & 0x3F
    if not 1 <= count * frame <= 2 * OPUS_PACKET_MS_MAX:
        raise _bad_opus(f"1 frame to {OPUS_PACKET_MS_MAX} ms a packet expected, got {count} frames")
    return count * frame


def _check_first_length(packet: bytes) -> None:
    """Code 2 says how long its first frame is in one byte, or in two from 252 on."""
    size, used = (packet[1], 2) if len(packet) > 1 else (0, 0)
    if size >= 252:
        size, used = (size + 4 * packet[2], 3) if len(packet) > 2 else (0, 0)
    if not used or used + size > len(packet):
        raise _bad_opus("the first of two frames is longer than its packet")


def opus_ms(packets: Sequence[bytes]) -> int:
    """How long the packets play together, to the nearest millisecond; some audio is never 0."""
    half_ms = sum(map(packet_half_ms, packets))
    return max(1, (half_ms + 1) // 2) if packets else 0


def split_opus(payload: bytes) -> list[bytes]:
    """The packets of a chunk, each preceded by its length as u16 big-endian."""
    packets: list[bytes] = []
    at = 0
    while at < len(payload):
        if at + 2 > len(payload):
            raise _bad_opus("a length of two bytes expected at the end")
        (size,) = struct.unpack_from(">H", payload, at)
        at += 2
        if at + size > len(payload):
            raise _bad_opus(f"a packet of {size} bytes expected, {len(payload) - at} left")
        packets.append(bytes(payload[at : at + size]))
        at += size
    return check_packets(packets)


def join_opus(packets: Sequence[bytes]) -> bytes:
    """The chunk that holds the packets: what `split_opus` takes apart."""
    return b"".join(struct.pack(">H", len(packet)) + packet for packet in packets)


def check_packets(packets: Sequence[bytes]) -> list[bytes]:
    """Packets whose headers make sense and whose lengths fit two bytes."""
    for packet in packets:
        if not isinstance(packet, (bytes, bytearray)):
            raise _bad_opus("packets of bytes expected")
        if len(packet) > 0xFFFF - 2:
            raise _bad_opus(f"at most 65533 bytes a packet expected, got {len(packet)}")
        packet_half_ms(packet)
    return [bytes(packet) for packet in packets]


def _cut_opus(packets: list[bytes], bytes_max: int, *, end_of_utterance: bool) -> list[Piece]:
    whole = Piece(opus_ms(packets), join_opus(packets))
    if whole.ms <= CHUNK_MS_MAX and len(whole.payload) <= bytes_max:
        check_chunk(whole.payload, whole.ms, bytes_max, end_of_utterance=end_of_utterance)
        return [whole]
    groups = list(_groups(packets))
    if opus_ms(groups[-1]) < CHUNK_MS_MIN and len(groups) > 1:
        groups[-2].extend(groups.pop())
    pieces = [Piece(opus_ms(group), join_opus(group)) for group in groups]
    for piece in pieces:
        check_chunk(piece.payload, piece.ms, bytes_max, end_of_utterance=False)
    return pieces


def _groups(packets: list[bytes]) -> Iterator[list[bytes]]:
    """Packets in runs of at least 100 ms, the last as it comes."""
    group: list[bytes] = []
    for packet in packets:
        group.append(packet)
        if opus_ms(group) >= CUT_MS:
            yield group
            group = []
    if group:
        yield group


def _bad_opus(limit: str) -> InvalidMessage:
    return InvalidMessage.of(
        "audio", limit, "send whole Opus packets, each preceded by its length as u16 big-endian"
    )
