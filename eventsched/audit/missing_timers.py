"""Timers that must exist: each state that only a timer ends has one (I8).

Owns: which timers the state of a session or a node requires.
Must not: do I/O. The stored state is passed in, as lua/read_entity.lua replies it.
Read next: state_diff.py, lua/include/timer_handlers.lua.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from projections.job import Job
from projections.node import Node
from projections.session import Session

_BUFFER_BYTES = 3
"""Index in the field `buffer` of a session: bytes of the open utterance."""


class RequiredTimer(msgspec.Struct, frozen=True):
    """A timer that must exist, at the latest when it is due."""

    kind: str
    id: str
    state: str
    """The state that the timer ends."""

    @property
    def member(self) -> str:
        return f"{self.kind}|{self.id}"


def missing_session_timers(view: Session, stored: Mapping[str, Any]) -> Iterator[RequiredTimer]:
    """The timers that a session and its jobs require and that do not exist."""
    full = view.session
    if view.status == "open":
        if "idle" not in stored:
            yield RequiredTimer("idle", full, "open")
        if has_buffer(stored) and not stored["playing"] and "pause" not in stored:
            yield RequiredTimer("pause", full, "has an open utterance")
    if view.status == "closing" and "close" not in stored:
        yield RequiredTimer("close", full, "closing")
    if view.status == "closed" and "retire" not in stored:
        yield RequiredTimer("retire", full, "closed")
    for key in stored["playing"] or {}:
        if key not in (stored["playback_timers"] or {}):
            yield RequiredTimer("playback", f"{full}|{key}", f"playback {key} is open")
    for key, outcome in view.open_outcomes.items():
        target = key.rpartition("/")[0]
        if outcome.outcome and target not in (stored["gaps"] or {}):
            yield RequiredTimer("gap", f"{full}|{target}", f"{key} waits for an earlier number")


def missing_job_timers(view: Session, stored: Mapping[str, Any]) -> Iterator[RequiredTimer]:
    """The timers that the jobs of the open outcomes require and that do not exist."""
    for key in view.open_outcomes:
        job = (stored["jobs"] or {}).get(key, {})
        if job.get("status") == "running" and not _has_lease_timer(job):
            yield RequiredTimer("leases", job["key"], "runs")
        elif job.get("status") == "queued":
            if "wait" not in job:
                yield RequiredTimer("wait", job["key"], "waits")
            if job.get("priority", 0) > 0 and "age" not in job:
                yield RequiredTimer("age", job["key"], "waits below the highest priority")
            if "avoid_until" in job and "avoid" not in job:
                yield RequiredTimer("avoid", job["key"], "avoids a node")
        elif job.get("status") == "backoff" and "backoff" not in job:
            yield RequiredTimer("backoff", job["key"], "backs off")


def retry_timer(view: Job) -> RequiredTimer | None:
    """The timer of a job whose attempt has ended, and whose next attempt could not be started."""
    if view.status != "released":
        return None
    ended = view.attempts[-1]
    id_ = f"{view.job}|{ended.attempt}|{ended.end}|{ended.code}"
    return RequiredTimer("retry", id_, f"attempt {ended.attempt} has ended")


def missing_node_timers(
    name: str, view: Node, stored: Mapping[str, Any]
) -> Iterator[RequiredTimer]:
    """The timers that a registration and its leases require and that do not exist."""
    lost_timers = stored["lost_timers"] or {}
    if view.status != "gone" and "node" not in stored:
        yield RequiredTimer("node", name, view.status)
    if view.status == "draining" and "drain" not in stored and str(view.epoch) not in lost_timers:
        yield RequiredTimer("drain", name, "draining")
    if view.status == "gone" and "gone" not in stored:
        yield RequiredTimer("gone", name, "gone")
    ended = {
        epoch
        for epoch in sorted({attempt.epoch for attempt in view.live.values()})
        if epoch != view.epoch or view.status == "gone"
    }
    for epoch in ended:
        if str(epoch) not in lost_timers:
            id_ = f"{view.node}|{epoch}|{_lost_reason(view, epoch)}"
            yield RequiredTimer("lost", id_, f"registration {epoch} has ended and has leases")
    for word in view.suspension_words:
        if word not in (stored["suspension_timers"] or {}):
            yield RequiredTimer("suspension", f"{name}|{word}", f"suspended for {word}")


def has_buffer(stored: Mapping[str, Any]) -> bool:
    """Whether the open utterance of the session has audio."""
    buffer = stored["hash"].get("buffer", "").split("|")
    return len(buffer) > _BUFFER_BYTES and buffer[_BUFFER_BYTES] != "0"


def _has_lease_timer(job: Mapping[str, str]) -> bool:
    """Whether the lease timer of the job's node is due no later than the end of this lease."""
    try:
        return "lease" in job and float(job["lease"]) <= int(job["deadline"] or 0)
    except ValueError:  # the deadline is no number, which is another violation
        return False


def _lost_reason(view: Node, epoch: int) -> str:
    """Why the leases of an ended registration are dispatched again."""
    if epoch != view.epoch or view.reason == "superseded":
        return "superseded"
    return "drained" if view.reason == "drained" else "node_lost"
