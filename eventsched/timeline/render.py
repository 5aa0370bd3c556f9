"""Places as SVG: shapes, colours, the legend, the axis.

Owns: how everything looks. Colour never tells alone: what ended badly has a shape of its own.
Never does: decide what is shown (scene.py). Read next: scene.py, packing.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from eventsched.escaping import escape_controls
from eventsched.formatting import clock, day_and_clock, duration, plural
from eventsched.schema.events import Event
from eventsched.timeline.packing import MARK, PAD, SPAN_MIN, Item, cut_middle, pack, text_width
from eventsched.timeline.rows import Row, rows_of, ticks
from eventsched.timeline.scene import AUDIO, UTTERANCES, Mark, Scene, Span, scene_of

WIDTH, GUTTER, MARGIN = 1_000, 112, 16
PLOT = WIDTH - GUTTER - MARGIN
TRACK, TRACK_GAP, LANE_GAP, ROW_GAP, AXIS = 16, 3, 5, 18, 18
STYLE = """
text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#24292f}
.title{font-size:16px;font-weight:600}.dim{fill:#57606a}.in{fill:#fff}.dark{fill:#24292f}
.bad{fill:#c4252f;font-weight:600}.lane{fill:#f6f8fa}.grid{stroke:#d8dee4}
.audio{fill:#3b6fb6}.utterance{fill:#cfe0f5;stroke:#3b6fb6}
.waiting{fill:url(#waits);stroke:#b08000}
.untaken{fill:url(#untaken);stroke:#8b949e}.held{fill:url(#holds);stroke:#7a4fb5}
.given_up{fill:url(#gone);stroke:#c4252f}
.ok{fill:#2f8f4e}.no_speech{fill:#8b949e}.lost{fill:#d1434b}.cancelled{fill:#b98aa0}
.running{fill:#a9d8b8;stroke:#2f8f4e}.playback{fill:#7cc4bd}
.failed,.missing,.refused{fill:#c4252f}
.again{stroke:#24292f;stroke-width:1.6}.open{stroke-dasharray:3 2}
.retry{fill:none;stroke:#6e7781;stroke-dasharray:2 2}
.cross{stroke:#c4252f;stroke-width:2.4}.white{stroke:#fff;stroke-width:1.6}
.opened,.closed,.closing{stroke:#57606a}.resumed{stroke:#d4700a;stroke-width:2}
.resumed-text{fill:#b35900;font-weight:600}
"""
LEGEND: Sequence[tuple[str, str, str]] = (
    ("span", "audio", "audio arrives"),
    ("span", "utterance", "utterance until finalized"),
    ("span", "untaken", "waits for a dispatcher"),
    ("span", "waiting", "waits for a slot"),
    ("span", "running", "attempt, not ended yet"),
    ("span", "ok", "attempt: ok"),
    ("span", "no_speech", "no text"),
    ("lost", "lost", "attempt lost or failed"),
    ("again", "ok", "attempt 2 or later"),
    ("lost", "cancelled", "cancelled"),
    ("span", "held", "ready, waits behind a gap"),
    ("span", "given_up", "given up in the end"),
    ("mark", "ok", "result"),
    ("mark", "no_speech", "no text"),
    ("mark", "failed", "failed"),
    ("mark", "missing", "missing"),
    ("mark", "refused", "refused, stale"),
    ("span", "playback", "playback"),
)
BAD = frozenset({"lost", "failed", "missing"})
LONGEST = (
    ("untaken", "wait for a dispatcher"), ("waiting", "wait for a slot"), ("held", "gap"),
)  # fmt: skip
CROSSED = ("lost", "cancelled")
OVERVIEW = {"audio": 0, "untaken": 10, "waiting": 10, "held": 17, "given_up": 17}
"""Kinds in the overview, and how far down."""
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML cannot say, however it is escaped."""
CROSS = 5.0
DARK = ("utterance", "untaken", "waiting", "held", "given_up", "running", "playback")
"""Kinds whose labels inside are dark."""


def draw(events: Sequence[Event]) -> str:
    """One session's events, in their order, as one SVG document."""
    scene = scene_of(events)
    rows = rows_of(scene)
    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "width": str(WIDTH)})
    _define(root)
    paper = SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": "#fff"})
    y = _head(root, scene)
    if len(rows) > 1:
        y = _overview(root, scene, rows, y)
    for row in rows:
        y = _quiet(root, row, y) if row.is_quiet else _row(root, scene, row, y)
    height = str(round(y))
    root.set("height", height)
    root.set("viewBox", f"0 0 {WIDTH} {height}")
    paper.set("height", height)
    indent(root, " ")
    return tostring(root, encoding="unicode") + "\n"


# --- the top --------------------------------------------------------------------------------


def _define(root: Element) -> None:
    SubElement(root, "style").text = STYLE
    defs = SubElement(root, "defs")
    for name, paper, line in (
        ("waits", "#fdf3d0", "#efcd6a"),
        ("holds", "#f3ecfc", "#cdb8ea"),
        ("gone", "#fdecec", "#f0b6b9"),
        ("untaken", "#f4f5f7", "#d2d7dc"),
    ):
        size = {"width": "6", "height": "6", "patternUnits": "userSpaceOnUse"}
        hatch = SubElement(defs, "pattern", {"id": name} | size)
        SubElement(hatch, "rect", {"width": "6", "height": "6", "fill": paper})
        SubElement(hatch, "path", {"d": "M-1 7 7 -1M-1 1 1 -1M5 7 7 5", "stroke": line})


def _head(root: Element, scene: Scene) -> float:
    """Title, what the session was, what went wrong, the legend."""
    _title(root, f"session {scene.session}")
    _text(root, MARGIN, 26, f"Session {scene.session}", "title")
    length = duration(scene.to_ms - scene.from_ms)
    zone = day_and_clock(scene.from_ms)
    about = f"{scene.about}; " if scene.about else ""  # not known of a stretch amid a session
    _text(root, MARGIN, 44, f"{about}{zone}, {length}", "dim")
    _text(root, MARGIN, 62, *_counts(scene))
    longest = _longest(scene)
    _text(root, MARGIN, 78, longest)
    return _legend(root, scene, 98 if longest else 82)


def _counts(scene: Scene) -> tuple[str, str]:
    """What there was and how it ended; in red if any of it ended badly."""
    kinds = [one.kind for one in scene.spans]
    ends = [one.ends for one in scene.spans if one.ends]
    bad = [
        (ends.count("missing"), "missing"),
        (ends.count("failed"), "failed"),
        (kinds.count("lost"), f"attempt{'s' * (kinds.count('lost') > 1)} lost or failed"),
    ]
    also = [
        (sum(one.kind == "refused" for one in scene.marks), "refused"),
        (sum(one.kind == "resumed" for one in scene.moments), "resumed"),
    ]
    spoken = plural(kinds.count("utterance"), "utterance")
    parts = [f"{spoken}, {plural(len(ends), 'outcome')}"]
    parts += [f"{count} {what}" for count, what in (*bad, *also) if count]
    return " · ".join(parts), "bad" if any(count for count, _ in bad) else ""


def _longest(scene: Scene) -> str:
    parts = []
    for kind, what in LONGEST:
        longest = max((o.to_ms - o.from_ms for o in scene.spans if o.kind == kind), default=0)
        if longest:
            parts.append(f"{what} {duration(longest)}")
    return f"longest: {', '.join(parts)}" if parts else ""


def _legend(root: Element, scene: Scene, y: float) -> float:
    """What the shapes mean that are there."""
    x = float(MARGIN)
    seen = _seen(scene)
    for shape, kind, words in LEGEND:
        if ("span" if shape == "lost" else shape, kind) not in seen:
            continue
        lead = 27 if shape == "lost" else 23
        wide = lead + 11 + text_width(words)
        if x + wide > WIDTH - MARGIN:
            x, y = float(MARGIN), y + 19
        if shape == "mark":
            _shape(root, kind, x + 9, y - 4)
        else:
            span = Span(lane="", kind=kind, from_ms=0, to_ms=0, is_again=shape == "again")
            _bar(root, span, x, y - 10, 18, 12, ends=True)
        _text(root, x + lead, y, words, "dim")
        x += wide
    return y + 16


def _seen(scene: Scene) -> set[tuple[str, str]]:
    """Shape and kind of all that is drawn; a second attempt counts as such, however it ended."""
    seen = {("span", one.kind) for one in scene.spans if one.to_ms > one.from_ms or not one.ends}
    seen |= {("mark", one.ends) for one in scene.spans}
    seen |= {("mark", one.kind) for one in scene.marks}
    return seen | {("again", "ok") for one in scene.spans if one.is_again}


def _overview(root: Element, scene: Scene, rows: Sequence[Row], y: float) -> float:
    """The whole session in one strip: where there was speech, where it waited, what went wrong."""
    begin, length = rows[0].from_ms, rows[-1].to_ms - rows[0].from_ms
    scale = PLOT / length

    def at(ms: int) -> float:
        return GUTTER + (ms - begin) * scale

    height = 26
    _rect(root, GUTTER, y, PLOT, height, "lane")
    _text(root, MARGIN, y + 17, "overview", "dim")
    for one in scene.spans:
        if one.kind in OVERVIEW and one.to_ms > one.from_ms:
            line = OVERVIEW[one.kind]
            wide = max(1.0, (one.to_ms - one.from_ms) * scale)
            tall = 8 if one.kind == "audio" else 6
            _rect(root, at(one.from_ms), y + 2 + line, wide, tall, one.kind)
    for one in scene.spans:
        if _is_bad(one):
            _rect(root, at(one.to_ms) - 1, y, 2, height, "failed")
    for moment in scene.moments:
        _line(root, at(moment.at_ms), y - 2, at(moment.at_ms), y + height + 2, moment.kind)
    free_from = 0.0
    for row in rows:
        _line(root, at(row.from_ms), y + height, at(row.from_ms), y + height + 4, "grid")
        told = clock(row.from_ms)[:8]
        ends = at(row.from_ms) + text_width(told)
        if at(row.from_ms) >= free_from and ends < WIDTH - MARGIN:
            _text(root, at(row.from_ms), y + height + 15, told, "dim")
            free_from = ends
    return y + height + 15 + ROW_GAP


# --- rows -----------------------------------------------------------------------------------


def _quiet(root: Element, row: Row, y: float) -> float:
    told = f"{clock(row.from_ms)[:8]}   nothing for {duration(row.to_ms - row.from_ms)}"
    _line(root, GUTTER, y - 4, WIDTH - MARGIN, y - 4, "grid")
    _text(root, GUTTER + PAD, y + 9, told, "dim")
    return y + AXIS + 6


def _row(root: Element, scene: Scene, row: Row, y: float) -> float:
    """One stretch of time with each lane that has something in it."""
    top = y
    y += AXIS
    lanes = [(lane, _items(scene, row, lane)) for lane in scene.lanes]
    shown = [(lane, items) for lane, items in lanes if items or lane in (AUDIO, UTTERANCES)]
    back = SubElement(root, "g")
    attempts: list[tuple[Item, float]] = []
    for lane, items in shown:
        tracks = pack(items, PLOT)
        height = tracks * (TRACK + TRACK_GAP) + TRACK_GAP
        _rect(back, GUTTER, y, PLOT, height, "lane")
        _text(root, GUTTER - 8, y + TRACK_GAP + 11, _short(lane), "dim", anchor="end", full=lane)
        for item in items:
            at = y + TRACK_GAP + item.track * (TRACK + TRACK_GAP)
            _item(root, item, at)
            if lane.startswith("node "):
                attempts.append((item, at + TRACK / 2))
        y += height + LANE_GAP
    _retries(back, attempts)
    _axis(back, row, top + AXIS, y - LANE_GAP)
    return _moments(back, scene, row, top + AXIS, y - LANE_GAP) + ROW_GAP


def _retries(root: Element, attempts: Sequence[tuple[Item, float]]) -> None:
    """From where an attempt was lost a line leads to where the job was tried again."""
    lost: dict[str, tuple[float, float]] = {}
    for item, y in sorted(attempts, key=lambda one: one[0].x):
        before = lost.pop(item.chain, None)
        if before is not None:
            points = f"{_n(before[0])},{_n(before[1])} {_n(GUTTER + item.x)},{_n(before[1])} "
            points += f"{_n(GUTTER + item.x)},{_n(y)}"
            SubElement(root, "polyline", {"class": "retry", "points": points})
        if item.tail and item.chain:
            lost[item.chain] = GUTTER + item.x + item.width, y


def _short(lane: str) -> str:
    return cut_middle(lane.removeprefix("node "), GUTTER - 8 - PAD)


def _items(scene: Scene, row: Row, lane: str) -> list[Item]:
    """What of a lane lies in a row; what goes on from the row before has no label again."""
    spans = [one for one in scene.spans if one.lane == lane and _is_in(row, one)]
    marks = [one for one in scene.marks if one.lane == lane]
    return [_piece(one, row) for one in spans] + [
        Item(what=one, x=_x(row, one.at_ms), width=MARK)
        for one in marks
        if row.from_ms <= one.at_ms < row.to_ms
    ]


def _is_in(row: Row, span: Span) -> bool:
    """Whether some of it lies in the row; what only ends where the row begins does not."""
    if span.from_ms >= row.to_ms or span.to_ms < row.from_ms:
        return False
    return span.to_ms > row.from_ms or span.from_ms == row.from_ms or bool(span.ends)


def _piece(span: Span, row: Row) -> Item:
    begin, end = max(span.from_ms, row.from_ms), min(span.to_ms, row.to_ms)
    ends_here = span.to_ms < row.to_ms
    wide = (end - begin) * PLOT / (row.to_ms - row.from_ms)
    tail = 0.0
    if ends_here:
        tail = MARK if span.ends else CROSS if span.kind in CROSSED else 0.0
    return Item(
        what=span, x=_x(row, begin), width=wide if span.ends else max(SPAN_MIN, wide), tail=tail,
        label=_label(span, row, wide), is_bold=_is_bad(span), chain=span.chain,
    )  # fmt: skip


def _is_bad(span: Span) -> bool:
    return span.kind in BAD or span.ends in BAD


def _label(span: Span, row: Row, wide: float) -> str:
    """An outcome is named where it comes, another span where it begins; and a piece in another row
    again, if there is room in it.
    """
    begins, ends = span.from_ms >= row.from_ms, span.to_ms < row.to_ms
    if (span.ends and ends) or (begins and not span.ends):
        return span.label
    again = span.label if begins or not span.label else f"… {span.label}"
    return again if text_width(again) + 2 * PAD <= wide else ""


def _x(row: Row, ms: int) -> float:
    return (ms - row.from_ms) * PLOT / (row.to_ms - row.from_ms)


def _axis(root: Element, row: Row, y: float, bottom: float) -> None:
    row_ms = row.to_ms - row.from_ms
    free_from = 0.0
    for ms in ticks(row, row_ms):
        x = GUTTER + _x(row, ms)
        _line(root, x, y, x, bottom, "grid")
        at = clock(ms) if row_ms < 10_000 else clock(ms)[:8]
        ends = x + text_width(at)
        if x >= free_from and ends < WIDTH:
            _text(root, x, y - 5, at, "dim")
            free_from = ends + PAD


def _moments(root: Element, scene: Scene, row: Row, y: float, bottom: float) -> float:
    """Lines through all lanes; their labels stand below, one under the other where they meet.
    Returns where that ends.
    """
    below = 0.0
    ends = [0.0, 0.0, 0.0]
    for one in scene.moments:
        if not row.from_ms <= one.at_ms < row.to_ms:
            continue
        x = GUTTER + _x(row, one.at_ms)
        _line(root, x, y - 2, x, bottom + 3, one.kind)
        wide = text_width(one.label) + 8
        left = x + 3 if x + wide < WIDTH - MARGIN else x - wide + 4
        level = next((at for at, end in enumerate(ends) if end <= left), None)
        if level is not None:
            ends[level] = left + wide
            kind = "resumed-text" if one.kind == "resumed" else "dim"
            below = max(below, 14.0 + 12 * level)
            _text(root, left, bottom + 12 + 12 * level, one.label, kind)
    return bottom + below


# --- shapes ---------------------------------------------------------------------------------


def _item(root: Element, item: Item, y: float) -> None:
    group = SubElement(root, "g")
    x, middle = GUTTER + item.x, y + TRACK / 2
    what = item.what
    assert isinstance(what, Span | Mark)
    if what.title:
        _title(group, what.title)
    if isinstance(what, Mark):
        _shape(group, what.kind, x + MARK / 2, middle)
        return
    end = x + item.width
    if item.width:
        _bar(group, what, x, y, item.width, TRACK, ends=bool(item.tail))
    if what.ends and item.tail:
        _shape(group, what.ends, end + MARK / 2, middle)
    if item.is_inside:
        _text(group, x + PAD, middle + 4, item.label, "dark" if what.kind in DARK else "in")
    elif item.label:  # on paper of its own: no line goes through it
        left = GUTTER + item.begin + PAD if item.is_before else end + item.tail + PAD
        _rect(group, left - 1, y, item.label_width - 2 * PAD + 2, TRACK, "lane")
        _text(group, left, middle + 4, item.label, "bad" if item.is_bold else "")


def _bar(
    root: Element, span: Span, x: float, y: float, width: float, height: float, *, ends: bool
) -> None:
    """A span; one that ended badly ends with a cross."""
    kinds = [span.kind, *["again"] * span.is_again, *["open"] * span.is_open]
    _rect(root, x, y + 0.5, width, height - 1, " ".join(kinds), rounded=2)
    if ends and span.kind in CROSSED:
        _cross(root, x + width, y + height / 2, 3.6, "cross")


def _cross(root: Element, x: float, y: float, size: float, kind: str) -> None:
    _line(root, x - size, y - size, x + size, y + size, kind)
    _line(root, x - size, y + size, x + size, y - size, kind)


def _shape(root: Element, kind: str, x: float, y: float) -> None:
    """An outcome: a disc, a ring, a square, a cross; a triangle for what was refused."""
    match kind:
        case "missing":
            _cross(root, x, y, 4.4, "cross")
        case "failed":
            _rect(root, x - 4.2, y - 4.2, 8.4, 8.4, kind)
        case "refused":
            points = f"{x - 4.5},{y + 4} {x + 4.5},{y + 4} {x},{y - 4.5}"
            SubElement(root, "polygon", {"class": kind, "points": points})
        case "no_speech":
            at = {"cx": _n(x), "cy": _n(y), "r": "3.4"}
            look = {"fill": "#fff", "stroke": "#6e7781", "stroke-width": "2"}
            SubElement(root, "circle", at | look)
        case _:
            SubElement(root, "circle", {"class": kind, "cx": _n(x), "cy": _n(y), "r": "4.3"})


def _rect(
    root: Element, x: float, y: float, width: float, height: float, kind: str, rounded: float = 0
) -> None:
    shape = {"x": _n(x), "y": _n(y), "width": _n(width), "height": _n(height), "class": kind}
    SubElement(root, "rect", shape | ({"rx": _n(rounded)} if rounded else {}))


def _line(root: Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    ends = {"x1": _n(x1), "y1": _n(y1), "x2": _n(x2), "y2": _n(y2)}
    SubElement(root, "line", ends | {"class": kind})


def _text(
    root: Element, x: float, y: float, words: str, kind: str = "", *, anchor: str = "",
    full: str = "",
) -> None:  # fmt: skip
    if not words:
        return
    look = {"class": kind} if kind else {}
    made = SubElement(root, "text", {"x": _n(x), "y": _n(y)} | look)
    if anchor:
        made.set("text-anchor", anchor)
    made.text = _printable(words)
    if full and full != words:
        _title(made, full)


def _title(root: Element, words: str) -> None:
    """What is shown where the pointer rests."""
    SubElement(root, "title").text = _printable(words)


def _printable(words: str) -> str:
    return _NOT_XML.sub("�", escape_controls(words))


def _n(value: float) -> str:
    """One digit is enough for a pixel, and keeps files small."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
