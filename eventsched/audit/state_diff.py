"""Differences between authoritative state and the fold of the log.

Owns: the stored state that each record of the fold implies (I5, I7, I8, I9).
Must not: do I/O. The stored state is passed in, as lua/read_entity.lua replies it.
Read next: verify.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from eventsched.audit.field_forms import (
    NODE_FIELDS,
    NODE_FORMS,
    SESSION_FIELDS,
    SESSION_FORMS,
    form_violations,
)
from eventsched.audit.invariants import Violation
from eventsched.audit.log_facts import LogFacts, SessionLogFacts, job_core
from eventsched.audit.missing_timers import (
    missing_job_timers,
    missing_node_timers,
    missing_session_timers,
)
from eventsched.schema.keys import name_of
from eventsched.schema.nesting import check_json
from projections.job import Job
from projections.node import Node
from projections.session import Session

Stored = Mapping[str, Any]
"""A reply of lua/read_entity.lua."""
LEASE_MS_MAX = 300_000
"""From dispatch to the end of the lease, with all its extensions (rule 19, lease duration)."""


def session_differences(
    name: str, view: Session | None, stored: Stored, facts: SessionLogFacts | None = None
) -> Iterator[Violation]:
    """One session: its fields, its open outcomes, and the timers that end them.

    Without `facts`, what they say is not compared.
    """
    where = f"session:{name}"
    status = stored.get("hash", {}).get("status", "retired")
    if view is None or status == "retired":
        if (view is None) != (status == "retired"):
            folded = "no session" if view is None else view.status
            yield Violation("I7", where, f"folded: {folded}, stored: {status}")
        elif "hash" in stored and "retire" not in stored:
            yield Violation("I8", where, "retired without a retire timer")
        return
    yield from _differences(
        "I7", where, session_fields(view), stored_session_fields(stored["hash"])
    )
    yield from form_violations(where, stored["hash"], SESSION_FORMS, SESSION_FIELDS)
    if facts is not None:
        carried = carried_fields(facts)
        yield from _differences("I7", where, carried, stored_carried_fields(stored["hash"]))
    yield from _differences(
        "I7", f"outcomes:{name}", outcome_fields(view), stored["outcomes"] or {}
    )
    playbacks = {key: str(until) for key, until in view.playbacks.items()}
    yield from _differences("I7", f"playing:{name}", playbacks, stored["playing"] or {})
    if not stored.get("counted"):
        yield Violation("I7", f"tenant_sessions:{view.tenant}", f"{name} is not counted")
    if view.room and view.in_room != ("room" in stored):
        yield Violation("I7", f"room:{name_of(view.room)}", f"member {name}: {view.in_room}")
    yield from _out_of_order_differences(name, view, stored)
    yield from _missing_timers(name, view, stored)


def room_differences(name: str, members: Mapping[str, str], stored: Stored) -> Iterator[Violation]:
    """One room: its members, as full id -> language to which the member listens.

    `session_differences` reports a member that is missing.
    """
    for full, language in sorted(stored["members"].items()):
        if full not in members:
            yield Violation("I7", f"room:{name}", f"{full} is no member by the log")
        elif language != members[full]:
            what = f"{full} listens to {members[full]!r} by the log, stored {language!r}"
            yield Violation("I7", f"room:{name}", what)


def tenant_differences(name: str, queued: int, stored: Stored) -> Iterator[Violation]:
    """One tenant: the number of its waiting jobs, by which producers are refused."""
    count = stored["queued"] or "0"
    if count != str(queued):
        what = f"tenant {name}: {queued} waiting jobs by the log, stored {count}"
        yield Violation("I7", "tenant_queued", what)


def session_fields(view: Session) -> dict[str, str]:
    """The authoritative fields of a session's hash that are not empty."""
    fields = {
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
        "outcomes": _open_outcomes(view),
        "retired_to": view.retired_to or "",
    }
    assert set(fields) == _SESSION_FIELDS
    fields |= {f"a:{target}": number for target, number in view.allocated.items()}
    fields |= {f"d:{target}": number for target, number in view.delivered.items()}
    ready = [key for key, outcome in view.open_outcomes.items() if outcome.outcome]
    fields |= {f"w:{key.rpartition('/')[0]}": "1" for key in ready}
    return {field: str(value) for field, value in fields.items() if str(value)}


