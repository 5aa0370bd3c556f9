"""Benchmark `growth`: how cost grows with size, as an exponent.

Owns: the exponent of each row from its costs at three sizes within one run, and its bound. A row
above its bound fails the benchmark.
Never does: measure a row. Read next: growth_sessions.py (the first rows).
"""

from __future__ import annotations

from math import log
from typing import ClassVar

from benchmarks.micro.figures import BoundExceeded, Figures, Report, Round
from benchmarks.micro.growth_archive import ARCHIVE_ROWS
from benchmarks.micro.growth_classes import CLASS_ROWS
from benchmarks.micro.growth_clients import CLIENT_ROWS
from benchmarks.micro.growth_flood import flood_ratio
from benchmarks.micro.growth_nodes import NODE_ROWS
from benchmarks.micro.growth_reads import READ_ROWS
from benchmarks.micro.growth_row import Row, lowest_cost
from benchmarks.micro.growth_sessions import SESSION_ROWS
from benchmarks.micro.growth_trimming import TRIMMING_ROWS
from benchmarks.micro.growth_views import VIEW_ROWS
from benchmarks.micro.measure import in_rounds
from benchmarks.micro.stage import Bench, Stage

ROWS: tuple[Row, ...] = (
    *SESSION_ROWS,
    *VIEW_ROWS,
    *TRIMMING_ROWS,
    *CLASS_ROWS,
    *NODE_ROWS,
    *CLIENT_ROWS,
    *READ_ROWS,
    *ARCHIVE_ROWS,
)
REPEATS = 3
"""Measurements of a size in a round; see `lowest_cost`."""
FLOOD, FLOOD_MAX = "append beside the flood of another tenant / alone, p99_ms", 2.0
APPENDS, TURNS = 300, 5
"""Appends beside the flood and alone in each turn."""
COST_MIN = 1e-3
"""A cost below this is no cost: noise of the smallest sizes is no growth."""


class Growth(Bench, frozen=True, kw_only=True):
    """Measure each row at three sizes.

    An exponent of 0 is a constant cost, 1 a linear one, 2 a quadratic one.
    """

    name: ClassVar = "growth"
    what: ClassVar = "cost at three sizes, as an exponent"

    scales: ClassVar = ("percent",)

    percent: int = 100
    """Share of the sizes. At a smaller share the exponents say nothing, and no bound applies."""

    async def run(self, stage: Stage) -> Report:
        async def measure_round() -> Round:
            parts = {row.name: await self._figures(stage, row) for row in ROWS}
            appends = max(10, APPENDS * self.percent // 100)
            turns = TURNS if self.percent >= 100 else 1
            return Round(parts, {FLOOD: await flood_ratio(stage, appends, turns)})

        rounds = await in_rounds(1, measure_round, stage.on_progress, warm_up=False)
        too_steep = [
            f"{row.name}: {exponent:.2f} instead of {row.exponent_max:g}"
            for row in ROWS
            if (exponent := rounds.parts[row.name]["exponent"].median) > row.exponent_max
        ]
        if (ratio := rounds.ratios[FLOOD].median) > FLOOD_MAX:
            too_steep.append(f"{FLOOD}: {ratio:.2f} instead of {FLOOD_MAX:g}")
        report = stage.report_of(self, rounds, curves={})
        if too_steep and self.percent >= 100:
            raise BoundExceeded("the cost grows too fast; " + "; ".join(too_steep), report)
        return report

    async def _figures(self, stage: Stage, row: Row) -> Figures:
        repeats = REPEATS if self.percent >= 100 else 1
        results: dict[int, list[float | list[float]]] = {size: [] for size in row.sizes}
        for _ in range(repeats):
            for size in row.sizes:  # in turns: another load of the machine meets each size
                scaled = max(1, size * self.percent // 100)
                results[size].append(await row.measure(stage, scaled))
        costs = {size: lowest_cost(repeated) for size, repeated in results.items()}
        figures = {f"at {size:,}": cost for size, cost in costs.items()}
        return figures | {"exponent": exponent(costs), "at most": row.exponent_max}


def exponent(costs: dict[int, float]) -> float:
    """The exponent of the growth from the smallest to the largest size."""
    small, large = min(costs), max(costs)
    ratio = max(costs[large], COST_MIN) / max(costs[small], COST_MIN)
    return log(ratio) / log(large / small)
