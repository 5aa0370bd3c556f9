"""What the model says each key of the cell holds, and what it holds.

Owns: the content of every key as plain values, empty ones left out, on both sides.
Never does: decisions. The log itself is compared event by event (machine.py).
Read next: machine.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from eventsched.schema import codec
from eventsched.schema.keys import Keys, name_of
from tests.dispatch_entries import fields_of
from tests.job_record import parts_of
from tests.model import nodes, queue
from tests.model.world import Broken, Entry, Soft, Work, World

Content = dict[str, Any]
NOT_COMPARED = {
    "log",  # event by event
    "clock",
    "active_revision",  # written by the test in place of the projector
    "view",
}
SCORED = {"timers", "tenant_finish_tag", "erased", "free", "leases", "out_of_order_at", "waiting"}
"""Sorted sets: a score of 0 says something."""
LOOKED_AT = "requirements:"
"""Their scores say in which order a class looks at requirements, if they are more than 64."""
BEGINS = ("session", "utterance", "target", "delivery_no", "tp")
"""What is left of the core of a job that has ended."""
NOT_TOLD = {"reason", "looked", "out_low"}
"""Prose of a Lua error; a counter of looks; where the oldest entry of 16 MiB begins."""


def expected(w: World) -> Content:
    """By key without its prefix; what is empty is not there."""
    told: Content = {}
    for name, soft in w.soft.items():
        told |= _session(w, name, soft)
    for key in w.jobs:
        told[f"job:{key}"] = _job(w, key)
    for name in w.nodes:
        told |= _node(w, name)
    told |= _classes(w) | _queues(w) | _rooms(w)
    told["counters"] = {
        "entry": w.entries,
        "virtual": w.virtual,
        "pressure": ",".join(sorted(w.pressure)),
        "dispatcher": w.dispatcher_until,
        "obsolete": w.obsolete,
        "duplicate_finalizes": w.duplicate_finalizes,
    }
    told["settings"] = w.stored_settings or {}
    told["timers"] = w.timers
    told["erased"] = w.erased
    for key, entries in w.streams.items():
        told[key.removeprefix(w.keys.prefix)] = [_entry(one) for one in entries]
    plain = {
        key: value if key.partition(":")[0] in SCORED or not isinstance(value, dict)
        else _filled(value)
        for key, value in told.items()
    }  # fmt: skip
    return {key: value for key, value in plain.items() if value}


def _filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a hash that are empty or zero may as well not be there; numbers as text."""
    plain = {k: v if isinstance(v, (dict, list)) else str(v) for k, v in fields.items()}
    return {k: v for k, v in plain.items() if v not in ("", "0", "0-0")}


def _entry(entry: Entry) -> tuple[str, dict[str, Any]]:
    d = entry.fields["d"]
    if isinstance(d, Broken):
        d = _work(d.work) | {"broken": True}
    elif isinstance(d, Work):
        d = _work(d)
    return entry.id, entry.fields | {"d": d}


def _work(work: Work) -> dict[str, Any]:
    """Whom the targets go to is in the session's outcomes."""
    owed = [{"target": one.target, "delivery_no": one.delivery_no} for one in work.targets]
    told: dict[str, Any] = msgspec.to_builtins(work)
    return told | {"targets": owed}


def _session(w: World, name: str, soft: Soft) -> Content:
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
        "tp": soft.tp,
        "tokens": ",".join(f"{token}:{epoch}" for token, epoch in soft.tokens),
        "heard": _heard(soft),
        "out_no": soft.out_no,
        "out_bytes": soft.out_bytes,
        "confirmed": soft.confirmed,
        "missing": soft.given_up,
    }
    fields |= {f"a:{target}": number for target, number in view.allocated.items()}
    fields |= {f"d:{target}": number for target, number in view.delivered.items()}
    fields |= {f"w:{key.rpartition('/')[0]}": 1 for key, one in view.owed.items() if one.ready}
    told: Content = {
        f"session:{name}": fields,
        f"outcomes:{name}": {
            key: f"{one.utterance}|{one.first}|{','.join(one.to)}" for key, one in view.owed.items()
        },
        f"out_of_order:{name}": _held(w, name),
        f"playing:{name}": view.playing,
        f"audio:{name}": w.audio.get(name, []),
    }
    for target in view.allocated:
        told[f"out_of_order_at:{name}:{target}"] = {
            key.rpartition("/")[2]: one.ready_ms
            for key, one in view.owed.items()
            if one.ready and key.rpartition("/")[0] == target
        }
    return told


def _heard(soft: Soft) -> str:
    first, last = (soft.buffer[0], soft.buffer[-1]) if soft.buffer else (None, None)
    size, ms = sum(one.size for one in soft.buffer), sum(one.ms for one in soft.buffer)
    numbers = [soft.next_seq, soft.seen_ms, len(soft.buffer), size, ms, first.seq if first else 0]
    ends = [first.id if first else "", last.id if last else ""]
    return "|".join(map(str, [*numbers, soft.heard_ms, *ends]))


