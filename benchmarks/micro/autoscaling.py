"""Scale a fleet of nodes by the metric `slots_wanted`, over recorded meetings, in virtual time.

    python -m benchmarks.micro.autoscaling --traces DIR [--plot FILE.png] [--json]

Owns: a day of meetings, a fleet whose nodes take 30 s to start, a scaler that looks every 15 s.
Never does: I/O with a server. Read next: eventsched/telemetry/slots_wanted.py (what is tried).

Each utterance is a job for each target language, and takes a fixed time and a share of its length.
The figures are ratios to that fleet: the wait of its jobs is
0, and its cost is the time in which its slots are busy.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import sys
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from random import Random
from statistics import mean
from typing import NamedTuple

import msgspec

from eventsched.errors import InvalidMessage
from eventsched.history.node_status import ClassStatus, NodeStatus
from eventsched.history.waiting import WaitingJobs
from eventsched.loadtest.rttm import read_rttm
from eventsched.telemetry.slots_wanted import slots_wanted

HOURS = 8
MEETINGS_AT_ONCE = 60
"""At the busiest time of the day; at its begin and end there is none."""
TARGETS = 2
FIXED_MS, SHARE = 150, 0.25
"""Time of a job: fixed, and a share of the length of its audio."""
NODE_SLOTS = 8
START_MS, LOOK_MS, KEEP_MS = 30_000, 15_000, 300_000
"""A node starts in, the scaler looks every, and it removes a node only if none of its looks within
this time wanted it, as the autoscaler of Kubernetes does by default."""
AVERAGED = 8
"""Looks whose average the scaler takes: a burst of speech is over before a node has started."""


class Work(NamedTuple):
    """One job."""

    at_ms: int
    ms: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one fleet cost, and how long its jobs waited."""

    averaged: int
    """Looks whose average the scaler took."""
    cost: float
    """Slot hours of all nodes, as a factor of the busy slot hours."""
    p50_ms: float
    p99_ms: float
    worst_ms: float


def meetings(folder: Path) -> list[list[Work]]:
    """Return the jobs of each recorded meeting, from its start. Raises InvalidMessage."""
    files = sorted(folder.glob("*.rttm"))
    if not files:
        raise InvalidMessage.of("--traces", f"no *.rttm in {folder}", "name another folder")
    found = []
    for path in files:
        for conversation in read_rttm(path, ["en"]).conversations:
            jobs = [
                Work(segment.end_ms, FIXED_MS + round(SHARE * segment.ms))
                for speaker in conversation.speakers
                for segment in speaker.segments
                for _ in range(TARGETS)
            ]
            found.append(sorted(jobs))
    return found


def day_of(recorded: Sequence[Sequence[Work]], rng: Random) -> list[Work]:
    """Return the jobs of a day on which the number of meetings rises and falls."""
    length_ms = sum(jobs[-1].at_ms for jobs in recorded) / len(recorded)
    day_ms = HOURS * 3_600_000
    jobs: list[Work] = []
    at_ms = 0.0
    while True:
        at_ms += rng.expovariate(MEETINGS_AT_ONCE / length_ms)  # those of the busiest time
        if at_ms >= day_ms:
            return sorted(jobs)
        if rng.random() < math.sin(math.pi * at_ms / day_ms):
            start_ms = round(at_ms)
            jobs += [Work(start_ms + each.at_ms, each.ms) for each in rng.choice(recorded)]


