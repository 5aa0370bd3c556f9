"""What the log says became of the jobs of one stretch.

Owns: one reading of it, and the check that every job was delivered exactly once.
Never does: write. Read next: jobs.py, latency.py, sessions.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from benchmarks.micro.figures import BenchFailed
from eventsched.schema import codec
from eventsched.schema.events import (
    Event,
    JobDispatched,
    JobQueued,
    ResultDelivered,
    ResultRecorded,
    UtteranceFinalized,
)
from eventsched.schema.ids import ms_of
from eventsched.store.cell import Store

READ_COUNT = 1_000
Utterance = tuple[str, int]
"""A session and a number in it."""


@dataclass
class Outcomes:
    """Times by the server's clock in ms, handlers' starts by this machine's in ns."""

    finalized: int = 0
    queued: int = 0
    first_ms: int = 0
    last_ms: int = 0
    delivered: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    started_ns: dict[Utterance, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From the first decision to the last delivery."""
        return max(1, self.last_ms - self.first_ms) / 1_000

    @property
    def doubled(self) -> int:
        return sum(times - 1 for times in self.delivered.values())

    def lost(self, owed: int) -> int:
        return owed - len(self.delivered)

    def check(self, owed: int) -> None:
        """Raises BenchFailed unless each job was delivered once."""
        if self.lost(owed) or self.doubled:
            raise BenchFailed(
                f"{len(self.delivered)} of {owed} results were delivered, {self.doubled} twice"
            )

    def count(self, event: Event, ms: int) -> None:
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
            case ResultDelivered(outcome="result", target=target, delivery_no=number):
                self.delivered[event.session, target, number] += 1
                self.last_ms = ms


async def outcomes_after(store: Store, begun: str) -> Outcomes:
    """Of everything behind the log id `begun`."""
    seen = Outcomes()
    while entries := await store.read_range(store.keys.log, f"({begun}", "+", READ_COUNT):
        for entry_id, fields in entries:
            seen.count(codec.decode(entry_id, fields), ms_of(entry_id))
        begun = entries[-1][0]
    return seen
