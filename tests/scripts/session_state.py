"""The authoritative state of sessions compared with the fold of the log, after every test of a
script.

Owns: the comparison of hash, outcomes, held endings, playback, rooms, audio and delivery order.
Never does: steps of a test. Read next: projections/session.py (the fold).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import msgspec

from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import Event
from eventsched.schema.keys import name_of
from projections.session import Session, Sessions
from tests.fixtures_store import TimedStore
from tests.scripts.cell_state import zset
from tests.scripts.snapshot import snapshot
from tests.session_buffer import buffer_of

NUMBERS = ("epoch", "utterance", "turn", "sample_rate", "priority")
TEXTS = (
    "status", "tenant", "source", "encoding", "room", "listen_language", "features_hash", "key",
)  # fmt: skip
"""Fields of a session that are stored with the values of its view."""


async def assert_sessions_are_folded(store: TimedStore) -> None:
    """The records of every session equal the fold of the log, and no other record exists."""
    store = await snapshot(store)
    log = await store.log()
    views = _views(log)
    assert_order(log)
    for name, view in views.items():
        if view is not None:
            await _assert_same(store, name, view)
        else:
            fields = await store.read_hash(store.keys.session(name))
            assert fields.get("status", "retired") == "retired", (name, fields)
    letters = await store.read_range(store.keys.dead_letters, "-", "+", 10)
    assert not [letter for _, letter in letters if b"timers" in letter], letters


def _views(log: Iterable[Event]) -> dict[str, Session | None]:
    fold, views = Sessions(), dict[str, Session | None]()
    for event in log:
        for name in fold.route(event):
            views[name] = fold.apply(views.get(name), event)
    return views


def assert_order(log: Iterable[Event]) -> None:
    """Rule 25, ordered delivery: the numbers of one (session, target) end once, in order, without a
    hole.
    """
    following = dict[tuple[str, str], int]()
    for event in log:
        delivery = delivery_of(event.data)
        if delivery is not None:
            place = event.session, delivery.target
            assert delivery.delivery_no == following.get(place, 0), event
            following[place] = delivery.delivery_no + 1


async def _assert_same(store: TimedStore, name: str, view: Session) -> None:
    fields = await store.read_hash(store.keys.session(name))
    outcomes = await store.read_hash(store.keys.outcomes(name))
    assert _stored_fields(fields) == _expected_fields(view), name
    assert outcomes == {
        key: f"{pending.utterance}|{pending.first}|{','.join(pending.recipients)}"
        for key, pending in view.open_outcomes.items()
    }, name
    playing = await store.read_hash(store.keys.playing(name))
    assert {key: int(until) for key, until in playing.items()} == view.playbacks, name
    await _assert_held(store, name, view)
    await _assert_audio(store, name, view, int(buffer_of(fields)["next_seq"]))
    if view.room:
        members = await store.read_hash(store.keys.room(name_of(view.room)))
        assert (members.get(view.session) == view.listen_language) == view.in_room, name


def _stored_fields(stored: dict[str, str]) -> dict[str, Any]:
    return (
        {field: int(stored[field]) for field in NUMBERS}
        | {field: stored[field] for field in TEXTS}
        | {"targets": stored["targets"], "features": stored["features"]}
        | {"used": stored["used"], "retired_to": int(stored.get("retired_to", 0))}
        | {"reason": stored.get("reason", "")}
        | {field: int(value) for field, value in stored.items() if field[:2] in ("a:", "d:")}
    )


def _expected_fields(view: Session) -> dict[str, Any]:
    values = msgspec.structs.asdict(view)
    return (
        {field: values[field] for field in (*NUMBERS, *TEXTS, "reason", "retired_to")}
        | {"targets": ",".join(view.targets), "features": ",".join(view.features)}
        | {"used": f"{name_of(view.node)}|{view.node_turn}" if view.node else ""}
        | {f"a:{target}": number for target, number in view.allocated.items()}
        | {f"d:{target}": number for target, number in view.delivered.items()}
    )


async def _assert_held(store: TimedStore, name: str, view: Session) -> None:
    """An ending that is not next is held, and the gap timer of its target is set."""
    waiting = {key: pending for key, pending in view.open_outcomes.items() if pending.outcome}
    held = await store.read_hash(store.keys.out_of_order(name))
    ends = {
        key: msgspec.json.decode(value)["kind"]
        for key, value in held.items()
        if not key.endswith(("/body", "/audio"))
    }
    assert ends == {key: pending.outcome for key, pending in waiting.items()}, name
    timers = await zset(store, store.keys.timers)
    for target in view.allocated:
        ready = await zset(store, store.keys.out_of_order_at(name, target))
        expected = {
            key.rpartition("/")[2]: pending.ready_ms
            for key, pending in waiting.items()
            if key.rpartition("/")[0] == target
        }
        assert ready == expected, (name, target)
        assert (f"gap|{view.session}|{target}" in timers) == bool(ready), (name, target)


async def _assert_audio(store: TimedStore, name: str, view: Session, next_seq: int) -> None:
    """I1: the chunks of an utterance are consecutive, and numbers between two utterances are those
    of empty chunks. Each open outcome has its first chunk.
    """
    chunks = await store.read_range(store.keys.audio(name), "-", "+", 100_000)
    data = [msgspec.json.decode(fields[15]) for _, fields in chunks]
    for chunk, following in pairwise(data):
        steps = following["seq"] - chunk["seq"], following["utterance"] - chunk["utterance"]
        assert steps == (1, 0) or (steps[0] >= 1 and steps[1] == 1), name
    assert all(chunk["seq"] < next_seq for chunk in data), name
    ids = [chunk_id for chunk_id, _ in chunks]
    for pending in view.open_outcomes.values():
        assert pending.first in ids, (name, pending)
