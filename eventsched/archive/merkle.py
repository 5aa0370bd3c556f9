"""Merkle trees of RFC 6962, section 2.1: one hash for an ordered list.

Owns: hashes of leaves and nodes, the root of a list, appending leaves in O(log n) memory, inclusion
proofs and their verification.
Must not: do I/O, use keys, or know the meaning of a leaf.
Read next: sealer.py (appends leaves), verifier.py (verifies proofs).

    empty list        SHA-256 of the empty string
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
    """The leaf hash of each entry, in one loop: sealing and verifying spend most time here."""
    hashed = sha256
    return [hashed(b"\x00" + data).digest() for data in entries]


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _level_above(level: Sequence[bytes]) -> list[bytes]:
    """The next level: the hash of each pair; an unpaired last node is copied."""
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
    """An append-only list of leaf hashes. Stores only the hashes that later roots need."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.size = 0
        self._peaks: list[bytes] = []
        """One for each bit set in `size`."""
        for leaf in leaves:
            self.append(leaf)

    @classmethod
    def of_peaks(cls, size: int, peaks: Sequence[bytes]) -> Tree:
        """The tree of this size with these peaks. Raises ValueError for another number of peaks."""
        if len(peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves does not have {len(peaks)} peaks")
        tree = cls()
        tree.size, tree._peaks = size, list(peaks)
        return tree

    @property
    def peaks(self) -> list[bytes]:
        """Roots of the complete subtrees, largest first: later roots follow from them."""
        return list(self._peaks)

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
        *rest, root = self._peaks
        for peak in reversed(rest):
            root = node_hash(peak, root)
        return root


class Paths:
    """The audit paths of all leaves of a tree. Each level is hashed once, for all of them."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._levels = [leaves]
        while len(self._levels[-1]) > 1:
            self._levels.append(_level_above(self._levels[-1]))

    def of(self, index: int) -> list[bytes]:
        """The audit path of a leaf, from its sibling up."""
        path: list[bytes] = []
        for level in self._levels[:-1]:
            sibling = index ^ 1
            if sibling < len(level):
                path.append(level[sibling])
            index >>= 1
        return path


def root_by_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that the path gives for this leaf; None if the path does not fit the tree."""
    if not 0 <= index < size:
        return None
    root, at, last, steps = leaf, index, size - 1, list(path)
    while last:
        if at & 1 or at < last:
            if not steps:
                return None
            sibling = steps.pop(0)
            root = node_hash(sibling, root) if at & 1 else node_hash(root, sibling)
        at, last = at >> 1, last >> 1
    return None if steps else root
