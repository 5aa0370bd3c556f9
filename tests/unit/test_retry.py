"""Retries while the server is unavailable: which errors, which pauses, which lines of the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from eventsched.errors import (
    ServerAway,
    ServerRefused,
    ServerUnavailable,
    SessionUnknown,
    UnexpectedReply,
)
from eventsched.store import retry
from eventsched.store.retry import PAUSE_S_MAX, PAUSE_S_MIN, REMIND_S, TRIES, Backoff

REFUSAL = SessionUnknown("SESSION_UNKNOWN", {})


class Clock:
    """A time that is moved by the waits."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds
        await anyio.lowlevel.checkpoint()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry, "monotonic", clock.monotonic)
    return clock


async def attempt(backoff: Backoff, error: Exception | None = None) -> None:
    async with backoff.attempt():
        if error is not None:
            raise error


async def attempts_until(clock: Clock, ends_s: float, backoff: Backoff, error: Exception) -> None:
    while clock.now_s < ends_s:
        await attempt(backoff, error)


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (ServerAway("x"), "server away, trying again"),
        (ServerRefused("x"), "server refuses, trying again"),
        (UnexpectedReply("x"), "unexpected reply, trying again"),
    ],
    ids=["away", "refused", "unexpected"],
)
async def test_an_error_is_logged_once_a_minute_and_its_end_once(
    clock: Clock, error: ServerUnavailable, event: str
) -> None:
    backoff = Backoff(clock, role="timer", cell="c0")
    with capture_logs() as lines:
        await attempts_until(clock, 3.5 * REMIND_S, backoff, error)
        for _ in range(3):
            await attempt(backoff)
    assert [line["event"] for line in lines] == [event] * 4 + ["server is back"]
    assert {(line["role"], line["cell"]) for line in lines} == {("timer", "c0")}
    assert [line["error"] for line in lines[:-1]] == ["x"] * 4


async def test_an_error_of_another_class_is_logged_at_once(clock: Clock) -> None:
    backoff = Backoff(clock)
    with capture_logs() as lines:
        for error in (ServerAway("a"), ServerAway("b"), ServerRefused("c"), ServerAway("d")):
            await attempt(backoff, error)
    assert [line["error"] for line in lines] == ["a", "c"]


async def test_after_the_server_was_back_an_error_is_logged_at_once(clock: Clock) -> None:
    backoff = Backoff(clock)
    with capture_logs() as lines:
        for error in (ServerAway("a"), None, ServerAway("b"), None):
            await attempt(backoff, error)
    assert [line.get("error", "back") for line in lines] == ["a", "back", "b", "back"]


async def test_the_pauses_of_a_loop_double_up_to_two_seconds(clock: Clock) -> None:
    backoff = Backoff(clock)
    await attempts_until(clock, 60, backoff, ServerAway("x"))
    for number, pause_s in enumerate(clock.pauses):
        full_s = min(PAUSE_S_MIN * 2**number, PAUSE_S_MAX)
        assert full_s / 2 <= pause_s <= full_s
    await attempt(backoff)
    await attempt(backoff, ServerAway("x"))
    assert clock.pauses[-1] <= PAUSE_S_MIN, "the first pause is short again"


@pytest.mark.parametrize("error", [REFUSAL, KeyError("x")], ids=["refusal", "defect"])
async def test_any_other_error_ends_a_loop_at_once(clock: Clock, error: Exception) -> None:
    with capture_logs() as lines, pytest.raises(type(error)):
        await attempt(Backoff(clock), error)
    assert (lines, clock.pauses) == ([], [])


def failing(count: int, error: Exception) -> Callable[[], Any]:
    """A call that fails so many times, and then returns how often it was called."""
    calls = 0

    async def call() -> int:
        nonlocal calls
        await anyio.lowlevel.checkpoint()
        calls += 1
        if calls <= count:
            raise error
        return calls

    return call


async def test_a_call_is_repeated_for_some_eight_seconds(clock: Clock) -> None:
    error = ServerAway("x")
    assert await Backoff(clock).call(failing(TRIES - 1, error)) == TRIES
    assert 4 < clock.now_s < 9
    with pytest.raises(ServerAway):
        await Backoff(clock).call(failing(TRIES, error))
    with pytest.raises(SessionUnknown):
        await Backoff(clock).call(failing(1, REFUSAL))
