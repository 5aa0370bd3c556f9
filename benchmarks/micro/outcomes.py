"""The outcomes of a benchmark's jobs, from the log.

Owns: reading them, and the check that each job was delivered exactly once.
Never does: write. Read next: jobs.py, latency.py, sessions.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from benchmarks.micro.figures import BenchFailed
from eventsched.schema import codec
from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import (
    Event,
    JobDispatched,
    JobQueued,
    ResultRecorded,
    UtteranceFinalized,
)
from eventsched.schema.ids import ms_of
from eventsched.store.cell import Store

READ_COUNT = 1_000
Utterance = tuple[str, int]
"""A session and the number of an utterance in it."""


@dataclass
class Outcomes:
    """Counts and times. Times in ms are by the server's clock, in ns by this machine's clock."""

    finalized: int = 0
    queued: int = 0
    first_ms: int = 0
    last_ms: int = 0
    delivered: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    started_ns: dict[Utterance, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Time from the first dispatch decision to the last delivery."""
        return max(1, self.last_ms - self.first_ms) / 1_000

    @property
    def doubled(self) -> int:
        """Number of deliveries beyond the first of each result."""
        return sum(times - 1 for times in self.delivered.values())

    def lost(self, expected: int) -> int:
        """Return the number of expected results that were not delivered."""
        return expected - len(self.delivered)

    def check(self, expected: int) -> None:
        """Check that each job was delivered once. Raises BenchFailed."""
        if self.lost(expected) or self.doubled:
            raise BenchFailed(
                f"{len(self.delivered)} of {expected} results were delivered, {self.doubled} twice"
            )

    def count(self, event: Event, ms: int) -> None:
        """Add one event."""
        match event.data:
            case UtteranceFinalized(targets=targets):
                self.finalized += len(targets)
            case JobDispatched():
                self.first_ms = self.first_ms or ms
            case JobQueued():
                self.first_ms = self.first_ms or ms
                self.queued += 1
            case ResultRecorded(utterance=number):
                text = codec.decode_text(event.body)
                self.started_ns[event.session, number] = int(text.source_text)
        delivery = delivery_of(event.data)
        if delivery is not None and delivery.outcome == "result":
            self.delivered[event.session, delivery.target, delivery.delivery_no] += 1
            self.last_ms = ms


async def outcomes_after(store: Store, last_id: str) -> Outcomes:
    """Return the outcomes of all log entries after `last_id`."""
    outcomes = Outcomes()
    while entries := await store.read_range(store.keys.log, f"({last_id}", "+", READ_COUNT):
        for entry_id, fields in entries:
            outcomes.count(codec.decode(entry_id, fields), ms_of(entry_id))
        last_id = entries[-1][0]
    return outcomes
