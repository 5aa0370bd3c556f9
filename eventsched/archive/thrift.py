"""Reads the numbers of the compact protocol of Apache Thrift, in which Parquet writes its headers.

Owns: the position in the bytes, and the numbers: bytes, variable-length and signed ones.
Must not: know which fields a header or a footer has.
Read next: pages.py (headers of pages), footer.py (footers of files).
"""

from __future__ import annotations

NUMBER_BITS_MAX = 64


class CompactReader:
    """Reads from the first byte on; `at` is the place of the next byte.

    Args:
        data: The bytes.
        what: What they are, for messages.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self.at = 0
        self._data = data
        self._what = what

    def byte(self) -> int:
        """The next byte. Raises ValueError at the end of the bytes."""
        if self.at >= len(self._data):
            raise ValueError(f"{self._what} that is cut off, or too long")
        self.at += 1
        return self._data[self.at - 1]

    def varint(self) -> int:
        """The next number, never below 0. Raises ValueError, also for more than 64 bits."""
        result = shift = 0
        while (byte := self.byte()) & 0x80:
            result |= (byte & 0x7F) << shift
            shift += 7
            if shift >= NUMBER_BITS_MAX:
                raise ValueError(f"{self._what} with a number that is too large")
        return result | byte << shift

    def zigzag(self) -> int:
        """The next signed number. Raises ValueError."""
        value = self.varint()
        return value >> 1 ^ -(value & 1)
