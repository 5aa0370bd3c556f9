"""Attempts run in tasks of their own, and none of them is left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from eventsched.node.attempts import Attempt, Attempts
from tests.systems import until

KEY = "acme:c0.s1:0:translation:es:none"
CLEANUP_TURNS = 5
"""How many turns of the event loop a handler takes to end."""


@asynccontextmanager
async def running(attempts: Attempts) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempts.run)
        yield
        tasks.cancel_scope.cancel()


class Recorder:
    """What attempts did, in order."""

    def __init__(self) -> None:
        self.words: list[str] = []

    async def work(self, attempt: Attempt) -> None:
        """A handler that never ends by itself, and cleans up slowly."""
        with attempt.scope:
            try:
                self.words.append(f"began {attempt.number}")
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    for _ in range(CLEANUP_TURNS):
                        await anyio.lowlevel.checkpoint()
                self.words.append(f"ended {attempt.number}")
        attempt.has_ended = True

    async def tell(self, attempt: Attempt) -> None:
        """A handler that has ended; the server does not answer."""
        attempt.has_ended = True
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.words.append("not reported")
            raise


async def test_no_attempt_outlives_the_end_and_each_cleans_up() -> None:
    attempts, recorder = Attempts(), Recorder()
    async with running(attempts):
        attempts.start(KEY, 1, recorder.work)
        attempts.start(f"{KEY}2", 1, recorder.tell)
        await anyio.wait_all_tasks_blocked()
    assert recorder.words == ["began 1", "not reported", "ended 1"]
    assert len(attempts) == 0


async def test_a_handler_that_is_cancelled_before_it_begins_ends_at_its_first_wait() -> None:
    attempts, recorder = Attempts(), Recorder()
    async with running(attempts):
        attempts.start(KEY, 1, recorder.work)
        assert attempts.cancel(KEY, 1)
        await until("the attempt has ended", lambda: "ended 1" in recorder.words)
        assert recorder.words == ["began 1", "ended 1"]


async def test_the_later_attempt_of_a_job_counts() -> None:
    attempts, recorder = Attempts(), Recorder()
    async with running(attempts):
        attempts.start(KEY, 1, recorder.work)
        await until("the first began", lambda: "began 1" in recorder.words)
        attempts.start(KEY, 2, recorder.work)
        assert attempts.numbers() == [(KEY, 2)]
        assert not attempts.cancel(KEY, 1)
        await until("the first has ended", lambda: "ended 1" in recorder.words)
        assert recorder.words == ["began 1", "began 2", "ended 1"]
        assert attempts.numbers() == [(KEY, 2)]
    assert attempts.numbers() == []


async def test_an_error_of_one_is_raised_and_ends_the_others() -> None:
    attempts, recorder = Attempts(), Recorder()

    async def broken(_: Attempt) -> None:
        raise RuntimeError("a mistake here")

    attempts.start(KEY, 1, recorder.work)
    attempts.start(f"{KEY}2", 1, broken)
    with pytest.raises(RuntimeError, match="a mistake here"):
        await attempts.run()
    assert recorder.words == ["began 1", "ended 1"]


async def test_nothing_begins_while_it_ends() -> None:
    """A reader brings jobs until it is cancelled; a job that comes too late does not begin."""
    attempts, recorder = Attempts(), Recorder()

    async def bring() -> None:
        for number in range(2, 9):
            attempts.start(f"{KEY}{number}", number, recorder.work)
            await anyio.lowlevel.checkpoint()

    async def broken(_: Attempt) -> None:
        raise RuntimeError("a mistake here")

    async with anyio.create_task_group() as tasks:
        attempts.start(KEY, 1, recorder.work)
        await until("the first began", lambda: "began 1" in recorder.words)
        attempts.start(f"{KEY}0", 1, broken)
        tasks.start_soon(bring)
        with pytest.raises(RuntimeError, match="a mistake here"):
            await attempts.run()
    begun = [word for word in recorder.words if word.startswith("began")]
    assert begun[0] == "began 1"
    assert len(begun) < 8
    assert sum(word.startswith("ended") for word in recorder.words) == len(begun)
    assert len(attempts) == 0


async def test_a_handler_that_ends_in_spite_of_its_cancel_learns_that_it_is_abandoned() -> None:
    """The task that reports results may have ended by then, so a report would raise an error."""
    attempts, began, abandoned = Attempts(), list[int](), list[bool]()

    async def stubborn(attempt: Attempt) -> None:
        with attempt.scope, anyio.CancelScope(shield=True):
            began.append(attempt.number)
            await anyio.lowlevel.checkpoint()
            if attempt.number == 2:
                await until("the cancel comes", lambda: attempt.scope.cancel_called)
        attempt.has_ended = True
        abandoned.append(attempt.is_abandoned)

    async with running(attempts):
        attempts.start(KEY, 1, stubborn)
        await until("the first has ended", lambda: abandoned == [False])
        attempts.start(KEY, 2, stubborn)
        await until("the second began", lambda: began == [1, 2])
    assert abandoned == [False, True]
