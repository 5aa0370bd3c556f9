"""The plots of docs/benchmarks.md, from the results of one run.

Owns: four SVG files. Never does: measure, write text. Read next: publish.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from benchmarks.compare import OURS
from benchmarks.micro.figures import Point, Spread
from benchmarks.micro.gateway_sessions import GatewaySessions
from benchmarks.micro.latency import RATES
from benchmarks.micro.sessions import CURVE, P99_MS_MAX, Sessions
from benchmarks.results import Results

SHARES = {"p50_ms": "50", "p90_ms": "90", "p99_ms": "99", "p999_ms": "99.9"}
BLUE, GREY, RED, ORANGE = "#1f5fa8", "#9aa5b1", "#b3261e", "#c77700"
LOOK: Any = {
    "svg.hashsalt": "eventsched",  # the same figures give the same file
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


def draw(results: Results, folder: Path) -> None:
    """Write all plots as SVG files into the folder."""
    with mpl.rc_context(LOOK):
        _save(_throughput(results), folder / "throughput.svg")
        _save(_latency(results), folder / "latency.svg")
        _save(_cost(results), folder / "cost.svg")
        _save(_sessions(results), folder / "sessions.svg")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _throughput(results: Results) -> Any:
    """Return bars of the jobs per second, the fastest on top."""
    parts = results.report("jobs").parts
    ranked = sorted(parts, key=lambda part: parts[part]["rate_per_s"].median)
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(ranked) + 1.2))
    spreads = [parts[part]["rate_per_s"] for part in ranked]
    colors = [BLUE if part.startswith(OURS) else GREY for part in ranked]
    bars = axes.barh(
        ranked, [each.median for each in spreads], xerr=_errors(spreads), color=colors, capsize=2
    )
    axes.bar_label(bars, [f"{each.median:,.0f}" for each in spreads], padding=14, fontsize=9)
    axes.set_xlabel("jobs a second, one worker process (median, lowest to highest round)")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.margins(x=0.15)
    return figure


def _latency(results: Results) -> Any:
    """Return lines of the percentiles, with a panel for each rate."""
    parts = results.report("latency").parts
    names = [OURS, *(peer.name for peer in results.peers)]
    figure, panels = plt.subplots(1, len(RATES), figsize=(10, 4.5), sharey=True)
    for axes, rate in zip(panels, RATES, strict=True):
        for name in names:
            figures = parts[f"{name}, {rate}/s"]
            values = [figures[share].median for share in SHARES]
            width, above = (2.6, 3) if name == OURS else (1.3, 2)
            axes.plot(
                list(SHARES.values()), values, marker="o", ms=4, lw=width, label=name,
                zorder=above, color=BLUE if name == OURS else f"C{names.index(name)}",
            )  # fmt: skip
        _log_ms(axes)
        axes.set_title(f"{rate:,} jobs a second", fontsize=10)
        axes.set_xlabel("percentile")
        axes.grid(axis="y", which="both", alpha=0.25)
    panels[0].set_ylabel("ms from the call to the handler's start")
    panels[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def _cost(results: Results) -> Any:
    """Return lines of the Redis CPU of a dispatch against nodes and against language pairs."""
    curves = results.report("dispatch").curves
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axes, (name, points) in zip(panels, curves.items(), strict=True):
        _curve(axes, points, "redis_cpu_us", color=BLUE)
        axes.set_xscale("log")
        axes.set_xticks([point.x for point in points], [f"{point.x:,}" for point in points])
        axes.minorticks_off()
        axes.set_xlabel(name)
        axes.grid(axis="y", alpha=0.25)
    panels[0].set_ylim(0, panels[0].get_ylim()[1] * 1.1)
    panels[0].set_ylabel("Redis CPU, µs a dispatch")
    return figure


def _sessions(results: Results) -> Any:
    """Return lines of the latency against live sessions, with its limit and the server's load."""
    points = results.report(Sessions.name).curves[CURVE]
    figure, axes = plt.subplots(figsize=(8, 3.8))
    through = results.report(GatewaySessions.name).curves[CURVE]
    _curve(axes, through, "p99_ms", color=ORANGE, label="p99 through one gateway")
    _curve(axes, points, "p99_ms", color=BLUE, label="p99")
    _curve(axes, points, "p50_ms", color=GREY, label="p50")
    axes.axhline(P99_MS_MAX, color=RED, lw=1, ls="--", label=f"p99 of {P99_MS_MAX:g} ms")
    _log_ms(axes)
    axes.set_ylabel("ms from finalize to handler")
    axes.set_xlabel("live sessions in real time")
    load = axes.twinx()
    load.spines["right"].set_visible(True)
    loads = [point.figures["redis_cpu_percent"].median for point in points]
    load.plot([point.x for point in points], loads, color=RED, alpha=0.35, label="Redis CPU")
    load.set_ylabel("Redis CPU, % of one core")
    load.set_ylim(0, 105)
    handles = [handle for each in (axes, load) for handle in each.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, fontsize=8, loc="lower right", ncols=2, frameon=False)
    return figure


def _log_ms(axes: Any) -> None:
    """Set a logarithmic axis of milliseconds with plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _curve(axes: Any, points: Sequence[Point], figure: str, **options: Any) -> None:
    spreads = [point.figures[figure] for point in points]
    axes.errorbar(
        [point.x for point in points],
        [each.median for each in spreads],
        yerr=_errors(spreads),
        marker="o",
        ms=4,
        capsize=2,
        **options,
    )


def _errors(spreads: Sequence[Spread]) -> list[list[float]]:
    """Return the distances of the lowest and the highest round from the median."""
    below = [each.median - each.low for each in spreads]
    return [below, [each.high - each.median for each in spreads]]
