"""The expected and the actual content of every key of the cell.

Owns: the content of every key as plain values, without empty ones, on both sides.
Never does: decisions. The log is compared event by event (machine.py).
Read next: machine.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from eventsched.schema import codec
from eventsched.schema.keys import Keys, name_of
from projections.session import Session
from tests.dispatch_entries import fields_of
from tests.job_record import parts_of
from tests.model import nodes, operators, queue
from tests.model.world import Broken, DispatchEntry, Entry, SessionState, World

Content = dict[str, Any]
NOT_COMPARED = {
    "log",  # event by event
    "clock",
    "active_revision",  # written by the test in place of the projector
    "view",
}
SCORED = {
    "timers",
    "stalled_timers",
    "tenant_finish_tag",
    "erased",
    "free",
    "leases",
    "out_of_order_at",
    "waiting",
    "waiting_tags",
    "backoffs",
}
"""Sorted sets: a score of 0 says something."""
HEADS = "requirements:"
"""Their members sort like the heads of the requirements; the scores are 0."""
BEGINS = ("session", "utterance", "target", "delivery_no", "finalized", "tp")
"""What is left of the core of a job that has ended."""
NOT_COMPARED_FIELDS = {"reason", "out_low"}
"""Prose of a Lua error; where the oldest entry of 16 MiB begins."""


def expected(w: World) -> Content:
    """The content by key without its prefix; empty keys are left out."""
    w.end()
    content: Content = {}
    for name, state in w.session_states.items():
        content |= _session(w, name, state)
    for key in w.jobs:
        content[f"job:{key}"] = _job(w, key)
    for name in w.nodes:
        content |= _node(w, name)
    content |= _classes(w) | _queues(w) | _rooms(w)
    content["counters"] = {
        "entry": w.entries,
        "virtual": w.virtual,
        "backpressure": ",".join(sorted(w.backpressure)),
        "dispatcher": w.dispatcher_until,
        "retired_epoch": w.retired_epoch,
        "obsolete": w.obsolete,
        "duplicate_finalizes": w.duplicate_finalizes,
    }
    content["tenant_undispatched"] = w.undispatched
    for name, view in w.sessions.items():  # a retired session has no view
        content.setdefault(f"tenant_sessions:{view.tenant}", set()).add(name)
    content["settings"] = w.stored_settings or {}
    content["timers"] = w.timers
    content["stalled_timers"] = w.stalled_timers
    content["erased"] = w.erased
    content["operator_requests"] = operators.stored_requests(w)
    for key, entries in w.streams.items():
        content[key.removeprefix(w.keys.prefix)] = [_entry(entry) for entry in entries]
    plain = {
        key: value if key.partition(":")[0] in SCORED or not isinstance(value, dict)
        else _filled(value)
        for key, value in content.items()
    }  # fmt: skip
    return {key: value for key, value in plain.items() if value}


def _filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a hash that are not empty or zero; numbers as text."""
    return {
        key: plain
        for key, value in fields.items()
        if (plain := value if isinstance(value, (dict, list)) else str(value))
        not in ("", "0", "0-0")
    }


def _entry(entry: Entry) -> tuple[str, dict[str, Any]]:
    d = entry.fields["d"]
    if isinstance(d, Broken):
        d = _dispatch_entry(d.entry) | {"broken": True}
    elif isinstance(d, DispatchEntry):
        d = _dispatch_entry(d)
    return entry.id, entry.fields | {"d": d}


def _dispatch_entry(entry: DispatchEntry) -> dict[str, Any]:
    """The recipients of the targets are in the outcomes of the session."""
    open_targets = [
        {"target": target.target, "delivery_no": target.delivery_no} for target in entry.targets
    ]
    fields: dict[str, Any] = msgspec.to_builtins(entry)
    return fields | {"targets": open_targets}


def _session(w: World, name: str, state: SessionState) -> Content:
    view = w.sessions[name]
    fields: dict[str, Any] = {
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
        "retired_to": view.retired_to,
        "tp": state.tp,
        "tokens": ",".join(f"{token}:{epoch}" for token, epoch in state.tokens),
        "secret_sha1": state.secret_sha1,
        "buffer": _buffer(state),
        "out_no": state.out_no,
        "out_bytes": state.out_bytes,
        "confirmed": state.confirmed,
        "retire_at": state.retire_ms,
        "missing": state.given_up,
        "playbacks_started": state.playbacks_started,
        "resumes_until": state.resumes_until,
    }
    fields |= {f"a:{target}": number for target, number in view.allocated.items()}
    fields |= {f"d:{target}": number for target, number in view.delivered.items()}
    fields |= {
        f"w:{key.rpartition('/')[0]}": 1
        for key, outcome in view.open_outcomes.items()
        if outcome.outcome
    }
    content: Content = {
        f"session:{name}": fields,
        f"outcomes:{name}": {
            key: f"{outcome.utterance}|{outcome.first}|{','.join(outcome.recipients)}"
            for key, outcome in view.open_outcomes.items()
        },
        f"out_of_order:{name}": _held(w, name),
        f"playing:{name}": view.playbacks,
        f"audio:{name}": w.audio.get(name, []),
    }
    for target in view.allocated:
        content[f"out_of_order_at:{name}:{target}"] = {
            key.rpartition("/")[2]: outcome.ready_ms
            for key, outcome in view.open_outcomes.items()
            if outcome.outcome and key.rpartition("/")[0] == target
        }
    return content