def carried_fields(facts: SessionLogFacts) -> dict[str, str]:
    """The fields of a session's hash that events carry and no record has."""
    return {"tp": facts.traceparent, "playbacks_started": str(facts.playbacks_started)}


def stored_carried_fields(session: Mapping[str, str]) -> dict[str, str]:
    """The same fields as they are stored."""
    return {
        "tp": session.get("tp", ""),
        "playbacks_started": session.get("playbacks_started") or "0",
    }


def outbox_fields(stored: Stored, *, is_new: bool) -> dict[str, str]:
    """The counters of a session that its newest outbox entry has.

    Without an entry they are 0 if the log has none for the session either, `is_new`; otherwise
    nothing says what they are.
    """
    number, _, total = stored.get("newest", "").partition(":")
    if not total and is_new:
        number = total = "0"
    return {"out_no": number, "out_bytes": total} if total else {}


def outbox_differences(name: str, stored: Stored, *, is_new: bool) -> Iterator[Violation]:
    """The counters of an outbox are those of its newest entry, and the unread bytes lie within."""
    session, counters = stored["hash"], outbox_fields(stored, is_new=is_new)
    found = {field: session.get(field, "") for field in counters}
    yield from _differences("I9", f"outbox:{name}", counters, found)
    low, total = session.get("out_low", ""), session.get("out_bytes", "")
    if not (low.isdecimal() and total.isdecimal() and int(low) <= int(total)):
        what = f"out_low: the unread bytes begin at {low!r} of {total!r}"
        yield Violation("I9", f"outbox:{name}", what)


def _open_outcomes(view: Session) -> str:
    """The number of open outcomes, and the oldest utterance that has one.

    That is its number, how many of its outcomes are open, and the id of its first chunk.
    """
    if not view.open_outcomes:
        return ""
    oldest = min(view.open_outcomes.values(), key=lambda outcome: outcome.utterance)
    left = sum(each.utterance == oldest.utterance for each in view.open_outcomes.values())
    return f"{len(view.open_outcomes)}|{oldest.utterance}|{left}|{oldest.first}"


def outcome_fields(view: Session) -> dict[str, str]:
    """The open outcomes as a session stores them."""
    return {
        key: f"{outcome.utterance}|{outcome.first}|{','.join(outcome.recipients)}"
        for key, outcome in view.open_outcomes.items()
    }


_SESSION_FIELDS = {
    *("status", "epoch", "tenant", "source", "targets", "features", "features_hash", "encoding"),
    *("sample_rate", "priority", "room", "listen_language", "key", "utterance", "turn", "used"),
    *("reason", "outcomes", "retired_to"),
}
"""The authoritative fields of a session's hash, without the counters of each target."""


def stored_session_fields(session: Mapping[str, str]) -> dict[str, str]:
    """The same fields as they are stored."""
    return {
        field: value
        for field, value in session.items()
        if value and (field in _SESSION_FIELDS or field[:2] in ("a:", "d:", "w:"))
    }


def _out_of_order_differences(name: str, view: Session, stored: Stored) -> Iterator[Violation]:
    """Ready outcomes that wait for an earlier number are stored with the time they were ready."""
    ready = {key: outcome for key, outcome in view.open_outcomes.items() if outcome.outcome}
    outcomes = {key: str(outcome.outcome) for key, outcome in ready.items()}
    yield from _differences("I7", f"out_of_order:{name}", outcomes, stored["held"] or {})
    times = {key: str(outcome.ready_ms) for key, outcome in ready.items()}
    yield from _differences("I7", f"out_of_order_at:{name}", times, scores_of(stored["ready"]))
    for key in ready:
        target, _, number = key.rpartition("/")
        if int(number) == view.delivered.get(target, 0):
            yield Violation("I9", f"out_of_order:{name}", f"{key} is next and is not delivered")


def _missing_timers(name: str, view: Session, stored: Stored) -> Iterator[Violation]:
    """I8, as far as one read shows: each open state has the timer that ends it."""
    for timer in missing_session_timers(view, stored):
        yield Violation("I8", f"session:{name}", f"{timer.state} without a {timer.kind} timer")
    for timer in missing_job_timers(view, stored):
        yield Violation("I8", f"job:{timer.id}", f"{timer.state} without a {timer.kind} timer")
    for key, outcome in view.open_outcomes.items():
        job = (stored["jobs"] or {}).get(key, {})
        if job.get("status") == "ended" and not outcome.outcome:
            yield Violation("I8", f"outcomes:{name}", f"{key} is open, its job has ended")


