"""Where things of one lane go in one row, so that nothing covers anything else.

Owns: what width a label takes, inside its span or behind it; stacking in tracks.
Never does: SVG. Read next: drawing.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

UPPER, LOWER, DIGIT, BLANK, OTHER = 8.2, 6.9, 7.7, 4.0, 12.0
"""Widths of characters at the size of labels, in the widest font that draws them; bold is more."""
BOLD = 1.13
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
    is_bold: bool = False
    """How its label is drawn behind it; inside it never is."""
    track: int = 0
    is_inside: bool = False
    """The label fits into the span."""
    is_before: bool = False
    """The label stands before it: behind it the row ends."""

    @property
    def label_width(self) -> float:
        """With the space around it."""
        if not self.label:
            return 0.0
        return text_width(self.label, is_bold=self.is_bold) + 2 * PAD

    @property
    def begin(self) -> float:
        """Where it begins with its label."""
        return self.x - (self.label_width if self.is_before else 0.0)

    @property
    def end(self) -> float:
        """Where it ends with its label."""
        is_behind = not (self.is_inside or self.is_before)
        return self.x + self.width + self.tail + (self.label_width if is_behind else 0.0)


def text_width(text: str, *, is_bold: bool = False) -> float:
    """A generous guess, so that labels end in time."""
    return sum(map(_width, text)) * (BOLD if is_bold else 1)


def _width(char: str) -> float:
    if char == " ":
        return BLANK
    if char.isdecimal():
        return DIGIT
    return UPPER if char.isupper() else LOWER if char.isascii() else OTHER


def cut_end(text: str, room: float, *, is_bold: bool = False) -> str:
    """What fits of it from its beginning; nothing if that is not even its first word."""
    if text_width(text, is_bold=is_bold) <= room:
        return text
    least = len(text.partition(" ")[0])
    for kept in range(len(text) - 1, least - 1, -1):
        shown = text[:kept].rstrip() + "…"
        if text_width(shown, is_bold=is_bold) <= room:
            return shown
    return ""


def cut_middle(text: str, room: float) -> str:
    """What fits of it from both ends: names that begin alike differ at their ends."""
    kept, shown = len(text), text
    while text_width(shown) > room and kept > 2:
        kept -= 1
        shown = f"{text[: kept - kept // 2]}…{text[-(kept // 2) :]}"
    return shown


def pack(items: Sequence[Item], plot_width: float) -> int:
    """Give each a track, the first that is free where it begins. Returns how many there are."""
    ends: list[float] = []
    chains: dict[tuple[str, int], int] = {}
    for item in sorted(items, key=lambda one: (one.x, -one.width)):
        _place_label(item, plot_width)
        track = chains.get((item.chain, round(item.x)), -1) if item.chain else -1
        if track < 0 or ends[track] > item.begin + SLACK:
            free = (at for at, end in enumerate(ends) if end <= item.begin + SLACK)
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
    """Inside if it fits, else behind; before it where the row ends, or cut where that begins."""
    item.is_inside = bool(item.label) and text_width(item.label) + 2 * PAD <= item.width
    if item.is_inside or item.end <= plot_width + PAD:
        return
    item.is_before = item.label_width <= item.x
    if not item.is_before:
        room = plot_width - item.x - item.width - item.tail - PAD
        item.label = cut_end(item.label, room, is_bold=item.is_bold)
