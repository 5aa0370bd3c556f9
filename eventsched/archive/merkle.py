"""Merkle trees as RFC 6962 defines them (section 2.1): one hash stands for a list, in order.

Owns: leaf and node hashes, the root of a list, growing a root leaf by leaf in O(log n) memory,
inclusion proofs and their check.
Never does: I/O, keys, what a leaf means. Read next: sealer.py.

    root of nothing   SHA-256 of the empty string
    leaf              SHA-256(0x00 || bytes)
    node              SHA-256(0x01 || left || right); left holds the largest power of two that fits
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

EMPTY = sha256(b"").digest()
HASH_BYTES = 32


def leaf_hash(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    """The leaf hash of each: one loop, since this is what sealing and verifying spend time on."""
    hashed = sha256
    return [hashed(b"\x00" + data).digest() for data in entries]


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _level_above(level: Sequence[bytes]) -> list[bytes]:
    """One level up: pairs are hashed, an odd one out rises as it is."""
    hashed = sha256
    lefts, rights = level[::2], level[1::2]
    above = [hashed(b"\x01" + a + b).digest() for a, b in zip(lefts, rights, strict=False)]
    if len(lefts) > len(rights):
        above.append(lefts[-1])
    return above


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes."""
    level = leaves
    while len(level) > 1:
        level = _level_above(level)
    return level[0] if level else EMPTY


class Tree:
    """A growing list of leaf hashes, of which only what later roots need is kept."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.size = 0
        self._peaks: list[bytes] = []
        """Roots of the full subtrees, the largest first: one for each bit that is set in `size`."""
        for leaf in leaves:
            self.append(leaf)

    def append(self, leaf: bytes) -> None:
        rest = self.size
        while rest & 1:
            leaf = node_hash(self._peaks.pop(), leaf)
            rest >>= 1
        self._peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        if not self._peaks:
            return EMPTY
        *rest, found = self._peaks
        for peak in reversed(rest):
            found = node_hash(peak, found)
        return found


def prove(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of one leaf, from the leaf's sibling up."""
    path: list[bytes] = []
    level, place = list(leaves), index
    while len(level) > 1:
        sibling = place ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level, place = _level_above(level), place >> 1
    return path


def root_by_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a path leads to from this leaf; none when the path cannot be of such a tree."""
    if not 0 <= index < size:
        return None
    found, place, last, steps = leaf, index, size - 1, list(path)
    while last:
        if place & 1 or place < last:
            if not steps:
                return None
            sibling = steps.pop(0)
            found = node_hash(sibling, found) if place & 1 else node_hash(found, sibling)
        place, last = place >> 1, last >> 1
    return None if steps else found
