"""Chunks of audio: their duration, their limits, and splitting longer audio into chunks.

Owns: rule 9 (chunk duration), the limits of a chunk, splitting.
Must not: do I/O, decode Opus, number chunks (client/session.py).
Read next: wav.py (files), client/session.py.

A PCM16 chunk is a sequence of little-endian 16-bit mono samples. An Opus chunk is a sequence of
packets, each preceded by its length as u16 big-endian; the header of a packet gives its duration
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
SPLIT_MS = 100
"""Longer audio is split into chunks of this length."""
RATE_MIN, RATE_MAX = 8_000, 48_000
SAMPLE_BYTES = 2

OPUS_PACKET_MS_MAX = 120
_OPUS_HALF_MS = (
    *(20, 40, 80, 120) * 3,  # SILK, narrow to wide band: 10, 20, 40, 60 ms
    *(20, 40) * 2,  # hybrid: 10, 20 ms
    *(5, 10, 20, 40) * 4,  # CELT: 2.5, 5, 10, 20 ms
)
"""Length of one frame by the TOC byte's upper five bits, in half milliseconds."""


class AudioChunk(msgspec.Struct, frozen=True, gc=False):
    """The payload and the duration of a chunk that has no number yet."""

    ms: int
    payload: bytes
    end_of_utterance: bool = False
    traceparent: str = ""
    """Of the utterance that ends with the chunk; empty: that of the session."""


def split_audio(
    audio: bytes | Sequence[bytes],
    encoding: Format,
    rate: int,
    *,
    end_of_utterance: bool = False,
    bytes_max: int = CHUNK_BYTES_MAX,
) -> list[AudioChunk]:
    """Split audio into chunks.

    Audio of up to 1,000 ms and `bytes_max` bytes is one chunk. Longer audio is split into chunks of
    100 ms; a rest that is too short for a chunk is added to the last one.

    Args:
        audio: PCM16, or an Opus payload or its packets.
        encoding: The encoding of the audio.
        rate: Sample rate of PCM16 in Hz.
        end_of_utterance: Permits a short or an empty last chunk.
        bytes_max: The limit of a chunk's payload.

    Raises:
        InvalidMessage: The audio is malformed, empty or too short.
        ChunkTooLarge: A chunk exceeds `bytes_max`.
    """
    if encoding == "opus":
        packets = (
            split_opus(audio) if isinstance(audio, (bytes, bytearray)) else check_packets(audio)
        )
        return _split_opus_audio(packets, bytes_max, end_of_utterance=end_of_utterance)
    if not isinstance(audio, (bytes, bytearray, memoryview)):
        raise InvalidMessage.of("audio", "bytes of PCM16 expected", "pass bytes, not a list")
    return _split_pcm(bytes(audio), rate, bytes_max, end_of_utterance=end_of_utterance)


def one_chunk(
    payload: bytes,
    encoding: Format,
    rate: int,
    *,
    end_of_utterance: bool = False,
    bytes_max: int = CHUNK_BYTES_MAX,
) -> AudioChunk:
    """Return the payload as exactly one chunk, for callers that number chunks themselves.

    Args:
        payload: PCM16, or Opus packets, each preceded by its length.
        encoding: The encoding of the payload.
        rate: Sample rate of PCM16 in Hz.
        end_of_utterance: Permits a short or an empty chunk.
        bytes_max: The limit of the payload.

    Raises:
        InvalidMessage: The payload is malformed, or not 20 to 1,000 ms.
        ChunkTooLarge: The payload exceeds `bytes_max`.
    """
    ms = _opus_chunk_ms(payload) if encoding == "opus" else pcm_ms(len(payload), rate)
    check_chunk(payload, ms, bytes_max, end_of_utterance=end_of_utterance)
    return AudioChunk(ms, payload)


def check_chunk(payload: bytes, ms: int, bytes_max: int, *, end_of_utterance: bool) -> None:
    """Raise if a chunk is too large, too long or too short.

    With `end_of_utterance` the chunk may be short or empty.
    """
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
        actual = f"got {ms}" if payload else "got none"
        raise InvalidMessage.of(
            "audio",
            f"at least {CHUNK_MS_MIN} ms a chunk, {actual}",
            "collect more before sending, or mark the last chunk as the end of the utterance",
        )


# --- PCM16 ----------------------------------------------------------------------------------


