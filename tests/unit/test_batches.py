"""Batches start when they are full or in time, and give each job its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from eventsched.errors import InvalidMessage
from eventsched.node.batches import Batch, Batches

LONG_MS = 10_000


class Calls:
    """What a batch runs: it notes the jobs and may wait."""

    def __init__(self) -> None:
        self.jobs: list[list[Any]] = []
        self.may_end = anyio.Event()
        self.may_end.set()
        self.cancelled = 0

    async def __call__(self, jobs: Sequence[Any]) -> Any:
        self.jobs.append(list(jobs))
        try:
            await self.may_end.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        return [f"outcome {job}" for job in jobs]


async def test_a_full_batch_starts_at_once() -> None:
    calls, outcomes = Calls(), {}
    async with anyio.create_task_group() as tasks:
        batches = Batches(Batch(size=2, within_ms=LONG_MS), calls, tasks)

        async def run(job: str) -> None:
            outcomes[job] = await batches(job)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as jobs:
                for job in "abcd":
                    jobs.start_soon(run, job)
        tasks.cancel_scope.cancel()
    assert calls.jobs == [["a", "b"], ["c", "d"]]
    assert outcomes == {job: f"outcome {job}" for job in "abcd"}


async def test_a_batch_that_is_not_full_starts_in_time() -> None:
    calls = Calls()
    async with anyio.create_task_group() as tasks:
        batches = Batches(Batch(size=9, within_ms=1), calls, tasks)
        assert await batches("a") == "outcome a"
        assert await batches("b") == "outcome b"
        tasks.cancel_scope.cancel()
    assert calls.jobs == [["a"], ["b"]]


async def test_a_cancelled_job_leaves_a_batch_that_waits() -> None:
    calls = Calls()
    async with anyio.create_task_group() as tasks:
        batches = Batches(Batch(size=2, within_ms=LONG_MS), calls, tasks)
        with anyio.move_on_after(0.01):
            await batches("cancelled")
        async with anyio.create_task_group() as jobs:
            jobs.start_soon(batches, "a")
            jobs.start_soon(batches, "b")
        tasks.cancel_scope.cancel()
    assert calls.jobs == [["a", "b"]]


async def test_a_running_batch_is_cancelled_with_its_last_job() -> None:
    calls = Calls()
    calls.may_end = anyio.Event()
    async with anyio.create_task_group() as tasks:
        batches = Batches(Batch(size=2, within_ms=LONG_MS), calls, tasks)
        async with anyio.create_task_group() as jobs:
            with anyio.CancelScope() as first:
                jobs.start_soon(batches, "a")
                jobs.start_soon(batches, "b")
                while not calls.jobs:
                    await anyio.lowlevel.checkpoint()
            assert not first.cancelled_caught
            assert calls.cancelled == 0
            jobs.cancel_scope.cancel()
        while not calls.cancelled:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("returned", "message"), [(["one"], "a list of 2 outcomes, got 1"), (None, "got NoneType")]
)
async def test_an_answer_that_is_not_one_outcome_for_each_job_fails_all(
    returned: Any, message: str
) -> None:
    async def wrong(jobs: Sequence[Any]) -> Any:
        return returned

    errors: list[str] = []
    async with anyio.create_task_group() as tasks:
        batches = Batches(Batch(size=2, within_ms=LONG_MS), wrong, tasks)

        async def run(job: str) -> None:
            try:
                await batches(job)
            except TypeError as error:
                errors.append(str(error))

        async with anyio.create_task_group() as jobs:
            jobs.start_soon(run, "a")
            jobs.start_soon(run, "b")
        tasks.cancel_scope.cancel()
    assert len(errors) == 2
    assert all(message in error for error in errors)


@pytest.mark.parametrize("given", [{"size": 1}, {"size": 257}, {"size": 2, "within_ms": -1}])
def test_a_batch_out_of_bounds_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(InvalidMessage):
        Batch(**given)
