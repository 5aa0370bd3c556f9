"""An event that drops thousands of records: several saves, a lease that lasts, no lost work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from eventsched.roles.projector import DROPS_MAX, LEASE_MS, Projector, StepResult
from eventsched.schema.codec import encode
from eventsched.schema.events import AnyData, Event, JobQueued, SessionRetired
from eventsched.schema.keys import job_key
from eventsched.store.transport import Arg
from tests.fixtures_store import TimedStore
from tests.projector.test_projector import Cut, Cutting, fold_all, projector_of, views_of

TARGETS = ["de", "es", "fr", "it", "nl", "pl", "pt", "sv"]
UTTERANCES = 640
JOBS = len(TARGETS) * UTTERANCES
CALL_MS = 150


class Slow(Cutting):
    """A transport whose calls of projectors take long; meanwhile another projector tries."""

    def __init__(self, store: TimedStore, meanwhile: Callable[[], Awaitable[None]]) -> None:
        super().__init__(store, "", after=False)
        self._store, self._meanwhile = store, meanwhile
        self.saves = 0

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        reply = await super().run(script, keys, args)
        if script in ("load_views", "save_views"):
            self._store.tick(CALL_MS)
            await self._meanwhile()
            self.saves += script == "save_views"
        return reply


def events_of(store: TimedStore) -> Iterator[Event]:
    """A long session of 5,120 jobs, which is retired at once; then another job."""
    full = store.keys.full("long")
    for utterance in range(UTTERANCES):
        for target in TARGETS:
            key = job_key("acme", full, utterance, target, "none")
            yield _event(full, key, _queued(utterance, target, key))
    targets = SessionRetired(tenant="acme", utterances=UTTERANCES, targets=TARGETS)
    yield _event(full, "", targets)
    other = store.keys.full("other")
    key = job_key("acme", other, 0, "es", "none")
    yield _event(other, key, _queued(0, "es", key))


def _event(session: str, job: str, data: AnyData) -> Event:
    return Event(id="", type=type(data).__name__, session=session, job=job, data=data)


def _queued(utterance: int, target: str, key: str) -> JobQueued:
    return JobQueued(
        utterance=utterance, target=target, delivery_no=utterance, source="en", attempt=1,
        reason="NO_AVAILABLE_NODE", priority=1, tag=0, member=f"{0:016d}:{key}", deadline_ms=1,
    )  # fmt: skip


@pytest.fixture
async def long_log(store: TimedStore, redis: Any) -> TimedStore:
    """The store with the log of the long session, whose jobs one projector has folded."""
    await store.fire_timers()
    pipeline = redis.pipeline(transaction=False)
    *jobs, retired, other = events_of(store)
    for event in jobs:
        pipeline.xadd(store.keys.log, encode(event), id=f"{store.at_ms}-*")
    await pipeline.execute()
    projector, folded = projector_of(store, batch_max=1_280), 0
    while folded < JOBS:
        folded += (await projector.step()).count
    await projector.release()
    for event in (retired, other):
        await redis.xadd(store.keys.log, encode(event), id=f"{store.at_ms}-*")
    return store


async def records(store: TimedStore) -> set[str]:
    """The job keys that have a record."""
    views = views_of(store)
    revision = await views.active_revision("job")
    return {job async for jobs in views.scan(f"view:job:{revision}") for job in jobs}


async def test_two_projectors_do_not_fence_each_other_during_a_large_retirement(
    long_log: TimedStore,
) -> None:
    store = long_log
    states: list[str] = []

    async def meanwhile() -> None:
        states.append((await other.step()).state)

    slow = Slow(store, meanwhile)
    projector, other = projector_of(store, slow), projector_of(store)
    assert await fold_all(projector) == 2
    assert set(states) == {"standby"}
    assert CALL_MS * len(states) > 4 * LEASE_MS
    assert slow.saves == -(-JOBS // DROPS_MAX) + 2
    assert len(await records(store)) == 1


@pytest.mark.parametrize("saves", [1, 7])
async def test_a_projector_that_dies_in_a_large_retirement_is_continued(
    long_log: TimedStore, saves: int
) -> None:
    store = long_log
    dying = Cutting(store, "", after=True)
    projector = Projector(views_of(store, dying), projector_of(store).set)
    checkpoint = await views_of(store).checkpoint("core")

    async def run(script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        nonlocal saves
        saves -= script == "save_views"
        if not saves:
            dying.arm("save_views")
        return await Cutting.run(dying, script, keys, args)

    dying.run = run  # type: ignore[method-assign]
    with pytest.raises(Cut):
        await fold_all(projector)
    assert await views_of(store).checkpoint("core") == checkpoint
    assert 1 < len(await records(store)) < JOBS
    store.tick(LEASE_MS)
    assert await fold_all(projector_of(store)) == 2
    assert len(await records(store)) == 1


async def test_a_large_retirement_is_a_step_of_its_own(long_log: TimedStore) -> None:
    projector = projector_of(long_log)
    steps = [await projector.step() for _ in range(3)]
    assert steps == [StepResult("folded", 1), StepResult("folded", 1), StepResult("idle")]
