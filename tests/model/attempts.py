"""How attempts end, and which reports of nodes count (rules 13, node registration; 14, missing
model; 20 to 25).

Owns: `decide` of results, partials, lease extension, registration and draining.
Never does: time (timers.py). Read next: timers.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

import msgspec

from eventsched.errors import Refused
from eventsched.schema.events import (
    AttemptEnded,
    JobFailed,
    ResultRecorded,
    ResultRefused,
    ResultReplaced,
    Text,
)
from eventsched.schema.keys import name_of
from eventsched.store.node_commands import NodeGrant, NodeResult
from tests.model import delivery, nodes, queue, session
from tests.model.world import Ending, Failures, World, invalid

Said = TypeVar("Said", ResultRecorded, ResultReplaced)

REDISPATCHED_MAX = 3
RECOVERED_MAX = 16
HELD_MS_MAX = 300_000
AUDIO_MAX, PARTIAL_MAX, REFUSED_MAX = 512_000, 65_536, 16
UNREADABLE_MAX = 3
FAILURES_MAX = 5
SHARES = {"sessions": 8, "tenants": 3}
"""Of so many able nodes, failures of one tenant's sessions, or of two tenants, suspend one."""
LOST_CODES = {
    "lease": "JOB_TIMEOUT",
    "node_lost": "NODE_LOST",
    "superseded": "NODE_LOST",
    "drained": "NODE_LOST",
}
TOO_LATE = {"JOB_TIMEOUT", "NODE_LOST"}
"""A job that failed with one of these ended without a word of its last attempt."""


# --- the end of an attempt ------------------------------------------------------------------


def stop(
    w: World,
    key: str,
    reason: str,
    code: str = "",
    report: NodeResult | None = None,
    cause: str = "",
) -> str:
    """The attempt ends: its slot is free and its node gets a cancel. Returns the node if it can
    take a job.
    """
    core, held = w.cores[key], w.jobs[key].attempts[-1]
    data = AttemptEnded(
        utterance=core.utterance,
        target=core.target,
        attempt=held.attempt,
        epoch=held.epoch,
        reason=cast("Any", reason),
        code=code,
        error_type=report.error_type if report else "",
        error_message=report.error_message if report and w.settings.error_messages else "",
        error_place=report.error_place if report else "",
    )
    w.emit(data, session=core.session, job=key, node=held.node, cause=cause)
    name = name_of(held.node)
    cancel = {"attempt": held.attempt, "epoch": held.epoch, "reason": reason}
    w.append(w.keys.inbox(name), t="cancel", j=key, c="", d=cancel, b=b"")
    return _freed(w, name, held.epoch)


def _freed(w: World, name: str, epoch: int) -> str:
    if not nodes.is_current(w, name, epoch):
        return ""
    if w.nodes[name].status == "draining":
        nodes.finish_drain(w, name)
        return ""
    return name


def fail(w: World, key: str, code: str, report: NodeResult | None = None) -> None:
    core = w.cores[key]
    data = JobFailed(
        utterance=core.utterance,
        target=core.target,
        delivery_no=core.delivery_no,
        attempt=w.jobs[key].attempt,
        code=code,
    )
    w.emit(data, session=core.session, job=key)
    ending = Ending("failed", key, code=code, error=_error(w, report), finalized=core.finalized)
    delivery.finish(w, name_of(core.session), core.target, core.delivery_no, ending)


def _error(w: World, report: NodeResult | None) -> str:
    """Why the handler failed, as JSON; empty without an exception."""
    if report is None or not report.error_type:
        return ""
    fields = {
        "error_type": report.error_type,
        "error_message": report.error_message if w.settings.error_messages else "",
        "error_place": report.error_place,
    }
    return msgspec.json.encode({k: v for k, v in fields.items() if v}).decode()


def redispatch(
    w: World,
    key: str,
    reason: str,
    code: str = "",
    report: NodeResult | None = None,
    cause: str = "",
) -> None:
    """Rule 20, dispatching again: stop the attempt, start the next, then fill the freed slot."""
    held = w.jobs[key].attempts[-1]
    freed = stop(w, key, reason, code, report, cause)
    if held.attempt > REDISPATCHED_MAX:
        fail(w, key, code or LOST_CODES[reason], report)
    elif not (
        report
        and reason == "failed"
        and queue.back_off(w, key, held.attempt + 1, report.retry_in_ms)
    ):
        last = name_of(held.node)
        queue.place(w, key, held.attempt + 1, "", last=last, freed=freed)
    if freed:
        queue.fill(w, freed, "")


