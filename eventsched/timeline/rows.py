"""Rows of time: a long session continues in the next row, like lines of music.

Owns: the length of a row, its ticks, and the quiet stretches, which take one row each.
Must not: compute pixels. Read next: packing.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil

import msgspec

from eventsched.timeline.scene import Scene

UTTERANCES_MAX = 10
"""Utterances of a row; one row in ten may have more."""
ROWS_MAX = 300
"""Rows before adjacent quiet ones are merged."""
STUB, FEW_ROWS = 0.25, 4
"""Up to FEW_ROWS rows are lengthened, if the last would be shorter than this part of a row."""
ROW_MS_MIN = 1_000
ROUND_MS = (
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 20_000, 30_000, 60_000, 120_000, 180_000,
    300_000, 600_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 14_400_000,
)  # fmt: skip
TICKS_MAX = 10


class Row(msgspec.Struct, frozen=True):
    """One row: a stretch of time."""

    from_ms: int
    to_ms: int
    is_quiet: bool = False
    """No event is in this stretch."""


def round_up(ms: float) -> int:
    """Round up to a length that is usual on a time axis."""
    for length in ROUND_MS:
        if ms <= length:
            return length
    count = -(-ms // ROUND_MS[-1])
    return int(count) * ROUND_MS[-1]


def row_length(scene: Scene) -> int:
    """The longest row length at which nine rows in ten have at most UTTERANCES_MAX utterances.

    There are at most ROWS_MAX rows, whatever the times of an archive are.
    """
    starts = [span.from_ms for span in scene.spans if span.kind == "utterance"]
    length = max(ROW_MS_MIN, scene.to_ms - scene.from_ms)
    longest = round_up(length)
    shortest = max(ROW_MS_MIN, round_up(length / ROWS_MAX))
    lengths = {shortest, *(each for each in ROUND_MS if each > shortest)}
    for row_ms in sorted((each for each in lengths if each < longest), reverse=True):
        if _utterances_per_row(starts, longest) <= UTTERANCES_MAX:
            break
        longest = row_ms
    return longest


def _utterances_per_row(starts: Sequence[int], row_ms: int) -> int:
    """The 90th percentile of the utterances in a row of this length."""
    counts = sorted(Counter(start // row_ms for start in starts).values())
    return counts[(len(counts) * 9 - 1) // 10] if counts else 0


def split_rows(scene: Scene) -> list[Row]:
    """Split the session into rows of equal length; merge adjacent quiet rows."""
    row_ms = row_length(scene)
    tick = tick_ms(row_ms)
    first = scene.from_ms - scene.from_ms % tick
    length = scene.to_ms - first + 1
    count = max(1, ceil(length / row_ms - STUB))
    if count <= FEW_ROWS:
        row_ms = ceil(length / count / tick) * tick
    rows: list[Row] = []
    for begin in range(first, scene.to_ms + 1, row_ms):
        row = Row(begin, begin + row_ms, is_quiet=not _has_content(scene, begin, begin + row_ms))
        if row.is_quiet and rows and rows[-1].is_quiet:
            row = Row(rows.pop().from_ms, row.to_ms, is_quiet=True)
        rows.append(row)
    return rows


def tick_ms(row_ms: int) -> int:
    """The interval of the ticks of a row."""
    return round_up(row_ms / TICKS_MAX)


def ticks(row: Row, row_ms: int) -> Sequence[int]:
    """The times of the ticks in a row."""
    step = tick_ms(row_ms)
    first = -(-row.from_ms // step) * step
    return range(first, row.to_ms, step)


def _has_content(scene: Scene, begin: int, end: int) -> bool:
    return (
        any(span.from_ms < end and span.to_ms >= begin for span in scene.spans)
        or any(begin <= mark.at_ms < end for mark in scene.marks)
        or any(begin <= moment.at_ms < end for moment in scene.moments)
    )
