"""Submissions of one turn of the event loop share a call; the calls in flight are bounded."""

from collections.abc import Sequence

import anyio
import pytest

from eventsched.errors import ServerUnavailable
from eventsched.store.batcher import Batcher


class Calls:
    """Records calls; a closed gate keeps them in flight."""

    def __init__(self, in_flight: int = 1) -> None:
        self.batches: list[list[int]] = []
        self.in_flight = 0
        self.in_flight_max = in_flight
        self.gate = anyio.Event()
        self.gate.set()

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.in_flight += 1
        assert self.in_flight <= self.in_flight_max
        await self.gate.wait()
        await anyio.lowlevel.checkpoint()
        self.in_flight -= 1
        if 13 in items:
            raise ValueError("13")
        return [-item for item in items]


def batcher_of(calls: Calls, *, items_max: int = 100) -> Batcher[int, int]:
    return Batcher(
        calls,
        items_max=items_max,
        bytes_max=1_000,
        size_of=lambda item: item,
        in_flight=calls.in_flight_max,
    )


async def submit_all(batcher: Batcher[int, int], groups: list[list[int]]) -> list[list[int]]:
    replies: list[list[int]] = [[] for _ in groups]

    async def submit(at: int) -> None:
        replies[at] = list(await batcher.submit(groups[at]))

    async with anyio.create_task_group() as tasks:
        runner = anyio.CancelScope()

        async def run() -> None:
            with runner:
                await batcher.run()

        tasks.start_soon(run)
        async with anyio.create_task_group() as submitting:
            for at in range(len(groups)):
                submitting.start_soon(submit, at)
        runner.cancel()
    return replies


async def test_submissions_of_one_turn_are_one_call_and_each_gets_its_own_reply() -> None:
    calls = Calls()
    replies = await submit_all(batcher_of(calls), [[1], [2, 3], [4]])
    assert calls.batches == [[1, 2, 3, 4]]
    assert replies == [[-1], [-2, -3], [-4]]


async def test_a_submission_is_never_split_and_limits_hold() -> None:
    calls = Calls()
    await submit_all(batcher_of(calls, items_max=3), [[1, 2], [3, 4], [5], [6, 7, 8, 9]])
    assert calls.batches == [[1, 2], [3, 4, 5], [6, 7, 8, 9]]


async def test_bytes_bound_a_batch() -> None:
    calls = Calls()
    await submit_all(batcher_of(calls), [[600], [500], [400], [2_000]])
    assert calls.batches == [[600], [500, 400], [2_000]]


async def test_submissions_during_a_call_form_the_next_batch() -> None:
    calls = Calls()
    calls.gate = anyio.Event()
    batcher = batcher_of(calls)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.run)
        for item in range(5):
            tasks.start_soon(batcher.submit, [item])
            await anyio.wait_all_tasks_blocked()
        assert calls.batches == [[0]]
        calls.gate.set()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert calls.batches == [[0], [1, 2, 3, 4]]


async def test_a_second_call_is_sent_only_when_its_batch_is_full() -> None:
    calls = Calls(in_flight=2)
    calls.gate = anyio.Event()
    batcher = batcher_of(calls, items_max=3)
    sent = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.run)
        for item in range(10):
            tasks.start_soon(batcher.submit, [item])
            await anyio.wait_all_tasks_blocked()
            sent.append(len(calls.batches))
        assert sent == [1, 1, 1, 2, 2, 2, 2, 2, 2, 2]  # never a third call
        calls.gate.set()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert calls.batches == [[0], [1, 2, 3], [4, 5, 6], [7, 8, 9]]


async def test_an_error_reaches_the_callers_of_its_batch_only() -> None:
    calls = Calls()
    batcher = batcher_of(calls, items_max=2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.run)
        with pytest.raises(ValueError, match="13"):
            await batcher.submit([13])
        assert await batcher.submit([1]) == [-1]
        tasks.cancel_scope.cancel()


async def test_an_error_of_one_submission_does_not_reach_the_others_of_its_batch() -> None:
    calls, outcomes = Calls(), dict[int, object]()
    batcher = batcher_of(calls)

    async def submit(item: int) -> None:
        try:
            outcomes[item] = await batcher.submit([item])
        except ValueError as error:
            outcomes[item] = str(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.run)
        async with anyio.create_task_group() as submissions:
            for item in (1, 13, 2):
                submissions.start_soon(submit, item)
        tasks.cancel_scope.cancel()
    assert outcomes == {1: [-1], 13: "13", 2: [-2]}
    assert calls.batches == [[1, 13, 2], [1], [13], [2]]


async def test_a_cancelled_caller_does_not_affect_others() -> None:
    calls = Calls()
    calls.gate = anyio.Event()
    batcher = batcher_of(calls)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.run)
        with anyio.CancelScope() as caller:

            async def cancel_caller() -> None:
                await anyio.wait_all_tasks_blocked()
                caller.cancel()

            tasks.start_soon(cancel_caller)
            await batcher.submit([1])
        assert caller.cancelled_caught
        calls.gate.set()
        assert await batcher.submit([2]) == [-2]
        tasks.cancel_scope.cancel()
    assert calls.batches == [[1], [2]]


@pytest.mark.parametrize("in_flight", [1, 2])
async def test_after_its_end_submissions_fail(in_flight: int) -> None:
    """Those in flight, those that wait and later ones."""
    calls = Calls(in_flight)
    calls.gate = anyio.Event()
    batcher = batcher_of(calls, items_max=1)
    raised: list[Exception] = []

    async def submit(item: int) -> None:
        try:
            await batcher.submit([item])
        except ServerUnavailable as error:
            raised.append(error)

    async with anyio.create_task_group() as tasks, anyio.create_task_group() as running:
        running.start_soon(batcher.run)
        for item in (1, 2, 3):
            tasks.start_soon(submit, item)
            await anyio.wait_all_tasks_blocked()
        assert calls.in_flight == in_flight
        running.cancel_scope.cancel()
    await submit(4)
    assert len(raised) == 4


async def test_a_submission_in_a_cancelled_scope_is_cancelled() -> None:
    """A task that submits when its scope has ended does not see a closed connection."""
    batcher = batcher_of(Calls())
    async with anyio.create_task_group() as tasks:

        async def submit() -> None:
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
                await anyio.wait_all_tasks_blocked()
            await batcher.submit([1])

        tasks.start_soon(batcher.run)
        tasks.start_soon(submit)
    with pytest.raises(ServerUnavailable):
        await batcher.submit([1])
