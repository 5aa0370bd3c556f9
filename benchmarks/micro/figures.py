"""The report of a benchmark.

Owns: the form of the report, medians with spread, percentiles. The name of a figure ends with its
unit. The figures of a part are per item.
Never does: measure. Read next: measure.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, TypeAlias

import msgspec

from eventsched.errors import EventschedError

Figures: TypeAlias = Mapping[str, float]


class BenchFailed(EventschedError):
    """Raised when the measured work was not done, so that there is no figure."""


class Spread(msgspec.Struct, frozen=True):
    """The median, the lowest and the highest value of a figure over all rounds."""

    median: float
    low: float
    high: float


class Point(msgspec.Struct, frozen=True):
    """The figures of one point of a curve."""

    x: int
    figures: dict[str, Spread]


class Round(msgspec.Struct, frozen=True):
    """The result of one round: the figures of each part, and ratios between parts."""

    parts: dict[str, Figures]
    ratios: Figures = {}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one benchmark, as `--json` prints it."""

    bench: str
    what: str
    server: str
    machine: str
    settings: dict[str, Any]
    rounds: int
    repeated: int
    """Rounds that were repeated because too much CPU was stolen from the machine."""
    stolen_percent: float
    """The highest share of stolen CPU in a round that counts."""
    parts: dict[str, dict[str, Spread]]
    ratios: dict[str, Spread] = {}
    curves: dict[str, list[Point]] = {}


class BoundExceeded(BenchFailed):
    """Raised when a figure is above its bound; `report` has all figures."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def spread_of(values: Sequence[float]) -> Spread:
    """Return median, lowest and highest value, rounded."""
    return Spread(*(_rounded(value) for value in (median(values), min(values), max(values))))


def over_rounds(rounds: Sequence[Figures]) -> dict[str, Spread]:
    """Return the spread of each figure that all rounds have."""
    names = [name for name in rounds[0] if all(name in figures for figures in rounds)]
    return {name: spread_of([figures[name] for figures in rounds]) for name in names}


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Return p50, p90, p99, p99.9 and the maximum of values in ms.

    p is the sorted value at index floor(n * p). Raises BenchFailed without values.
    """
    ranked = sorted(values)
    if not ranked:
        raise BenchFailed("nothing was measured")
    shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999}
    last = len(ranked) - 1
    figures = {name: ranked[min(last, int(len(ranked) * at))] for name, at in shares.items()}
    return figures | {"max_ms": ranked[last]}


def _rounded(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}") if abs(value) < 1_000 else float(round(value))