def utterances_without_job(view: Session, stored: Stored) -> set[int]:
    """Utterances with an open outcome and no job: each needs a dispatch entry or a dead letter."""
    jobs = stored.get("jobs")
    if jobs is None:  # the session is not stored, which violates I7
        return set()
    return {
        outcome.utterance
        for key, outcome in view.open_outcomes.items()
        if "status" not in jobs.get(key, {}) and not outcome.outcome
    }


def job_differences(
    key: str,
    view: Job | None,
    stored: Stored,
    session: Session | None = None,
    facts: LogFacts | None = None,
) -> Iterator[Violation]:
    """One job: its state, its token, its place in the queue, and what its next attempt needs.

    Without `session` or `facts`, what they say is not compared.
    """
    where = f"job:{key}"
    job = stored.get("hash")
    if view is None or job is None:
        if (view is None) != (job is None):
            folded = "no job" if view is None else view.status
            yield Violation("I7", where, f"folded: {folded}, stored: {job}")
        return
    fields = job_fields(view)
    if view.status in ("running", "released") and _is_lease_end(view, job["deadline"]):
        del fields["deadline"]
    if facts is not None and (refused := facts.refused(view)) is not None:
        fields["refused"] = refused
    if view.status == "queued":
        if stored.get("tag") != str(view.tag):
            yield Violation("I7", where, f"its finish tag in the queue is {stored.get('tag')}")
        if stored.get("tag_of_all") != str(view.tag):
            tag = stored.get("tag_of_all")
            yield Violation("I7", where, f"its finish tag among all waiting jobs is {tag}")
        if "head_fault" in stored:
            yield Violation("I7", where, f"of its requirement: {stored['head_fault']}")
    elif view.status == "backoff" and stored.get("backoff") != str(view.not_before_ms):
        ends = stored.get("backoff")
        yield Violation("I7", where, f"the end of its backoff among all backoffs is {ends}")
    yield from _differences("I7", where, fields, {field: job.get(field, "") for field in fields})
    if job["status"] != "unreadable" and facts is not None:
        core = job_core(view, session, facts.utterance_of(view))
        yield from _core_differences(where, core, stored.get("core", ""))


def job_fields(view: Job) -> dict[str, str]:
    """The authoritative parts of a job's record before its core, without the refused reports.

    They are in the order of the record.
    """
    last = view.attempts[-1] if view.attempts else None
    fields = {
        "status": view.status,
        "attempt": str(view.attempt),
        "node": name_of(last.node) if last else "",
        "epoch": str(last.epoch) if last else "",
        "dispatched": "",
        "deadline": "",
        "place": _queue_place(view),
        "outcome": "",
    }
    if view.status == "running":
        fields |= {"dispatched": str(view.dispatched_ms), "deadline": str(view.deadline_ms)}
    elif view.status == "released":  # the record stays until the next attempt starts
        ended = view.attempts[-1]
        fields |= {"status": "running", "dispatched": str(ended.dispatched_ms)}
        fields |= {"deadline": str(ended.deadline_ms)}
    elif view.status == "queued":
        fields |= {"dispatched": str(view.avoid_until_ms or ""), "deadline": str(view.deadline_ms)}
    elif view.status == "backoff":
        fields |= {"dispatched": str(view.not_before_ms), "deadline": str(view.avoid_until_ms)}
    else:
        fields |= {"outcome": _stored_outcome(view), "place": ""}
    return fields


def _is_lease_end(view: Job, deadline: str) -> bool:
    """Whether the lease of the last attempt, with its extensions, can end then."""
    last = view.attempts[-1]
    latest_ms = last.dispatched_ms + LEASE_MS_MAX
    return deadline.isdecimal() and last.deadline_ms <= int(deadline) <= latest_ms


def _queue_place(view: Job) -> str:
    """The last place of a job in the queue, as its record has it; empty if it never waited."""
    return f"{view.priority},{view.tag},{view.member[:16]}" if view.member else ""


