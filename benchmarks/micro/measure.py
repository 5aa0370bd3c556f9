"""What a stretch of work cost, and rounds of it.

Owns: the server's counters before and after (INFO: CPU, commands, bytes, script time), the CPU of
processes, CPU stolen by the machine's other guests, rounds with warm-up and repetition.
Never does: choose what is measured. Read next: figures.py, dispatch.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from benchmarks.micro.figures import Figures, Round, Spread, over_rounds

STOLEN_PERCENT_MAX = 5.0
REPEATS_MAX = 5
"""Rounds measured again because of stolen CPU; after that the rest counts as it is."""
SCRIPTS = ("fcall", "evalsha", "eval")
_OWN = ("info", "config", "client", "hello", "ping", "select", "flushall")
"""Commands of the measuring and of connecting, which are no item's."""


@dataclass
class Cost:
    """Totals of one stretch; complete when its block has ended."""

    seconds: float = 0.0
    redis_cpu_s: float = 0.0
    client_cpu_s: float | None = None
    script_calls: int = 0
    commands: int = 0
    net_in_bytes: int = 0
    net_out_bytes: int = 0
    memory_bytes: int = 0
    script_p999_us: float = 0.0
    watched: dict[int, float | None] = field(default_factory=dict)
    """Other processes, and the CPU that each had used when it began to count."""

    def watch(self, pid: int) -> None:
        """From now on this process's CPU counts."""
        self.watched[pid] = cpu_of(pid)

    def per_item(self, items: int, *, seconds: float | None = None) -> dict[str, float]:
        """The figures of a part; `seconds` where the stretch's length was told by events."""
        figures = {
            "rate_per_s": items / (seconds or self.seconds),
            "redis_cpu_us": self.redis_cpu_s * 1e6 / items,
            "script_calls": self.script_calls / items,
            "commands": self.commands / items,
            "net_in_bytes": self.net_in_bytes / items,
            "net_out_bytes": self.net_out_bytes / items,
            "memory_bytes": self.memory_bytes / items,
        }
        if self.client_cpu_s is not None:
            figures["client_cpu_us"] = self.client_cpu_s * 1e6 / items
        if self.script_calls:
            figures["script_p999_us"] = self.script_p999_us
        return figures


@asynccontextmanager
async def metering(redis: Redis, pids: Sequence[int] | None = None) -> AsyncIterator[Cost]:
    """The cost of the block at the server and at its clients.

    Those are this process, or the processes `pids` and what the block watches.
    """
    await redis.config_set("latency-tracking-info-percentiles", "50 99 99.9")
    await redis.config_resetstat()
    cost = Cost()
    for pid in [os.getpid()] if pids is None else pids:
        cost.watch(pid)
    before, begins = await redis.info("all"), time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - begins
    _fill(cost, before, await redis.info("all"))
    spent = [_grown(cpu_of(pid), used_s) for pid, used_s in cost.watched.items()]
    cost.client_cpu_s = None if None in spent else sum(one for one in spent if one is not None)


def _grown(now: float | None, then: float | None) -> float | None:
    return None if now is None or then is None else now - then


def _fill(cost: Cost, before: dict[str, Any], after: dict[str, Any]) -> None:
    def grown(name: str) -> Any:
        return after[name] - before[name]

    cost.redis_cpu_s = grown("used_cpu_user") + grown("used_cpu_sys")
    cost.net_in_bytes = grown("total_net_input_bytes")
    cost.net_out_bytes = grown("total_net_output_bytes")
    cost.memory_bytes = grown("used_memory")
    for name, told in after.items():
        kind, _, command = name.partition("_")
        if kind != "cmdstat" or command.partition("|")[0] in _OWN:
            continue
        if command in SCRIPTS:
            cost.script_calls += told["calls"]
        else:
            cost.commands += told["calls"]
    for command in SCRIPTS:
        told = after.get(f"latency_percentiles_usec_{command}", {})
        cost.script_p999_us = max(cost.script_p999_us, float(told.get("p99.9", 0.0)))


def cpu_of(pid: int) -> float | None:
    """CPU seconds that a process has used; none where the system does not say."""
    if pid == os.getpid():
        return time.process_time()
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


class Stolen:
    """How much of the machine's CPU others have had since this was made (Linux; else nothing)."""

    def __init__(self) -> None:
        self._begin = _machine_ticks()

    def percent(self) -> float:
        all_now, stolen_now = _machine_ticks()
        passed = all_now - self._begin[0]
        return 100 * (stolen_now - self._begin[1]) / passed if passed else 0.0


def _machine_ticks() -> tuple[int, int]:
    """All ticks there were, and those that were stolen."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return 0, 0
    ticks = [int(part) for part in line.split()[1:9]]  # guest time is in user time already
    return sum(ticks), ticks[7]


@dataclass(frozen=True, slots=True)
class Rounds:
    """What all rounds saw."""

    rounds: int
    repeated: int
    stolen_percent: float
    parts: dict[str, dict[str, Spread]]
    ratios: dict[str, Spread]


async def in_rounds(
    count: int,
    one: Callable[[], Awaitable[Round]],
    moved: Callable[[int], None] = lambda _: None,
    *,
    warm_up: bool = True,
) -> Rounds:
    """One round to warm up, then `count` that count; `moved` hears how many are done."""
    if warm_up:
        await one()
        moved(1)
    kept: list[Round] = []
    most, repeated = 0.0, 0
    while len(kept) < count:
        stolen = Stolen()
        seen = await one()
        percent = stolen.percent()
        if percent > STOLEN_PERCENT_MAX and repeated < REPEATS_MAX:
            repeated += 1
            continue
        most = max(most, percent)
        kept.append(seen)
        moved(int(warm_up) + len(kept))
    parts = {name: over_rounds([one.parts[name] for one in kept]) for name in kept[0].parts}
    return Rounds(count, repeated, round(most, 2), parts, over_rounds([one.ratios for one in kept]))


def ratio(parts: dict[str, Figures], over: str, under: str, figure: str) -> float:
    """How a figure of one part compares with the same of another, within one round."""
    return parts[over][figure] / parts[under][figure]
