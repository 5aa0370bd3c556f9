"""A loop that fails is started again, and nothing else is disturbed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from eventsched.errors import ArchiveError
from eventsched.roles.supervisor import PAUSE_S_MAX, STABLE_S, Supervisor, error_line


class Clock:
    """A transport whose time is moved by the waits; it ends the test after `ends_s` seconds."""

    def __init__(self, ends_s: float) -> None:
        self.now_s = 0.0
        self.ends_s = ends_s
        self.pauses: list[float] = []
        self.scope = anyio.CancelScope()

    async def sleep(self, seconds: float) -> None:
        if seconds == STABLE_S:  # the loop ends before it is stable
            await anyio.sleep_forever()
        self.pauses.append(seconds)
        self.now_s += seconds
        if self.now_s >= self.ends_s:
            self.scope.cancel()
        await anyio.lowlevel.checkpoint()


async def supervised(run: Callable[[], Any], ends_s: float) -> tuple[Supervisor, Clock, list[Any]]:
    clock = Clock(ends_s)
    supervisor = Supervisor("timer", "c0", run, clock)  # type: ignore[arg-type]
    with capture_logs() as lines, clock.scope:
        await supervisor.run()
    return supervisor, clock, lines


def failing(error: Exception) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await anyio.lowlevel.checkpoint()
        raise error

    return run


async def test_the_pauses_double_up_to_a_minute() -> None:
    _, clock, _ = await supervised(failing(KeyError("x")), ends_s=240)
    assert clock.pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert max(clock.pauses) == PAUSE_S_MAX


async def test_the_same_error_is_logged_once_a_minute_with_its_traceback() -> None:
    supervisor, _, lines = await supervised(failing(ArchiveError("no folder")), ends_s=240)
    assert [line["retry_s"] for line in lines] == [1, 60, 60, 60]
    assert {line["error"] for line in lines} == {"ArchiveError: no folder"}
    assert all(line["log_level"] == "error" and line["exc_info"] for line in lines)
    assert (supervisor.state, supervisor.error) == ("failing", "ArchiveError: no folder")


async def test_another_error_is_logged_at_once() -> None:
    errors: list[Exception] = [ArchiveError("one"), ArchiveError("one"), ArchiveError("two")]

    async def run() -> None:
        await anyio.lowlevel.checkpoint()
        raise errors.pop(0) if len(errors) > 1 else errors[0]

    _, _, lines = await supervised(run, ends_s=7)
    assert [line["error"][-3:] for line in lines] == ["one", "two"]


async def test_a_loop_that_is_stable_again_is_running_and_its_next_pause_is_short() -> None:
    failures = iter([ArchiveError("first"), None, ArchiveError("second")])
    supervisor: Supervisor
    states: list[str] = []
    is_stable = anyio.Event()

    class StableClock(Clock):
        async def sleep(self, seconds: float) -> None:
            if seconds == STABLE_S:
                is_stable.set()
            else:
                await super().sleep(seconds)

    async def run() -> None:
        failure = next(failures, None)
        if failure is not None:
            raise failure
        await is_stable.wait()
        await anyio.lowlevel.checkpoint()
        states.append(supervisor.state)
        raise ArchiveError("third")

    clock = StableClock(ends_s=2)
    supervisor = Supervisor("timer", "c0", run, clock)  # type: ignore[arg-type]
    with capture_logs() as lines, clock.scope:
        await supervisor.run()
    assert states == ["running"]
    assert clock.pauses == [1, 1]
    assert [line["event"] for line in lines] == [
        "role failed, starting it again",
        "role recovered",
        "role failed, starting it again",
    ]


async def test_a_loop_that_returns_is_a_failure() -> None:
    async def run() -> None:
        await anyio.lowlevel.checkpoint()

    supervisor, _, _ = await supervised(run, ends_s=1)
    assert supervisor.error == "LoopEnded: the loop timer has returned"


async def test_cancellation_ends_the_loop_and_its_supervisor() -> None:
    ended: list[str] = []

    async def run() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("loop")

    clock = Clock(ends_s=1)
    supervisor = Supervisor("timer", "c0", run, clock)  # type: ignore[arg-type]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert (ended, supervisor.state) == (["loop"], "running")


def test_the_line_of_an_error_repeats_no_input() -> None:
    with pytest.raises(ValueError, match="secret") as raised:
        int("secret")
    line = error_line(raised.value)
    assert line.startswith("ValueError at test_supervisor.py:")
    assert "secret" not in line
    assert error_line(OSError(28, "No space left on device")) == (
        "OSError: No space left on device"
    )
    assert error_line(ArchiveError("a\nb\x1b[2J")) == r"ArchiveError: a b\x1b[2J"
    assert len(error_line(ArchiveError("x" * 1_000))) == 200
    group = ExceptionGroup("several", [ArchiveError("first"), ArchiveError("second")])
    assert error_line(group) == "ArchiveError: first"
