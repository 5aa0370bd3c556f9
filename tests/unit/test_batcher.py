"""Concurrent calls of one turn of the event loop share one call; few are in flight at once."""

from collections.abc import Sequence

import anyio
import pytest

from eventsched.errors import ServerUnavailable
from eventsched.store.batcher import Batcher


class Calls:
    """What was called, and a gate that holds calls open."""

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


def coalescer(calls: Calls, *, items_max: int = 100) -> Batcher[int, int]:
    return Batcher(
        calls,
        items_max=items_max,
        bytes_max=1_000,
        size_of=lambda item: item,
        in_flight=calls.in_flight_max,
    )


async def submit_all(batching: Batcher[int, int], groups: list[list[int]]) -> list[list[int]]:
    replies: list[list[int]] = [[] for _ in groups]

    async def submit(at: int) -> None:
        replies[at] = list(await batching.submit(groups[at]))

    async with anyio.create_task_group() as tasks:
        runner = anyio.CancelScope()

        async def run() -> None:
            with runner:
                await batching.run()

        tasks.start_soon(run)
        async with anyio.create_task_group() as submitting:
            for at in range(len(groups)):
                submitting.start_soon(submit, at)
        runner.cancel()
    return replies


async def test_calls_of_one_turn_are_one_call_and_each_gets_its_own_reply() -> None:
    calls = Calls()
    replies = await submit_all(coalescer(calls), [[1], [2, 3], [4]])
    assert calls.batches == [[1, 2, 3, 4]]
    assert replies == [[-1], [-2, -3], [-4]]


async def test_a_submission_is_never_split_and_limits_hold() -> None:
    calls = Calls()
    await submit_all(coalescer(calls, items_max=3), [[1, 2], [3, 4], [5], [6, 7, 8, 9]])
    assert calls.batches == [[1, 2], [3, 4, 5], [6, 7, 8, 9]]


async def test_bytes_bound_a_batch() -> None:
    calls = Calls()
    await submit_all(coalescer(calls), [[600], [500], [400], [2_000]])
    assert calls.batches == [[600], [500, 400], [2_000]]


async def test_what_comes_while_a_call_is_in_flight_forms_the_next() -> None:
    calls = Calls()
    calls.gate = anyio.Event()
    batching = coalescer(calls)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batching.run)
        for item in range(5):
            tasks.start_soon(batching.submit, [item])
            await anyio.wait_all_tasks_blocked()
        assert calls.batches == [[0]]
        calls.gate.set()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert calls.batches == [[0], [1, 2, 3, 4]]


async def test_a_second_call_goes_when_it_is_full_and_not_before() -> None:
    calls = Calls(in_flight=2)
    calls.gate = anyio.Event()
    batching = coalescer(calls, items_max=3)
    sent = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batching.run)
        for item in range(10):
            tasks.start_soon(batching.submit, [item])
            await anyio.wait_all_tasks_blocked()
            sent.append(len(calls.batches))
        assert sent == [1, 1, 1, 2, 2, 2, 2, 2, 2, 2]  # no third, however much there is
        calls.gate.set()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert calls.batches == [[0], [1, 2, 3], [4, 5, 6], [7, 8, 9]]


async def test_an_error_reaches_everybody_in_the_batch_and_nobody_else() -> None:
    calls = Calls()
    batching = coalescer(calls, items_max=2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batching.run)
        with pytest.raises(ValueError, match="13"):
            await batching.submit([13])
        assert await batching.submit([1]) == [-1]
        tasks.cancel_scope.cancel()


async def test_a_cancelled_caller_spoils_nothing() -> None:
    calls = Calls()
    calls.gate = anyio.Event()
    batching = coalescer(calls)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batching.run)
        with anyio.move_on_after(0.01) as gave_up:
            await batching.submit([1])
        assert gave_up.cancelled_caught
        calls.gate.set()
        assert await batching.submit([2]) == [-2]
        tasks.cancel_scope.cancel()
    assert calls.batches == [[1], [2]]


@pytest.mark.parametrize("in_flight", [1, 2])
async def test_after_its_end_it_refuses(in_flight: int) -> None:
    """What is in flight, what waits and what comes later."""
    calls = Calls(in_flight)
    calls.gate = anyio.Event()
    batching = coalescer(calls, items_max=1)
    raised: list[Exception] = []

    async def submit(item: int) -> None:
        try:
            await batching.submit([item])
        except ServerUnavailable as error:
            raised.append(error)

    async with anyio.create_task_group() as tasks, anyio.create_task_group() as running:
        running.start_soon(batching.run)
        for item in (1, 2, 3):
            tasks.start_soon(submit, item)
            await anyio.wait_all_tasks_blocked()
        assert calls.in_flight == in_flight
        running.cancel_scope.cancel()
    await submit(4)
    assert len(raised) == 4


async def test_who_submits_while_all_of_it_is_cancelled_is_cancelled_too() -> None:
    """A task that was about to submit when its scope ended has met no lost connection."""
    batching = coalescer(Calls())
    async with anyio.create_task_group() as tasks:

        async def submit() -> None:
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
                await anyio.wait_all_tasks_blocked()
            await batching.submit([1])

        tasks.start_soon(batching.run)
        tasks.start_soon(submit)
    with pytest.raises(ServerUnavailable):
        await batching.submit([1])