def _open_outcomes(view: Session) -> str:
    """Their number; of the oldest utterance its number, its open outcomes and its first chunk."""
    if not view.open_outcomes:
        return ""
    oldest = min(outcome.utterance for outcome in view.open_outcomes.values())
    firsts = [each.first for each in view.open_outcomes.values() if each.utterance == oldest]
    return f"{len(view.open_outcomes)}|{oldest}|{len(firsts)}|{firsts[0]}"


def _buffer(state: SessionState) -> str:
    first, last = (state.buffer[0], state.buffer[-1]) if state.buffer else (None, None)
    size, ms = sum(chunk.size for chunk in state.buffer), sum(chunk.ms for chunk in state.buffer)
    numbers = [
        state.next_seq,
        state.seen_ms,
        len(state.buffer),
        size,
        ms,
        first.seq if first else 0,
    ]
    ends = [first.id if first else "", last.id if last else ""]
    return "|".join(map(str, [*numbers, state.chunk_ms, *ends]))


def _held(w: World, name: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for (target, number), ending in w.held.get(name, {}).items():
        values = {
            "kind": ending.kind,
            "code": ending.code,
            "job": ending.job,
            "cause": ending.cause,
            "error": ending.error,
            "finalized": ending.finalized,
        }
        values["tp"] = w.cores[ending.job].tp
        fields[f"{target}/{number}"] = _filled(values)
        fields[f"{target}/{number}/body"] = ending.body.hex()
        fields[f"{target}/{number}/audio"] = ending.audio.hex()
    return fields


def _job(w: World, key: str) -> dict[str, Any]:
    job = w.jobs[key]
    core = msgspec.to_builtins(w.cores[key])
    refused = "".join(f"{mark}," for mark in w.refused.get(key, ()))
    fields: dict[str, Any] = {"status": job.status, "attempt": job.attempt, "refused": refused}
    if job.attempts:
        fields |= {"node": name_of(job.attempts[-1].node), "epoch": job.attempts[-1].epoch}
    if job.status == "ended":
        fields["outcome"] = "ok" if job.outcome == "result" else job.outcome
        begins = {name: core[name] for name in BEGINS if name in core}
        return fields | {"core": begins | ({"code": job.code} if job.code else {})}
    if job.member:
        fields |= {"priority": job.priority, "tag": job.tag, "member": job.member}
    if job.status == "running":
        fields["dispatched"] = job.attempts[-1].dispatched_ms
        fields["deadline"] = w.deadlines[key]
    elif job.status == "backoff":
        fields["dispatched"] = job.not_before_ms
        fields["deadline"] = job.avoid_until_ms
    else:
        fields["dispatched"] = job.avoid_until_ms
        fields["deadline"] = job.deadline_ms
    return fields | {"core": core}


def _node(w: World, name: str) -> Content:
    node, process = w.nodes[name], w.processes[name]
    content: Content = {
        f"node:{name}": {
            "status": node.status,
            "epoch": node.epoch,
            "class": node.cls,
            "slots": node.slots,
            "sources": ",".join(node.sources),
            "targets": ",".join(node.targets),
            "features": ",".join(node.features),
            "suspended": ",".join(node.suspension_words),
            "token": process.token,
            "version": process.version,
            "inbox_from": process.inbox_from,
            "seen": process.seen_ms,
            "load": process.load,
            "drained_by": process.drained_by,
            "lost": process.lost,
        }
    }
    if name in w.unreadable:
        count, since_ms = w.unreadable[name]
        content[f"node:{name}"]["unreadable"] = f"{count}|{since_ms}"
    content[f"node:{name}"]["failures"] = str(process.failures or "")
    for key, held in node.live.items():
        content.setdefault(f"leases:{name}:{held.epoch}", {})[key] = held.since_ms
    return content


def _classes(w: World) -> Content:
    content: Content = {"classes": set()}
    for class_ in nodes.classes(w):
        member = next(iter(class_.nodes.values()))
        content["classes"].add(class_.id)
        content[f"class:{class_.id}"] = {
            "sources": ",".join(member.sources),
            "targets": ",".join(member.targets),
            "features": ",".join(member.features),
            "suspended": ",".join(member.suspension_words),
            "draining": class_.seen(w).draining,
        }
        content[f"members:{class_.id}"] = set(class_.nodes)
        free = {name: node for name, node in class_.nodes.items() if nodes.has_slot(node)}
        content[f"free:{class_.id}"] = {name: nodes.load(node) for name, node in free.items()}
        content[f"requirements:{class_.id}"] = {
            f"{queue.place_of(w, each)}:{each}"
            for each in queue.queues_of(w, next(iter(class_.nodes)))
        }
        for source in member.sources:
            for target in member.targets:
                content.setdefault(f"pair:{source}:{target}", set()).add(class_.id)
    return content


def _queues(w: World) -> Content:
    content: Content = {"requirements": {}, "tenant_finish_tag": w.finish}
    for key, job in w.queued():
        name = queue.queue_of(w, key)
        content["requirements"][name] = queue.place_of(w, name)
        content.setdefault(f"waiting:{job.priority}:{name}", {})[job.member] = job.tag
        content.setdefault("waiting_tags", {})[job.member] = job.tag
    content["tenant_queued"] = dict(w.tenant_queued())
    content["backoffs"] = {
        f"{w.cores[key].requirement} {key}": job.not_before_ms
        for key, job in w.jobs.items()
        if job.status == "backoff"
    }
    return content


def _rooms(w: World) -> Content:
    content: Content = {}
    for view in w.sessions.values():
        if view.in_room:
            content.setdefault(f"room:{name_of(view.room)}", {})[view.session] = (
                view.listen_language or "-"
            )
    return content


# --- what is there --------------------------------------------------------------------------


class Actual:
    """The keys of one cell on the server, in the form of `expected`.

    A key whose content is the same as at the call before is not read again.
    """

    def __init__(self, keys: Keys) -> None:
        self._prefix = keys.prefix
        self._read: dict[str, tuple[tuple[str, Any], Any]] = {}

    def content(self, dump: Mapping[str, tuple[str, Any]]) -> Content:
        content: Content = {}
        for key, stored in dump.items():
            short = key.removeprefix(self._prefix)
            if short.partition(":")[0] not in NOT_COMPARED:
                before, value = self._read.get(short, (None, None))
                if stored != before:
                    kind, raw = stored
                    value = READ[kind](short, raw)
                    self._read[short] = stored, value
                if value:
                    content[short] = value
        return content


def _pairs(raw: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return [(raw[i].decode(), raw[i + 1]) for i in range(0, len(raw), 2)]


def _hash(short: str, raw: Sequence[bytes]) -> dict[str, Any]:
    fields = dict(_pairs(raw))
    if short.startswith("room:"):  # a member that hears nothing is still a member
        return {name: value.decode() or "-" for name, value in fields.items()}
    return _filled({name: _field(short, name, value) for name, value in fields.items()})


def _field(short: str, name: str, value: bytes) -> Any:
    if name in NOT_COMPARED_FIELDS:
        return value.decode() if short.startswith("session:") and name == "reason" else ""
    if short.startswith("out_of_order:") and name.endswith(("/body", "/audio")):
        return value.hex()
    if short.startswith("out_of_order:") and name.count("/") == 1:
        return _filled(msgspec.json.decode(value))
    return value.decode()


def _string(short: str, raw: bytes) -> dict[str, Any]:
    """The only string keys are the records of jobs."""
    parts = parts_of(short.partition(":")[2], raw)
    return _filled(parts | {"core": msgspec.json.decode(parts["core"])})


def _zset(short: str, raw: Sequence[bytes]) -> dict[str, int] | set[str]:
    if short.startswith(HEADS):
        return {member for member, _ in _pairs(raw)}
    return {member: int(float(score)) for member, score in _pairs(raw)}


def _stream(short: str, raw: Sequence[Any]) -> list[Any]:
    if short.startswith("audio:"):
        return [codec.decode(entry_id.decode(), fields) for entry_id, fields in raw]
    return [(entry_id.decode(), _entry_fields(fields)) for entry_id, fields in raw]


def _entry_fields(raw: Sequence[bytes]) -> dict[str, Any]:
    fields = dict(_pairs(raw))
    content: dict[str, Any] = {
        name: value if name in ("a", "b") else value.decode()
        for name, value in fields.items()
        if name != "reason"
    }
    if content.get("k") == "utterance":
        is_broken = not content["d"].endswith("}")  # the model's Broken leaves out the last brace
        content["d"] = (
            fields_of(content["d"] + "}") | {"broken": True}
            if is_broken
            else fields_of(content["d"])
        )
    elif content["d"].startswith("{"):
        content["d"] = msgspec.json.decode(content["d"])
    return content


READ: dict[str, Callable[[str, Any], Any]] = {
    "hash": _hash,
    "string": _string,
    "zset": _zset,
    "set": lambda _, raw: {member.decode() for member in raw},
    "stream": _stream,
}
