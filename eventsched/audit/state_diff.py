"""Decided state beside the fold of the log: where they differ.

Owns: what each record of the fold says that scripts must have stored (I5, I7, I8, I9).
Never does: I/O. What was read is what lua/read_entity.lua replies.
Read next: verify.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eventsched.audit.invariants import Violation
from eventsched.schema.keys import name_of
from projections.job import Job
from projections.node import Node
from projections.session import Session

Read = Mapping[str, Any]
LEASE_MS_MAX = 300_000
"""From dispatch on, however often the handler asks for more (rule 19)."""


def session_differences(name: str, view: Session | None, read: Read) -> Iterator[Violation]:
    """One session: what it is, what it owes, and what will end that."""
    where = f"session:{name}"
    status = read.get("hash", {}).get("status", "retired")
    if view is None or status == "retired":
        if (view is None) != (status == "retired"):
            says = "no session" if view is None else view.status
            yield Violation("I7", where, f"the log says {says}, stored is {status}")
        return
    yield from _differences("I7", where, _session_told(view), _session_stored(read["hash"]))
    told = {
        key: f"{owed.utterance}|{owed.first}|{','.join(owed.to)}" for key, owed in view.owed.items()
    }
    yield from _differences("I7", f"outcomes:{name}", told, read["outcomes"] or {})
    playing = {key: str(until) for key, until in view.playing.items()}
    yield from _differences("I7", f"playing:{name}", playing, read["playing"] or {})
    if view.room and view.in_room != ("room" in read):
        yield Violation("I7", f"room:{name_of(view.room)}", f"member {name}: {view.in_room}")
    yield from _held_differences(name, view, read)
    yield from _endless(name, view, read)


def _session_told(view: Session) -> dict[str, str]:
    told = {
        "status": view.status,
        "epoch": view.epoch,
        "tenant": view.tenant,
        "source": view.source,
        "targets": ",".join(view.targets),
        "features": ",".join(view.features),
        "features_hash": view.features_hash,
        "encoding": view.encoding,
        "sample_rate": view.sample_rate,
        "priority": view.priority,
        "room": view.room,
        "listen_language": view.listen_language,
        "key": view.key,
        "utterance": view.utterance,
        "turn": view.turn,
        "used": f"{name_of(view.node)}|{view.node_turn}" if view.node else "",
        "reason": view.reason,
    }
    assert set(told) == _SESSION
    told |= {f"a:{target}": number for target, number in view.allocated.items()}
    told |= {f"d:{target}": number for target, number in view.delivered.items()}
    return {field: str(value) for field, value in told.items() if str(value)}


_SESSION = {
    *("status", "epoch", "tenant", "source", "targets", "features", "features_hash", "encoding"),
    *("sample_rate", "priority", "room", "listen_language", "key", "utterance", "turn", "used"),
    "reason",
}
"""Decided fields of a session's hash, beside the counters of each target."""


def _session_stored(kept: Mapping[str, str]) -> dict[str, str]:
    return {
        field: value
        for field, value in kept.items()
        if value and (field in _SESSION or field[:2] in ("a:", "d:"))
    }


def _held_differences(name: str, view: Session, read: Read) -> Iterator[Violation]:
    """What is ready but waits behind a gap is held, in the order in which it got ready."""
    waiting = {key: owed for key, owed in view.owed.items() if owed.ready}
    ends = {key: str(owed.ready) for key, owed in waiting.items()}
    yield from _differences("I7", f"out_of_order:{name}", ends, read["held"] or {})
    times = {key: str(owed.ready_ms) for key, owed in waiting.items()}
    stored = {
        f"{target}/{number}": score
        for target, scores in (read["ready"] or {}).items()
        for number, score in (scores or {}).items()
    }
    yield from _differences("I7", f"out_of_order_at:{name}", times, stored)
    for key in waiting:
        target, _, number = key.rpartition("/")
        if int(number) == view.delivered.get(target, 0):
            yield Violation("I9", f"out_of_order:{name}", f"{key} is next and waits for nothing")
        elif target not in (read["gaps"] or {}):
            yield Violation("I8", f"session:{name}", f"{key} waits behind a gap without a timer")


def _endless(name: str, view: Session, read: Read) -> Iterator[Violation]:
    """I8, as far as one reading tells: each running or waiting job has its timer."""
    if view.status == "closing" and "close" not in read:
        yield Violation("I8", f"session:{name}", "closing without a timer for its end")
    for key, owed in view.owed.items():
        job = (read["jobs"] or {}).get(key, {})
        status = job.get("status")
        if status == "running" and not _is_watched(job):
            yield Violation("I8", f"job:{job['key']}", "runs without a timer for its lease")
        elif status == "queued" and "wait" not in job:
            yield Violation("I8", f"job:{job['key']}", "waits without a timer for its end")
        elif status == "ended" and not owed.ready:
            yield Violation("I8", f"outcomes:{name}", f"{key} is open, its job has ended")


