"""Timers and the dispatch queue (rules 2, 5, 6, 8, 10, 11, 13, 14 and 18).

Owns: `decide` of fire_timers, dispatch_jobs and set_backpressure.
Never does: choose a node (queue.py). Read next: stored.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from eventsched.schema.events import BackpressureEnded, BackpressureStarted, SessionRetired
from eventsched.schema.keys import job_key, name_of
from eventsched.store.role_commands import DispatchReply, TimerReply
from tests.model import attempts, delivery, nodes, queue, session, utterance_jobs
from tests.model.world import Broken, Entry, World

FIRED_MAX = 16
ENTRIES_MAX = 12
JOBS_MAX = 16
STALL_MS_MIN, STALL_MS_MAX = 1_000, 300_000


def fire_timers(w: World) -> TimerReply:
    now = w.now
    due = sorted((ms, timer) for timer, ms in w.timers.items() if ms <= now)[:FIRED_MAX]
    fired = 0
    for _, timer in due:
        if w.is_exhausted:
            break
        fired += 1
        if w.timers.get(timer, now + 1) <= now:  # an earlier one may have dropped or moved it
            at_ms = w.timers.pop(timer)
            kind, _, of = timer.partition("|")
            if kind == "leases":
                if _leases(w, of, at_ms):
                    break
            elif kind in FIRE:
                FIRE[kind](w, of)
            else:
                _back_off(w, timer)
    session.settle(w)
    return TimerReply(fired, min(w.timers.values(), default=None), now)


def _back_off(w: World, timer: str) -> None:
    """A timer that cannot be handled is due again later; its first failure is a dead letter."""
    count = w.stalled_timers[timer] = w.stalled_timers.get(timer, 0) + 1
    w.timers[timer] = w.now + min(STALL_MS_MIN * 2 ** (count - 1), STALL_MS_MAX)
    if count == 1:
        _park(w, "timers", timer, "timer", "")


def _pause(w: World, full: str) -> None:
    view = w.sessions.get(name_of(full))
    if view is None or view.status != "open" or view.playbacks:
        return
    state = w.session_states[name_of(full)]
    if not state.buffer:
        return
    due_ms = state.chunk_ms + w.settings.pause_ms
    if due_ms > w.now:
        w.set_timer(due_ms, "pause", full)
    else:
        session.finalize(w, name_of(full), "pause")


def _idle(w: World, full: str) -> None:
    view = w.sessions.get(name_of(full))
    if view is None or view.status != "open":
        return
    due_ms = w.session_states[name_of(full)].seen_ms + w.settings.idle_ms
    if due_ms > w.now:
        w.set_timer(due_ms, "idle", full)
    else:
        session.close(w, name_of(full), "idle")


def _playback(w: World, of: str) -> None:
    full, _, mark = of.partition("|")
    view = w.sessions.get(name_of(full))
    if view is not None and mark in view.playbacks:
        session.end_playback(w, name_of(full), mark, "deadline")


def _gap(w: World, of: str) -> None:
    """The numbers before an ending that was held for too long are skipped."""
    full, _, target = of.partition("|")
    name = name_of(full)
    longest = delivery.longest_ready(w, name, target) if name in w.sessions else None
    if longest is None:
        return
    ready_no, ready_ms = longest
    freed: set[str] = set()
    while not w.is_exhausted:
        number = delivery.next_no(w, name, target)
        is_held = number in delivery.held(w, name, target)
        if w.now < ready_ms + w.settings.delivery_gap_timeout_ms or number >= ready_no or is_held:
            break
        freed.add(_skip(w, name, target, number, "gap"))
        delivery.go_on(w, name, target)
    delivery.go_on(w, name, target)
    _fill_all(w, freed)


def _skip(w: World, name: str, target: str, number: int, reason: str) -> str:
    view = w.sessions[name]
    outcome = view.open_outcomes[f"{target}/{number}"]
    key = job_key(view.tenant, view.session, outcome.utterance, target, view.features_hash)
    return attempts.skip(w, key, name, target, number, reason)


def _fill_all(w: World, freed: set[str]) -> None:
    for node in sorted(freed - {""}):
        queue.fill(w, node, "")


def _close(w: World, full: str) -> None:
    """The close wait is over: open outcomes end as missing, in order."""
    name = name_of(full)
    view = w.sessions.get(name)
    if view is None or view.status != "closing":
        return
    given_up, freed = 0, set[str]()
    for target in sorted({key.rpartition("/")[0] for key in view.open_outcomes}):
        number = delivery.next_no(w, name, target)
        while not w.is_exhausted and delivery.open_outcome(w, name, target, number):
            if number not in delivery.held(w, name, target):
                freed.add(_skip(w, name, target, number, "close"))
                given_up += 1
            if delivery.go_on(w, name, target):
                break
            number = delivery.next_no(w, name, target)
    w.session_states[name].given_up += given_up
    w.set_timer(w.now, "close", full)
    w.touched.add(name)
    _fill_all(w, freed)


def _leases(w: World, of: str, at_ms: int) -> bool:
    """The jobs of expired leases of a registration are dispatched again, 16 a call (rule 19). True
    if more leases have expired by now: they come before timers that were due later.
    """
    name, _, epoch = of.rpartition("|")
    held = attempts.leases(w, name, int(epoch))
    if not held:
        return False
    over = sorted((w.deadlines[key], key) for key in held if w.deadlines[key] <= at_ms)
    looked_at = [_look_ms(w, key, at_ms) for key in held if w.deadlines[key] > at_ms]
    next_ms = min([*looked_at, w.now + nodes.LEASE_MS_MIN])
    for _, key in over[: attempts.RECOVERED_MAX]:
        attempts.redispatch(w, key, "lease")
    if len(over) > attempts.RECOVERED_MAX:
        next_ms = at_ms
    w.set_timer_sooner(next_ms, "leases", of)
    return next_ms <= w.now


def _look_ms(w: World, key: str, at_ms: int) -> int:
    """When a lease may have expired: not before it is 15 s old."""
    first_ms = w.jobs[key].dispatched_ms + nodes.LEASE_MS_MIN
    return first_ms if first_ms > at_ms else w.deadlines[key]


def _age(w: World, key: str) -> None:
    if key in w.jobs and w.jobs[key].status == "queued" and w.jobs[key].priority > 0:
        queue.age(w, key)


def _wait(w: World, key: str) -> None:
    if key in w.jobs and w.jobs[key].status == "queued":
        why = queue.why_waiting(w, w.cores[key])
        queue.leave(w, key)
        attempts.fail(w, key, why)


def _backoff(w: World, key: str) -> None:
    if key in w.jobs and w.jobs[key].status == "backoff":
        queue.end_backoff(w, key)


def _avoid(w: World, key: str) -> None:
    if key in w.jobs and w.jobs[key].status == "queued" and w.jobs[key].avoid_until_ms:
        queue.end_avoidance(w, key)


def _node(w: World, name: str) -> None:
    node = w.nodes.get(name)
    if node is None or node.status == "gone":
        return
    due_ms = w.processes[name].seen_ms + w.settings.node_lost_ms
    if due_ms > w.now:
        w.set_timer(due_ms, "node", name)
    else:
        nodes.lose(w, name, "silent")
        attempts.requeue_leases(w, name, node.epoch, "node_lost")


def _lost(w: World, of: str) -> None:
    full, epoch, reason = of.split("|")
    attempts.requeue_leases(w, name_of(full), int(epoch), reason)


def _drain(w: World, name: str) -> None:
    node = w.nodes.get(name)
    if node is not None and node.status == "draining":
        attempts.requeue_leases(w, name, node.epoch, "drained")
        nodes.finish_drain(w, name)


def _gone(w: World, name: str) -> None:
    node = w.nodes.get(name)
    if node is None or node.status != "gone":
        return
    due_ms = nodes.retention_end(w, name)
    if due_ms > w.now:
        w.set_timer(due_ms, "gone", name)
    elif node.live:
        w.set_timer(w.now + w.settings.node_lost_ms, "gone", name)
    else:
        nodes.retire(w, name)


def _suspension(w: World, of: str) -> None:
    name, _, word = of.partition("|")
    node = w.nodes.get(name)
    if node is not None and node.status != "gone" and word in node.suspension_words:
        nodes.resume(w, name, word)
        queue.fill(w, name, "")


def _retire(w: World, full: str) -> None:
    """The event first; then the records are deleted (here in one call, below 256 keys)."""
    name = name_of(full)
    view = w.sessions.get(name)
    if view is None or view.status != "closed":
        return
    retire_ms = w.session_states[name].retire_ms
    outbox = w.streams.get(w.keys.outbox(name), [])
    w.streams[w.keys.outbox(name)] = outbox[-1:]
    w.forget_stream(w.keys.partials(name))
    if w.now < retire_ms:
        w.set_timer(retire_ms, "retire", full)
        return
    data = SessionRetired(
        tenant=view.tenant,
        features_hash=view.features_hash,
        first=view.retired_to,
        utterances=view.utterance,
        targets=sorted(view.allocated),
    )
    w.emit(data, session=full)
    w.cores = {key: core for key, core in w.cores.items() if core.session != full}
    w.held.pop(name, None)
    w.audio.pop(name, None)
    w.forget_stream(w.keys.audio(name))
    w.forget_stream(w.keys.outbox(name))
    del w.session_states[name]


FIRE: dict[str, Callable[[World, str], None]] = {
    "pause": _pause,
    "idle": _idle,
    "playback": _playback,
    "gap": _gap,
    "close": _close,
    "age": _age,
    "wait": _wait,
    "backoff": _backoff,
    "avoid": _avoid,
    "node": _node,
    "lost": _lost,
    "drain": _drain,
    "gone": _gone,
    "suspension": _suspension,
    "retire": _retire,
}


# --- work -----------------------------------------------------------------------------------


def dispatch_jobs(w: World, lease_ms: int = 0, consumer: str = "dispatcher") -> DispatchReply:
    """Each target with an open outcome and without a job gets a job, once (rules 10, 11)."""
    if lease_ms:
        w.dispatcher_until = w.now + lease_ms
    work = w.streams.setdefault(w.keys.dispatch, [])
    batch: list[Entry] = []
    jobs = waiting = filled = 0
    _ = w.now  # reading the clock advances the time
    for entry in work[:ENTRIES_MAX]:
        if jobs + filled >= JOBS_MAX:
            break
        batch.append(entry)
        placed, found_none, fills = _dispatch(w, entry)
        jobs, waiting, filled = jobs + placed, waiting + found_none, filled + fills
    left = [entry for entry in w.streams[w.keys.dispatch] if entry not in batch]
    w.streams[w.keys.dispatch] = left
    if batch and not left:
        w.undispatched.clear()
    return DispatchReply(batch[-1].id if batch else "0-0", len(left), jobs, waiting)


def _dispatch(w: World, entry: Entry) -> tuple[int, int, int]:
    d = entry.fields["d"]
    if entry.fields["k"] == "fill":
        if d in w.nodes and w.nodes[d].status != "gone":
            return 0, 0, queue.fill(w, d, f"dispatch/{entry.id}")
        return 0, 0, 0
    if isinstance(d, Broken):
        _park(w, "dispatch", entry.id, entry.fields["k"], d)
        return 0, 0, 0
    w.count_undispatched(d.tenant, -len(d.targets))
    return *utterance_jobs.place(w, d), 0


# --- what could not be processed ------------------------------------------------------------


def _park(w: World, source: str, entry_id: str, kind: str, d: Broken | str) -> None:
    w.append(
        w.keys.dead_letters, **{"from": source, "id": entry_id, "k": kind, "d": d, "partial": "0"}
    )


def set_backpressure(
    w: World, reason: str, *, is_active: bool, seen: int, limit: int
) -> Literal["started", "ended", "unchanged"]:
    if (reason in w.backpressure) == is_active:
        return "unchanged"
    w.backpressure ^= {reason}
    kind = BackpressureStarted if is_active else BackpressureEnded
    w.emit(kind(reason=reason, seen=seen, limit=limit))  # type: ignore[arg-type]
    return "started" if is_active else "ended"