def _stored_outcome(view: Job) -> str:
    """The outcome of an ended job as its record has it: a result is `ok`."""
    return "ok" if view.outcome == "result" else view.outcome


def _core_differences(
    where: str, core: Mapping[str, Any] | None, stored: str
) -> Iterator[Violation]:
    """Without a core, nothing is compared."""
    if core is None:
        return
    try:
        found = msgspec.json.decode(check_json(stored.encode()))
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict):
        yield Violation("I7", where, "its core is no JSON object")
        return
    for field in sorted(core.keys() | found.keys()):
        if field == "finalized" and field not in found:
            continue  # events have no age without it; nothing else needs it
        if core.get(field) != found.get(field):
            what = f"{field}: folded {core.get(field)!r}, stored {found.get(field)!r}"
            yield Violation("I7", where, what)


def node_differences(
    name: str, view: Node | None, stored: Stored, drained_by: str | None = None
) -> Iterator[Violation]:
    """One node: its registration and class, and that its leases are its live attempts.

    `drained_by` is the operator who drained it; None if that is not known.
    """
    where = f"node:{name}"
    node = stored.get("hash")
    if view is None or node is None:
        if (view is None) != (node is None):
            folded = "no node" if view is None else view.status
            yield Violation("I7", where, f"folded: {folded}, stored: {node}")
        return
    fields = node_fields(view, drained_by)
    yield from form_violations(where, node, NODE_FORMS, NODE_FIELDS)
    yield from _differences("I7", where, fields, {field: node.get(field, "") for field in fields})
    yield from _lease_differences(name, view, stored)
    if "wrong_item" in stored:
        what = f"{stored['wrong_item']} names no next job of a requirement"
        yield Violation("I7", f"requirements:{view.cls}", what)
    for timer in missing_node_timers(name, view, stored):
        yield Violation("I8", where, f"{timer.state} without a {timer.kind} timer")


def node_fields(view: Node, drained_by: str | None) -> dict[str, str]:
    """The authoritative fields of a node's hash; the operator only if that is known."""
    known = {} if drained_by is None else {"drained_by": drained_by}
    return known | {
        "status": view.status,
        "epoch": str(view.epoch),
        "class": view.cls,
        "slots": str(view.slots),
        "version": view.version,
        **signature_fields(view),
    }


def signature_fields(view: Node) -> dict[str, str]:
    """The fields that decide to which capability class a node belongs."""
    return {
        "sources": ",".join(view.sources),
        "targets": ",".join(view.targets),
        "features": ",".join(view.features),
        "suspended": ",".join(view.suspension_words),
    }


def live_leases(view: Node) -> dict[str, str]:
    """The leases of the live attempts: `epoch/job key` -> the time of the dispatch."""
    return {f"{attempt.epoch}/{job}": str(attempt.since_ms) for job, attempt in view.live.items()}


def scores_of(sets: Mapping[str, Mapping[str, str] | None] | None) -> dict[str, str]:
    """The scores of several sorted sets, by `name of the set/member`."""
    return {
        f"{name}/{member}": score
        for name, scores in (sets or {}).items()
        for member, score in (scores or {}).items()
    }


def _lease_differences(name: str, view: Node, stored: Stored) -> Iterator[Violation]:
    stored_leases = scores_of(stored["leases"])
    yield from _differences("I5", f"leases:{name}", live_leases(view), stored_leases)
    used = sum(lease.startswith(f"{view.epoch}/") for lease in stored_leases)
    if used > view.slots:
        yield Violation("I5", f"leases:{name}", f"{used} leases on {view.slots} slots")
    if bool(stored["member"]) != (view.status != "gone"):
        yield Violation("I7", f"members:{view.cls}", f"{name}: {bool(stored['member'])}")
    load = 1_000 * used // view.slots
    free = str(load) if view.status == "alive" and used < view.slots else None
    if stored.get("free") != free:
        yield Violation("I5", f"free:{view.cls}", f"{name}: {stored.get('free')} instead of {free}")


def _differences(
    invariant: str, where: str, folded: Mapping[str, str], stored: Mapping[str, str]
) -> Iterator[Violation]:
    for field in sorted(folded.keys() | stored.keys()):
        if folded.get(field) != stored.get(field):
            what = f"{field}: folded {folded.get(field)!r}, stored {stored.get(field)!r}"
            yield Violation(invariant, where, what)