def requeue_leases(w: World, name: str, epoch: int, reason: str) -> None:
    """Dispatch the jobs of a registration again, 16 a call; a timer that is due at once does the
    rest. The loss of the registration is the cause of each attempt's end.
    """
    cause = "" if reason == "drained" else nodes.loss_of(w, name, epoch)
    for key in leases(w, name, epoch)[:RECOVERED_MAX]:
        redispatch(w, key, reason, cause=cause)
    if leases(w, name, epoch):
        w.set_timer(w.now, "lost", f"{w.keys.full(name)}|{epoch}|{reason}")


def leases(w: World, name: str, epoch: int) -> list[str]:
    """Live attempts of a registration, the oldest first."""
    live = w.nodes[name].live.items() if name in w.nodes else ()
    held = sorted((lease.since_ms, key) for key, lease in live if lease.epoch == epoch)
    return [key for _, key in held]


def skip(w: World, key: str, name: str, target: str, number: int, reason: str) -> str:
    """Rule 25, ordered delivery: the number ends as missing, and its job ends in the same step."""
    status = w.jobs[key].status if key in w.jobs else ""
    delivery.send(w, name, target, number, Ending("missing", key), reason)
    if status == "queued":
        queue.leave(w, key)
    w.drop_timer("backoff", key)
    return stop(w, key, "cancelled") if status == "running" else ""


# --- who may still speak --------------------------------------------------------------------


def refusal(w: World, key: str, node: str, epoch: int, attempt: int) -> str:
    """Rules 21 and 23: why the token is refused; empty for the current token."""
    job = w.jobs[key]
    held = job.attempts[-1] if job.attempts else None
    if held is None or (held.node, held.epoch) != (node, epoch):
        return "NODE_MISMATCH"
    if job.status in ("queued", "backoff"):
        return "LEASE_LOST"
    if job.attempt != attempt:
        return "ATTEMPT_MISMATCH"
    if job.status == "ended":
        is_late = job.outcome == "missing" or (job.outcome == "failed" and job.code in TOO_LATE)
        return "LEASE_LOST" if is_late else "DUPLICATE_RESULT"
    return "" if nodes.is_current(w, name_of(node), epoch) else "LEASE_LOST"


def refuse(
    w: World,
    key: str,
    node: str,
    epoch: int,
    attempt: int,
    what: Literal["result", "partial", "extend"],
    code: str,
) -> Refused:
    """The refusal is recorded in the log, once for each token and kind and 16 times a job."""
    mark, marks = f"{name_of(node)}/{epoch}/{attempt}/{what}", w.refused.setdefault(key, [])
    if mark in marks or len(marks) >= REFUSED_MAX or (what == "partial" and w.backpressure):
        return Refused(code)
    marks.append(mark)
    data = ResultRefused(attempt=attempt, epoch=epoch, what=what, code=code)
    w.emit(data, session=w.jobs[key].session, job=key, node=node)
    return Refused(code)


# --- results --------------------------------------------------------------------------------


def record_results(
    w: World, node: str, epoch: int, results: Sequence[NodeResult]
) -> list[Refused | None]:
    replies: list[Refused | None] = []
    for result in results:
        try:
            _take(w, node, epoch, result)
            replies.append(None)
        except Refused as refused:
            replies.append(refused)
    name = name_of(node)
    if nodes.is_current(w, name, epoch):
        held = [lease.since_ms for lease in w.nodes[name].live.values() if lease.epoch == epoch]
        w.trim(w.keys.inbox(name), str(min(held, default=w.now)))
    session.settle(w)
    return replies


def _take(w: World, node: str, epoch: int, result: NodeResult) -> None:
    key = result.job
    if key not in w.jobs:
        raise Refused("JOB_UNKNOWN")
    _check_result(result)
    why = refusal(w, key, node, epoch, result.attempt)
    if why == "DUPLICATE_RESULT" and _is_readable(w, result) and _replaces(w, result):
        _replace(w, node, epoch, result)
    elif why:
        raise refuse(w, key, node, epoch, result.attempt, "result", why)
    elif result.status == "failed":
        _failed(w, node, result)
    elif _is_readable(w, result):
        _record(w, node, epoch, result)
    else:
        _unreadable(w, name_of(node), result)


CIPHERTEXT_OVERHEAD_MAX = 512


class _ResultText(Text, frozen=True, forbid_unknown_fields=True):
    """A text that has no other fields."""


def _is_readable(w: World, result: NodeResult) -> bool:
    """Whether the body is empty, or a text in MessagePack that the session can have."""
    if not result.body:
        return True
    try:
        text = msgspec.msgpack.decode(result.body, type=_ResultText)
    except msgspec.DecodeError:
        return False
    if len(text.encrypted) > 4 * text.characters + CIPHERTEXT_OVERHEAD_MAX:
        return False
    return not text.encrypted or bool(w.cores[result.job].key)


