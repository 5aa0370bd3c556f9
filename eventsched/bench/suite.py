"""The benchmarks there are.

Owns: their list, by name. Never does: run them (cli/bench.py). Read next: dispatch.py.
"""

from __future__ import annotations

from eventsched.bench.append import Append
from eventsched.bench.archive import Archive
from eventsched.bench.dispatch import Dispatch
from eventsched.bench.jobs import Jobs
from eventsched.bench.latency import Latency
from eventsched.bench.project import Project
from eventsched.bench.raw import Raw
from eventsched.bench.sessions import Sessions
from eventsched.bench.stage import Bench

BENCHES: dict[str, type[Bench]] = {
    one.name: one for one in (Append, Archive, Dispatch, Jobs, Latency, Project, Sessions, Raw)
}
