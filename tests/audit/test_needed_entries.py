"""`why` decodes few entries of a history, and explains what it explains with all of them."""

from __future__ import annotations

import pytest

from eventsched.audit.explain import Decision, decision, explain, is_decision
from eventsched.audit.needed_entries import JobEntries, OpenEntries
from eventsched.audit.scheduler_state import SchedulerState
from eventsched.audit.service import why
from eventsched.schema.codec import encode, flat
from eventsched.schema.events import Event
from eventsched.schema.ids import ms_of
from eventsched.store.client import Client
from eventsched.store.transport import Entry
from tests.fixtures_store import TimedStore
from tests.random_history import random_log, source_of

SEEDS = range(6)
STEPS = 150


def entry_of(event: Event) -> Entry:
    return event.id, flat(encode(event))


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_job_is_explained_as_with_the_whole_history(
    store: TimedStore, redis: Client, seed: int
) -> None:
    log = await random_log(store, seed, STEPS)
    source = await source_of(store, redis)
    state, decisions = SchedulerState.empty(), dict[str, list[Decision]]()
    for event in log:
        if is_decision(event):
            decisions.setdefault(event.job, []).append(decision(state, event))
        state.add(event)
    assert decisions
    for key, of_job in list(decisions.items())[-12:]:
        session = key.split(":")[1]
        events = [event for event in log if event.session == session]
        expected = explain(key, events, of_job, ms_of(log[-1].id))
        assert await why(source, key) == expected


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_entries_of_ended_jobs_are_dropped(store: TimedStore, seed: int) -> None:
    log = await random_log(store, seed, STEPS)
    entries = OpenEntries()
    for event in log:
        entries.add(entry_of(event))
    returned, ids = {entry[0] for entry in entries}, [event.id for event in log]
    assert [entry[0] for entry in entries] == [id_ for id_ in ids if id_ in returned]
    ended = {event.job for event in log if event.type == "ResultRecorded"}
    assert ended
    assert not [event for event in log if event.id in returned and event.job in ended]


async def test_few_entries_explain_a_job(store: TimedStore) -> None:
    log = await random_log(store, 1, STEPS)
    job = next(event for event in reversed(log) if event.type == "JobDispatched")
    utterance = int(job.job.split(":")[2])
    needed = JobEntries(utterance, job.job.__eq__)
    of_session = [event for event in log if event.session == job.session]
    for event in of_session:
        needed.add(entry_of(event))
    of_job = [event.id for event in of_session if event.job == job.job]
    assert set(of_job) <= {entry[0] for entry in needed.entries}
    assert len(needed.entries) <= len(of_job) + 4


def test_an_entry_of_another_layout_is_left_out() -> None:
    needed, entries = JobEntries(0, lambda _: True), OpenEntries()
    for each in (needed, entries):
        each.add(("1-0", [b"t", b"ResultRecorded"]))
    assert needed.entries == list(entries) == []
