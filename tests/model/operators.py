"""What operators do: `decide` of retrying and discarding dead letters, and of draining a node.

Owns: the requests that were done. Never does: rebuild a read model. Read next: stored.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec.structs import replace

from eventsched.errors import Refused
from eventsched.schema.events import DeadLettersDiscarded, DeadLettersRetried
from eventsched.schema.ids import parse_id
from eventsched.schema.keys import name_of
from eventsched.store.operator_commands import Act, DrainReply, RetryOutcome
from tests.model import attempts, nodes, session, utterance_jobs
from tests.model.world import Broken, DispatchEntry, Entry, World, invalid

Step = Callable[[], None]


def _earlier(w: World, act: Act, asked: str) -> Any:
    """The reply of the act that was done for this request; None for a new one."""
    if act.request not in w.requests:
        return None
    _, done, reply = w.requests[act.request]
    if done != asked:
        raise invalid("request")
    return reply


def _record(w: World, act: Act, asked: str, reply: Any) -> None:
    w.requests[act.request] = (w.now, asked, reply)


def stored_requests(w: World) -> dict[str, str]:
    """The requests as the hash stores them."""
    return {
        request: f"{ms}|{hashlib.sha1(asked.encode()).hexdigest()}|"
        + json.dumps(reply, separators=(",", ":"))
        for request, (ms, asked, reply) in w.requests.items()
    }


# --- dead letters -----------------------------------------------------------------------------


def retry_dead_letters(
    w: World, dead_ids: Sequence[str], act: Act, *, chosen_by: str = "", force: bool = False
) -> list[RetryOutcome]:
    """A new entry of the dispatch queue, or the timer again; targets with a job are skipped."""
    asked = " ".join([f"retry{int(force)}", *dead_ids])
    lines = _earlier(w, act, asked)
    if lines is None:
        decided = [
            ("unknown", 0, 0, None) if dead_id in dead_ids[:at] else _retry(w, dead_id)
            for at, dead_id in enumerate(dead_ids)
        ]
        lines = [f"{word} {retried} {skipped}" for word, retried, skipped, _ in decided]
        steps = [
            (dead_id, step)
            for dead_id, (*_, step) in zip(dead_ids, decided, strict=True)
            if step is not None
        ]
        if steps:
            ids = [dead_id for dead_id, _ in steps]
            w.emit(
                DeadLettersRetried(
                    first=ids[0], last=ids[-1], count=len(ids), filter=chosen_by, why=act.why,
                    by=act.by,
                )
            )  # fmt: skip
            for dead_id, step in steps:
                step()
                _remove(w, dead_id)
            _record(w, act, asked, lines)
    words = [line.split(" ") for line in lines]
    return [RetryOutcome(word, int(retried), int(skipped)) for word, retried, skipped in words]


def _retry(w: World, dead_id: str) -> tuple[str, int, int, Step | None]:
    letter = _letter(w, dead_id)
    if letter is None:
        return "unknown", 0, 0, None
    d = letter.fields["d"]
    if isinstance(d, Broken):
        return "unreadable", 0, 0, None
    if not isinstance(d, DispatchEntry):
        kind, _, of = letter.fields["id"].partition("|")
        return "retried", 1, 0, lambda: w.set_timer(w.now, kind, of)
    targets = utterance_jobs.missing_targets(w, d)
    skipped = len(d.targets) - len(targets)
    if not targets:
        return "passed_over", 0, skipped, lambda: None

    def queue_again() -> None:
        w.append(w.keys.dispatch, k="utterance", d=replace(d, targets=targets))
        w.count_undispatched(d.tenant, len(targets))

    return "retried", len(targets), skipped, queue_again


def discard_dead_letters(
    w: World, dead_ids: Sequence[str], act: Act, *, chosen_by: str = ""
) -> list[Literal["discarded", "work", "unknown"]]:
    """An entry that cannot be read is deleted; work stays."""
    asked = " ".join(["discard", *dead_ids])
    words = _earlier(w, act, asked)
    if words is None:
        words = [
            "unknown" if dead_id in dead_ids[:at] else _discard(w, dead_id)
            for at, dead_id in enumerate(dead_ids)
        ]
        ids = [id_ for id_, word in zip(dead_ids, words, strict=True) if word == "discarded"]
        if ids:
            w.emit(
                DeadLettersDiscarded(
                    first=ids[0], last=ids[-1], count=len(ids), filter=chosen_by, why=act.why,
                    by=act.by,
                )
            )  # fmt: skip
            for dead_id in ids:
                _remove(w, dead_id)
            _record(w, act, asked, words)
    return words  # type: ignore[no-any-return]


def _discard(w: World, dead_id: str) -> str:
    letter = _letter(w, dead_id)
    if letter is None:
        return "unknown"
    return "discarded" if isinstance(letter.fields["d"], Broken) else "work"


def _letter(w: World, dead_id: str) -> Entry | None:
    dead = w.streams.get(w.keys.dead_letters, [])
    return next((each for each in dead if parse_id(each.id) == parse_id(dead_id)), None)


def _remove(w: World, dead_id: str) -> None:
    dead = w.streams[w.keys.dead_letters]
    dead[:] = [letter for letter in dead if parse_id(letter.id) != parse_id(dead_id)]


# --- nodes ------------------------------------------------------------------------------------


def request_drain(w: World, node: str, act: Act, *, within_ms: int) -> DrainReply:
    """Rule 13, node registration: as a drain of the node, whose process then does not return."""
    name = name_of(node)
    if not 0 <= within_ms <= attempts.HELD_MS_MAX:
        raise invalid("within_ms")
    asked = f"drain {name}"
    earlier = _earlier(w, act, asked)
    if earlier is not None:
        return DrainReply(*earlier)
    view = w.nodes.get(name)
    if view is None or view.status == "gone":
        raise Refused("NODE_UNKNOWN")
    nodes.begin_drain(w, name, act)
    w.set_timer(w.now + within_ms, "drain", name)
    if within_ms == 0:
        attempts.requeue_leases(w, name, view.epoch, "drained")
    nodes.finish_drain(w, name)
    reply = [view.epoch, len(attempts.leases(w, name, view.epoch))]
    _record(w, act, asked, reply)
    session.settle(w)
    return DrainReply(*reply)
