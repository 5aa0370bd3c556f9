"""Run all benchmarks of eventsched and the peers on one server and write one JSON file.

    python -m benchmarks.run --out benchmarks/results.json

Owns: the order of the benchmarks, messages about progress, the file.
Never does: measure (benchmarks/micro/, compare.py), write documents (publish.py).
Read next: compare.py, publish.py.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from benchmarks.compare import Drains, Latencies
from benchmarks.micro.append import Append
from benchmarks.micro.console_reads import ConsoleReads
from benchmarks.micro.dispatch import Dispatch
from benchmarks.micro.figures import BenchFailed, BoundExceeded, Report
from benchmarks.micro.project import Project
from benchmarks.micro.sessions import Sessions
from benchmarks.micro.stage import Stage, open_stage
from benchmarks.micro.suite import BENCHES
from benchmarks.micro.talk import stretches_in
from benchmarks.peers.environments import NAMES, NoPeer, Peer, prepare
from benchmarks.peers.programs import drain
from benchmarks.results import Results, Rival
from eventsched.errors import EventschedError
from eventsched.runtime import run_async

RESULTS = Path(__file__).parent / "results.json"
TRIAL_JOBS = 100
OWN_COMMAND = (ConsoleReads.name,)
"""Benchmarks that are not in this run, for their length: `python -m benchmarks.micro NAME`."""
ALONE = [name for name in BENCHES if name not in (Drains.name, Latencies.name, *OWN_COMMAND)]
"""Benchmarks without peers."""
ROUNDS_ALONE_MAX = 3
"""Rounds of a benchmark without peers and targets."""
WITH_TARGETS = (Append.name, Dispatch.name, Project.name)
ALL_PEERS = ",".join(NAMES)
Out = Annotated[Path, typer.Option(metavar="FILE", help="Output file.")]
Rounds = Annotated[int, typer.Option(min=1, max=100, help="Number of rounds.")]
Scale = Annotated[float, typer.Option(min=0.001, max=100, help="Factor of the work of each round.")]
Peers = Annotated[str, typer.Option(help="Names of the peers, joined by commas; may be empty.")]
Traces = Annotated[str, typer.Option(metavar="DIR", help="RTTM files for the pattern of speech.")]


def main(
    out: Out = RESULTS,
    rounds: Rounds = 9,
    scale: Scale = 1.0,
    peers: Peers = ALL_PEERS,
    traces: Traces = "",
) -> None:
    """Run all benchmarks on one server and write one JSON file."""
    try:
        if traces:
            stretches_in(Path(traces))  # check the files before the first benchmark
        prepared, left_out = _prepare([name for name in peers.split(",") if name])
        exceeded: list[str] = []
        results = run_async(lambda: _measure(prepared, left_out, rounds, scale, traces, exceeded))
    except EventschedError as error:
        _print(str(error))
        raise typer.Exit(1) from None
    out.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    _print(f"written: {out}")
    if exceeded:
        _print("\n".join(exceeded))
        raise typer.Exit(1)


def _prepare(names: list[str]) -> tuple[list[Peer], dict[str, str]]:
    """Install the peers; return them, and the reasons for those that cannot be installed."""
    prepared, left_out = [], {}
    for name in names:
        _print(f"setting up {name}")
        try:
            prepared.append(prepare(name))
        except NoPeer as error:
            left_out[name] = str(error)
            _print(f"left out: {error}")
    return prepared, left_out


async def _measure(
    peers: list[Peer],
    left_out: dict[str, str],
    rounds: int,
    scale: float,
    traces: str,
    exceeded: list[str],
) -> Results:
    """Return the results of all benchmarks; `exceeded` gets what is above its bound."""
    name = ""
    async with open_stage(rounds, lambda done: _print(f"{name}: {done} done")) as stage:
        working = await _try(stage, peers, left_out)
        reports = []
        for name, run in _all(stage, working, scale, traces):
            _print(f"measuring {name}")
            try:
                reports.append(await run())
            except BoundExceeded as error:
                reports.append(error.report)
                exceeded.append(f"{name}: {error}")
        return Results(
            made=datetime.now(UTC).date().isoformat(),
            server=stage.server,
            machine=reports[0].machine,
            rounds=rounds,
            scale=scale,
            peers=[Rival(peer.name, peer.version, peer.settings) for peer in working],
            left_out=left_out,
            reports=reports,
        )


async def _try(stage: Stage, peers: list[Peer], left_out: dict[str, str]) -> list[Peer]:
    """Return the peers that process a few jobs, which warms them up too."""
    working = []
    for peer in peers:
        _print(f"trying {peer.name} {peer.version}")
        try:
            await drain(stage, peer, TRIAL_JOBS)
        except BenchFailed as error:
            left_out[peer.name] = str(error)
            _print(f"left out: {error}")
        else:
            working.append(peer)
    return working


def _all(
    stage: Stage, peers: list[Peer], scale: float, traces: str
) -> Iterator[tuple[str, Callable[[], Awaitable[Report]]]]:
    yield "jobs", lambda: Drains().scaled(scale).compare(stage, peers)
    yield "latency", lambda: Latencies().scaled(scale).compare(stage, peers)
    for name in ALONE:
        kind = BENCHES[name]
        bench = kind(traces=traces) if issubclass(kind, Sessions) else kind()
        rounds = stage.rounds if name in WITH_TARGETS else min(stage.rounds, ROUNDS_ALONE_MAX)
        yield name, partial(bench.scaled(scale).run, replace(stage, rounds=rounds))


def _print(message: str) -> None:
    now = datetime.now().astimezone().strftime("%H:%M:%S")
    sys.stderr.write(f"{now}  {message}\n")


if __name__ == "__main__":
    typer.run(main)