def _held(w: World, name: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for (target, number), ending in w.held.get(name, {}).items():
        told = {"kind": ending.kind, "code": ending.code, "job": ending.job, "cause": ending.cause}
        told["tp"] = w.soft[name].tp
        fields[f"{target}/{number}"] = _filled(told)
        fields[f"{target}/{number}/body"] = ending.body.hex()
        fields[f"{target}/{number}/audio"] = ending.audio.hex()
    return fields


def _job(w: World, key: str) -> dict[str, Any]:
    job = w.jobs[key]
    core = msgspec.to_builtins(w.cores[key])
    fields: dict[str, Any] = {"status": job.status, "attempt": job.attempt}
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
    else:
        fields["deadline"] = job.deadline_ms
    return fields | {"core": core}


def _node(w: World, name: str) -> Content:
    node, process = w.nodes[name], w.processes[name]
    told: Content = {
        f"node:{name}": {
            "status": node.status,
            "epoch": node.epoch,
            "class": node.cls,
            "slots": node.slots,
            "sources": ",".join(node.sources),
            "targets": ",".join(node.targets),
            "features": ",".join(node.features),
            "suspended": ",".join(node.suspended("feature")),
            "token": process.token,
            "version": process.version,
            "inbox_from": process.inbox_from,
            "seen": process.seen_ms,
            "load": process.load,
        }
    }
    for key, held in node.live.items():
        told.setdefault(f"leases:{name}:{held.epoch}", {})[key] = held.since_ms
    return told


def _classes(w: World) -> Content:
    told: Content = {"classes": set()}
    for class_ in nodes.classes(w):
        one = next(iter(class_.nodes.values()))
        told["classes"].add(class_.id)
        told[f"class:{class_.id}"] = {
            "sources": ",".join(one.sources),
            "targets": ",".join(one.targets),
            "features": ",".join(one.features),
            "suspended": ",".join(one.suspended("feature")),
            "draining": class_.seen(w).draining,
        }
        told[f"members:{class_.id}"] = set(class_.nodes)
        free = {name: node for name, node in class_.nodes.items() if nodes.has_slot(node)}
        told[f"free:{class_.id}"] = {name: nodes.load(node) for name, node in free.items()}
        told[f"requirements:{class_.id}"] = set(queue.requirements_of(w, next(iter(class_.nodes))))
        for source in one.sources:
            for target in one.targets:
                told.setdefault(f"pair:{source}:{target}", set()).add(class_.id)
    return told


def _queues(w: World) -> Content:
    told: Content = {"requirements": set(), "tenant_queued": {}, "tenant_finish_tag": w.finish}
    for key, job in w.queued():
        core = w.cores[key]
        told["requirements"].add(core.requirement)
        told["tenant_queued"][core.tenant] = told["tenant_queued"].get(core.tenant, 0) + 1
        told.setdefault(f"waiting:{job.priority}:{core.requirement}", {})[job.member] = job.tag
    return told


def _rooms(w: World) -> Content:
    told: Content = {}
    for view in w.sessions.values():
        if view.in_room:
            told.setdefault(f"room:{name_of(view.room)}", {})[view.session] = (
                view.listen_language or "-"
            )
    return told


# --- what is there --------------------------------------------------------------------------


def found(keys: Keys, dump: Mapping[str, tuple[str, Any]]) -> Content:
    """The cell's keys as they are on the server, in the words of `expected`."""
    told: Content = {}
    for key, (kind, raw) in dump.items():
        short = key.removeprefix(keys.prefix)
        if short.partition(":")[0] not in NOT_COMPARED:
            value = READ[kind](short, raw)
            if value:
                told[short] = value
    return told


def _pairs(raw: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return [(raw[i].decode(), raw[i + 1]) for i in range(0, len(raw), 2)]


def _hash(short: str, raw: Sequence[bytes]) -> dict[str, Any]:
    fields = dict(_pairs(raw))
    if short.startswith("room:"):  # a member that hears nothing is still a member
        return {name: value.decode() or "-" for name, value in fields.items()}
    return _filled({name: _field(short, name, value) for name, value in fields.items()})


def _field(short: str, name: str, value: bytes) -> Any:
    if name in NOT_TOLD:
        return value.decode() if short.startswith("session:") and name == "reason" else ""
    if short.startswith("out_of_order:") and name.endswith(("/body", "/audio")):
        return value.hex()
    if short.startswith("out_of_order:") and name.count("/") == 1:
        return _filled(msgspec.json.decode(value))
    return value.decode()


def _string(short: str, raw: bytes) -> dict[str, Any]:
    """The only texts are the records of jobs."""
    parts = parts_of(short.partition(":")[2], raw)
    return _filled(parts | {"core": msgspec.json.decode(parts["core"])})


def _zset(short: str, raw: Sequence[bytes]) -> dict[str, int] | set[str]:
    if short.startswith(LOOKED_AT):
        return {member for member, _ in _pairs(raw)}
    return {member: int(float(score)) for member, score in _pairs(raw)}


def _stream(short: str, raw: Sequence[Any]) -> list[Any]:
    if short.startswith("audio:"):
        return [codec.decode(entry_id.decode(), fields) for entry_id, fields in raw]
    return [(entry_id.decode(), _entry_fields(fields)) for entry_id, fields in raw]


def _entry_fields(raw: Sequence[bytes]) -> dict[str, Any]:
    fields = dict(_pairs(raw))
    told: dict[str, Any] = {
        name: value if name in ("a", "b") else value.decode()
        for name, value in fields.items()
        if name != "reason"
    }
    if told.get("k") == "utterance":
        is_broken = not told["d"].endswith("}")  # the model's Broken leaves out the last brace
        told["d"] = (
            fields_of(told["d"] + "}") | {"broken": True} if is_broken else fields_of(told["d"])
        )
    elif told["d"].startswith("{"):
        told["d"] = msgspec.json.decode(told["d"])
    return told


READ: dict[str, Callable[[str, Any], Any]] = {
    "hash": _hash,
    "string": _string,
    "zset": _zset,
    "set": lambda _, raw: {member.decode() for member in raw},
    "stream": _stream,
}