def _is_watched(job: Mapping[str, str]) -> bool:
    """The timer of its registration's leases is due by the end of this one."""
    return "lease" in job and int(job["lease"]) <= int(job["deadline"] or 0)


def jobless(view: Session, read: Read) -> set[int]:
    """Utterances that owe an outcome for which there is no job: `work` or `dead` must have them."""
    jobs = read.get("jobs")
    if jobs is None:  # the session itself is not stored, which I7 tells
        return set()
    return {
        owed.utterance
        for key, owed in view.owed.items()
        if "status" not in jobs.get(key, {}) and not owed.ready
    }


def job_differences(key: str, view: Job | None, read: Read) -> Iterator[Violation]:
    """One job: its state, its token, its place in the queue."""
    where = f"job:{key}"
    kept = read.get("hash")
    if view is None or kept is None:
        if (view is None) != (kept is None):
            says = "no job" if view is None else view.status
            yield Violation("I7", where, f"the log says {says}, stored is {kept}")
        return
    told = {"status": view.status, "attempt": str(view.attempt)}
    if view.status == "running":
        told |= {"node": name_of(view.node), "epoch": str(view.epoch)}
        told |= {"dispatched": str(view.dispatched_ms)}
        ends_ms = int(kept["deadline"] or 0)
        if not view.deadline_ms <= ends_ms <= view.dispatched_ms + LEASE_MS_MAX:
            told |= {"deadline": str(view.deadline_ms)}
    elif view.status == "queued":
        told |= {"priority": str(view.priority), "tag": str(view.tag), "member": view.member}
        told |= {"deadline": str(view.deadline_ms)}
        if read.get("tag") != str(view.tag):
            yield Violation("I7", where, f"its place in the queue is {read.get('tag')}")
    else:
        told |= {"outcome": view.outcome}
        kept = {**kept, "outcome": _outcome(kept.get("outcome", ""))}
    yield from _differences("I7", where, told, {field: kept.get(field, "") for field in told})


def _outcome(stored: str) -> str:
    """Jobs remember a result by the node's word for it."""
    return "result" if stored == "ok" else stored


def node_differences(name: str, view: Node | None, read: Read) -> Iterator[Violation]:
    """One node: its registration and class, and that its leases are its live attempts."""
    where = f"node:{name}"
    kept = read.get("hash")
    if view is None or kept is None:
        if (view is None) != (kept is None):
            says = "no node" if view is None else view.status
            yield Violation("I7", where, f"the log says {says}, stored is {kept}")
        return
    told = {
        "status": view.status,
        "epoch": str(view.epoch),
        "class": view.cls,
        "slots": str(view.slots),
        "sources": ",".join(view.sources),
        "targets": ",".join(view.targets),
        "features": ",".join(view.features),
        "suspended": ",".join(view.suspended("feature")),
    }
    yield from _differences("I7", where, told, {field: kept.get(field, "") for field in told})
    yield from _lease_differences(name, view, read)


def _lease_differences(name: str, view: Node, read: Read) -> Iterator[Violation]:
    told = {f"{held.epoch}/{job}": str(held.since_ms) for job, held in view.live.items()}
    stored = {
        f"{epoch}/{job}": since
        for epoch, leases in (read["leases"] or {}).items()
        for job, since in (leases or {}).items()
    }
    yield from _differences("I5", f"leases:{name}", told, stored)
    held = [one for one in stored if one.startswith(f"{view.epoch}/")]
    if len(held) > view.slots:
        yield Violation("I5", f"leases:{name}", f"{len(held)} leases on {view.slots} slots")
    if bool(read["member"]) != (view.status != "gone"):
        yield Violation("I7", f"members:{view.cls}", f"{name}: {bool(read['member'])}")
    load = 1_000 * len(held) // view.slots
    free = str(load) if view.status == "alive" and len(held) < view.slots else None
    if read.get("free") != free:
        yield Violation("I5", f"free:{view.cls}", f"{name}: {read.get('free')} instead of {free}")


def _differences(
    invariant: str, where: str, told: Mapping[str, str], stored: Mapping[str, str]
) -> Iterator[Violation]:
    for field in sorted(told.keys() | stored.keys()):
        if told.get(field) != stored.get(field):
            what = f"{field}: the log says {told.get(field)!r}, stored is {stored.get(field)!r}"
            yield Violation(invariant, where, what)
