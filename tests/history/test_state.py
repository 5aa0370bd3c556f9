"""`state --at` returns what the live view contained at that position."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest

from eventsched.errors import InvalidMessage, NotFound
from eventsched.history.position import parse_position
from eventsched.history.reader import Reader
from eventsched.projection.protocol import record_codec
from eventsched.schema.ids import format_id, parse_id
from eventsched.store.client import Client
from tests.fixtures_store import TimedStore
from tests.random_history import CoreProjector, source_of
from tests.scripts.jobs_of import speak
from tests.scripts.test_any_sequence import Play

KINDS = ("session", "group", "job", "node")


class Seen(NamedTuple):
    """One live record, at a checkpoint."""

    checkpoint: str
    kind: str
    entity: str
    view: Any
    """None: there was no record."""
    at: str


async def live(folder: CoreProjector, reader: Reader, entities: dict[str, list[str]]) -> list[Seen]:
    """What the live views say of everything that there has ever been."""
    seen = []
    for kind in KINDS:
        checkpoint, records = await folder.views.read_records("core", kind, entities[kind])
        for entity, record in zip(entities[kind], records, strict=True):
            view = None
            if record:
                view = record_codec(reader.projections[kind]).decode(record)
            at = record.get("at", b"").decode()
            seen.append(Seen(checkpoint, kind, entity, view, at))
    return seen


async def known(store: TimedStore) -> dict[str, list[str]]:
    """Names of every session, job and node that the log has, by kind."""
    log = await store.log()
    sessions = {event.session.partition(".")[2] for event in log if event.session}
    nodes = {event.node.partition(".")[2] for event in log if event.node}
    jobs = {event.job for event in log if event.job}
    named = {"session": sessions, "group": sessions, "job": jobs, "node": nodes}
    return {kind: sorted(names) for kind, names in named.items()}


async def was(reader: Reader, store: TimedStore, seen: Seen) -> tuple[Any, str]:
    """What `state --at` says now of that moment; none where it says that there is no record."""
    entity = seen.entity if seen.kind == "job" else store.keys.full(seen.entity)
    try:
        found = await reader.state(seen.kind, entity, parse_position(seen.checkpoint, "at"))
    except NotFound:
        return None, ""
    assert not found.is_live
    return (None, "") if found.dropped_at else (found.view, found.at)


@pytest.mark.parametrize("seed", range(3))
async def test_the_state_at_any_moment_is_what_the_live_view_said_then(
    store: TimedStore, redis: Client, seed: int
) -> None:
    reader = Reader(await source_of(store, redis))
    play, folder, rng = (
        Play(store, random.Random(seed)),
        CoreProjector(store, 7),
        random.Random(seed),
    )
    seen: list[Seen] = []
    for _ in range(120):
        await play.rng.choice(play.steps())()
        if rng.random() < 0.4 and await folder.step() == "folded":
            seen += await live(folder, reader, await known(store))
    for _ in range(2):  # everything ends, then it retires
        store.tick(7_200_000)
        await store.timers()
    await folder.all()
    seen += await live(folder, reader, await known(store))
    await folder.release()
    cuts = {one.checkpoint for one in seen}
    assert len(cuts) > 20
    some = [one for one in seen if one.view is not None]
    assert {one.kind for one in some} == set(KINDS)
    for one in rng.sample(seen, 100):
        assert await was(reader, store, one) == (one.view, one.at), one
    for one in rng.sample(some, 60):
        assert await was(reader, store, one) == (one.view, one.at), one


async def test_a_moment_is_inclusive_to_the_entry(store: TimedStore, redis: Client) -> None:
    reader = Reader(await source_of(store, redis))
    await store.join()
    session = await speak(store, "s1", count=2)
    await store.dispatch()
    ids = [event.id for event in await store.log() if event.session == session.session]
    counts = [
        (await reader.state("session", session.session, parse_position(one, "at"))).view.dispatches
        for one in ids
    ]
    assert counts == [0, 0, 0, 1, 2]
    whole = await reader.state("session", session.session, parse_position(ids[-1], "at"))
    now = await reader.state("session", session.session)
    assert (whole.view, whole.at) == (now.view, now.at)


async def test_before_it_began_and_in_the_future_is_said_in_one_line(
    store: TimedStore, redis: Client
) -> None:
    reader = Reader(await source_of(store, redis))
    store.tick(5_000)
    session = await store.open()
    (opened,) = await store.log("SessionOpened")
    early = format_id(opened.ms - 1, 0)
    with pytest.raises(NotFound, match=f"at {early}: it begins at {opened.id}"):
        await reader.state("session", session.session, parse_position(early, "at"))
    with pytest.raises(NotFound, match="no node"):
        await reader.state("node", store.keys.full("n1"), parse_position(opened.id, "at"))
    with pytest.raises(InvalidMessage, match="in the future"):
        await reader.state("session", session.session, parse_position("9999-01-01", "at"))


async def test_after_its_retirement_a_record_is_shown_as_it_was_with_its_end(
    store: TimedStore, redis: Client
) -> None:
    reader = Reader(await source_of(store, redis))
    await store.join()
    session = await speak(store, "s1")
    await store.dispatch()
    await store.close_session(session.session, session.epoch)
    for _ in range(2):  # it closes, then it retires
        store.tick(7_200_000)
        await store.timers()
    (retired,) = await store.log("SessionRetired")
    (dispatched,) = await store.log("JobDispatched")
    for kind, entity in (("session", session.session), ("job", dispatched.job)):
        now = await reader.state(kind, entity)
        then = await reader.state(kind, entity, parse_position(retired.id, "at"))
        assert now == then
        assert now.dropped_at == retired.id
        assert parse_id(now.at) < parse_id(retired.id)
        before = parse_position(retired.id, "at").before
        at_the_end = await reader.state(kind, entity, parse_position(before, "at"))
        assert (at_the_end.view, at_the_end.dropped_at) == (now.view, "")
