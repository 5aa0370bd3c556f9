"""`python -m benchmarks.micro NAME`: run one benchmark with a temporary server of its own.

Owns: the command of each benchmark, the progress bar, the printed tables.
Never does: measure. Read next: suite.py, figures.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.table import Table

from benchmarks.micro.figures import Report, Spread
from benchmarks.micro.sessions import Sessions
from benchmarks.micro.stage import ROUNDS, Bench, open_stage
from benchmarks.micro.suite import BENCHES
from eventsched.cli.app import run_program
from eventsched.cli.options import Options, command, root
from eventsched.cli.output import console, print_json, progress
from eventsched.errors import InvalidMessage
from eventsched.tables import table

ROUNDS_MAX = 100
COLUMNS_MAX = 4
Parts: TypeAlias = Mapping[str, Mapping[str, Spread]]
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Run one benchmark with a temporary server of its own.",
)
app.callback()(root)

Rounds = Annotated[int, typer.Option(help="Number of rounds, without the warm-up.")]
Traces = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="RTTM files for the pattern of speech [bundled samples]."),
]
Scale = Annotated[float, typer.Option(help="Factor of the work of each round.")]


def main(args: Sequence[str] | None = None) -> int:
    """Run one benchmark and return the exit code."""
    return run_program(app, "python -m benchmarks.micro", args)


def _define(bench: type[Bench]) -> None:
    @command
    async def run(options: Options, rounds: Rounds = ROUNDS, scale: Scale = 1.0) -> None:
        await _measure(options, bench(), rounds, scale)

    app.command(bench.name, help=_help(bench))(run)


def _define_sessions() -> None:
    @command
    async def run(options: Options, traces: Traces = None, scale: Scale = 1.0) -> None:
        await _measure(options, Sessions(traces=str(traces or "")), 1, scale)

    app.command(Sessions.name, help=_help(Sessions))(run)


def _help(bench: type[Bench]) -> str:
    return f"{bench.what[:1].upper()}{bench.what[1:]}."


async def _measure(options: Options, bench: Bench, rounds: int, scale: float) -> None:
    _check(options, rounds, scale)
    bench = bench.scaled(scale)
    with progress(f"bench {bench.name}", bench.steps(rounds)) as set_progress:
        async with open_stage(rounds, set_progress) as stage:
            report = await bench.run(stage)
    if options.json:
        print_json(report)
    else:
        show(report)


def _check(options: Options, rounds: int, scale: float) -> None:
    if options.url or options.data:
        raise InvalidMessage.of(
            "url", "a benchmark starts a server of its own", "leave out --url and --data"
        )
    if not 1 <= rounds <= ROUNDS_MAX:
        raise InvalidMessage.of("rounds", f"1 to {ROUNDS_MAX}, not {rounds}", "choose another")
    if not 0.001 <= scale <= 100:
        raise InvalidMessage.of("scale", f"0.001 to 100, not {scale:g}", "choose another")


for _bench in BENCHES.values():
    if _bench is Sessions:
        _define_sessions()
    else:
        _define(_bench)


def show(report: Report) -> None:
    """Print the report: a table of the parts, a table of each curve, the ratios."""
    out = console()
    out.print(f"[bold]{report.bench}[/]  {report.what}", markup=True)
    out.print(f"[dim]{report.server}, {report.machine}; {_rounds(report)}[/]", markup=True)
    settings = "  ".join(f"{name} {value}" for name, value in report.settings.items())
    out.print(f"[dim]{settings}[/]\n", markup=True)
    for columns in _split(report.parts):
        out.print(_table(columns))
    for name, points in report.curves.items():
        for columns in _split({f"{point.x:,} {name}": point.figures for point in points}):
            out.print(_table(columns))
    for name, spread in report.ratios.items():
        out.print(f"{name}: {told_spread(spread)}")


def _rounds(report: Report) -> str:
    repeated = f", {report.repeated} repeated" if report.repeated else ""
    return (
        f"median (lowest-highest) of {report.rounds} rounds{repeated}, "
        f"at most {report.stolen_percent:g} % of CPU stolen"
    )


def _split(parts: Parts) -> Iterator[Parts]:
    """Yield the parts in groups of at most COLUMNS_MAX, one group per table."""
    items = list(parts.items())
    for first in range(0, len(items), COLUMNS_MAX):
        yield dict(items[first : first + COLUMNS_MAX])


def _table(parts: Parts) -> Table:
    """Return a table with a column for each part and a row for each figure."""
    result = table("", *parts, right=tuple(parts))
    for figure in _figures(parts):
        cells = [told_spread(part[figure]) if figure in part else "" for part in parts.values()]
        result.add_row(figure, *cells)
    return result


def _figures(parts: Parts) -> Iterator[str]:
    yield from dict.fromkeys(name for part in parts.values() for name in part)


def told_spread(spread: Spread) -> str:
    """Return the median, with the lowest and the highest value if they differ."""
    if spread.low == spread.high:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.low)}-{_number(spread.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
