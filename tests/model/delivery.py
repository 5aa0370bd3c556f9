"""Outcomes in order for each (session, target): rules 23 to 25, and the entries of outboxes.

Owns: open outcomes, held endings, deliveries, outboxes.
Never does: jobs and nodes. Read next: session.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import msgspec

from eventsched.schema.events import Delivered, ResultDelivered, ResultMissing, ResultRecorded
from eventsched.schema.ids import parse_id
from eventsched.schema.keys import name_of
from projections.session import OpenOutcome, outcome_key
from tests.model.world import Ending, World

DRAINED_MAX = 16


def open_outcome(w: World, name: str, target: str, number: int) -> OpenOutcome | None:
    view = w.sessions.get(name)
    return view.open_outcomes.get(outcome_key(target, number)) if view else None


def next_no(w: World, name: str, target: str) -> int:
    return w.sessions[name].delivered.get(target, 0)


def held(w: World, name: str, target: str) -> dict[int, Ending]:
    """The endings that are held because of a gap, by number."""
    waiting = w.held.get(name, {})
    return {number: ending for (to, number), ending in waiting.items() if to == target}


def audience(w: World, name: str, pending: OpenOutcome) -> tuple[list[str], list[str], list[str]]:
    """All recipients, the names of the open ones, and those that have closed."""
    to = list(pending.recipients) or [w.keys.full(name)]
    recipients, skipped = [], []
    for listener in to:
        view = w.sessions.get(name_of(listener))
        if view is not None and view.status in ("open", "closing"):
            recipients.append(name_of(listener))
        else:
            skipped.append(listener)
    return to, recipients, skipped


ENTRY_BYTES = 256
PARTIALS_MAX = 32
PARTIALS_BYTES_MAX = 32 * 1024


def tell_partial(w: World, listener: str, d: dict[str, Any], body: bytes) -> None:
    """Append a partial result, numbered as the last entry of the outbox; the newest ones stay."""
    stream, number = w.keys.partials(listener), str(w.session_states[listener].out_no)
    w.append(stream, t="partial", i=number, d=d, b=body, a=b"")
    most = PARTIALS_BYTES_MAX // (ENTRY_BYTES + len(body))
    w.streams[stream] = w.streams[stream][-max(1, min(most, PARTIALS_MAX)) :]


def tell(
    w: World, listener: str, kind: str, d: dict[str, Any], body: bytes = b"", audio: bytes = b""
) -> None:
    """Append one numbered entry to an outbox."""
    state = w.session_states[listener]
    state.out_no += 1
    state.out_bytes += ENTRY_BYTES + len(body) + len(audio)
    i = f"{state.out_no}:{state.out_bytes}"
    w.append(w.keys.outbox(listener), t=kind, i=i, d=d, b=body, a=audio)


def confirm(w: World, listener: str, out_id: str) -> None:
    """Remove the entries that the listener has read; the confirmed entry stays as its bookmark."""
    state = w.session_states[listener]
    if out_id and parse_id(state.confirmed or "0-0") < parse_id(out_id):
        w.trim(w.keys.outbox(listener), out_id)
        state.confirmed = out_id


def send(w: World, name: str, target: str, number: int, ending: Ending, reason: str = "") -> None:
    """Deliver the next number by an event of its own: the order advances, the outcome is closed."""
    pending = w.sessions[name].open_outcomes[outcome_key(target, number)]
    full = w.keys.full(name)
    to, recipients, skipped = audience(w, name, pending)
    data: ResultMissing | ResultDelivered
    if ending.kind == "missing":
        data = ResultMissing(
            utterance=pending.utterance,
            target=target,
            delivery_no=number,
            reason=cast("Literal['gap', 'close']", reason),
            to=to,
            skipped=skipped,
        )
    else:
        data = ResultDelivered(
            utterance=pending.utterance,
            target=target,
            delivery_no=number,
            outcome=cast("Literal['result', 'no_speech', 'failed']", ending.kind),
            code=ending.code,
            age_ms=w.now - ending.finalized,
            to=to,
            skipped=skipped,
        )
    body = b"" if ending.kind == "missing" else ending.body
    log_id = w.emit(data, session=full, job=ending.job, cause=ending.cause, body=body)
    _tell_outcome(w, name, target, number, pending, ending, log_id, recipients)


def _tell_outcome(
    w: World,
    name: str,
    target: str,
    number: int,
    pending: OpenOutcome,
    ending: Ending,
    log_id: str,
    recipients: Sequence[str],
) -> None:
    """The event of the delivery is in the log: the outboxes get the outcome."""
    d = {
        "session": w.keys.full(name),
        "utterance": pending.utterance,
        "target": target,
        "delivery_no": number,
        "outcome": ending.kind,
        "log": log_id,
    } | ({"code": ending.code} if ending.code else {})
    for listener in recipients:
        tell(w, listener, "result", d, ending.error.encode() or ending.body, ending.audio)
    w.ended += 1
    w.touched.add(name)


def hold(w: World, name: str, target: str, number: int, ending: Ending) -> None:
    w.held.setdefault(name, {})[target, number] = ending
    longest = longest_ready(w, name, target)
    assert longest is not None
    due_ms = longest[1] + w.settings.delivery_gap_timeout_ms
    w.set_timer_sooner(due_ms, "gap", f"{w.keys.full(name)}|{target}")


def longest_ready(w: World, name: str, target: str) -> tuple[int, int] | None:
    """(number, since when) of the ending that has been held for longest."""
    view = w.sessions[name]
    ready = [
        (view.open_outcomes[outcome_key(target, no)].ready_ms, str(no))
        for no in held(w, name, target)
    ]
    return (int(min(ready)[1]), min(ready)[0]) if ready else None


def watch_gap(w: World, name: str, target: str) -> None:
    """Set the gap timer, from the moment at which a later number became ready."""
    of = f"{w.keys.full(name)}|{target}"
    longest = longest_ready(w, name, target)
    if longest:
        w.set_timer(longest[1] + w.settings.delivery_gap_timeout_ms, "gap", of)
    else:
        w.drop_timer("gap", of)


def go_on(w: World, name: str, target: str) -> bool:
    """Deliver the held endings that are next, 16 in a call; a timer that is due at once does the
    rest. Returns whether there is a rest.
    """
    has_more = False
    while not has_more:
        number = next_no(w, name, target)
        if (target, number) not in w.held.get(name, {}):
            break
        has_more = w.drained >= DRAINED_MAX
        if not has_more:
            send(w, name, target, number, w.held[name].pop((target, number)))
            w.drained += 1
    watch_gap(w, name, target)
    if has_more:
        w.set_timer(w.now, "gap", f"{w.keys.full(name)}|{target}")
    return has_more


def finish(w: World, name: str, target: str, number: int, ending: Ending) -> None:
    """The outcome has its ending: deliver the ending if its number is next, else hold it."""
    if open_outcome(w, name, target, number) is None:
        return
    if next_no(w, name, target) != number:
        hold(w, name, target, number, ending)
        return
    send(w, name, target, number, ending)
    if held(w, name, target):
        go_on(w, name, target)


def record(
    w: World, name: str, data: ResultRecorded, ending: Ending, emit: Callable[[ResultRecorded], str]
) -> str:
    """Append the event of a result. It delivers the result if its number is next; else the result
    is held.
    """
    target, number = data.target, data.delivery_no
    pending = open_outcome(w, name, target, number)
    if pending is None or next_no(w, name, target) != number:
        log_id = emit(data)
        if pending is not None:
            hold(w, name, target, number, dataclasses.replace(ending, cause=f"log/{log_id}"))
        return log_id
    to, recipients, skipped = audience(w, name, pending)
    delivered = Delivered(to=to, skipped=skipped)
    log_id = emit(msgspec.structs.replace(data, delivered=delivered))
    _tell_outcome(w, name, target, number, pending, ending, log_id, recipients)
    if held(w, name, target):
        go_on(w, name, target)
    return log_id
