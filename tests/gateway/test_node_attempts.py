"""Attempts of a node whose connection breaks while a frame is sent."""

from __future__ import annotations

from typing import Any, cast

import anyio

from eventsched.gateway.node_attempts import NodeAttempts
from eventsched.gateway.socket import Disconnected, FrameSocket
from eventsched.node.job import Assignment, Job


class BrokenSocket:
    """A connection that has just broken."""

    def __init__(self) -> None:
        self.sent = anyio.Event()

    async def send(self, frame: Any) -> None:
        self.sent.set()
        raise Disconnected


async def test_an_attempt_goes_on_until_the_end_of_its_connection_cancels_it() -> None:
    assignment = Assignment(
        session="c0.s", utterance=0, turn=0, source="en", target="es", attempt=1, epoch=1,
        encoding="pcm16", sample_rate=16_000, first="1-0", last="1-0", count=1, bytes=640, ms=20,
        deadline_ms=1,
    )  # fmt: skip
    job = Job("acme:c0.s:0:translation:es:none", assignment, b"", cast("Any", None))
    socket = BrokenSocket()
    attempts = NodeAttempts(cast("FrameSocket", socket), (), lazy_audio=True)
    outcomes: list[Any] = []

    async def run() -> None:
        outcomes.append(await attempts.run(job))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await socket.sent.wait()
        await anyio.lowlevel.checkpoint()
        assert attempts.find(job.key, 1).job is job
        tasks.cancel_scope.cancel()
    assert outcomes == []  # neither an outcome nor an error, which the registration would report
