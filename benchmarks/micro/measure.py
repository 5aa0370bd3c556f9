"""The cost of a block of work, and rounds of measurements.

Owns: the differences of the server's counters (INFO: CPU, commands, bytes, script time), the CPU
time of processes, the share of CPU that other guests of the machine steal, rounds with a warm-up
and repetitions.
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
"""Maximum number of rounds that are repeated because of stolen CPU."""
SCRIPTS = ("fcall", "evalsha", "eval")
_OWN = ("info", "config", "client", "hello", "ping", "select", "flushall")
"""Commands of the measurement and of connecting, which do not count."""


@dataclass
class Cost:
    """The totals of one block; complete when the block has ended."""

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
    """Process id -> CPU seconds that the process had used before it was watched."""

    def watch(self, pid: int) -> None:
        """Count the CPU of this process from now on."""
        self.watched[pid] = cpu_of(pid)

    def per_item(self, items: int, *, seconds: float | None = None) -> dict[str, float]:
        """Return the figures of a part.

        Args:
            items: number of items that were processed.
            seconds: duration by the times of events; the default is the duration of the block.
        """
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
    """Measure the cost of the block at the server and at its clients.

    Args:
        redis: a client of the server.
        pids: the processes of the clients; the default is this process.
    """
    await redis.config_set("latency-tracking-info-percentiles", "50 99 99.9")
    await redis.config_resetstat()
    cost = Cost()
    for pid in [os.getpid()] if pids is None else pids:
        cost.watch(pid)
    before, start_s = await redis.info("all"), time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - start_s
    _fill(cost, before, await redis.info("all"))
    spent = [_difference(cpu_of(pid), used_s) for pid, used_s in cost.watched.items()]
    cost.client_cpu_s = None if None in spent else sum(s for s in spent if s is not None)


def _difference(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else now - before


def _fill(cost: Cost, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Set the totals of `cost` from the replies of INFO before and after the block."""

    def difference(name: str) -> Any:
        return after[name] - before[name]

    cost.redis_cpu_s = difference("used_cpu_user") + difference("used_cpu_sys")
    cost.net_in_bytes = difference("total_net_input_bytes")
    cost.net_out_bytes = difference("total_net_output_bytes")
    cost.memory_bytes = difference("used_memory")
    for name, statistics in after.items():
        kind, _, command = name.partition("_")
        if kind != "cmdstat" or command.partition("|")[0] in _OWN:
            continue
        if command in SCRIPTS:
            cost.script_calls += statistics["calls"]
        else:
            cost.commands += statistics["calls"]
    for command in SCRIPTS:
        latencies = after.get(f"latency_percentiles_usec_{command}", {})
        cost.script_p999_us = max(cost.script_p999_us, float(latencies.get("p99.9", 0.0)))


def cpu_of(pid: int) -> float | None:
    """Return the CPU seconds that a process has used; None if the system does not report them."""
    if pid == os.getpid():
        return time.process_time()
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Stolen:
    """The share of the machine's CPU that was stolen since the creation of the object.

    Other guests of the host steal CPU. The share is known on Linux only, elsewhere it is 0.
    """

    def __init__(self) -> None:
        self._start = _machine_ticks()

    def percent(self) -> float:
        """Return the share in percent."""
        total_now, stolen_now = _machine_ticks()
        total = total_now - self._start[0]
        return 100 * (stolen_now - self._start[1]) / total if total else 0.0


def _machine_ticks() -> tuple[int, int]:
    """Return the number of all ticks, and of the stolen ones."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return 0, 0
    ticks = [int(part) for part in line.split()[1:9]]  # guest time is in user time already
    return sum(ticks), ticks[7]


@dataclass(frozen=True, slots=True)
class Rounds:
    """The result of all rounds."""

    rounds: int
    repeated: int
    stolen_percent: float
    parts: dict[str, dict[str, Spread]]
    ratios: dict[str, Spread]


async def in_rounds(
    count: int,
    measure_round: Callable[[], Awaitable[Round]],
    on_progress: Callable[[int], None] = lambda _: None,
    *,
    warm_up: bool = True,
) -> Rounds:
    """Measure a number of rounds; a round with too much stolen CPU is repeated.

    Args:
        count: number of rounds in the result.
        measure_round: measures one round.
        on_progress: called with the number of rounds done so far, the warm-up included.
        warm_up: whether one more round is measured first and left out.
    """
    if warm_up:
        await measure_round()
        on_progress(1)
    rounds: list[Round] = []
    highest_percent, repeated = 0.0, 0
    while len(rounds) < count:
        stolen = Stolen()
        result = await measure_round()
        percent = stolen.percent()
        if percent > STOLEN_PERCENT_MAX and repeated < REPEATS_MAX:
            repeated += 1
            continue
        highest_percent = max(highest_percent, percent)
        rounds.append(result)
        on_progress(int(warm_up) + len(rounds))
    parts = {name: over_rounds([each.parts[name] for each in rounds]) for name in rounds[0].parts}
    ratios = over_rounds([each.ratios for each in rounds])
    return Rounds(count, repeated, round(highest_percent, 2), parts, ratios)


def ratio(parts: dict[str, Figures], over: str, under: str, figure: str) -> float:
    """Return a figure of part `over` divided by the same figure of part `under`."""
    return parts[over][figure] / parts[under][figure]
