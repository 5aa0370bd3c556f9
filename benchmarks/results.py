"""What one run of all benchmarks leaves: the only source of documents and plots.

Owns: the file's shape. Never does: measure. Read next: publish.py.
"""

from __future__ import annotations

import msgspec

from benchmarks.micro.figures import Report, Spread


class Rival(msgspec.Struct, frozen=True):
    """A peer that was measured, and how it was set."""

    name: str
    version: str
    settings: str


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Everything was seen on one machine, on one server, in one run."""

    made: str
    server: str
    machine: str
    rounds: int
    scale: float
    """Times the usual work; below 1 for a quick look."""
    peers: list[Rival]
    left_out: dict[str, str]
    """Peers that could not be set up, and why."""
    reports: list[Report]

    def report(self, name: str) -> Report:
        return next(one for one in self.reports if one.bench == name)

    def figure(self, bench: str, part: str, figure: str) -> Spread:
        return self.report(bench).parts[part][figure]
