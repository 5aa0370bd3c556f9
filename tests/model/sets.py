"""Projection sets: `decide` of who folds, what is read and saved, which build is live.

Owns: the scripts of the projector and the rebuild, as functions of what the model knows.
Never does: fold (projections/ do), scripts of sessions, jobs and nodes (their own modules).
Read next: set_machine.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from eventsched.projection import ProjectionSet
from eventsched.views import START, Held, OtherVersion, Save, Saved, Standby


@dataclass(slots=True)
class Hold:
    """Who folds a set."""

    holder: str
    epoch: int
    until_ms: int
    passed: int | None = None
    """Entries that the set has acknowledged; none for a build."""


@dataclass(slots=True)
class Group:
    """A consumer group: how far it has read, and what it has not acknowledged."""

    read: int = 0
    pending: list[str] = field(default_factory=list)


Record = tuple[str, str, str]
"""(projection, build, entity)."""


class Sets:
    """What one cell stores of its projection sets."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.log: list[str] = []
        self.groups: dict[str, Group] = {}
        self.holds: dict[str, Hold] = {}
        self.live: dict[str, str] = {}
        self.checkpoints: dict[str, str] = {}
        self.records: dict[Record, dict[str, bytes]] = {}
        self.trails: dict[str, list[str]] = {}
        self.dead: list[tuple[str, str, bytes, str]] = []

    def _is_fenced(self, name: str, epoch: int) -> bool:
        hold = self.holds.get(name)
        return hold is None or hold.epoch != epoch


# --- holding a set --------------------------------------------------------------------------


def acquire(
    s: Sets, projection_set: ProjectionSet, holder: str, hold_ms: int
) -> Held | Standby | OtherVersion:
    versions = [(one.name, one.version) for one in projection_set.projections]
    return _acquire(s, projection_set.name, holder, hold_ms, versions, has_group=True)


def acquire_build(
    s: Sets, build_set: str, holder: str, hold_ms: int
) -> Held | Standby | OtherVersion:
    return _acquire(s, build_set, holder, hold_ms, [], has_group=False)


def _acquire(
    s: Sets,
    name: str,
    holder: str,
    hold_ms: int,
    versions: Sequence[tuple[str, int]],
    *,
    has_group: bool,
) -> Held | Standby | OtherVersion:
    hold = s.holds.get(name, Hold("", 0, 0))
    is_held = hold.until_ms > s.now_ms
    if is_held and hold.holder != holder:
        return Standby(hold.until_ms - s.now_ms)
    builds = [s.live.get(projection, f"{version}.1") for projection, version in versions]
    for (projection, version), build in zip(versions, builds, strict=True):
        if build.partition(".")[0] != str(version):
            return OtherVersion(projection, build)
    for (projection, _), build in zip(versions, builds, strict=True):
        s.live[projection] = build
    if has_group and name not in s.groups:
        s.groups[name] = Group()
        hold.passed = 0
    epoch = hold.epoch if is_held else hold.epoch + 1
    s.holds[name] = Hold(holder, epoch, s.now_ms + hold_ms, hold.passed)
    return Held(epoch, tuple(builds))


# --- folding --------------------------------------------------------------------------------


def read(s: Sets, projection_set: str, epoch: int, count: int, hold_ms: int) -> list[str] | None:
    """Ids only: what has been read and not acknowledged comes first, again."""
    if s._is_fenced(projection_set, epoch):
        return None
    s.holds[projection_set].until_ms = s.now_ms + hold_ms
    group = s.groups[projection_set]
    if group.pending:
        return group.pending[:count]
    found = s.log[group.read : group.read + count]
    group.read += len(found)
    group.pending = list(found)
    return found


def save(s: Sets, told: Save) -> Saved:
    if s._is_fenced(told.projection_set, told.epoch):
        return "fenced"
    if s.checkpoints.get(told.projection_set, START) != told.start:
        return "moved"
    for projection, build in told.builds:
        if (s.live.get(projection) == build) != bool(told.group):
            return "rebuilt"
    if told.group:
        _acknowledge(s, told)
    for put in told.puts:
        fields = {name: _bytes(value) for name, value in put.fields.items()}
        s.records.setdefault((put.projection, put.build, put.entity), {}).update(fields)
    for drop in told.drops:
        s.records.pop(drop, None)
    for session, ids in told.trails.items():
        s.trails.setdefault(session, []).extend(ids)
    s.dead += [(one.id, one.type, one.told, one.reason) for one in told.dead]
    s.checkpoints[told.projection_set] = told.to
    return "saved"


def _acknowledge(s: Sets, told: Save) -> None:
    group, hold = s.groups[told.group], s.holds[told.projection_set]
    acked = [one for one in told.acks if one in group.pending]
    group.pending = [one for one in group.pending if one not in acked]
    hold.passed = (hold.passed or 0) + len(acked)


def _bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


# --- builds ---------------------------------------------------------------------------------


def switch(
    s: Sets, live_set: str, build_set: str, epoch: int, builds: Sequence[tuple[str, str, str]]
) -> tuple[str, str]:
    if s._is_fenced(build_set, epoch):
        return "fenced", ""
    checkpoint = s.checkpoints.get(live_set, START)
    if s.checkpoints.get(build_set, START) != checkpoint:
        return "behind", checkpoint
    for projection, known, _ in builds:
        if s.live.get(projection, "") != known:
            return "rebuilt", projection
    for projection, _, new in builds:
        s.live[projection] = new
    return "switched", ""


def drop_all(
    s: Sets, build_set: str, epoch: int, hold_ms: int, projection_set: ProjectionSet
) -> int | None:
    """All steps of it: records of these projections that belong to no live build are gone."""
    if s._is_fenced(build_set, epoch):
        return None
    s.holds[build_set].until_ms = s.now_ms + hold_ms
    names = {one.name for one in projection_set.projections}
    old = [r for r in s.records if r[0] in names and s.live.get(r[0], "") != r[1]]
    for record in old:
        del s.records[record]
    s.checkpoints.pop(build_set, None)
    return len(old)
