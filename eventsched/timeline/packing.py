"""Layout of one lane in one row: tracks without overlaps, and the places of labels.

Owns: the width of a label, its place inside, after or before its span, the assignment of tracks.
Must not: write SVG. Read next: render.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

UPPER, LOWER, DIGIT, BLANK, OTHER = 8.2, 6.9, 7.7, 4.0, 12.0
"""Widths of characters at the size of labels, in the widest fallback font; bold is wider."""
BOLD = 1.13
PAD = 4.0
MARK = 9.0
SPAN_MIN = 2.0
SLACK = 0.6
"""How far adjacent items may overlap."""
TRACKS_MAX = 14
"""Further items are drawn in the last track, with a tooltip and without a label."""


class Item(msgspec.Struct, kw_only=True):
    """A span or a mark that is laid out. `x` counts from the left edge of the row's plot."""

    source: object
    """The span or the mark."""
    x: float
    width: float
    tail: float = 0.0
    """Width of the shape at the end of the span."""
    chain: str = ""
    """The item takes the track of the item with the same chain that ends where it begins."""
    label: str = ""
    is_bold: bool = False
    """Whether a label outside of the span is bold."""
    track: int = 0
    is_inside: bool = False
    """The label is inside the span."""
    is_before: bool = False
    """The label is before the span, because the row ends after it."""

    @property
    def label_width(self) -> float:
        """Width of the label with its padding."""
        if not self.label:
            return 0.0
        return text_width(self.label, is_bold=self.is_bold) + 2 * PAD

    @property
    def begin(self) -> float:
        """Left edge, with the label."""
        return self.x - (self.label_width if self.is_before else 0.0)

    @property
    def end(self) -> float:
        """Right edge, with the label."""
        is_after = not (self.is_inside or self.is_before)
        return self.x + self.width + self.tail + (self.label_width if is_after else 0.0)


def text_width(text: str, *, is_bold: bool = False) -> float:
    """Estimate the width of a text, rather too wide than too narrow."""
    return sum(map(_width, text)) * (BOLD if is_bold else 1)


def _width(char: str) -> float:
    if char == " ":
        return BLANK
    if char.isdecimal():
        return DIGIT
    return UPPER if char.isupper() else LOWER if char.isascii() else OTHER


def truncate(text: str, room: float, *, is_bold: bool = False) -> str:
    """Shorten the text to `room`; return an empty string if its first word does not fit."""
    if text_width(text, is_bold=is_bold) <= room:
        return text
    least = len(text.partition(" ")[0])
    for length in range(len(text) - 1, least - 1, -1):
        truncated = text[:length].rstrip() + "…"
        if text_width(truncated, is_bold=is_bold) <= room:
            return truncated
    return ""


def truncate_middle(text: str, room: float) -> str:
    """Shorten the text in its middle: names with a common prefix differ at their ends."""
    length, truncated = len(text), text
    while text_width(truncated) > room and length > 2:
        length -= 1
        truncated = f"{text[: length - length // 2]}…{text[-(length // 2) :]}"
    return truncated


def pack(items: Sequence[Item], plot_width: float) -> int:
    """Assign every item to the first track that is free; return the number of tracks."""
    ends: list[float] = []
    chains: dict[tuple[str, int], int] = {}
    for item in sorted(items, key=lambda each: (each.x, -each.width)):
        _place_label(item, plot_width)
        track = chains.get((item.chain, round(item.x)), -1) if item.chain else -1
        if track < 0 or ends[track] > item.begin + SLACK:
            free = (index for index, end in enumerate(ends) if end <= item.begin + SLACK)
            track = next(free, len(ends))
        if track >= TRACKS_MAX:
            item.track, item.label = TRACKS_MAX - 1, ""
            continue
        if track == len(ends):
            ends.append(0.0)
        item.track, ends[track] = track, item.end
        chains[item.chain, round(item.x + item.width)] = track
    return max(1, len(ends))


def _place_label(item: Item, plot_width: float) -> None:
    """Place the label inside the item if it fits, else after it.

    At the end of a row it goes before the item, or is truncated if there is no room.
    """
    item.is_inside = bool(item.label) and text_width(item.label) + 2 * PAD <= item.width
    if item.is_inside or item.end <= plot_width + PAD:
        return
    item.is_before = item.label_width <= item.x
    if not item.is_before:
        room = plot_width - item.x - item.width - item.tail - PAD
        item.label = truncate(item.label, room, is_bold=item.is_bold)
