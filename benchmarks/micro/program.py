"""`python -m benchmarks.micro NAME`: measure one part against a throw-away server of its own.

Owns: the command of each benchmark, progress, the table.
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
from eventsched.formatting import table

ROUNDS_MAX = 100
COLUMNS_MAX = 4
Parts: TypeAlias = Mapping[str, Mapping[str, Spread]]
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Measure one part, against a server that is started for it and thrown away.",
)
app.callback()(root)

Rounds = Annotated[int, typer.Option(help="Rounds that count; one more warms up.")]
Traces = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="RTTM files whose rhythm is spoken [samples of its own]."),
]
Scale = Annotated[float, typer.Option(help="Times the work of each round.")]


def main(args: Sequence[str] | None = None) -> int:
    """Run one benchmark; the exit code."""
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
    with progress(f"bench {bench.name}", bench.steps(rounds)) as moved:
        async with open_stage(rounds, moved) as stage:
            report = await bench.run(stage)
    if options.json:
        print_json(report)
    else:
        show(report)


def _check(options: Options, rounds: int, scale: float) -> None:
    if options.url or options.data:
        raise InvalidMessage.of(
            "url", "a benchmark uses up a server of its own", "leave --url and --data out"
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
    """The report as people read it: a table of parts, one of each curve, the ratios."""
    out = console()
    out.print(f"[bold]{report.bench}[/]  {report.what}", markup=True)
    out.print(f"[dim]{report.server}, {report.machine}; {_rounds(report)}[/]", markup=True)
    told = "  ".join(f"{name} {value}" for name, value in report.settings.items())
    out.print(f"[dim]{told}[/]\n", markup=True)
    for columns in _fitting(report.parts):
        out.print(_table(columns))
    for name, points in report.curves.items():
        for columns in _fitting({f"{point.x:,} {name}": point.figures for point in points}):
            out.print(_table(columns))
    for name, spread in report.ratios.items():
        out.print(f"{name}: {told_spread(spread)}")


def _rounds(report: Report) -> str:
    repeated = f", {report.repeated} repeated" if report.repeated else ""
    return (
        f"median (lowest-highest) of {report.rounds} rounds{repeated}, "
        f"{report.stolen_percent:g} % of CPU stolen at most"
    )


def _fitting(parts: Parts) -> Iterator[Parts]:
    """The parts, so many at a time as fit beside each other."""
    named = list(parts.items())
    for first in range(0, len(named), COLUMNS_MAX):
        yield dict(named[first : first + COLUMNS_MAX])


def _table(parts: Parts) -> Table:
    """A column for each part, a row for each figure."""
    made = table("", *parts, right=tuple(parts))
    for figure in _figures(parts):
        cells = [told_spread(part[figure]) if figure in part else "" for part in parts.values()]
        made.add_row(figure, *cells)
    return made


def _figures(parts: Parts) -> Iterator[str]:
    yield from dict.fromkeys(name for part in parts.values() for name in part)


def told_spread(spread: Spread) -> str:
    if spread.low == spread.high:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.low)}-{_number(spread.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
