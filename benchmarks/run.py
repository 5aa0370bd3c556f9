"""Run all benchmarks of eventsched and the peers on one server and write one JSON file.

    python -m benchmarks.run --out benchmarks/results.json

Owns: the order of the benchmarks, messages about progress, the file.
Never does: measure (benchmarks/micro/, compare.py), write documents (publish.py).
Read next: compare.py, publish.py.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from benchmarks.compare import Drains, Latencies
from benchmarks.micro.figures import BenchFailed, Report
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
ALONE = [name for name in BENCHES if name not in (Drains.name, Latencies.name)]
"""Benchmarks without peers."""
ALL_PEERS = ",".join(NAMES)
Out = Annotated[Path, typer.Option(metavar="FILE", help="Output file.")]
Rounds = Annotated[int, typer.Option(min=1, max=100, help="Number of rounds.")]
Scale = Annotated[float, typer.Option(min=0.001, max=100, help="Factor of the work of each round.")]
Peers = Annotated[str, typer.Option(help="Names of the peers, joined by commas; may be empty.")]
Traces = Annotated[str, typer.Option(metavar="DIR", help="RTTM files for the pattern of speech.")]


def main(
    out: Out = RESULTS,
    rounds: Rounds = 3,
    scale: Scale = 1.0,
    peers: Peers = ALL_PEERS,
    traces: Traces = "",
) -> None:
    """Run all benchmarks on one server and write one JSON file."""
    try:
        if traces:
            stretches_in(Path(traces))  # check the files before the first benchmark
        prepared, left_out = _prepare([name for name in peers.split(",") if name])
        results = run_async(lambda: _measure(prepared, left_out, rounds, scale, traces))
    except EventschedError as error:
        _print(str(error))
        raise typer.Exit(1) from None
    out.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    _print(f"written: {out}")


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
    peers: list[Peer], left_out: dict[str, str], rounds: int, scale: float, traces: str
) -> Results:
    name = ""
    async with open_stage(rounds, lambda done: _print(f"{name}: {done} done")) as stage:
        working = await _try(stage, peers, left_out)
        reports = []
        for name, run in _all(stage, working, scale, traces):
            _print(f"measuring {name}")
            reports.append(await run())
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
        bench = Sessions(traces=traces) if name == Sessions.name else BENCHES[name]()
        yield name, partial(bench.scaled(scale).run, stage)


def _print(message: str) -> None:
    now = datetime.now().astimezone().strftime("%H:%M:%S")
    sys.stderr.write(f"{now}  {message}\n")


if __name__ == "__main__":
    typer.run(main)
