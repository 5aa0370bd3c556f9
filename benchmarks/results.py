"""The results of one run of all benchmarks: the source of the documents and plots.

Owns: the form of the file. Never does: measure. Read next: publish.py.
"""

from __future__ import annotations

import msgspec

from benchmarks.micro.figures import Report, Spread


class Rival(msgspec.Struct, frozen=True):
    """A measured peer with its settings."""

    name: str
    version: str
    settings: str


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The results of one run, on one machine with one server."""

    made: str
    server: str
    machine: str
    rounds: int
    scale: float
    """Factor of the usual amount of work."""
    peers: list[Rival]
    left_out: dict[str, str]
    """Peer that could not be measured -> reason."""
    reports: list[Report]

    def report(self, name: str) -> Report:
        """Return the report of a benchmark."""
        return next(report for report in self.reports if report.bench == name)

    def figure(self, bench: str, part: str, figure: str) -> Spread:
        """Return one figure of a benchmark."""
        return self.report(bench).parts[part][figure]
