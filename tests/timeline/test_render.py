"""The timeline of a session: complete, well-formed, without overlaps."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsched.history.event_text import describe
from eventsched.schema import codec
from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import (
    Delivered,
    Event,
    JobDispatched,
    ResultRecorded,
    SessionOpened,
    Target,
    Text,
    UtteranceFinalized,
)
from eventsched.timeline import render
from eventsched.timeline import scene as scenes
from eventsched.timeline.packing import (
    MARK,
    PAD,
    SLACK,
    TRACKS_MAX,
    Item,
    pack,
    text_width,
    truncate,
    truncate_middle,
)
from eventsched.timeline.render import LEGEND, PLOT, WIDTH, draw
from eventsched.timeline.rows import ROWS_MAX, UTTERANCES_MAX, split_rows
from eventsched.timeline.scene import build_scene
from tests.fixtures_store import TimedStore
from tests.random_history import random_log
from tests.scripts.jobs_of import assigned, finish_one, reply, speak
from tests.unit.controls import ANY_TEXT, NASTY, VISIBLE, hidden_in

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: str) -> list[str]:
    root = ET.fromstring(picture)
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def titles(picture: str) -> str:
    return "\n".join(element.text or "" for element in ET.fromstring(picture).iter(f"{SVG}title"))


def talk(*starts: int, text: str = "hola", session: str = "c0.s1") -> list[Event]:
    """The events of one-second utterances that begin at these times, each with its result."""
    events: list[Event] = []

    def add(ms: int, data: Any, **more: Any) -> None:
        kind = type(data).__name__
        events.append(
            Event(id=f"{ms}-{len(events)}", type=kind, session=session, data=data, **more)
        )

    add(starts[0], SessionOpened(tenant="acme", source="en", targets=["es"]))
    for u, first in enumerate(starts):
        place: Any = {"utterance": u, "target": "es", "delivery_no": u, "attempt": 1, "epoch": 1}
        at = first + 1_000
        finalized = UtteranceFinalized(
            utterance=u, turn=u, reason="final", first=f"{first}-0", last=f"{at}-0",
            first_seq=0, count=10, bytes=32_000, ms=1_000,
            targets=[Target(target="es", delivery_no=u)],
        )  # fmt: skip
        add(at, finalized)
        dispatched = JobDispatched(
            turn=u, source="en", audio_ms=1_000, deadline_ms=0, rule="load", policy=1, **place
        )
        add(at, dispatched, job=f"j{u}", node="c0.n1")
        recorded = ResultRecorded(status="ok", delivered=Delivered(to=[session]), **place)
        body = codec.encode_text(Text(text=text))
        add(at + 300, recorded, job=f"j{u}", node="c0.n1", body=body)
    return events


def test_texts_and_names_are_escaped() -> None:
    nasty = "</title><script>alert(1)</script> & \x00\x1b[31m ]]> \ud800"
    events = talk(0, text=nasty.replace("\ud800", ""), session=f"c0.{nasty}")
    picture = draw(events)
    root = ET.fromstring(picture)
    assert {element.tag for element in root.iter()} <= {
        f"{SVG}{name}"
        for name in ("svg", "style", "defs", "pattern", "path", "g", "rect", "line", "circle",
                     "polygon", "polyline", "text", "title")
    }  # fmt: skip
    assert "<script>alert(1)</script> & \\x00\\x1b[31m ]]>" in titles(picture)


@settings(deadline=None)
@given(ANY_TEXT)
def test_any_text_is_well_formed_and_shows_its_control_characters(text: str) -> None:
    nasty = f"{NASTY}{text}"
    (event, *others) = talk(0, text=nasty.encode(errors="replace").decode(), session="c0.s")
    picture = draw([msgspec.structs.replace(event, session=f"c0.{nasty}"), *others])
    root = ET.fromstring(picture)
    words = "".join(root.itertext())
    assert hidden_in(words) == set()
    assert f"session c0.{VISIBLE}" in words


def test_the_picture_loads_nothing() -> None:
    picture = draw(talk(0, 2_000))
    assert re.findall(r"(?:href|src|@import|url\()[^#)]*", picture) == ["url("] * 4
    assert picture.count("http") == 1  # its own name space


def test_an_empty_session_and_one_that_only_opened_can_be_drawn() -> None:
    assert ET.fromstring(draw(talk(0)[:1])).tag == f"{SVG}svg"
    assert ET.fromstring(draw([])).tag == f"{SVG}svg"


@pytest.mark.parametrize("step_ms", [10**6, 10**8, 10**10, 10**13])
def test_a_picture_has_a_bounded_number_of_rows(step_ms: int) -> None:
    """A few utterances that are days or millennia apart."""
    events = talk(*(number * step_ms for number in range(1, 200)))
    assert len(split_rows(build_scene(events))) <= ROWS_MAX + 2
    assert ET.fromstring(draw(events)).tag == f"{SVG}svg"


@pytest.mark.parametrize("first", ["1-0", "x", "", "9999999999999999999-0", "4999-0"])
def test_an_utterance_begins_within_its_session(first: str) -> None:
    opened, finalized, *others = talk(5_000)
    data = msgspec.structs.replace(finalized.data, first=first)
    scene = build_scene([opened, msgspec.structs.replace(finalized, data=data), *others])
    assert scene.from_ms == 5_000
    assert {span.from_ms for span in scene.spans if span.kind == "utterance"} == {6_000}


def test_a_picture_has_a_bounded_number_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "PARTS_MAX", 100)
    events = talk(*(number * 2_000 for number in range(1, 200)))
    scene = build_scene(events)
    assert scene.is_cut
    assert 100 <= len([*scene.spans, *scene.marks, *scene.moments]) <= 110
    assert scene.to_ms < 60_000 < events[-1].ms
    assert any("later events are left out" in text for text in texts(draw(events)))
    assert not build_scene(talk(2_000, 4_000)).is_cut


def test_a_picture_has_a_bounded_number_of_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "ELEMENTS_MAX", 1_000)
    picture = draw(talk(*(number * 2_000 for number in range(1, 200))))
    assert len(list(ET.fromstring(picture).iter())) < 1_500
    assert any("further rows are left out" in text for text in texts(picture))


def test_each_utterance_and_outcome_is_named() -> None:
    shown = texts(draw(talk(0, 2_000, 4_000)))
    for u in range(3):
        assert shown.count(f"u{u}") == 2  # the utterance and its result
        assert f"u{u} es" in shown


def test_an_encrypted_text_is_shown_as_encrypted() -> None:
    *before, last = talk(0)
    encrypted = Event(
        id=last.id, type=last.type, session=last.session, job=last.job, data=last.data,
        body=codec.encode_text(Text(encrypted=b"opaque", characters=6)),
    )  # fmt: skip
    assert "(encrypted, 6 characters)" in titles(draw([*before, encrypted]))


async def test_retries_waits_and_missing_outcomes_are_drawn(store: TimedStore) -> None:
    node = await store.join("n1", slots=1)
    session = await speak(store, "s1", count=3)
    await store.dispatch()
    store.tick(500)
    (message,) = await assigned(store, node)
    await reply(
        store, node, message["j"], status="failed", code="BROKEN", retryable=True, retry_in_ms=0
    )
    for _ in range(3):
        store.tick(300)
        await finish_one(store, node)
    await store.resume(session.session, "another")
    await speak(store, "other", count=1)
    events = [event for event in await store.log() if event.session == session.session]
    scene = build_scene(events)
    kinds = defaultdict(list)
    for span in scene.spans:
        kinds[span.kind].append(span)
    assert [span.label for span in kinds["lost"]] == ["u0 es BROKEN"]
    assert kinds["waiting"]
    assert any(span.is_retry for span in kinds["ok"])
    assert [moment.kind for moment in scene.moments] == ["opened", "resumed"]
    picture = draw(events)
    assert "1 attempt lost or failed · 1 resumed" in " ".join(texts(picture))
    assert 'class="cross"' in picture


async def test_a_backoff_is_no_wait_for_a_slot(store: TimedStore) -> None:
    node = await store.join("n1", slots=1)
    session = await speak(store, "s1", count=1)
    await store.dispatch()
    (message,) = await assigned(store, node)
    report: dict[str, Any] = {"status": "failed", "code": "BROKEN", "retryable": True}
    await reply(store, node, message["j"], retry_in_ms=5_000, **report)
    store.tick(2_000)
    await store.resume(session.session, "another")
    events = [event for event in await store.log() if event.session == session.session]
    (waiting,) = [span for span in build_scene(events).spans if span.lane == "waiting"]
    assert (waiting.kind, waiting.is_open) == ("backoff", True)
    assert "backs off since 2.00 s" in waiting.title
    store.tick(5_000)
    await store.timers()
    events = [event for event in await store.log() if event.session == session.session]
    shown = texts(draw(events))
    assert {"backs off after a failure", "longest: backoff 7.00 s"} <= set(shown)
    assert "waits for a slot" not in shown
    again = next(event for event in reversed(events) if event.type == "JobDispatched")
    assert describe(again).endswith("to n1 by last, attempt 2")


async def test_every_session_of_a_random_log_can_be_drawn(store: TimedStore) -> None:
    log = await random_log(store, 5, 150)
    for session in {event.session for event in log if event.session}:
        events = [event for event in log if event.session == session]
        scene = build_scene(events)
        assert all(span.from_ms <= span.to_ms for span in scene.spans)
        assert {span.lane for span in scene.spans} <= set(scene.lanes)
        ends = sum(delivery_of(event.data) is not None for event in events)
        assert sum(bool(span.outcome) for span in scene.spans) == ends
        ET.fromstring(draw(events))


# --- long and crowded sessions ----------------------------------------------------------------


def test_a_long_session_continues_in_rows_without_its_silence() -> None:
    busy = [at * 3_000 for at in range(40)]
    later = [3_600_000 + at * 3_000 for at in range(40)]
    scene = build_scene(talk(*busy, *later))
    rows = split_rows(scene)
    assert sum(row.is_quiet for row in rows) == 1
    assert len(rows) < 30
    for row in rows:
        inside = [at for at in (*busy, *later) if row.from_ms <= at < row.to_ms]
        assert len(inside) <= UTTERANCES_MAX
    assert rows[0].from_ms <= scene.from_ms
    assert rows[-1].to_ms > scene.to_ms
    assert all(a.to_ms == b.from_ms for a, b in pairwise(rows))


def test_four_hours_are_one_picture_of_bounded_height() -> None:
    picture = draw(talk(*[at * 9_000 for at in range(1_600)]))
    assert int(ET.fromstring(picture).get("height", "0")) < 60_000
    assert len(picture) < 4_000_000


def test_a_short_rest_has_no_row_of_its_own() -> None:
    for last_ms in (9_000, 29_000, 31_000, 62_000):
        scene = build_scene(talk(*range(0, last_ms, 3_000), last_ms))
        rows = split_rows(scene)
        filled = (scene.to_ms - rows[-1].from_ms) / (rows[-1].to_ms - rows[-1].from_ms)
        assert filled > 0.25, (last_ms, rows)
        assert len({row.to_ms - row.from_ms for row in rows}) == 1


def test_one_utterance_is_one_row_without_an_overview() -> None:
    shown = texts(draw(talk(583)))
    assert shown.count("audio") == 1
    assert "overview" not in shown
    assert "1 utterance, 1 outcome" in shown


def test_the_legend_has_only_the_kinds_that_are_drawn() -> None:
    shown = texts(draw(talk(0, 2_000)))
    assert {"audio arrives", "attempt: ok", "result"} <= set(shown)
    assert not {"missing", "playback", "waits for a slot", "no text", "cancelled"} & set(shown)


def test_a_part_of_a_session_names_its_tenant_and_languages() -> None:
    opened, *others = talk(0, 2_000, 60_000)
    part = [event for event in others if event.ms > 50_000]
    shown = texts(draw(part, opened))
    assert any(text.startswith("tenant acme, en → es; 1970-01-01") for text in shown)
    assert "opened" not in shown, "it was not opened in this part"
    assert not any(text.startswith("tenant") for text in texts(draw(part)))


def test_the_words_of_the_legend_have_tooltips() -> None:
    shown = titles(draw(talk(0, 2_000)))
    for entry in LEGEND:
        is_drawn = (entry.shape, entry.kind) in {
            ("span", "audio"), ("span", "utterance"), ("span", "ok"), ("mark", "ok"),
        }  # fmt: skip
        assert (entry.meaning in shown) == is_drawn


@pytest.mark.parametrize("targets", [1, 40])
def test_every_text_is_within_the_picture(targets: int) -> None:
    opened, *others = talk(583, 1_100, 9_900, 20_000, 59_900)
    data = msgspec.structs.replace(
        opened.data,
        targets=[f"l{number:02}" for number in range(targets)],
        room="c0.acme/" + "r" * 64,
    )
    picture = draw([msgspec.structs.replace(opened, data=data), *others])
    for element in ET.fromstring(picture).iter(f"{SVG}text"):
        x, text = float(element.get("x", "")), element.text or ""
        if element.get("text-anchor") == "end":
            assert text_width(text) <= x
        else:
            assert x + text_width(text) <= WIDTH


def test_labels_use_no_property_that_viewers_may_not_support() -> None:
    """Viewers that paint outlines over letters hid all labels that had one."""
    picture = draw(talk(0, 2_000))
    assert "paint-order" not in picture
    style = next(ET.fromstring(picture).iter(f"{SVG}style")).text or ""
    assert "stroke" not in style.partition("{")[2].partition("}")[0]


def test_labels_outside_have_a_background() -> None:
    for group in ET.fromstring(draw(talk(0, 2_000, 4_000))).iter(f"{SVG}g"):
        parts = list(group)
        behind = [at for at, one in enumerate(parts) if one.tag == f"{SVG}text"
                  and one.get("class") in (None, "bad") and one.text != "u0"]  # fmt: skip
        for at in behind:
            paper, label = parts[at - 1], parts[at]
            assert paper.get("class") == "lane"
            left, wide = float(paper.get("x", "")), float(paper.get("width", ""))
            assert left <= float(label.get("x", "")) < left + wide


def test_at_the_end_of_a_row_a_label_is_before_its_item() -> None:
    roomy, last = (
        Item(source=None, x=x, width=MARK, label="u12 es BAD_AUDIO", is_bold=True)
        for x in (300.0, PLOT - MARK)
    )
    assert pack([roomy, last], PLOT) == 1
    assert (roomy.is_before, last.is_before) == (False, True)
    assert last.label == "u12 es BAD_AUDIO"
    assert last.end == PLOT


def test_without_room_a_label_is_truncated_but_never_in_its_first_word() -> None:
    truncated, omitted = (
        Item(source=None, x=10, width=20, label="u12 es BAD_AUDIO") for _ in range(2)
    )
    pack([truncated], 30 + 2 * PAD + text_width("u12 es …"))
    assert truncated.label == "u12 es…"
    pack([omitted], 30 + 2 * PAD + text_width("u1"))
    assert omitted.label == ""


def test_capitals_and_bold_letters_are_given_more_room() -> None:
    assert text_width("GPU_FELL_OVER") > text_width("gpu_fell_over")
    assert text_width("GPU_FELL_OVER", is_bold=True) >= 99.6 * 12 / 11, "in DejaVu Sans Bold"
    assert text_width("u12 es ×2") >= 56.7 * 12 / 11  # noqa: RUF001
    assert truncate("u1", 0) == ""


def test_node_names_with_a_common_prefix_stay_distinct() -> None:
    first, second = (truncate_middle(f"gpu-in-the-second-rack-{n}", 100) for n in (1, 2))
    assert first != second
    assert (first[:4], first[-2:]) == ("gpu-", "-1")
    assert text_width(first) <= 100
    assert truncate_middle("gpu-1", 100) == "gpu-1"


def test_the_times_of_a_row_do_not_overlap() -> None:
    for last_ms in (1_100, 1_950, 5_300, 12_400, 61_000):
        for axis in axes(draw(talk(583, last_ms))):
            for (x, label), (after, _) in pairwise(axis):
                assert x + text_width(label) <= after
            assert axis[-1][0] + text_width(axis[-1][1]) < WIDTH


def axes(picture: str) -> list[list[tuple[float, str]]]:
    """The times above each row, with their x positions."""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for one in ET.fromstring(picture).iter(f"{SVG}text"):
        if re.fullmatch(r"\d\d:\d\d:\d\d(\.\d+)?", one.text or ""):
            found[one.get("y", "")].append((float(one.get("x", "")), one.text or ""))
    return list(found.values())


LABELS = st.sampled_from(["", "u1", "u12 es lost ×2"])  # noqa: RUF001
DRAWN = st.tuples(
    st.floats(0, PLOT), st.floats(0, 400), LABELS, st.sampled_from([0.0, MARK]),
    st.sampled_from(["", "a", "b"]),
)  # fmt: skip


@given(st.lists(DRAWN, max_size=40))
def test_items_do_not_overlap(
    drawn: list[tuple[float, float, str, float, str]],
) -> None:
    items = [
        Item(source=None, x=x, width=min(width, PLOT - x), label=label, tail=tail, chain=chain)
        for x, width, label, tail, chain in drawn
    ]
    assert pack(items, PLOT) <= TRACKS_MAX
    tracks = defaultdict(list)
    for item in items:
        if item.label or item.track < TRACKS_MAX - 1:
            tracks[item.track].append(item)
    for found in tracks.values():
        found.sort(key=lambda one: (one.x, -one.width))
        for one, after in pairwise(found):
            assert one.end <= after.begin + SLACK
    for item in items:
        if item.label:
            assert item.begin >= 0
            assert item.end <= max(PLOT + PAD, item.x + item.width + item.tail)
