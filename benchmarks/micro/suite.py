"""The list of the benchmarks.

Owns: the table from name to benchmark. Never does: run them (program.py). Read next: dispatch.py.
"""

from __future__ import annotations

from benchmarks.micro.append import Append
from benchmarks.micro.archive import Archive
from benchmarks.micro.console_reads import ConsoleReads
from benchmarks.micro.dispatch import Dispatch
from benchmarks.micro.gateway import Gateway
from benchmarks.micro.gateway_sessions import GatewaySessions
from benchmarks.micro.growth import Growth
from benchmarks.micro.jobs import Jobs
from benchmarks.micro.latency import Latency
from benchmarks.micro.project import Project
from benchmarks.micro.raw import Raw
from benchmarks.micro.sessions import Sessions
from benchmarks.micro.stage import Bench

BENCHES: dict[str, type[Bench]] = {
    bench.name: bench
    for bench in (
        Append,
        Archive,
        ConsoleReads,
        Dispatch,
        Gateway,
        GatewaySessions,
        Growth,
        Jobs,
        Latency,
        Project,
        Sessions,
        Raw,
    )
}
