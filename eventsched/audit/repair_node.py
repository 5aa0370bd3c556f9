"""Changes that bring the stored state of a node to the fold of the log.

Owns: the hash of a node, its leases, its capability class with its indexes, timers.
Must not: do I/O. Read next: lua/include/nodes.lua, lua/include/classes.lua, repair.py (the caller).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eventsched.audit.field_forms import NODE_FIELDS, NODE_FORMS, malformed_fields
from eventsched.audit.missing_timers import missing_node_timers
from eventsched.audit.repair_change import Change, Write, delete_fields, set_fields, set_timer
from eventsched.audit.repair_session import LEASE_MS_MIN
from eventsched.audit.state_diff import live_leases, node_fields, scores_of, signature_fields
from eventsched.schema.ids import ms_of
from projections.node import Node


class NodeRepair:
    """The changes of one node."""

    def __init__(
        self,
        name: str,
        full: str,
        view: Node | None,
        stored: Mapping[str, Any],
        nodes: Mapping[str, Node],
        drained_by: str | None,
        at: str,
    ) -> None:
        self._drained_by = drained_by
        self._name, self._full, self._view = name, full, view
        self._hash: Mapping[str, str] = stored.get("hash", {})
        parts = ("leases", "lease_timers", "lost_timers", "suspension_timers")
        self._stored: dict[str, Any] = {part: stored.get(part) or {} for part in parts}
        timers = ("node", "drain", "gone")
        self._stored |= {part: stored[part] for part in timers if part in stored}
        self._has_wrong_item = "wrong_item" in stored
        self._place = (bool(stored.get("member")), stored.get("free"))
        self._nodes, self._at = nodes, at

    def changes(self, reason: str) -> Iterator[Change]:
        """The changes that remove the differences."""
        for change in self._all_changes(reason):
            if change.writes:
                yield change

    def _all_changes(self, reason: str) -> Iterator[Change]:
        old_class = self._hash.get("class", "")
        if self._view is None:
            writes: list[Write] = [("DEL", f"node:{self._name}"), *self._leave(old_class)]
            yield self._change(f"node:{self._name}", "delete the node", reason, writes)
            return
        fields = self._fields(self._view)
        given_up = "" if self._hash else "the token of its process, which registers again"
        fields_writes = set_fields(f"node:{self._name}", fields)
        fields_writes += delete_fields(f"node:{self._name}", self._dropped())
        where = f"node:{self._name}"
        yield self._change(where, "set its fields", reason, fields_writes, given_up)
        yield self._change(
            f"leases:{self._name}", "set its leases", reason, self._leases(self._view)
        )
        writes = self._leave(old_class) if old_class != self._view.cls else []
        if writes or not self._is_in_place(self._view):
            writes += self._class(self._view)
        yield self._change(f"class:{self._view.cls}", "set its class", reason, writes)
        writes = [("DEL", f"requirements:{old_class}")] if self._has_wrong_item else []
        yield self._change(
            f"requirements:{old_class}", "build its waiting requirements again", reason, writes
        )
        yield self._change(f"node:{self._name}", "set its timers", reason, self._timers(self._view))

    def _change(
        self, where: str, what: str, reason: str, writes: list[Write], gives_up: str = ""
    ) -> Change:
        cls = self._view.cls if self._view else ""
        members = tuple(each.node for each in self._nodes.values() if each.cls == cls)
        return Change(
            at=self._at, where=where, what=what, reason=reason, gives_up=gives_up, node=self._full,
            subjects=members, writes=tuple(writes),
        )  # fmt: skip

    def _fields(self, view: Node) -> dict[str, str]:
        fields = node_fields(view, self._drained_by)
        changed = {key: text for key, text in fields.items() if self._hash.get(key) != text}
        if not self._hash:
            changed |= {"token": "", "inbox_from": "0-0", "load": "0"}
            changed["seen"] = str(ms_of(self._at))
            return changed
        defaults = {"inbox_from": "0-0", "load": "0", "seen": str(ms_of(self._at))}
        lost = malformed_fields(self._hash, NODE_FORMS).keys() | (NODE_FIELDS - self._hash.keys())
        return changed | {field: defaults[field] for field in sorted(lost & defaults.keys())}

    def _dropped(self) -> list[str]:
        """Counts of another form, which begin again."""
        malformed = malformed_fields(self._hash, NODE_FORMS)
        return [field for field in ("unreadable", "failures") if field in malformed]

    def _leases(self, view: Node) -> list[Write]:
        wanted, stored = live_leases(view), scores_of(self._stored["leases"])
        writes: list[Write] = []
        for lease, since_ms in wanted.items():
            epoch, _, job = lease.partition("/")
            if stored.get(lease) != since_ms:
                writes.append(("ZADD", f"leases:{self._name}:{epoch}", since_ms, job))
        for lease in sorted(stored.keys() - wanted.keys()):
            epoch, _, job = lease.partition("/")
            writes.append(("ZREM", f"leases:{self._name}:{epoch}", job))
        for number in sorted({each.epoch for each in view.live.values()}):
            first_ms = min(each.since_ms for each in view.live.values() if each.epoch == number)
            writes.append(set_timer("leases", f"{self._name}|{number}", first_ms + LEASE_MS_MIN))
        return writes

    def _leave(self, class_id: str) -> list[Write]:
        """Remove the node from a class, and the class if it has no other node."""
        if not class_id:
            return []
        writes: list[Write] = [
            ("SREM", f"members:{class_id}", self._name),
            ("ZREM", f"free:{class_id}", self._name),
        ]
        if any(each.cls == class_id and each.status != "gone" for each in self._nodes.values()):
            return writes
        writes.append(("SREM", "classes", class_id))
        writes.append(("DEL", f"class:{class_id}"))
        writes.append(("DEL", f"requirements:{class_id}"))
        sources, targets = (self._hash.get(side, "").split(",") for side in ("sources", "targets"))
        pairs = [f"pair:{source}:{target}" for source in sources for target in targets]
        return writes + [("SREM", pair, class_id) for pair in pairs]

    def _is_in_place(self, view: Node) -> bool:
        """Whether the class has the node, with its load if it has a free slot."""
        load = self._free_load(view)
        return self._place == (view.status != "gone", None if load is None else str(load))

    @staticmethod
    def _free_load(view: Node) -> int | None:
        used = sum(each.epoch == view.epoch for each in view.live.values())
        return 1_000 * used // view.slots if view.status == "alive" and used < view.slots else None

    def _class(self, view: Node) -> list[Write]:
        if view.status == "gone":
            return self._leave(view.cls)
        peers = [each for each in self._nodes.values() if each.cls == view.cls]
        draining = sum(each.status == "draining" for each in peers)
        fields = signature_fields(view) | {"draining": str(draining)}
        load = self._free_load(view)
        writes: list[Write] = [
            ("SADD", "classes", view.cls),
            *set_fields(f"class:{view.cls}", fields),
            ("SADD", f"members:{view.cls}", self._name),
            ("ZREM", f"free:{view.cls}", self._name)
            if load is None
            else ("ZADD", f"free:{view.cls}", load, self._name),
        ]
        pairs = [f"pair:{source}:{target}" for source in view.sources for target in view.targets]
        return writes + [("SADD", pair, view.cls) for pair in pairs]

    def _timers(self, view: Node) -> list[Write]:
        until = {each.word: each.until_ms for each in view.suspensions}
        return [
            set_timer(timer.kind, timer.id, until.get(timer.id.partition("|")[2], 0))
            if timer.kind == "suspension"
            else set_timer(timer.kind, timer.id, 0)
            for timer in missing_node_timers(self._name, view, self._stored)
        ]