class Fleet:
    """Nodes that start, serve jobs in their order, and drain."""

    def __init__(self, averaged: int) -> None:
        self.busy: list[int] = []
        """Ends of the running jobs."""
        self.waiting: deque[Work] = deque()
        self.waits_ms: list[int] = []
        self.nodes = 1
        self.starting: deque[int] = deque()
        """Times at which nodes begin to serve."""
        self.slot_ms = 0
        self._looks: deque[tuple[int, int]] = deque()
        self._wanted: deque[int] = deque(maxlen=averaged)
        self._paid_until = 0

    @property
    def slots(self) -> int:
        return self.nodes * NODE_SLOTS

    def advance(self, to_ms: int) -> None:
        """Let nodes start and jobs end until `to_ms`; waiting jobs take what becomes free."""
        while True:
            now_ms = min([*islice(self.starting, 1), *self.busy[:1]], default=to_ms + 1)
            if now_ms > to_ms:
                break
            self._pay(now_ms)
            if self.starting and self.starting[0] == now_ms:
                self.starting.popleft()
                self.nodes += 1
            else:
                heapq.heappop(self.busy)
            self._fill(now_ms)
        self._pay(to_ms)

    def add(self, job: Work) -> None:
        self.waiting.append(job)
        self._fill(job.at_ms)

    def _fill(self, now_ms: int) -> None:
        while self.waiting and len(self.busy) < self.slots:
            job = self.waiting.popleft()
            self.waits_ms.append(now_ms - job.at_ms)
            heapq.heappush(self.busy, now_ms + job.ms)

    def _pay(self, now_ms: int) -> None:
        """Nodes that start cost as much as those that serve; a drained one until its jobs end."""
        paid = max(self.slots + len(self.starting) * NODE_SLOTS, len(self.busy))
        self.slot_ms += paid * (now_ms - self._paid_until)
        self._paid_until = now_ms

    def look(self, now_ms: int) -> None:
        """Do what the autoscaler does at one look."""
        (slots,) = slots_wanted([self._class()], self._jobs()).values()
        self._wanted.append(slots)
        nodes = max(1, math.ceil(mean(self._wanted) / NODE_SLOTS))
        self._looks.append((now_ms, nodes))
        while self._looks[0][0] < now_ms - KEEP_MS:
            self._looks.popleft()
        present = self.nodes + len(self.starting)
        if nodes > present:
            self.starting.extend([now_ms + START_MS] * (nodes - present))
        else:
            self.nodes = max(1, self.nodes - (present - max(each for _, each in self._looks)))

    def _class(self) -> ClassStatus:
        node = NodeStatus(
            node="c0.n", status="alive", slots=self.slots, leases=len(self.busy), reported_load=0,
            heartbeat_age_ms=0, version="",
        )  # fmt: skip
        return ClassStatus(
            id="a",
            sources=["en"],
            targets=["es"],
            features=[],
            suspended=[],
            nodes_total=1,
            slots=node.slots,
            leases=node.leases,
            nodes=[node],
        )

    def _jobs(self) -> list[WaitingJobs]:
        return [
            WaitingJobs(
                source="en", target="es", features=[], jobs=len(self.waiting), oldest_ms=0,
                reason="NO_AVAILABLE_NODE",
            )
        ]  # fmt: skip


def serve(day: Sequence[Work], averaged: int) -> tuple[Figures, list[tuple[int, int, int]]]:
    """Serve a day; the scaler averages so many looks.

    Returns the figures, and (time, slots, busy slots) at each look.
    """
    fleet = Fleet(averaged)
    curve = []
    look_ms = 0
    for job in day:
        while look_ms <= job.at_ms:
            fleet.advance(look_ms)
            fleet.look(look_ms)
            curve.append((look_ms, fleet.slots, len(fleet.busy)))
            look_ms += LOOK_MS
        fleet.advance(job.at_ms)
        fleet.add(job)
    while fleet.busy or fleet.waiting:
        fleet.advance(max(fleet.busy))
    busy_ms = sum(job.ms for job in day)
    waits = sorted(fleet.waits_ms)
    return Figures(
        averaged=averaged, cost=round(fleet.slot_ms / busy_ms, 3), p50_ms=waits[len(waits) // 2],
        p99_ms=waits[len(waits) * 99 // 100], worst_ms=waits[-1],
    ), curve  # fmt: skip


def plot(path: Path, curve: Sequence[tuple[int, int, int]]) -> None:
    """Draw the slots and the busy slots over the day."""
    import matplotlib.pyplot as plt

    hours = [at_ms / 3_600_000 for at_ms, _, _ in curve]
    plt.figure(figsize=(10, 4))
    plt.plot(hours, [slots for _, slots, _ in curve], label="slots", drawstyle="steps-post")
    plt.plot(hours, [busy for _, _, busy in curve], label="busy", linewidth=0.6)
    plt.xlabel("hours")
    plt.legend()
    plt.tight_layout()
    plt.savefig(path)


def write_line(text: str) -> None:
    sys.stdout.write(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Scale a fleet by slots_wanted, in virtual time.")
    parser.add_argument("--traces", type=Path, required=True, metavar="DIR")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    day = day_of(meetings(options.traces), Random(options.seed))
    rows = []
    for averaged in sorted({1, 4, AVERAGED, 16}):
        figures, curve = serve(day, averaged)
        rows.append(figures)
        if averaged == AVERAGED and options.plot:
            plot(options.plot, curve)
    if options.json:
        write_line(json.dumps([msgspec.to_builtins(each) for each in rows]))
        return
    write_line(
        f"{len(day):,} jobs in {HOURS} h, {sum(job.ms for job in day) / 3.6e6:,.0f} slot hours"
    )
    write_line("average   cost   p50 ms   p99 ms   worst ms")
    for each in rows:
        write_line(
            f"{each.averaged * LOOK_MS // 1_000:5} s {each.cost:6.2f} {each.p50_ms:8,.0f}"
            f" {each.p99_ms:8,.0f} {each.worst_ms:10,.0f}"
        )


if __name__ == "__main__":
    main()
