"""Runs scenarios beside each other: nearly all their time is spent on waiting for what is due."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from eventsched.conformance.driver import Kind, Verdict, judge_one
from eventsched.conformance.peer import WITHIN_S

AT_ONCE = 4


async def verdicts(
    runs: Sequence[tuple[Sequence[str], Kind, str]], within_s: float = WITHIN_S
) -> list[Verdict]:
    """The verdict of each run of (program, kind, scenario), in the order of `runs`."""
    found: dict[int, Verdict] = {}
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def judge(number: int) -> None:
        program, kind, scenario = runs[number]
        async with limiter:
            found[number] = await judge_one(program, kind, scenario, within_s)

    async with anyio.create_task_group() as tasks:
        for number in range(len(runs)):
            tasks.start_soon(judge, number)
    return [found[number] for number in range(len(runs))]
