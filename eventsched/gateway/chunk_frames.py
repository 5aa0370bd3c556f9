"""Takes the chunks of audio out of the bytes of a socket, before the WebSocket library parses them.

Owns: where the frames of a socket begin and end, parsing the usual frame of a chunk.
Never does: parse any other frame; the library gets those, and each chunk that is not accepted.
Read next: connections.py (whose socket it is), docs/adr/0049-slices-of-reads.md.

The usual frame of a chunk is a whole, masked, binary message of 126 to 65,535 bytes. The parser of
the library costs more than everything else that a gateway does with a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from websockets.frames import apply_mask  # type: ignore[attr-defined]

ChunkAcceptor: TypeAlias = Callable[[bytes], bool]
"""Takes a binary message; false: the message must be received as others are."""

_USUAL = b"\x82\xfe"
"""A whole binary message; a mask, and a length of two bytes."""
_USUAL_HEAD = 8
_LENGTH_BYTES = {126: 2, 127: 8}
_MASK_BYTES = 4


class ChunkFrames:
    """The frames of one socket, from its first one on.

    Args:
        accept: Gets the message of each usual frame, and returns whether it is received with that.
        parse: Gets the bytes of all other frames.
    """

    __slots__ = ("_accept", "_buffer", "_left", "_parse")

    def __init__(self, accept: ChunkAcceptor, parse: Callable[[bytes], None]) -> None:
        self._accept = accept
        self._parse = parse
        self._buffer = bytearray()
        """The beginning of a frame of which nothing is parsed."""
        self._left = 0
        """Bytes of the present frame that the library has not got yet."""

    def feed(self, data: bytes) -> None:
        """Bytes have arrived."""
        buffer = self._buffer
        buffer += data
        at = 0
        while at < len(buffer):
            if not self._left:
                end = self._end_of_frame(at)
                if end is None:
                    break
                if buffer.startswith(_USUAL, at):
                    if end > len(buffer):
                        break
                    mask, body = buffer[at + 4 : at + 8], buffer[at + _USUAL_HEAD : end]
                    if self._accept(apply_mask(body, mask)):
                        at = end
                        continue
                self._left = end - at
            part = bytes(buffer[at : at + self._left])
            at += len(part)
            self._left -= len(part)
            self._parse(part)
        del buffer[:at]

    def _end_of_frame(self, at: int) -> int | None:
        """Return the position after the frame that begins there; None if its length is missing."""
        buffer = self._buffer
        if len(buffer) < at + 2:
            return None
        length, head = buffer[at + 1] & 0x7F, at + 2
        if count := _LENGTH_BYTES.get(length, 0):
            head += count
            if len(buffer) < head:
                return None
            length = int.from_bytes(buffer[head - count : head], "big")
        return head + _MASK_BYTES + length
