"""The picture of a session: whole, well formed, with nothing on top of anything else."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from eventsched import codec
from eventsched.events import (
    Event,
    JobDispatched,
    ResultDelivered,
    ResultRecorded,
    SessionOpened,
    Target,
    Text,
    UtteranceFinalized,
)
from eventsched.picture.drawing import PLOT, draw
from eventsched.picture.packing import MARK, SLACK, TRACKS_MAX, Item, pack
from eventsched.picture.paging import PER_ROW, rows_of
from eventsched.picture.scene import scene_of
from tests.desk.pasts import played
from tests.fixtures_store import TimedStore
from tests.scripts.jobs_of import assigned, finish_one, reply, speak

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: str) -> list[str]:
    root = ET.fromstring(picture)
    return [one.text or "" for one in root.iter(f"{SVG}text")]


def titles(picture: str) -> str:
    return "\n".join(one.text or "" for one in ET.fromstring(picture).iter(f"{SVG}title"))


def talk(*starts: int, text: str = "hola", session: str = "c0.s1") -> list[Event]:
    """A session of one-second utterances that begin at these times, each with its result."""
    found: list[Event] = []

    def add(ms: int, data: Any, **more: Any) -> None:
        kind = type(data).__name__
        found.append(Event(id=f"{ms}-{len(found)}", type=kind, session=session, data=data, **more))

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
        add(at + 300, ResultRecorded(status="ok", **place), job=f"j{u}", node="c0.n1")
        delivered = ResultDelivered(utterance=u, target="es", delivery_no=u, outcome="result")
        add(at + 300, delivered, job=f"j{u}", body=codec.encode_text(Text(text=text)))
    return found


def test_what_was_said_and_named_cannot_break_out() -> None:
    nasty = "</title><script>alert(1)</script> & \x00\x1b[31m ]]> \ud800"
    events = talk(0, text=nasty.replace("\ud800", ""), session=f"c0.{nasty}")
    picture = draw(events)
    root = ET.fromstring(picture)
    assert {one.tag for one in root.iter()} <= {
        f"{SVG}{name}"
        for name in ("svg", "style", "defs", "pattern", "path", "g", "rect", "line", "circle",
                     "polygon", "polyline", "text", "title")
    }  # fmt: skip
    assert "<script>alert(1)</script> & ��[31m ]]>" in titles(picture)


def test_it_needs_nothing_from_elsewhere() -> None:
    picture = draw(talk(0, 2_000))
    assert re.findall(r"(?:href|src|@import|url\()[^#)]*", picture) == ["url("] * 4
    assert picture.count("http") == 1  # its own name space


def test_an_empty_session_and_one_that_only_opened_can_be_drawn() -> None:
    assert ET.fromstring(draw(talk(0)[:1])).tag == f"{SVG}svg"
    assert ET.fromstring(draw([])).tag == f"{SVG}svg"


def test_each_utterance_and_outcome_is_named() -> None:
    told = texts(draw(talk(0, 2_000, 4_000)))
    for u in range(3):
        assert told.count(f"u{u}") == 2  # the utterance and its result
        assert f"u{u} es" in told


def test_a_sealed_text_is_said_to_be_sealed() -> None:
    *before, last = talk(0)
    sealed = Event(
        id=last.id, type=last.type, session=last.session, job=last.job, data=last.data,
        body=codec.encode_text(Text(sealed=b"opaque", characters=6)),
    )  # fmt: skip
    assert "(sealed, 6 characters)" in titles(draw([*before, sealed]))


async def test_a_bad_day_shows_retries_gaps_waits_and_what_is_missing(store: TimedStore) -> None:
    node = await store.join("n1", slots=1)
    session = await speak(store, "s1", count=3)
    await store.dispatch()
    store.tick(500)
    (message,) = await assigned(store, node)
    await reply(store, node, message["j"], status="failed", code="BROKEN", retriable=True)
    for _ in range(3):
        store.tick(300)
        await finish_one(store, node)
    await store.resume_session(session.session, "another")
    await speak(store, "other", count=1)
    events = [event for event in await store.log() if event.session == session.session]
    scene = scene_of(events)
    kinds = defaultdict(list)
    for span in scene.spans:
        kinds[span.kind].append(span)
    assert [span.label for span in kinds["lost"]] == ["u0 es BROKEN"]
    assert kinds["waiting"]
    assert any(span.is_again for span in kinds["ok"])
    assert [one.kind for one in scene.moments] == ["opened", "resumed"]
    picture = draw(events)
    assert "1 attempts lost or failed · 1 resumed" in " ".join(texts(picture))
    assert 'class="cross"' in picture


async def test_every_session_of_a_random_play_can_be_drawn(store: TimedStore) -> None:
    log = await played(store, 5, 150)
    for session in {event.session for event in log if event.session}:
        events = [event for event in log if event.session == session]
        scene = scene_of(events)
        assert all(one.from_ms <= one.to_ms for one in scene.spans)
        assert {one.lane for one in scene.spans} <= set(scene.lanes)
        ends = sum(event.type in ("ResultDelivered", "ResultMissing") for event in events)
        assert sum(bool(one.ends) for one in scene.spans) == ends
        ET.fromstring(draw(events))


# --- long ones, crowded ones ----------------------------------------------------------------


def test_a_long_session_goes_on_below_and_its_silence_is_left_out() -> None:
    busy = [at * 3_000 for at in range(40)]
    later = [3_600_000 + at * 3_000 for at in range(40)]
    scene = scene_of(talk(*busy, *later))
    rows = rows_of(scene)
    assert sum(row.is_quiet for row in rows) == 1
    assert len(rows) < 30
    for row in rows:
        inside = [at for at in (*busy, *later) if row.from_ms <= at < row.to_ms]
        assert len(inside) <= PER_ROW
    assert rows[0].from_ms <= scene.from_ms
    assert rows[-1].to_ms > scene.to_ms
    assert all(a.to_ms == b.from_ms for a, b in pairwise(rows))


def test_four_hours_are_one_picture_of_bounded_height() -> None:
    picture = draw(talk(*[at * 9_000 for at in range(1_600)]))
    assert int(ET.fromstring(picture).get("height", "0")) < 60_000
    assert len(picture) < 4_000_000


LABELS = st.sampled_from(["", "u1", "u12 es lost ×2"])  # noqa: RUF001
DRAWN = st.tuples(
    st.floats(0, PLOT), st.floats(0, 400), LABELS, st.sampled_from([0.0, MARK]),
    st.sampled_from(["", "a", "b"]),
)  # fmt: skip


@given(st.lists(DRAWN, max_size=40))
def test_nothing_covers_anything_else(
    drawn: list[tuple[float, float, str, float, str]],
) -> None:
    items = [
        Item(what=None, x=x, width=min(width, PLOT - x), label=label, tail=tail, chain=chain)
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
            behind = 0.0 if one.is_inside or not one.label else len(one.label) * 6.4
            assert one.x + one.width + one.tail + behind <= after.x + SLACK
