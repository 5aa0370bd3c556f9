"""All benchmarks, ours and the peers', on one server in one run: one JSON.

    python -m benchmarks.run --out benchmarks/results.json

Owns: the order of things, progress, the file.
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
TRIED_JOBS = 100
ALONE = [name for name in BENCHES if name not in (Drains.name, Latencies.name)]
"""Benchmarks in which no peer takes part."""
ALL_PEERS = ",".join(NAMES)
Out = Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go.")]
Rounds = Annotated[int, typer.Option(min=1, max=100, help="Rounds that count.")]
Scale = Annotated[float, typer.Option(min=0.001, max=100, help="Times the work of each round.")]
Peers = Annotated[str, typer.Option(help="Which ones, joined by comma; empty for none.")]
Traces = Annotated[
    str, typer.Option(metavar="DIR", help="RTTM files whose rhythm live sessions speak.")
]


def main(
    out: Out = RESULTS,
    rounds: Rounds = 3,
    scale: Scale = 1.0,
    peers: Peers = ALL_PEERS,
    traces: Traces = "",
) -> None:
    """Measure everything on one server, and write one JSON."""
    try:
        if traces:
            stretches_in(Path(traces))  # they are needed last: what is wrong is said first
        found, left_out = _prepare([name for name in peers.split(",") if name])
        results = run_async(lambda: _measure(found, left_out, rounds, scale, traces))
    except EventschedError as error:
        _tell(str(error))
        raise typer.Exit(1) from None
    out.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    _tell(f"written: {out}")


def _prepare(names: list[str]) -> tuple[list[Peer], dict[str, str]]:
    """Those that can be set up here, and why others cannot."""
    found, left_out = [], {}
    for name in names:
        _tell(f"setting up {name}")
        try:
            found.append(prepare(name))
        except NoPeer as why:
            left_out[name] = str(why)
            _tell(f"left out: {why}")
    return found, left_out


async def _measure(
    peers: list[Peer], left_out: dict[str, str], rounds: int, scale: float, traces: str
) -> Results:
    name = ""
    async with open_stage(rounds, lambda done: _tell(f"{name}: {done} done")) as stage:
        working = await _try(stage, peers, left_out)
        reports = []
        for name, run in _all(stage, working, scale, traces):
            _tell(f"measuring {name}")
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
    """Those that work off a few jobs; it warms them up, too."""
    working = []
    for peer in peers:
        _tell(f"trying {peer.name} {peer.version}")
        try:
            await drain(stage, peer, TRIED_JOBS)
        except BenchFailed as why:
            left_out[peer.name] = str(why)
            _tell(f"left out: {why}")
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


def _tell(what: str) -> None:
    now = datetime.now().astimezone().strftime("%H:%M:%S")
    sys.stderr.write(f"{now}  {what}\n")


if __name__ == "__main__":
    typer.run(main)