def _unreadable(w: World, name: str, result: NodeResult) -> None:
    """Rule 14, suspended nodes: a failed attempt; the third one suspends the node for every job,
    unless it is the last that can serve a requirement.
    """
    count, since_ms = w.unreadable.get(name, (0, w.now))
    if w.now - since_ms > w.settings.suspend_ms:
        count, since_ms = 0, w.now
    if count + 1 >= UNREADABLE_MAX and nodes.may_suspend(w, name):
        w.unreadable.pop(name, None)
        nodes.suspend(w, name, nodes.WHOLE, "RESULT_UNREADABLE")
    else:
        w.unreadable[name] = (count + 1, since_ms)
    redispatch(w, result.job, "failed", "RESULT_UNREADABLE")


def _check_result(result: NodeResult) -> None:
    is_sha = len(result.audio_sha256) == 64
    fits = {
        "attempt": result.attempt >= 1,
        "code": result.status != "failed" or bool(result.code),
        "audio": len(result.audio) <= AUDIO_MAX and (not result.audio or result.status == "ok"),
        "audio_sha256": bool(result.audio) == is_sha,
    }
    wrong = [field for field, fit in fits.items() if not fit]
    if wrong:
        raise invalid(wrong[0])


def _said(w: World, epoch: int, result: NodeResult, kind: type[Said]) -> Said:
    core = w.cores[result.job]
    return kind(
        utterance=core.utterance,
        target=core.target,
        delivery_no=core.delivery_no,
        attempt=result.attempt,
        epoch=epoch,
        status="ok" if result.status == "ok" else "no_speech",
        code=result.code,
        audio_bytes=len(result.audio),
        audio_sha256=result.audio_sha256,
        age_ms=w.now - core.finalized,
    )


def _ending(w: World, result: NodeResult, cause: str = "") -> Ending:
    kind = "result" if result.status == "ok" else "no_speech"
    return Ending(
        kind,
        result.job,
        cause,
        result.code,
        result.body,
        result.audio,
        finalized=w.cores[result.job].finalized,
    )


def _record(w: World, node: str, epoch: int, result: NodeResult) -> None:
    """The job ends, its outcome is delivered or held, and its slot is filled."""
    core, key, freed = w.cores[result.job], result.job, ""
    w.processes[name_of(node)].failures = None

    def emit(data: ResultRecorded) -> str:
        nonlocal freed
        log_id = w.emit(data, session=core.session, job=key, node=node, body=result.body)
        freed = _freed(w, name_of(node), epoch)
        return log_id

    data = _said(w, epoch, result, ResultRecorded)
    log_id = delivery.record(w, name_of(core.session), data, _ending(w, result), emit)
    if freed:
        queue.fill(w, freed, f"log/{log_id}")


def _replaces(w: World, result: NodeResult) -> bool:
    """Rule 23: a complete result replaces an empty result that is still held."""
    core = w.cores[result.job]
    held = delivery.held(w, name_of(core.session), core.target).get(core.delivery_no)
    return held is not None and held.kind == "no_speech" and result.status == "ok"


def _replace(w: World, node: str, epoch: int, result: NodeResult) -> None:
    core = w.cores[result.job]
    data = _said(w, epoch, result, ResultReplaced)
    log_id = w.emit(data, session=core.session, job=result.job, node=node, body=result.body)
    name = name_of(core.session)
    delivery.hold(w, name, core.target, core.delivery_no, _ending(w, result, f"log/{log_id}"))


def _suspend_if_failing(w: World, name: str, key: str) -> None:
    """Rule 14, suspended nodes: five fast failures in a row, of two sessions, suspend the node,
    while few nodes are suspended.
    """
    if w.now - w.jobs[key].dispatched_ms > w.settings.fast_failure_ms:
        return
    core, process = w.cores[key], w.processes[name]
    old = process.failures or Failures(0, core.session, core.tenant)
    spread = old.spread
    if core.tenant != old.tenant:
        spread = "tenants"
    elif core.session != old.session and spread == "session":
        spread = "sessions"
    new = replace(old, count=min(old.count + 1, FAILURES_MAX), spread=spread)
    process.failures = new
    if new.count < FAILURES_MAX or nodes.WHOLE in w.nodes[name].suspension_words:
        return
    if spread in SHARES and nodes.may_suspend(w, name, SHARES[spread]):
        suspend_ms = w.settings.failing_suspend_ms * 2**new.suspensions
        suspend_ms = min(suspend_ms, w.settings.failing_suspend_ms_max)
        nodes.suspend(w, name, nodes.WHOLE, "ATTEMPTS_FAILED", suspend_ms)
        process.failures = replace(new, suspensions=new.suspensions + 1)


