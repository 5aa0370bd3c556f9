"""Compares a replay with the expectation that follows from its files.

Owns: reading the log of the replayed sessions, the figures and the verdict.
Must not: write to a server.
Read next: rttm.py (the expectation), replay.py (the received outcomes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from eventsched.history.log import History
from eventsched.loadtest.replay import Record, out_of_order, received_twice
from eventsched.loadtest.rttm import Expected
from eventsched.projection.fold import FailedEvent, decode_event
from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import (
    Event,
    JobDispatched,
    JobFailed,
    JobQueued,
    UtteranceFinalized,
)

EXPIRED = frozenset({"NO_POOL_FOR_LANG_PAIR", "NO_AVAILABLE_NODE"})


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p95: float
    p99: float
    max: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a replay, good if no outcome was lost, duplicated, out of order or missing."""

    sessions: int
    utterances: int
    utterances_expected: int
    jobs: int
    jobs_expected: int
    results: int
    failed: int
    expired: int
    missing: int
    lost: int
    duplicates: int
    out_of_order: int
    truncated: int
    unreadable: int
    """Events of the replayed sessions that this program does not know."""
    chunks: int
    dispatch_ms: Percentiles
    """From the time of UtteranceFinalized to the start of the handler."""
    result_ms: Percentiles
    """From the time of UtteranceFinalized to the receipt of the result."""
    wall_s: float

    @property
    def is_good(self) -> bool:
        bad = self.failed + self.expired + self.missing + self.lost + self.truncated
        bad += self.unreadable
        bad += self.duplicates + self.out_of_order
        return (
            not bad
            and self.jobs == self.jobs_expected
            and self.utterances == self.utterances_expected
        )


class _Counts:
    """Counts of the events of the replayed sessions."""

    def __init__(self, sessions: set[str]) -> None:
        self._sessions = sessions
        self.finalized_ms: dict[tuple[str, int], int] = {}
        self.opened: set[tuple[str, str, int]] = set()
        self.ended: list[tuple[str, str, int]] = []
        self.jobs: set[str] = set()
        self.attempts: list[tuple[str, int]] = []
        self.outcomes: list[str] = []
        self.failed = self.expired = self.unreadable = 0

    def count(self, event: Event | FailedEvent) -> None:
        if event.session not in self._sessions:
            return
        if isinstance(event, FailedEvent):
            self.unreadable += 1
            return
        match event.data:
            case UtteranceFinalized() as data:
                self.finalized_ms[event.session, data.utterance] = event.ms
                for target in data.targets:
                    self.opened.add((event.session, target.target, target.delivery_no))
            case JobDispatched() as data:
                self.jobs.add(event.job)
                self.attempts.append((event.job, data.attempt))
            case JobQueued():
                self.jobs.add(event.job)
            case JobFailed() as data:
                self.expired += data.code in EXPIRED
                self.failed += data.code not in EXPIRED
        delivery = delivery_of(event.data)
        if delivery is not None:
            self.outcomes.append(delivery.outcome)
            self.ended.append((event.session, delivery.target, delivery.delivery_no))


async def judge(
    histories: Mapping[str, History],
    started: Mapping[str, str],
    record: Record,
    expected: Expected,
    wall_s: float,
) -> Verdict:
    """Read the history of each cell since `started` (id by cell) and compare."""
    counts = _Counts(set(record.sessions))
    for cell, history in histories.items():
        async for entry in history.entries(started[cell]):
            counts.count(decode_event(entry))
    finalized_ms = counts.finalized_ms
    dispatch = [
        receipt.started_ms - finalized_ms[receipt.session, receipt.utterance]
        for receipt in record.received
        if receipt.started_ms
    ]
    result = [
        receipt.received_ms - finalized_ms[receipt.session, receipt.utterance]
        for receipt in record.received
    ]
    repeated = len(counts.attempts) - len(set(counts.attempts))
    repeated += len(counts.ended) - len(set(counts.ended))
    return Verdict(
        sessions=len(record.sessions),
        utterances=len(counts.finalized_ms),
        utterances_expected=expected.utterances,
        jobs=len(counts.jobs),
        jobs_expected=expected.jobs,
        results=counts.outcomes.count("result"),
        failed=counts.failed,
        expired=counts.expired,
        missing=counts.outcomes.count("missing"),
        lost=len(counts.opened - set(counts.ended)),
        duplicates=repeated + received_twice(record.received),
        out_of_order=out_of_order(record.received),
        truncated=record.truncated,
        unreadable=counts.unreadable,
        chunks=record.chunks,
        dispatch_ms=percentiles_of(dispatch),
        result_ms=percentiles_of(result),
        wall_s=round(wall_s, 1),
    )


def percentiles_of(values: Sequence[float]) -> Percentiles:
    """Return p50, p95, p99 and the maximum; all are zero without values.

    p is the sorted value at index floor(n * p).
    """
    if not values:
        return Percentiles(0.0, 0.0, 0.0, 0.0)
    ranked = sorted(values)
    at = [ranked[min(len(ranked) - 1, int(len(ranked) * share))] for share in (0.5, 0.95, 0.99)]
    return Percentiles(*(round(value, 2) for value in (*at, ranked[-1])))
