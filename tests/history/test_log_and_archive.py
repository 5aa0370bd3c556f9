"""Readers answer the same from the log, from the archive, and from both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventsched.archive.layout import ArchiveFolder
from eventsched.audit.service import replay, why
from eventsched.errors import ArchiveError, InvalidMessage, NotFound
from eventsched.history.position import parse_position
from eventsched.history.reader import EventFilter, Reader
from eventsched.history.source import HistorySource
from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import Event
from eventsched.store.client import Client
from tests.archive.archives import Archived
from tests.fixtures_store import TimedStore
from tests.random_history import random_log, source_of


async def answers(source: HistorySource, log: list[Event]) -> dict[str, Any]:
    """Answers about a few sessions, jobs and nodes, and about all decisions."""
    reader, answer = Reader(source), {}
    answer["all"] = [event.id async for event in reader.history(EventFilter())]
    for session in sorted({event.session for event in log if event.session})[:3]:
        events = reader.history(EventFilter(session=session))
        answer[session] = [event.id async for event in events]
    for node in sorted({event.node for event in log if event.node}):
        answer[node] = [event.id async for event in reader.history(EventFilter(node=node))]
    for event in log[:: max(1, len(log) // 12)]:
        at = parse_position(event.id, "at")
        for kind, entity in (("session", event.session), ("node", event.node), ("job", event.job)):
            if entity:
                answer[f"{kind} {entity} {event.id}"] = await state(reader, kind, entity, at)
    delivered = {event.job for event in log if delivery_of(event.data) and event.job}
    for job in sorted(delivered)[:6]:  # one that waits still waits longer at the next look
        answer[f"why {job}"] = msgspec.to_builtins(await why(source, job))
    (cell,) = source.cells
    middle = parse_position(log[len(log) // 2].id, "since")
    for since in (None, middle):
        report = await replay(source, cell, since, None, lambda _: None)
        assert report.agrees
        answer[f"replay {since}"] = msgspec.to_builtins(report)
    return answer


async def state(reader: Reader, kind: str, entity: str, at: Any) -> Any:
    try:
        return await reader.state(kind, entity, at)
    except NotFound:
        return None


async def test_answers_from_log_archive_and_both_are_the_same(
    store: TimedStore, redis: Client, tmp_path: Path
) -> None:
    log = list(await random_log(store, 2, 120))
    hot = await answers(await source_of(store, redis), log)
    archived = Archived(store, tmp_path / "archive")
    await archived.project()
    await archived.set(archive_entries_max=40)
    assert await archived.seal() > 2
    folder = ArchiveFolder.open(archived.path)
    connection = (await source_of(store, redis)).connection
    assert await answers(HistorySource(connection, folder), log) == hot
    assert await answers(HistorySource(None, folder), log) == hot
    await archived.set(log_keep_ms=0)
    store.tick(600_000)
    assert await archived.trim() > 0
    trimmed = (await store.log("StreamTrimmed"))[-1].id
    across = await answers(HistorySource(connection, folder), log)
    assert [id_ for id_ in across["all"] if id_ != trimmed][: len(hot["all"])] == hot["all"]
    same = [name for name in hot if not name.startswith(("all", "replay"))]
    assert {name: across[name] for name in same} == {name: hot[name] for name in same}
    with pytest.raises(ArchiveError, match="--archive"):
        await answers(HistorySource(connection), log)


async def test_a_position_after_the_end_of_an_archive_is_refused(
    store: TimedStore, redis: Client, tmp_path: Path
) -> None:
    archived = Archived(store, tmp_path / "archive")
    await archived.talk("s1")
    await archived.seal()
    await archived.talk("s1")
    reader = Reader(HistorySource(None, ArchiveFolder.open(archived.path)))
    session = store.keys.full("s1")
    last = (await store.log())[-1].id
    with pytest.raises(InvalidMessage, match="behind the archive's end"):
        await reader.state("session", session, parse_position(last, "at"))
    state = await reader.state("session", session)
    assert (state.view.utterance, state.is_live) == (1, False)
    both = Reader(HistorySource((await source_of(store, redis)).connection, reader._source.archive))
    assert (await both.state("session", session, parse_position(last, "at"))).view.utterance == 2


async def test_without_the_beginning_only_the_stored_events_are_used(
    store: TimedStore, redis: Client, tmp_path: Path
) -> None:
    archived = Archived(store, tmp_path / "archive")
    await archived.talk("s1", 60)
    await archived.project()
    await archived.set(log_retention_ms=1_500, log_keep_ms=0)
    store.tick(1_000)
    await archived.talk("s1", 60)
    await archived.project()
    assert await archived.trim() > 0
    source, session = await source_of(store, redis), store.keys.full("s1")
    events = [event async for event in Reader(source).history(EventFilter(session=session))]
    assert 0 < len(events) < 500
    explanation = await why(source, f"{session}:119:es")
    assert [(each.rule, each.nodes) for each in explanation.decisions] == [("session", [])]
    assert explanation.outcome == "result"
    with pytest.raises(NotFound, match="first entries"):
        await replay(source, store.cell, None, None, lambda _: None)
    with pytest.raises(NotFound, match="the beginning of the history is gone"):
        await Reader(source).state("session", session, parse_position(events[-1].id, "at"))
    assert (await Reader(source).state("session", session)).is_live
