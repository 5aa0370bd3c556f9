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


class Observation(NamedTuple):
    """A record of an active view at a checkpoint."""

    checkpoint: str
    kind: str
    entity: str
    view: Any
    """None: there was no record."""
    at: str


async def read_active(
    projector: CoreProjector, reader: Reader, entities: dict[str, list[str]]
) -> list[Observation]:
    """The active views of all entities that there have ever been."""
    seen = []
    for kind in KINDS:
        checkpoint, records = await projector.views.read_records("core", kind, entities[kind])
        for entity, (_, record) in zip(entities[kind], records, strict=True):
            view = None
            if record:
                view = record_codec(reader.projections[kind]).decode(record)
            at = record.get("at", b"").decode()
            seen.append(Observation(checkpoint, kind, entity, view, at))
    return seen


async def known(store: TimedStore) -> dict[str, list[str]]:
    """The sessions, jobs and nodes in the log, by kind."""
    log = await store.log()
    sessions = {event.session.partition(".")[2] for event in log if event.session}
    nodes = {event.node.partition(".")[2] for event in log if event.node}
    jobs = {event.job for event in log if event.job}
    named = {"session": sessions, "group": sessions, "job": jobs, "node": nodes}
    return {kind: sorted(names) for kind, names in named.items()}


async def state_at(reader: Reader, store: TimedStore, observation: Observation) -> tuple[Any, str]:
    """The answer of `state --at` for the checkpoint; None if there is no record."""
    entity = (
        observation.entity if observation.kind == "job" else store.keys.full(observation.entity)
    )
    try:
        state = await reader.state(
            observation.kind, entity, parse_position(observation.checkpoint, "at")
        )
    except NotFound:
        return None, ""
    assert not state.is_live
    return (None, "") if state.dropped_at else (state.view, state.at)


@pytest.mark.parametrize("seed", range(3))
async def test_the_state_at_any_position_is_that_of_the_view_at_the_time(
    store: TimedStore, redis: Client, seed: int
) -> None:
    reader = Reader(await source_of(store, redis))
    play, projector, rng = (
        Play(store, random.Random(seed)),
        CoreProjector(store, 7),
        random.Random(seed),
    )
    seen: list[Observation] = []
    for _ in range(120):
        await play.rng.choice(play.steps())()
        if rng.random() < 0.4 and await projector.step() == "folded":
            seen += await read_active(projector, reader, await known(store))
    for _ in range(2):  # everything ends, then it retires
        store.tick(7_200_000)
        await store.timers()
    await projector.all()
    seen += await read_active(projector, reader, await known(store))
    await projector.release()
    checkpoints = {each.checkpoint for each in seen}
    assert len(checkpoints) > 20
    with_record = [each for each in seen if each.view is not None]
    assert {each.kind for each in with_record} == set(KINDS)
    for each in rng.sample(seen, 100):
        assert await state_at(reader, store, each) == (each.view, each.at), each
    for each in rng.sample(with_record, 60):
        assert await state_at(reader, store, each) == (each.view, each.at), each


async def test_a_position_includes_its_entry(store: TimedStore, redis: Client) -> None:
    reader = Reader(await source_of(store, redis))
    await store.join()
    session = await speak(store, "s1", count=2)
    await store.dispatch()
    ids = [event.id for event in await store.log() if event.session == session.session]
    counts = [
        (await reader.state("session", session.session, parse_position(id_, "at"))).view.dispatches
        for id_ in ids
    ]
    assert counts == [0, 0, 0, 1, 2]
    whole = await reader.state("session", session.session, parse_position(ids[-1], "at"))
    now = await reader.state("session", session.session)
    assert (whole.view, whole.at) == (now.view, now.at)


async def test_a_position_before_the_first_event_or_in_the_future_is_refused(
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


async def test_a_retired_record_is_shown_with_its_last_state_and_its_end(
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
