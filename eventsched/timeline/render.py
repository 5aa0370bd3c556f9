"""Renders a scene as SVG: shapes, colours, the legend, the axis.

Owns: the appearance. Information never depends on colour alone: every failure has its own shape.
Must not: decide what is shown (scene.py). Read next: scene.py, packing.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import msgspec

from eventsched.escaping import escape_controls
from eventsched.formatting import clock, day_and_clock, duration, plural
from eventsched.schema.events import Event
from eventsched.timeline.packing import (
    MARK,
    PAD,
    SPAN_MIN,
    Item,
    pack,
    text_width,
    truncate,
    truncate_middle,
)
from eventsched.timeline.rows import Row, split_rows, ticks
from eventsched.timeline.scene import AUDIO, UTTERANCES, Mark, Scene, Span, build_scene

WIDTH, GUTTER, MARGIN = 1_000, 112, 16
PLOT = WIDTH - GUTTER - MARGIN
TRACK, TRACK_GAP, LANE_GAP, ROW_GAP, AXIS = 16, 3, 5, 18, 18
STYLE = """
text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#24292f}
.title{font-size:16px;font-weight:600}.dim{fill:#57606a}.in{fill:#fff}.dark{fill:#24292f}
.bad{fill:#c4252f;font-weight:600}.lane{fill:#f6f8fa}.grid{stroke:#d8dee4}
.audio{fill:#3b6fb6}.utterance{fill:#cfe0f5;stroke:#3b6fb6}
.waiting{fill:url(#waits);stroke:#b08000}
.undispatched{fill:url(#undispatched);stroke:#8b949e}.backoff{fill:#ece7e1;stroke:#9a6b3c}
.ready{fill:url(#holds);stroke:#7a4fb5}
.abandoned{fill:url(#gone);stroke:#c4252f}
.ok{fill:#2f8f4e}.no_speech{fill:#8b949e}.lost{fill:#d1434b}.cancelled{fill:#b98aa0}
.running{fill:#a9d8b8;stroke:#2f8f4e}.playback{fill:#7cc4bd}
.failed,.missing,.refused{fill:#c4252f}
.again{stroke:#24292f;stroke-width:1.6}.open{stroke-dasharray:3 2}
.retry{fill:none;stroke:#6e7781;stroke-dasharray:2 2}
.cross{stroke:#c4252f;stroke-width:2.4}.white{stroke:#fff;stroke-width:1.6}
.opened,.closed,.closing{stroke:#57606a}.resumed{stroke:#d4700a;stroke-width:2}
.resumed-text{fill:#b35900;font-weight:600}
"""


class LegendEntry(msgspec.Struct, frozen=True):
    """A shape of the picture and its words in the legend."""

    shape: str
    """span, mark, lost (a span that ends with a cross) or again (a span with a frame)."""
    kind: str
    words: str
    meaning: str
    """The tooltip of the words."""


LEGEND: Sequence[LegendEntry] = (
    LegendEntry("span", "audio", "audio arrives", "from the first to the last audio of a piece"),
    LegendEntry(
        "span", "utterance", "utterance until finalized",
        "a piece of speech, until the decision that it is complete",
    ),
    LegendEntry(
        "span", "undispatched", "waits for a dispatcher",
        "the piece is complete, and no dispatcher has looked for a node yet",
    ),
    LegendEntry(
        "span", "waiting", "waits for a slot",
        "no node that can process the job has a free slot",
    ),
    LegendEntry(
        "span", "backoff", "backs off after a failure",
        "a pause before the next attempt, because the node that failed asked for it",
    ),
    LegendEntry(
        "span", "running", "attempt, not ended yet", "a node works on the job",
    ),
    LegendEntry("span", "ok", "attempt: ok", "a node worked on the job and returned a text"),
    LegendEntry("span", "no_speech", "no text", "a node worked on the job and found no speech"),
    LegendEntry(
        "lost", "lost", "attempt lost or failed",
        "the node failed, was lost or was too slow; another attempt may follow",
    ),
    LegendEntry(
        "again", "ok", "attempt 2 or later", "the frame marks an attempt after one without a result"
    ),
    LegendEntry(
        "lost", "cancelled", "cancelled",
        "the attempt was ended, because the job had ended without it",
    ),
    LegendEntry(
        "span", "ready", "ready, waits for an earlier outcome",
        "listeners get outcomes in the order of the speech, so this one waits for its turn",
    ),
    LegendEntry(
        "span", "abandoned", "missing in the end",
        "listeners continue without this piece",
    ),
    LegendEntry("mark", "ok", "result", "listeners got the text"),
    LegendEntry("mark", "no_speech", "no text", "listeners learn that there was no speech"),
    LegendEntry("mark", "failed", "failed", "listeners learn that no node could process it"),
    LegendEntry("mark", "missing", "missing", "listeners continue without this piece"),
    LegendEntry(
        "mark", "refused", "refused: the attempt no longer counts",
        "a node sent something for a job that was given to another attempt, or that had ended; it "
        "changed nothing (stale)",
    ),
    LegendEntry("span", "playback", "playback", "synthesised speech is being played"),
)  # fmt: skip
BAD = frozenset({"lost", "failed", "missing"})
LONGEST = (
    ("undispatched", "wait for a dispatcher"),
    ("waiting", "wait for a slot"),
    ("backoff", "backoff"),
    ("ready", "wait for an earlier outcome"),
)
CROSSED = ("lost", "cancelled")
OVERVIEW = {
    "audio": 0, "undispatched": 10, "waiting": 10, "backoff": 10, "ready": 17, "abandoned": 17,
}  # fmt: skip
"""Kinds in the overview, and their distance from its top."""
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML cannot contain, escaped or not."""
CROSS = 5.0
ELEMENTS_MAX = 100_000
"""Elements of the document before its last row."""
DARK = (
    "utterance", "undispatched", "waiting", "backoff", "ready", "abandoned", "running", "playback",
)  # fmt: skip
"""Kinds with a dark label inside."""


def draw(events: Sequence[Event], opened: Event | None = None) -> str:
    """Draw the events of one session, in order, as an SVG document.

    Args:
        events: All events, or those of a range of time.
        opened: The SessionOpened event, if the range does not have it: it names the tenant and the
            languages.
    """
    return tostring(draw_element(events, opened), encoding="unicode") + "\n"


def draw_element(events: Sequence[Event], opened: Event | None = None) -> Element:
    """Draw the events as an element that a page can contain; see `draw`."""
    scene = build_scene(events, opened)
    rows = split_rows(scene)
    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "width": str(WIDTH)})
    _define(root)
    paper = SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": "#fff"})
    y = _head(root, scene)
    if len(rows) > 1:
        y = _overview(root, scene, rows, y)
    counted, elements = 0, 0
    for row in rows:
        elements += sum(1 for child in root[counted:] for _ in child.iter())
        counted = len(root)
        if elements > ELEMENTS_MAX:
            y = _left_out(root, row, y)
            break
        y = _quiet(root, row, y) if row.is_quiet else _row(root, scene, row, y)
    height = str(round(y))
    root.set("height", height)
    root.set("viewBox", f"0 0 {WIDTH} {height}")
    paper.set("height", height)
    indent(root, " ")
    return root


# --- the top --------------------------------------------------------------------------------


def _define(root: Element) -> None:
    SubElement(root, "style").text = STYLE
    defs = SubElement(root, "defs")
    for name, paper, line in (
        ("waits", "#fdf3d0", "#efcd6a"),
        ("holds", "#f3ecfc", "#cdb8ea"),
        ("gone", "#fdecec", "#f0b6b9"),
        ("undispatched", "#f4f5f7", "#d2d7dc"),
    ):
        size = {"width": "6", "height": "6", "patternUnits": "userSpaceOnUse"}
        hatch = SubElement(defs, "pattern", {"id": name} | size)
        SubElement(hatch, "rect", {"width": "6", "height": "6", "fill": paper})
        SubElement(hatch, "path", {"d": "M-1 7 7 -1M-1 1 1 -1M5 7 7 5", "stroke": line})


def _head(root: Element, scene: Scene) -> float:
    """Draw the title, the summary, the failures and the legend; return the next y."""
    _title(root, f"session {scene.session}")
    _text(root, MARGIN, 26, f"Session {scene.session}", "title")
    length = duration(scene.to_ms - scene.from_ms)
    zone = day_and_clock(scene.from_ms)
    summary = f"{scene.summary}; " if scene.summary else ""  # unknown without SessionOpened
    summary += f"{zone}, {length}"
    room = WIDTH - 2 * MARGIN
    _text(root, MARGIN, 44, truncate(summary, room) or summary, "dim", full=summary)
    _text(root, MARGIN, 62, *_counts(scene))
    longest = _longest(scene)
    _text(root, MARGIN, 78, longest)
    return _legend(root, scene, 98 if longest else 82)


def _counts(scene: Scene) -> tuple[str, str]:
    """Return the counts of utterances and outcomes, and the class `bad` if any failed."""
    kinds = [span.kind for span in scene.spans]
    outcomes = [span.outcome for span in scene.spans if span.outcome]
    bad = [
        (outcomes.count("missing"), "missing"),
        (outcomes.count("failed"), "failed"),
        (kinds.count("lost"), f"attempt{'s' * (kinds.count('lost') > 1)} lost or failed"),
    ]
    also = [
        (sum(mark.kind == "refused" for mark in scene.marks), "refused"),
        (sum(moment.kind == "resumed" for moment in scene.moments), "resumed"),
    ]
    utterances = plural(kinds.count("utterance"), "utterance")
    parts = [f"{utterances}, {plural(len(outcomes), 'outcome')}"]
    parts += [f"{count} {what}" for count, what in (*bad, *also) if count]
    parts += ["later events are left out"] * scene.is_cut
    return " · ".join(parts), "bad" if any(count for count, _ in bad) else ""


def _longest(scene: Scene) -> str:
    parts = []
    for kind, what in LONGEST:
        longest = max((o.to_ms - o.from_ms for o in scene.spans if o.kind == kind), default=0)
        if longest:
            parts.append(f"{what} {duration(longest)}")
    return f"longest: {', '.join(parts)}" if parts else ""


def _legend(root: Element, scene: Scene, y: float) -> float:
    """Draw the legend of the shapes that occur; return the next y."""
    x = float(MARGIN)
    shapes = _shapes(scene)
    for entry in LEGEND:
        shape, kind, words = entry.shape, entry.kind, entry.words
        if ("span" if shape == "lost" else shape, kind) not in shapes:
            continue
        lead = 27 if shape == "lost" else 23
        wide = lead + 11 + text_width(words)
        if x + wide > WIDTH - MARGIN:
            x, y = float(MARGIN), y + 19
        if shape == "mark":
            _shape(root, kind, x + 9, y - 4)
        else:
            span = Span(lane="", kind=kind, from_ms=0, to_ms=0, is_retry=shape == "again")
            _bar(root, span, x, y - 10, 18, 12, ends=True)
        _text(root, x + lead, y, words, "dim", full=entry.meaning)
        x += wide
    return y + 16


def _shapes(scene: Scene) -> set[tuple[str, str]]:
    """The (shape, kind) pairs that occur; each retry counts as (again, ok)."""
    drawn = [span for span in scene.spans if span.to_ms > span.from_ms or not span.outcome]
    shapes = {("span", span.kind) for span in drawn}
    shapes |= {("mark", span.outcome) for span in scene.spans}
    shapes |= {("mark", mark.kind) for mark in scene.marks}
    return shapes | {("again", "ok") for span in scene.spans if span.is_retry}


def _overview(root: Element, scene: Scene, rows: Sequence[Row], y: float) -> float:
    """Draw the whole session in one strip: speech, waits and failures; return the next y."""
    begin, length = rows[0].from_ms, rows[-1].to_ms - rows[0].from_ms
    scale = PLOT / length

    def at(ms: int) -> float:
        return GUTTER + (ms - begin) * scale

    height = 26
    _rect(root, GUTTER, y, PLOT, height, "lane")
    _text(root, MARGIN, y + 17, "overview", "dim")
    for span in scene.spans:
        if span.kind in OVERVIEW and span.to_ms > span.from_ms:
            top = OVERVIEW[span.kind]
            span_width = max(1.0, (span.to_ms - span.from_ms) * scale)
            span_height = 8 if span.kind == "audio" else 6
            _rect(root, at(span.from_ms), y + 2 + top, span_width, span_height, span.kind)
    for span in scene.spans:
        if _is_bad(span):
            _rect(root, at(span.to_ms) - 1, y, 2, height, "failed")
    for moment in scene.moments:
        _line(root, at(moment.at_ms), y - 2, at(moment.at_ms), y + height + 2, moment.kind)
    free_from = 0.0
    for row in rows:
        _line(root, at(row.from_ms), y + height, at(row.from_ms), y + height + 4, "grid")
        label = clock(row.from_ms, seconds=True)
        ends = at(row.from_ms) + text_width(label)
        if at(row.from_ms) >= free_from and ends < WIDTH - MARGIN:
            _text(root, at(row.from_ms), y + height + 15, label, "dim")
            free_from = ends
    return y + height + 15 + ROW_GAP


# --- rows -----------------------------------------------------------------------------------


def _quiet(root: Element, row: Row, y: float) -> float:
    """Draw a quiet stretch as one line; return the next y."""
    label = f"{clock(row.from_ms, seconds=True)}   nothing for {duration(row.to_ms - row.from_ms)}"
    _line(root, GUTTER, y - 4, WIDTH - MARGIN, y - 4, "grid")
    _text(root, GUTTER + PAD, y + 9, label, "dim")
    return y + AXIS + 6


def _left_out(root: Element, row: Row, y: float) -> float:
    """Draw a line in the place of this row and all later ones; return the next y."""
    label = f"{clock(row.from_ms, seconds=True)}   further rows are left out: too many parts"
    _text(root, GUTTER + PAD, y + 9, label, "bad")
    return y + AXIS + 6


def _row(root: Element, scene: Scene, row: Row, y: float) -> float:
    """Draw a row with every lane that has an item in it; return the next y."""
    top = y
    y += AXIS
    in_row = _items(scene, row)
    lanes = [(lane, in_row.get(lane, [])) for lane in scene.lanes]
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
    """Draw a line from a lost attempt to the next attempt of the job."""
    lost: dict[str, tuple[float, float]] = {}
    for item, y in sorted(attempts, key=lambda pair: pair[0].x):
        start = lost.pop(item.chain, None)
        if start is not None:
            points = f"{_n(start[0])},{_n(start[1])} {_n(GUTTER + item.x)},{_n(start[1])} "
            points += f"{_n(GUTTER + item.x)},{_n(y)}"
            SubElement(root, "polyline", {"class": "retry", "points": points})
        if item.tail and item.chain:
            lost[item.chain] = GUTTER + item.x + item.width, y


def _short(lane: str) -> str:
    return truncate_middle(lane.removeprefix("node "), GUTTER - 8 - PAD)


def _items(scene: Scene, row: Row) -> dict[str, list[Item]]:
    """Return the parts of spans, and the marks, that are in the row, by lane."""
    items: dict[str, list[Item]] = defaultdict(list)
    for span in scene.spans:
        if _is_in(row, span):
            items[span.lane].append(_clip(span, row))
    for mark in scene.marks:
        if row.from_ms <= mark.at_ms < row.to_ms:
            items[mark.lane].append(Item(source=mark, x=_x(row, mark.at_ms), width=MARK))
    return items


def _is_in(row: Row, span: Span) -> bool:
    """Whether a part of the span is in the row; its end alone counts only with an outcome."""
    if span.from_ms >= row.to_ms or span.to_ms < row.from_ms:
        return False
    return span.to_ms > row.from_ms or span.from_ms == row.from_ms or bool(span.outcome)


def _clip(span: Span, row: Row) -> Item:
    """The part of the span that is in the row."""
    begin, end = max(span.from_ms, row.from_ms), min(span.to_ms, row.to_ms)
    ends_here = span.to_ms < row.to_ms
    width = (end - begin) * PLOT / (row.to_ms - row.from_ms)
    tail = 0.0
    if ends_here:
        tail = MARK if span.outcome else CROSS if span.kind in CROSSED else 0.0
    return Item(
        source=span, x=_x(row, begin), tail=tail,
        width=width if span.outcome else max(SPAN_MIN, width),
        label=_label(span, row, width), is_bold=_is_bad(span), chain=span.chain,
    )  # fmt: skip


def _is_bad(span: Span) -> bool:
    return span.kind in BAD or span.outcome in BAD


def _label(span: Span, row: Row, width: float) -> str:
    """The label of a span's part in this row.

    A span with an outcome has its label in the row where it ends, another span where it begins. In
    every other row the label is repeated if it fits inside.
    """
    begins, ends = span.from_ms >= row.from_ms, span.to_ms < row.to_ms
    if (span.outcome and ends) or (begins and not span.outcome):
        return span.label
    repeated = span.label if begins or not span.label else f"… {span.label}"
    return repeated if text_width(repeated) + 2 * PAD <= width else ""


def _x(row: Row, ms: int) -> float:
    return (ms - row.from_ms) * PLOT / (row.to_ms - row.from_ms)


def _axis(root: Element, row: Row, y: float, bottom: float) -> None:
    row_ms = row.to_ms - row.from_ms
    free_from = 0.0
    for ms in ticks(row, row_ms):
        x = GUTTER + _x(row, ms)
        _line(root, x, y, x, bottom, "grid")
        label = clock(ms, seconds=row_ms >= 10_000)
        ends = x + text_width(label)
        if x >= free_from and ends < WIDTH:
            _text(root, x, y - 5, label, "dim")
            free_from = ends + PAD


def _moments(root: Element, scene: Scene, row: Row, y: float, bottom: float) -> float:
    """Draw the moments as lines through all lanes, with labels below that do not overlap.

    Returns the next y.
    """
    below = 0.0
    ends = [0.0, 0.0, 0.0]
    for moment in scene.moments:
        if not row.from_ms <= moment.at_ms < row.to_ms:
            continue
        x = GUTTER + _x(row, moment.at_ms)
        _line(root, x, y - 2, x, bottom + 3, moment.kind)
        width = text_width(moment.label) + 8
        left = x + 3 if x + width < WIDTH - MARGIN else x - width + 4
        level = next((at for at, end in enumerate(ends) if end <= left), None)
        if level is not None:
            ends[level] = left + width
            kind = "resumed-text" if moment.kind == "resumed" else "dim"
            below = max(below, 14.0 + 12 * level)
            _text(root, left, bottom + 12 + 12 * level, moment.label, kind)
    return bottom + below


# --- shapes ---------------------------------------------------------------------------------


def _item(root: Element, item: Item, y: float) -> None:
    group = SubElement(root, "g")
    x, middle = GUTTER + item.x, y + TRACK / 2
    source = item.source
    assert isinstance(source, Span | Mark)
    if source.title:
        _title(group, source.title)
    if isinstance(source, Mark):
        _shape(group, source.kind, x + MARK / 2, middle)
        return
    end = x + item.width
    if item.width:
        _bar(group, source, x, y, item.width, TRACK, ends=bool(item.tail))
    if source.outcome and item.tail:
        _shape(group, source.outcome, end + MARK / 2, middle)
    if item.is_inside:
        _text(group, x + PAD, middle + 4, item.label, "dark" if source.kind in DARK else "in")
    elif item.label:  # on a background, so that no line crosses it
        left = GUTTER + item.begin + PAD if item.is_before else end + item.tail + PAD
        _rect(group, left - 1, y, item.label_width - 2 * PAD + 2, TRACK, "lane")
        _text(group, left, middle + 4, item.label, "bad" if item.is_bold else "")


def _bar(
    root: Element, span: Span, x: float, y: float, width: float, height: float, *, ends: bool
) -> None:
    """Draw a span, with a cross at the end of a lost or cancelled attempt."""
    kinds = [span.kind, *["again"] * span.is_retry, *["open"] * span.is_open]
    _rect(root, x, y + 0.5, width, height - 1, " ".join(kinds), rounded=2)
    if ends and span.kind in CROSSED:
        _cross(root, x + width, y + height / 2, 3.6, "cross")


def _cross(root: Element, x: float, y: float, size: float, kind: str) -> None:
    _line(root, x - size, y - size, x + size, y + size, kind)
    _line(root, x - size, y + size, x + size, y - size, kind)


def _shape(root: Element, kind: str, x: float, y: float) -> None:
    """Draw an outcome as a disc, ring, square or cross; a refused message as a triangle."""
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
            style = {"fill": "#fff", "stroke": "#6e7781", "stroke-width": "2"}
            SubElement(root, "circle", at | style)
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
    attributes = {"class": kind} if kind else {}
    element = SubElement(root, "text", {"x": _n(x), "y": _n(y)} | attributes)
    if anchor:
        element.set("text-anchor", anchor)
    element.text = _printable(words)
    if full and full != words:
        _title(element, full)


def _title(root: Element, words: str) -> None:
    """Add a tooltip."""
    SubElement(root, "title").text = _printable(words)


def _printable(words: str) -> str:
    return _NOT_XML.sub("�", escape_controls(words))


def _n(value: float) -> str:
    """Format a coordinate with one decimal, which keeps files small."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
