"""docs/benchmarks.md and the README's table, from one run's JSON.

    python -m benchmarks.publish            # text
    python -m benchmarks.publish --plots    # and the plots, which need the extra `bench`

Owns: the text; nothing in it is written by hand, a test holds it to the JSON.
Never does: measure. Read next: results.py, targets.py, plots.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from benchmarks.compare import OURS
from benchmarks.micro.figures import Report, Spread
from benchmarks.micro.growth import ROWS, Growth
from benchmarks.micro.program import told_spread
from benchmarks.results import Results
from benchmarks.run import RESULTS
from benchmarks.targets import TARGETS, Target
from eventsched.cli.output import console
from eventsched.tables import table

ROOT = Path(__file__).parents[1]
DOC, README, PLOTS = ROOT / "docs/benchmarks.md", ROOT / "README.md", ROOT / "docs/benchmarks"
BEGIN, END = "<!-- benchmarks: written by make bench -->", "<!-- benchmarks end -->"
FIGURES = {
    "rate_per_s": "a second",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "p999_ms": "p99.9 ms",
    "redis_cpu_us": "Redis CPU µs",
    "script_calls": "script calls",
    "commands": "commands",
    "client_cpu_us": "client CPU µs",
    "net_in_bytes": "bytes in",
    "net_out_bytes": "bytes out",
    "memory_bytes": "memory B",
    "script_p999_us": "script p99.9 µs",
    "round_trip_us": "round trip µs",
    "overhead_bytes": "overhead B",
    "values_bytes": "values B",
    "queued_percent": "queued %",
    "utterances_per_s": "utterances a second",
    "redis_cpu_percent": "Redis CPU % of a core",
    "late_chunks": "late",
    "lost": "lost",
    "doubled": "doubled",
    "sessions": "sessions",
}
"""Column titles, in order; per item where a unit allows it. Others follow by their name."""
NOT_SHOWN = ("p90_ms", "max_ms")
"""In the JSON, and the former in the plots."""
PLOTTED = {
    "jobs": ("throughput.svg", "Jobs a second of each"),
    "latency": ("latency.svg", "Percentiles of each at both rates"),
    "dispatch": ("cost.svg", "Redis CPU of a dispatch against nodes and pairs"),
    "sessions": ("sessions.svg", "Latency against live sessions"),
}
HOW = """\
Every figure is the median over rounds, with the lowest and the highest in brackets. The sides of a
comparison take turns within each round. Machines differ by a factor of two from day to day, so that
what is asked for is a ratio within one run: a floor is met if the median meets it. A benchmark
without peers and targets has at most three rounds, those of the gateway as well; each level of live
sessions has one, or three more if it failed; growth has one. A round in which more than 5 % of the
machine's CPU was stolen by others is measured again. Redis CPU is what the server itself says
(INFO), per item; so are commands, script calls and bytes."""
GROWTH = """\
Each cost is measured at three sizes within one run. An exponent of 0 is a constant cost, 1 a linear
one. A run fails if an exponent is above the last column, or if the ratio below is above 2."""
RULES = """\
Each has one producer process and one worker process with a handler that does nothing. Jobs are
enqueued before the worker starts; their clock runs from the first handler's start to the last
one's, ours from the first decision to the last delivery in order. Client CPU is the worker's; ours
is that of dispatcher, node and projector. Latency is counted from the producer's call to the
handler's start, for ours from finalize()."""


def main(
    results: Annotated[Path, typer.Option(metavar="FILE", help="What a run wrote.")] = RESULTS,
    plots: Annotated[bool, typer.Option("--plots", help="Draw the plots as well.")] = False,
) -> None:
    """Write the documents that show a run, and print what it reached."""
    seen = read(results)
    _print(seen)
    DOC.write_text(document(seen))
    README.write_text(with_table(README.read_text(), seen))
    if plots:
        from benchmarks.plots import draw

        PLOTS.mkdir(exist_ok=True)
        draw(seen, PLOTS)


def _print(results: Results) -> None:
    shown = table("WHAT", "SEEN", "FLOOR", "GOAL", "REACHED", right=("SEEN", "FLOOR", "GOAL"))
    for row in _rows(results):
        shown.add_row(*row)
    console().print(shown)


def read(path: Path) -> Results:
    return msgspec.json.decode(path.read_bytes(), type=Results)


