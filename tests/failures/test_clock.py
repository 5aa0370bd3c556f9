"""One clock a cell, which never goes back."""

from __future__ import annotations

from eventsched.schema.events import ClockAdjusted
from tests.fixtures_store import START_MS, TimedStore


async def test_a_clock_that_goes_back_is_adjusted_and_an_event_records_it(
    store: TimedStore,
) -> None:
    store.tick(10_000)
    grant = await store.open()
    store.tick(-4_000)
    await store.say(grant, 0, end_of_utterance=True)
    (adjusted,) = await store.log("ClockAdjusted")
    assert adjusted.data == ClockAdjusted(behind_ms=4_000, offset_ms=4_000)
    assert adjusted.ms == START_MS + 10_000
    store.tick(500)
    await store.say(grant, 1, end_of_utterance=True)
    assert [event.ms for event in await store.log("UtteranceFinalized")] == [
        START_MS + 10_000,
        START_MS + 10_500,  # at the clock's pace from where it was
    ]
    assert len(await store.log("ClockAdjusted")) == 1


async def test_a_jump_ahead_is_taken_as_it_is(store: TimedStore) -> None:
    grant = await store.open()
    store.tick(3_600_000)
    await store.timers()
    assert await store.log("ClockAdjusted") == []
    (closing,) = await store.log("SessionClosing")
    assert (closing.session, closing.ms) == (grant.session, START_MS + 3_600_000)
