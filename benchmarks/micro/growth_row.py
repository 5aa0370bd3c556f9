"""A row of the benchmark `growth`, and how its measurements read the time of the server.

Owns: the form of a row, the CPU time of calls by INFO, one cost from repeated measurements.
Never does: measure a row. Read next: growth.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from redis.asyncio import Redis

from benchmarks.micro.stage import Stage

LONG = 0.9
"""The share of calls that are shorter than a long one. The longest of many is mostly noise."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One cost that must not grow faster than `exponent_max` says."""

    name: str
    unit: str
    sizes: tuple[int, int, int]
    exponent_max: float
    measure: Callable[[Stage, int], Awaitable[float | list[float]]]
    """Returns the cost at a size, or the costs of the calls of one measurement in their order."""
    before: str = ""
    """The costs at the same sizes before the cost was bounded; empty if it always was."""


async def cpu_us(redis: Redis) -> float:
    """The CPU time that the server has used, in microseconds.

    Unlike the duration of a call, it does not grow if other processes take the core meanwhile.
    """
    figures = await redis.info("cpu")
    return float(figures["used_cpu_user"] + figures["used_cpu_sys"]) * 1e6


def lowest_cost(repeated: Sequence[float | list[float]]) -> float:
    """One cost from the results of repeated measurements, which do the same work.

    Other processes only add to a cost, so the lowest counts: of each call, if the result has the
    costs of calls. The cost is then that of a long call, which a share LONG of them do not exceed.
    """
    calls = [each if isinstance(each, list) else [each] for each in repeated]
    lowest = sorted(min(costs) for costs in zip(*calls, strict=False))
    return float(lowest[int(len(lowest) * LONG)])


async def cpu_of_calls(redis: Redis, call: Callable[[], Awaitable[bool]]) -> list[float]:
    """The CPU time of the server for each call, in microseconds.

    It is called until it returns False.
    """
    costs, has_more = Costs(redis), True
    while has_more:
        has_more = await costs.measure(call())
    return costs.of_calls


class Costs:
    """The CPU time of the server for each of several calls."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.of_calls: list[float] = []
        """In microseconds."""

    async def measure(self, call: Awaitable[T]) -> T:
        """Await the call and note its cost."""
        before = await cpu_us(self._redis)
        result = await call
        self.of_calls.append(await cpu_us(self._redis) - before)
        return result


async def calls_of(redis: Redis, command: str) -> int:
    """How often the server has executed a command, also for functions."""
    statistics = (await redis.info("commandstats")).get(f"cmdstat_{command}", {})
    return int(statistics.get("calls", 0))


async def net_out_bytes(redis: Redis) -> int:
    """How many bytes the server has sent."""
    return int((await redis.info("stats"))["total_net_output_bytes"])


async def net_in_bytes(redis: Redis) -> int:
    """How many bytes the server has received."""
    return int((await redis.info("stats"))["total_net_input_bytes"])
