"""Chunks leave the bytes of a socket whole, and everything else reaches the library unchanged."""

from __future__ import annotations

import random

import pytest
from websockets.frames import Frame, Opcode

from eventsched.gateway.chunk_frames import ChunkFrames

TEXT, BINARY, CONTINUED, PING = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PING
USUAL = (126, 3_204, 65_535)
"""Bytes of the messages that are no longer parsed by the library."""


def masked(kind: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(kind, data, fin).serialize(mask=True)


@pytest.mark.parametrize("piece_max", [1, 7, 5_000, 300_000])
def test_frames_in_pieces_of_any_size_are_taken_or_passed_on_in_order(piece_max: int) -> None:
    rng = random.Random(piece_max)
    chunks = [rng.randbytes(size) for size in USUAL]
    refused = b"\x00" * 200
    others = [
        masked(BINARY, b""), masked(BINARY, bytes(125)), masked(BINARY, bytes(65_536)),
        masked(TEXT, b"{}"), masked(TEXT, b"a" * 70_000), masked(PING, b"x"),
        masked(BINARY, bytes(300), fin=False), masked(CONTINUED, bytes(300)),
        masked(BINARY, refused),
    ]  # fmt: skip
    frames = [(masked(BINARY, chunk), chunk) for chunk in chunks] + [(each, b"") for each in others]
    rng.shuffle(frames)
    log: list[tuple[str, bytes]] = []

    def accept(message: bytes) -> bool:
        if message == refused:
            return False
        log.append(("chunk", message))
        return True

    socket = ChunkFrames(accept, lambda data: log.append(("library", data)))
    sent = b"".join(frame for frame, _ in frames)
    while sent:
        size = rng.randint(1, piece_max)
        socket.feed(sent[:size])
        sent = sent[size:]
    expected: list[tuple[str, bytes]] = []
    for frame, chunk in frames:
        expected.append(("chunk", chunk) if chunk else ("library", frame))
    assert joined(log) == joined(expected)


def joined(log: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The log, in which bytes that follow each other to the library are one entry."""
    result: list[tuple[str, bytes]] = []
    for kind, data in log:
        if kind == "library" and result and result[-1][0] == "library":
            result[-1] = ("library", result[-1][1] + data)
        else:
            result.append((kind, data))
    return result


def test_a_frame_whose_length_exceeds_every_limit_reaches_the_library_at_once() -> None:
    parsed = bytearray()
    socket = ChunkFrames(lambda _: True, parsed.extend)
    head = b"\x82\xff" + (2**62).to_bytes(8, "big")
    socket.feed(head)
    socket.feed(bytes(10))
    assert parsed == head + bytes(10)
