"""Time in rows, as notes are written: a long session goes on below instead of getting dense.

Owns: how long a row is, where its ticks are, which stretches nothing happened in.
Never does: pixels other than a row's width. Read next: packing.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil

import msgspec

from eventsched.timeline.scene import Scene

PER_ROW = 10
"""Utterances that a row may hold; one row in ten may hold more."""
ROWS_MAX = 120
STUB, FEW = 0.25, 4
"""So little of a row is not worth one more where they are few: they get a bit longer instead."""
ROW_MS_MIN = 1_000
NICE_MS = (
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 20_000, 30_000, 60_000, 120_000, 180_000,
    300_000, 600_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 14_400_000,
)  # fmt: skip
TICKS_MAX = 10


class Row(msgspec.Struct, frozen=True):
    """One stretch of time."""

    from_ms: int
    to_ms: int
    is_quiet: bool = False
    """Nothing happened in it."""


def nice(ms: float) -> int:
    """The next length that people count by."""
    for one in NICE_MS:
        if ms <= one:
            return one
    days = -(-ms // NICE_MS[-1])
    return int(days) * NICE_MS[-1]


def row_length(scene: Scene) -> int:
    """The longest at which rows are not crowded: it follows the busy stretches, not the pauses."""
    starts = [span.from_ms for span in scene.spans if span.kind == "utterance"]
    length = max(ROW_MS_MIN, scene.to_ms - scene.from_ms)
    longest = nice(length)
    for row_ms in reversed([one for one in NICE_MS if ROW_MS_MIN <= one < longest]):
        if length / longest > ROWS_MAX or _crowd(starts, longest) <= PER_ROW:
            break
        longest = row_ms
    return longest


def _crowd(starts: Sequence[int], row_ms: int) -> int:
    """How many utterances the fullest rows hold, but for one in ten."""
    counts = sorted(Counter(one // row_ms for one in starts).values())
    return counts[(len(counts) * 9 - 1) // 10] if counts else 0


def rows_of(scene: Scene) -> list[Row]:
    """The session's time in rows of one length; neighbours in which nothing happened are one."""
    row_ms = row_length(scene)
    tick = tick_ms(row_ms)
    first = scene.from_ms - scene.from_ms % tick
    length = scene.to_ms - first + 1
    count = max(1, ceil(length / row_ms - STUB))
    if count <= FEW:
        row_ms = ceil(length / count / tick) * tick
    rows: list[Row] = []
    for begin in range(first, scene.to_ms + 1, row_ms):
        row = Row(begin, begin + row_ms, is_quiet=not _anything(scene, begin, begin + row_ms))
        if row.is_quiet and rows and rows[-1].is_quiet:
            row = Row(rows.pop().from_ms, row.to_ms, is_quiet=True)
        rows.append(row)
    return rows


def tick_ms(row_ms: int) -> int:
    """How far apart the ticks of a row are."""
    return nice(row_ms / TICKS_MAX)


def ticks(row: Row, row_ms: int) -> Sequence[int]:
    step = tick_ms(row_ms)
    first = -(-row.from_ms // step) * step
    return range(first, row.to_ms, step)


def _anything(scene: Scene, begin: int, end: int) -> bool:
    return (
        any(one.from_ms < end and one.to_ms >= begin for one in scene.spans)
        or any(begin <= one.at_ms < end for one in scene.marks)
        or any(begin <= one.at_ms < end for one in scene.moments)
    )
