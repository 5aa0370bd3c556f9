"""What a benchmark reports.

Owns: the report's shape, medians with spread, percentiles. Names carry their unit at the end;
what is per item says so by being in a part, next to its `rate_per_s`.
Never does: measuring. Read next: measure.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, TypeAlias

import msgspec

from eventsched.errors import EventschedError

Figures: TypeAlias = Mapping[str, float]


class BenchFailed(EventschedError):
    """Raised when what was measured did not do its work: there is no figure for it."""


class Spread(msgspec.Struct, frozen=True):
    """One figure over all rounds."""

    median: float
    low: float
    high: float


class Point(msgspec.Struct, frozen=True):
    """The figures at one place of a curve."""

    x: int
    figures: dict[str, Spread]


class Round(msgspec.Struct, frozen=True):
    """What one round saw: figures of each part, and ratios between parts."""

    parts: dict[str, Figures]
    ratios: Figures = {}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark's outcome, as `--json` prints it."""

    bench: str
    what: str
    server: str
    machine: str
    settings: dict[str, Any]
    rounds: int
    repeated: int
    """Rounds that were measured again because too much CPU was stolen from the machine."""
    stolen_percent: float
    """The most that was stolen in a round that counts."""
    parts: dict[str, dict[str, Spread]]
    ratios: dict[str, Spread] = {}
    curves: dict[str, list[Point]] = {}


def spread_of(values: Sequence[float]) -> Spread:
    return Spread(*(_rounded(value) for value in (median(values), min(values), max(values))))


def over_rounds(rounds: Sequence[Figures]) -> dict[str, Spread]:
    """Every figure that each of the rounds has."""
    names = [name for name in rounds[0] if all(name in one for one in rounds)]
    return {name: spread_of([one[name] for one in rounds]) for name in names}


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """p50, p90, p99 and p99.9 by nearest rank, and the largest, of values in ms."""
    ranked = sorted(values)
    if not ranked:
        raise BenchFailed("nothing was measured")
    shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999}
    last = len(ranked) - 1
    found = {name: ranked[min(last, int(len(ranked) * at))] for name, at in shares.items()}
    return found | {"max_ms": ranked[last]}


def _rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}") if abs(value) < 1_000 else float(round(value))
