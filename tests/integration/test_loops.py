"""The loops of the dispatcher and the timer never wait while entries or timers are due."""

from __future__ import annotations

import anyio
import pytest

from eventsched.roles.dispatcher import PRESENCE_LEASE_MS, Dispatcher, pause_s
from eventsched.roles.timer import CALL_MS_MAX, pause_ms
from eventsched.store.role_commands import DispatchReply, TimerReply
from tests.fixtures_store import TimedStore


async def test_an_entry_appended_before_the_wait_ends_it_at_once(store: TimedStore) -> None:
    session = await store.open()
    dispatcher = Dispatcher(store)
    await store.say(session, 0, end_of_utterance=True)
    assert (await dispatcher.step()).left == 0
    store.tick(PRESENCE_LEASE_MS)  # the presence lease ends
    await store.say(session, 1, end_of_utterance=True)  # between the call and the wait
    with anyio.fail_after(1):
        await dispatcher.wait()
    await dispatcher.step()
    assert await store.types() == ["SessionOpened", *["UtteranceFinalized", "JobQueued"] * 2]


async def test_while_a_dispatcher_is_present_a_finalize_dispatches_its_jobs(
    store: TimedStore,
) -> None:
    await store.join()
    session = await store.open()
    await Dispatcher(store).step()
    store.tick(PRESENCE_LEASE_MS - 1)
    await store.say(session, 0, end_of_utterance=True)
    assert (await store.types())[-2:] == ["UtteranceFinalized", "JobDispatched"]


async def test_a_dispatcher_does_not_wait_while_entries_are_left(store: TimedStore) -> None:
    session = await store.open()
    for seq in range(13):
        await store.say(session, seq, end_of_utterance=True)
    dispatcher = Dispatcher(store)
    assert (await dispatcher.step()).left == 1
    assert (await dispatcher.step()).left == 0


@pytest.mark.parametrize(
    ("left", "jobs", "waiting", "pause"),
    [(5, 12, 0, 0), (5, 12, 12, 0.002), (5, 12, 6, 0.001), (0, 12, 12, 0), (5, 0, 0, 0)],
)
def test_a_dispatcher_lets_nodes_free_slots_when_they_are_taken(
    left: int, jobs: int, waiting: int, pause: float
) -> None:
    assert pause_s(DispatchReply("1-0", left, jobs, waiting)) == pause


@pytest.mark.parametrize(
    ("next_ms", "expected_ms"), [(None, CALL_MS_MAX), (990, 0), (1_000, 0), (1_007, 7), (9_000, 50)]
)
def test_a_timer_calls_at_the_next_due_time_and_at_once_when_one_is_overdue(
    next_ms: int | None, expected_ms: int
) -> None:
    assert pause_ms(TimerReply(fired=0, next_ms=next_ms, now_ms=1_000)) == expected_ms
