"""The segments of a cell as one sequence: those in packs, then those with files of their own.

Owns: which segments have a range of ids or a session, by the indexes of packs; reading a record
when it is asked for.
Must not: check signatures (layout.py does), or open files of segments (sealed_file.py does).
Read next: pack.py, layout.py (makes the sequence), history/log.py.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import overload

from eventsched.archive.manifest import Record, SegmentTree, TreeHead
from eventsched.archive.pack import Pack
from eventsched.schema.ids import EntryId, parse_id


class Segments(Sequence[Record]):
    """The records of a cell's segments; segment `n` is item `n`.

    The record of a packed segment is read each time. `between` and `with_session` read none.

    Args:
        packs: Packs, in order, from segment 0 on.
        single: Records of the segments after them, in order.
        record_of: Returns the record of a segment in a pack.
    """

    def __init__(
        self,
        packs: Sequence[Pack],
        single: Sequence[Record],
        record_of: Callable[[Pack, int], Record],
    ) -> None:
        self.packs = list(packs)
        self.single = list(single)
        self._record_of = record_of

    @property
    def packed(self) -> int:
        """How many segments are in packs."""
        return self.packs[-1].index.end if self.packs else 0

    def __len__(self) -> int:
        return self.packed + len(self.single)

    @overload
    def __getitem__(self, at: int) -> Record: ...

    @overload
    def __getitem__(self, at: slice) -> list[Record]: ...

    def __getitem__(self, at: int | slice) -> Record | list[Record]:
        if isinstance(at, slice):
            return [self._record(n) for n in range(*at.indices(len(self)))]
        n = at if at >= 0 else at + len(self)
        if not 0 <= n < len(self):
            raise IndexError(f"no segment {at}")
        return self._record(n)

    def _record(self, n: int) -> Record:
        pack = self.pack_of(n)
        return self.single[n - self.packed] if pack is None else self._record_of(pack, n)

    def pack_of(self, n: int) -> Pack | None:
        """The pack that has segment `n`; None if it has files of its own."""
        at = bisect_right(self.packs, n, key=lambda pack: pack.index.first_segment) - 1
        return self.packs[at] if at >= 0 and self.packs[at].has(n) else None

    def append(self, record: Record) -> None:
        """Add the next segment."""
        self.single.append(record)

    @property
    def head(self) -> TreeHead | None:
        """The head after the last segment."""
        if self.single:
            return self.single[-1].head
        return self.packs[-1].index.head if self.packs else None

    @property
    def skipped(self) -> int:
        """Entries that were trimmed from the log before the first segment."""
        if self.packs:
            return self.packs[0].index.head.skipped
        return self.single[0].head.skipped if self.single else 0

    def tree_of_packs(self) -> SegmentTree:
        """The archive's tree and chain after the last packed segment. Raises ArchiveError."""
        return self.packs[-1].tree() if self.packs else SegmentTree()

    def ids(self, n: int) -> tuple[EntryId, EntryId]:
        """First and last id of segment `n`."""
        pack = self.pack_of(n)
        if pack is not None:
            return pack.ids(n)
        record = self.single[n - self.packed]
        return parse_id(record.first), parse_id(record.last)

    def count_to(self, upto: EntryId) -> int:
        """How many segments end at this id or before it."""
        return bisect_right(range(len(self)), upto, key=lambda n: self.ids(n)[1])

    def between(self, after: EntryId, upto: EntryId) -> range:
        """Numbers of the segments with ids after `after` and up to `upto`."""
        end = bisect_right(range(len(self)), upto, key=lambda n: self.ids(n)[0])
        return range(self.count_to(after), end)

    def with_session(self, numbers: range, session: str) -> Iterator[int]:
        """Those of these segments that may have entries of a session; no other segment has.

        Raises ArchiveError if the index of a pack was changed.
        """
        for pack in self.packs_between(numbers):
            yield from (n for n in pack.segments_with(session) if n in numbers)
        yield from range(max(numbers.start, self.packed), numbers.stop)

    def packs_between(self, numbers: range) -> list[Pack]:
        """The packs that have some of these segments."""
        starts = [pack.index.first_segment for pack in self.packs]
        first = max(0, bisect_right(starts, numbers.start) - 1)
        return [
            pack
            for pack in self.packs[first : bisect_left(starts, numbers.stop)]
            if numbers.start < pack.index.end
        ]
