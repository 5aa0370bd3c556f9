"""Faults that somebody could make in the Python, each an exact replacement of some source.

Owns: which faults, and where. A fault whose source is no longer there stops the run.
Never does: the scripts (lua.py changes them everywhere). Read next: bench.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutant import ROOT, Mutant


class Stale(Exception):
    """Raised when a fault's source is not in its file exactly once."""


@dataclass(frozen=True, slots=True)
class Fault:
    """In `file` (without .py), `old` becomes `new`."""

    why: str
    file: str
    old: str
    new: str

    def mutant(self, root: Path = ROOT) -> Mutant:
        name = f"{self.file}.py"
        source, old = (root / name).read_bytes(), self.old.encode()
        if source.count(old) != 1:
            raise Stale(f"{name}: {self.why}: {source.count(old)} places have {self.old!r}")
        start = source.index(old)
        end = start + len(old)
        return Mutant.of(name, source, "chosen", start, end, self.new, why=self.why)


FAULTS = (
    # --- consumers
    Fault(
        "what a zombie saves counts",
        "eventsched/roles/projector",
        'if saved != "saved":',
        'if saved == "never":',
    ),
    Fault(
        "a zombie that is turned away reads on",
        "eventsched/roles/projector",
        'self._turned_away("fenced")',
        'Stepped("idle")',
    ),
    Fault(
        "the consumer group passes more than was folded",
        "eventsched/roles/projector",
        "count=batch.count,",
        "count=batch.count + 1,",
    ),
    Fault(
        "what was folded before is folded again",
        "eventsched/roles/projector",
        "read_log(self.checkpoint, ",
        "read_log(START, ",
    ),
    Fault(
        "after an error memory is trusted",
        "eventsched/roles/projector",
        "self._held, self._batches = None, None  # what is in memory may not be what is saved",
        "pass",
    ),
    Fault(
        "a batch is folded out of order",
        "eventsched/projection/batch",
        "for at, one in enumerate(found):",
        "for at, one in reversed(list(enumerate(found))):",
    ),
    Fault(
        "poison is tried for ever",
        "eventsched/projection/batch",
        "return tries < self._tries_max",
        "return True",
    ),
    Fault(
        "poison is dropped, not parked",
        "eventsched/roles/projector",
        "dead=[self._batches.dead(one) for one in batch.parked],",
        "dead=[],",
    ),
    Fault(
        "records that changed are kept as changed for ever",
        "eventsched/projection/fold",
        "self.changed.clear()",
        "pass",
    ),
    Fault(
        "ids are compared as text",
        "eventsched/projection/fold",
        "return int(ms), int(seq or 0)",
        "return ms, seq  # type: ignore[return-value]",
    ),
    Fault(
        "a build goes live without having caught up",
        "eventsched/roles/rebuild",
        'if word == "switched":',
        'if word in ("switched", "behind"):',
    ),
    Fault(
        "a dispatcher waits for what comes after its wait",
        "eventsched/roles/dispatcher",
        "{work: self._seen}",
        '{work: "$"}',
    ),
    Fault(
        "a dispatcher outruns its nodes",
        "eventsched/roles/dispatcher",
        "return reply.waiting / reply.jobs",
        "return 0 * reply.waiting / reply.jobs",
    ),
    Fault(
        "a dispatcher does not say that it is there",
        "eventsched/roles/dispatcher",
        "dispatch_work(BACK_MS)",
        "dispatch_work()",
    ),
    Fault(
        "a timekeeper forgets what is already due",
        "eventsched/roles/timer",
        "return min(max(reply.next_ms - reply.now_ms, 0), ASK_MS_MAX)",
        "return reply.next_ms - reply.now_ms",
    ),
    # --- folds
    Fault(
        "a slot leaks when an attempt ends",
        "projections/node",
        "return replace(view, live=_without(view, event.job, data), ended=view.ended + 1)",
        "return replace(view, ended=view.ended + 1)",
    ),
    Fault(
        "any attempt's end gives the slot back",
        "projections/node",
        "if held is None or (held.attempt, held.epoch) != (data.attempt, data.epoch):",
        "if held is None:",
    ),
    Fault(
        "a turn ends where an utterance was cut by its length",
        "projections/session",
        'turn=data.turn if data.reason == "max_duration" else data.turn + 1,',
        "turn=data.turn + 1,",
    ),
    Fault(
        "a replaced result loses its place in time",
        "projections/session",
        "ready_ms = owed.ready_ms or event.ms",
        "ready_ms = event.ms",
    ),
    Fault(
        "a cancelled attempt brings its job back",
        "projections/job",
        'if view.status == "ended":\n        return replace(view, attempts=attempts)',
        "if False:\n        return replace(view, attempts=attempts)",
    ),
    Fault(
        "exactly two seconds no longer join a group",
        "projections/group",
        "at_ms - group.last_part_ms <= JOIN_MS",
        "at_ms - group.last_part_ms < JOIN_MS",
    ),
    Fault(
        "a group forgets who still plays",
        "projections/group",
        "group = Group(n=group.n + 1, active=True, playing=group.playing)",
        "group = Group(n=group.n + 1, active=True)",
    ),
    # --- producers
    Fault(
        "audio that may not have arrived is forgotten",
        "eventsched/client/session",
        "self._unsure = self._unsure[len(stored) :]",
        "self._unsure = []",
    ),
    Fault(
        "a refused append keeps its number",
        "eventsched/client/session",
        "self._next_seq = refused[0].seq",
        "pass",
    ),
    Fault(
        "a gap is not filled from what is held",
        "eventsched/client/session",
        "held = [chunk for chunk in (*self._kept, *sent) if chunk.seq >= gap.expected]",
        "held = [chunk for chunk in sent if chunk.seq >= gap.expected]",
    ),
    Fault(
        "a result counts as handled when it is taken",
        "eventsched/client/session",
        "self._taken = told.id\n        return told",
        "self._taken = self._handled = told.id\n        return told",
    ),
    Fault(
        "a quiet session says nothing",
        "eventsched/client/channel",
        "if p.quiet_s >= due_s",
        "if p.quiet_s > 10 * due_s",
    ),
    Fault(
        "replies go to the wrong callers",
        "eventsched/store/batcher",
        "at += count",
        "at += 0",
    ),
    Fault(
        "a reader that was overtaken is not told",
        "eventsched/client/subscription",
        "if told.number != self._expected:",
        "if told.number < self._expected:",
    ),
    # --- nodes
    Fault(
        "a lost node keeps its name",
        "eventsched/node/heartbeat",
        "post(partial(body.ended, error))",
        "pass",
    ),
    Fault(
        "a heartbeat's lost attempts run on",
        "eventsched/node/heartbeat",
        "post(partial(body.lost, lost))",
        "pass",
    ),
    Fault(
        "a cancel of any attempt stops the job",
        "eventsched/node/attempts",
        "if attempt is None or attempt.number != number:",
        "if attempt is None:",
    ),
    Fault(
        "a handler outlives its registration",
        "eventsched/node/attempts",
        "while self._tasks:",
        "while False:",
    ),
    Fault(
        "an assignment of an older registration is started",
        "eventsched/node/registration",
        "if assignment.epoch == self.grant.epoch:",
        "if True:",
    ),
    Fault(
        "a handler that fails costs nothing and is never told",
        "eventsched/node/executor",
        "return told(job, JobError(HANDLER_ERROR, retryable=True))",
        "raise",
    ),
    # --- the proof itself
    Fault(
        "verify does not see an end by a token that is not live",
        "eventsched/audit/invariants",
        "if not any((one.node, one.epoch, one.attempt) == token for one in live):",
        "if False:",
    ),
    Fault(
        "verify does not compare leases with live attempts",
        "eventsched/audit/state_diff",
        'yield from _differences("I5", f"leases:{name}", told, stored)',
        "yield from ()",
    ),
    Fault(
        "verify does not look for work that is lost",
        "eventsched/audit/verify",
        "if wanted:\n            what =",
        "if False:\n            what =",
    ),
)


def all_mutants(root: Path = ROOT) -> list[Mutant]:
    """Every fault; Stale names one whose source has changed."""
    return [fault.mutant(root) for fault in FAULTS]