def _failed(w: World, node: str, result: NodeResult) -> None:
    key = result.job
    if result.code == "MODEL_NOT_AVAILABLE":
        core = w.cores[key]
        if result.feature and result.feature not in core.features:
            raise invalid("feature")
        subject = result.feature or f"{core.source}>{core.target}"
        nodes.suspend(w, name_of(node), subject)
        redispatch(w, key, "suspended", result.code, result)
    elif result.retryable:
        if result.code != "KEY_MISSING":
            _suspend_if_failing(w, name_of(node), key)
        redispatch(w, key, "failed", result.code, result)
    else:
        freed = stop(w, key, "failed", result.code, result)
        fail(w, key, result.code, result)
        if freed:
            queue.fill(w, freed, "")


# --- partials, longer leases ----------------------------------------------------------------


def send_partials(
    w: World, node: str, epoch: int, items: Sequence[tuple[str, int, bytes]]
) -> list[Refused | None]:
    replies: list[Refused | None] = []
    for key, attempt, body in items:
        try:
            _tell_partial(w, node, epoch, key, attempt, body)
            replies.append(None)
        except Refused as refused:
            replies.append(refused)
    return replies


def _tell_partial(w: World, node: str, epoch: int, key: str, attempt: int, body: bytes) -> None:
    if attempt < 1:
        raise invalid("attempt")
    if len(body) > PARTIAL_MAX:
        raise invalid("body")
    if key not in w.jobs:
        raise Refused("JOB_UNKNOWN")
    why = refusal(w, key, node, epoch, attempt)
    if why:
        raise refuse(w, key, node, epoch, attempt, "partial", why)
    core = w.cores[key]
    name = name_of(core.session)
    pending = delivery.open_outcome(w, name, core.target, core.delivery_no)
    assert pending is not None, "a running job's outcome is open"
    d = {
        "session": core.session,
        "utterance": core.utterance,
        "target": core.target,
        "attempt": attempt,
    }
    for listener in delivery.audience(w, name, pending)[1]:
        delivery.tell_partial(w, listener, d, body)


def extend_lease(w: World, node: str, epoch: int, *, job: str, attempt: int, more_ms: int) -> int:
    """Rule 19: only the handler extends a lease, to at most 300 s after dispatch."""
    if not 1 <= more_ms <= HELD_MS_MAX:
        raise invalid("more_ms")
    if job not in w.jobs:
        raise Refused("JOB_UNKNOWN")
    why = refusal(w, job, node, epoch, attempt)
    if why:
        raise refuse(w, job, node, epoch, attempt, "extend", why)
    asked_ms = min(w.now + more_ms, w.jobs[job].dispatched_ms + HELD_MS_MAX)
    w.deadlines[job] = max(w.deadlines[job], asked_ms)
    return w.deadlines[job]


# --- registrations, which end attempts ------------------------------------------------------


def register_node(
    w: World,
    *,
    node: str,
    token: str,
    sources: Sequence[str],
    targets: Sequence[str],
    features: Sequence[str],
    slots: int,
    version: str,
) -> NodeGrant:
    name = name_of(node)
    old = w.nodes.get(name)
    is_alive = old is not None and old.status != "gone"
    if old is not None and is_alive and w.processes[name].token == token:
        inbox_from = w.processes[name].inbox_from
        return NodeGrant(node, old.epoch, inbox_from, w.settings.heartbeat_ms)
    if old is not None and w.processes[name].token == token and w.processes[name].drained_by:
        raise Refused("NODE_DRAINED")
    nodes.check_registration(w, name, token, sources, targets, features, slots)
    if is_alive:
        nodes.lose(w, name, "superseded")
    grant = nodes.enter(w, name, token, sources, targets, features, slots, version)
    if is_alive:
        requeue_leases(w, name, grant.epoch - 1, "superseded")
    queue.fill(w, name, "")
    session.settle(w)
    return grant


def drain_node(w: World, node: str, epoch: int, *, within_ms: int) -> int:
    name = name_of(node)
    if not 0 <= within_ms <= HELD_MS_MAX:
        raise invalid("within_ms")
    if not nodes.is_current(w, name, epoch):
        raise nodes.stale_registration(w, name, epoch)
    nodes.begin_drain(w, name)
    w.set_timer(w.now + within_ms, "drain", name)
    if within_ms == 0:
        requeue_leases(w, name, epoch, "drained")
    nodes.finish_drain(w, name)
    session.settle(w)
    return len(leases(w, name, epoch))