def pcm_ms(size: int, rate: int) -> int:
    """Duration of `size` bytes of PCM16, to the nearest millisecond; at least 1 if not empty."""
    if size % SAMPLE_BYTES:
        raise InvalidMessage.of(
            "audio", f"whole 16-bit samples expected, got {size} bytes", "send an even number"
        )
    samples = size // SAMPLE_BYTES
    return max(1, (samples * 1_000 + rate // 2) // rate) if samples else 0


def pcm_bytes(ms: int, rate: int) -> int:
    """Size of `ms` of PCM16."""
    return ms * rate // 1_000 * SAMPLE_BYTES


def _split_pcm(
    pcm: bytes, rate: int, bytes_max: int, *, end_of_utterance: bool
) -> list[AudioChunk]:
    ms = pcm_ms(len(pcm), rate)
    if ms <= CHUNK_MS_MAX and len(pcm) <= bytes_max:
        check_chunk(pcm, ms, bytes_max, end_of_utterance=end_of_utterance)
        return [AudioChunk(ms, pcm)]
    step, rest_max = pcm_bytes(SPLIT_MS, rate), pcm_bytes(CHUNK_MS_MIN, rate)
    starts = list(range(0, len(pcm), step))
    if len(pcm) - starts[-1] <= rest_max:  # too short for a chunk: add it to the last one
        starts.pop()
    ends = [*starts[1:], len(pcm)]
    return [
        AudioChunk(pcm_ms(end - start, rate), pcm[start:end])
        for start, end in zip(starts, ends, strict=True)
    ]


# --- Opus -----------------------------------------------------------------------------------


def packet_half_ms(packet: bytes) -> int:
    """Duration of an Opus packet in half milliseconds, from its TOC byte and frame count."""
    if not packet:
        raise _bad_opus("a packet has at least its TOC byte, got none")
    frame = _OPUS_HALF_MS[packet[0] >> 3]
    code = packet[0] & 3
    if code == 3:
        return _code_3_half_ms(packet, frame)
    if code == 1 and len(packet) % 2 == 0:
        raise _bad_opus(f"two equal frames expected in {len(packet) - 1} bytes")
    if code == 2:
        _check_first_length(packet)
    return frame if code == 0 else 2 * frame


def _code_3_half_ms(packet: bytes, frame: int) -> int:
    if len(packet) < 2:
        raise _bad_opus("a packet of code 3 has a frame count byte")
    count = packet[1] & 0x3F
    if not 1 <= count * frame <= 2 * OPUS_PACKET_MS_MAX:
        raise _bad_opus(f"1 frame to {OPUS_PACKET_MS_MAX} ms a packet expected, got {count} frames")
    return count * frame


def _check_first_length(packet: bytes) -> None:
    """Code 2 gives the size of its first frame in one byte, or in two bytes from 252 on."""
    size, header = (packet[1], 2) if len(packet) > 1 else (0, 0)
    if size >= 252:
        size, header = (size + 4 * packet[2], 3) if len(packet) > 2 else (0, 0)
    if not header or header + size > len(packet):
        raise _bad_opus("the first of two frames is longer than its packet")


def opus_ms(packets: Sequence[bytes]) -> int:
    """Total duration of packets, to the nearest millisecond; at least 1 if there are any."""
    half_ms = sum(map(packet_half_ms, packets))
    return max(1, (half_ms + 1) // 2) if packets else 0


def _opus_chunk_ms(payload: bytes) -> int:
    """Duration of an Opus payload.

    A packet has 2.5 ms at least, so that at most 401 are read. Raises InvalidMessage if the payload
    is malformed or longer than a chunk.
    """
    half_ms = 0
    for packet in _opus_packets(payload):
        half_ms += packet_half_ms(packet)
        if half_ms > 2 * CHUNK_MS_MAX:
            raise InvalidMessage.of(
                "audio", f"at most {CHUNK_MS_MAX} ms a chunk, got more", "send shorter chunks"
            )
    return max(1, (half_ms + 1) // 2) if half_ms else 0


def split_opus(payload: bytes) -> list[bytes]:
    """Split an Opus payload into its packets."""
    return check_packets(list(_opus_packets(payload)))


def _opus_packets(payload: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(payload):
        if at + 2 > len(payload):
            raise _bad_opus("a length of two bytes expected at the end")
        (size,) = struct.unpack_from(">H", payload, at)
        at += 2
        if at + size > len(payload):
            raise _bad_opus(f"a packet of {size} bytes expected, {len(payload) - at} left")
        yield bytes(payload[at : at + size])
        at += size


def join_opus(packets: Sequence[bytes]) -> bytes:
    """Join packets into an Opus payload, the inverse of `split_opus`."""
    return b"".join(struct.pack(">H", len(packet)) + packet for packet in packets)


def check_packets(packets: Sequence[bytes]) -> list[bytes]:
    """Check the header and the length of every packet; return the packets as bytes."""
    for packet in packets:
        if not isinstance(packet, (bytes, bytearray)):
            raise _bad_opus("packets of bytes expected")
        if len(packet) > 0xFFFF - 2:
            raise _bad_opus(f"at most 65533 bytes a packet expected, got {len(packet)}")
        packet_half_ms(packet)
    return [bytes(packet) for packet in packets]


def _split_opus_audio(
    packets: list[bytes], bytes_max: int, *, end_of_utterance: bool
) -> list[AudioChunk]:
    """Return one chunk if all packets fit in it, otherwise chunks of at least 100 ms.

    A rest that is too short joins the last chunk. `end_of_utterance` permits a single chunk that is
    short or empty. Raises ChunkTooLarge or InvalidMessage if a chunk is out of bounds.
    """
    whole = AudioChunk(opus_ms(packets), join_opus(packets))
    if whole.ms <= CHUNK_MS_MAX and len(whole.payload) <= bytes_max:
        check_chunk(whole.payload, whole.ms, bytes_max, end_of_utterance=end_of_utterance)
        return [whole]
    groups = list(_groups(packets))
    if opus_ms(groups[-1]) < CHUNK_MS_MIN and len(groups) > 1:
        groups[-2].extend(groups.pop())
    chunks = [AudioChunk(opus_ms(group), join_opus(group)) for group in groups]
    for chunk in chunks:
        check_chunk(chunk.payload, chunk.ms, bytes_max, end_of_utterance=False)
    return chunks


def _groups(packets: list[bytes]) -> Iterator[list[bytes]]:
    """Group consecutive packets into at least 100 ms; the last group may be shorter."""
    group: list[bytes] = []
    for packet in packets:
        group.append(packet)
        if opus_ms(group) >= SPLIT_MS:
            yield group
            group = []
    if group:
        yield group


def _bad_opus(limit: str) -> InvalidMessage:
    return InvalidMessage.of(
        "audio", limit, "send whole Opus packets, each preceded by its length as u16 big-endian"
    )
