"""Where things of one lane go in one row, so that nothing covers anything else.

Owns: what width a label takes, inside its span or behind it; stacking in tracks.
Never does: SVG. Read next: drawing.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

CHAR = 6.4
"""Width of a character at the size of labels: a generous guess, so that labels end in time."""
PAD = 4.0
MARK = 9.0
SPAN_MIN = 2.0
SLACK = 0.6
"""What ends where the next begins does not cover it."""
TRACKS_MAX = 14
"""Beyond, things lie in the last track without a label; their tooltips still tell."""


class Item(msgspec.Struct, kw_only=True):
    """A span or a mark on its way to a place. x is within the row's plot."""

    what: object
    x: float
    width: float
    tail: float = 0.0
    """Width of the shape at its end."""
    chain: str = ""
    """It goes where the one that ended here with the same chain is."""
    label: str = ""
    track: int = 0
    is_inside: bool = False
    """The label fits into the span."""


def text_width(text: str) -> float:
    return len(text) * CHAR


def pack(items: Sequence[Item], plot_width: float) -> int:
    """Give each a track, the first that is free where it begins. Returns how many there are."""
    ends: list[float] = []
    chains: dict[tuple[str, int], int] = {}
    for item in sorted(items, key=lambda one: (one.x, -one.width)):
        needed = _needed(item, plot_width)
        track = chains.get((item.chain, round(item.x)), -1) if item.chain else -1
        if track < 0 or ends[track] > item.x + SLACK:
            free = (at for at, end in enumerate(ends) if end <= item.x + SLACK)
            track = next(free, len(ends))
        if track >= TRACKS_MAX:
            item.track, item.label = TRACKS_MAX - 1, ""
            continue
        if track == len(ends):
            ends.append(0.0)
        item.track, ends[track] = track, item.x + needed
        chains[item.chain, round(item.x + item.width)] = track
    return max(1, len(ends))


def _needed(item: Item, plot_width: float) -> float:
    """The width with its label: inside if it fits, else behind as far as the row goes."""
    label = text_width(item.label) + 2 * PAD if item.label else 0.0
    item.is_inside = bool(label) and label <= item.width
    whole = item.width + item.tail
    if item.is_inside or not label:
        return whole
    room = int((plot_width + PAD - item.x - whole - 2 * PAD) / CHAR)
    if room < len(item.label):
        is_of_use = room > len(item.label.partition(" ")[0])
        item.label = item.label[: room - 1] + "…" if is_of_use else ""
    return whole + (text_width(item.label) + 2 * PAD if item.label else 0)