def with_table(text: str, results: Results) -> str:
    """The README with the table of this run between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{seen_on(results)}\n\n{headlines(results)}\n{END}{after}"


def document(results: Results) -> str:
    """All of docs/benchmarks.md."""
    parts = [
        "# Benchmarks",
        "Written by `make bench` from `benchmarks/results.json`; do not edit by hand.",
        seen_on(results),
        HOW,
        "## What is asked, and what was seen",
        reach(results),
        _not_better(results),
        *(_section(report) for report in results.reports),
        "## The others, and how they were set",
        _rivals(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def seen_on(results: Results) -> str:
    quick = f" A quick look at {results.scale:g} of the work." if results.scale < 1 else ""
    return (
        f"Seen on {results.made}: {results.server} without persistence, {results.machine}, "
        f"{results.rounds} rounds.{quick} Again: `make bench`."
    )


def reach(results: Results) -> str:
    """Each target with what was seen of it."""
    head = ["| what | seen | floor | goal | reached |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in _rows(results))])


def headlines(results: Results) -> str:
    """The few figures that the README shows; each says what it is without the others."""
    rows = [(target.headline, _seen(target, results)) for target in TARGETS if target.headline]
    return "\n".join(
        ["| what | seen |", "|---|---|", *(f"| {what} | {seen} |" for what, seen in rows)]
    )


def _seen(target: Target, results: Results) -> str:
    seen = target.find(results)
    return "" if seen is None else _with_unit(told_spread(seen), target.unit)


def _rows(results: Results) -> Iterator[list[str]]:
    for target in TARGETS:
        seen = target.find(results)
        shown = _seen(target, results)
        limits = [_limit(target, value) for value in (target.floor, target.goal)]
        yield [target.what, shown, *limits, target.reached(seen)]


def _limit(target: Target, value: float | None) -> str:
    sign = "≥" if target.more else "≤"
    return "" if value is None else f"{sign} {_with_unit(f'{value:,g}', target.unit)}"


def _with_unit(shown: str, unit: str) -> str:
    return f"{shown}x" if unit == "x" else f"{shown} {unit}"


def _not_better(results: Results) -> str:
    """Where somebody else did better in this run, said as plainly as the rest."""
    found = list(_behind(results))
    if not found:
        return ""
    return "Where others did better:\n\n" + "\n".join(f"- {one}" for one in found)


def _behind(results: Results) -> Iterator[str]:
    jobs = results.report("jobs").parts
    ours = [part for part in jobs if part.startswith(OURS)]
    for name in (peer.name for peer in results.peers):
        theirs = jobs[name]["rate_per_s"].median
        worse = [part for part in ours if jobs[part]["rate_per_s"].median < theirs]
        if worse:
            shown = "; ".join(f"{p} {told_spread(jobs[p]['rate_per_s'])}" for p in worse)
            yield f"{name} drains {theirs:,.0f} jobs a second ({shown})"
    yield from _slower(results)


def _slower(results: Results) -> Iterator[str]:
    parts = results.report("latency").parts
    for part, figures in parts.items():
        name, _, rate = part.partition(", ")
        ours = parts[f"{OURS}, {rate}"]
        for figure in ("p50_ms", "p99_ms"):
            if name != OURS and figures[figure].median < ours[figure].median:
                yield (
                    f"{name} at {rate}: {FIGURES[figure]} {told_spread(figures[figure])} against "
                    f"{told_spread(ours[figure])}"
                )


def _section(report: Report) -> str:
    shown = ", ".join(f"{name} {_setting(value)}" for name, value in report.settings.items())
    parts = [
        f"## {report.bench}",
        f"{report.what[:1].upper()}{report.what[1:]}. Settings: {shown}.",
    ]
    if report.bench in PLOTTED:
        file, what = PLOTTED[report.bench]
        parts.append(f"![{what}](benchmarks/{file})")
    parts.append(_growth(report) if report.bench == Growth.name else _table(report.parts))
    for name, points in report.curves.items():
        parts.append(_table({f"{point.x:,} {name}": point.figures for point in points}))
    ratios = [f"- {name}: {told_spread(spread)}" for name, spread in report.ratios.items()]
    parts.append("\n".join(ratios))
    return "\n\n".join(part for part in parts if part)


def _growth(report: Report) -> str:
    """A row for each cost: the sizes, the costs before it was bounded and now, the exponent."""
    lines = [
        "| cost | unit | at | before | now | exponent | at most |",
        "|---|---|---|---|---|---:|---:|",
    ]
    for row in ROWS:
        figures = report.parts[row.name]
        sizes = " / ".join(f"{size:,}" for size in row.sizes)
        costs = " / ".join(told_spread(figures[f"at {size:,}"]) for size in row.sizes)
        cells = [row.name, row.unit, sizes, row.before, costs, told_spread(figures["exponent"])]
        lines.append(f"| {' | '.join(cells)} | {row.exponent_max:g} |")
    return f"{GROWTH}\n\n" + "\n".join(lines)


def _setting(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(f"{one:,}" for one in value)
    return f"{value:,}" if isinstance(value, int) else str(value) or "–"  # noqa: RUF001


def _table(parts: Mapping[str, Mapping[str, Spread]]) -> str:
    """A row for each part; a column for each figure that any of them has."""
    seen = dict.fromkeys(name for figures in parts.values() for name in figures)
    names = [name for name in FIGURES if name in seen]
    names += [name for name in seen if name not in FIGURES and name not in NOT_SHOWN]
    lines = [
        "| | " + " | ".join(FIGURES.get(name, name) for name in names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for part, figures in parts.items():
        cells = [told_spread(figures[name]) if name in figures else "" for name in names]
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _rivals(results: Results) -> str:
    lines = [f"- **{one.name} {one.version}**: {one.settings}" for one in results.peers]
    lines += [f"- left out: {why}" for why in results.left_out.values()]
    return f"{RULES}\n\n" + "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
