"""A row of the benchmark `growth`, and how its measurements read the time of the server.

Owns: the form of a row, the CPU time of calls by INFO.
Never does: measure a row. Read next: growth.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from benchmarks.micro.stage import Stage

LONG = 0.9
"""The share of calls that are shorter than a long one. The longest of many is mostly noise."""
READINGS = 20
"""Readings of the CPU time in a row, to know what a reading costs."""


@dataclass(frozen=True, slots=True)
class Row:
    """One cost that must not grow faster than `exponent_max` says."""

    name: str
    unit: str
    sizes: tuple[int, int, int]
    exponent_max: float
    measure: Callable[[Stage, int], Awaitable[float]]
    """Returns the cost at a size."""
    before: str = ""
    """What the row showed before its cost was bounded; empty if it always was."""


async def cpu_us(redis: Redis) -> float:
    """The CPU time that the server has used, in microseconds.

    Unlike the duration of a call, it does not grow if other processes take the core meanwhile.
    """
    figures = await redis.info("cpu")
    return float(figures["used_cpu_user"] + figures["used_cpu_sys"]) * 1e6


async def cpu_of_long_call(redis: Redis, call: Callable[[], Awaitable[bool]]) -> float:
    """The CPU time of the server for a long call, in microseconds.

    It is called until it returns False.
    """
    before = await cpu_us(redis)
    own = min([-(before - (before := await cpu_us(redis))) for _ in range(READINGS)])
    costs, has_more = [], True
    while has_more:
        before = await cpu_us(redis)
        has_more = await call()
        costs.append(max(await cpu_us(redis) - before - own, 0.0))
    return sorted(costs)[int(len(costs) * LONG)]
