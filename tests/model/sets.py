"""Projection sets: `decide` of leases, saves, revisions, the archive and trimming.

Owns: the scripts of projector, rebuild, archiver and trimming, as functions of the state of the
model.
Never does: fold (projections/ do); scripts of sessions, jobs and nodes (their own modules).
Read next: set_machine.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal

from eventsched.archive.commands import Abandoned, ArchiveState, Recorded, Trimmed
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import Changes, OtherVersion, Save, Saved, SetLease, Standby
from eventsched.schema.ids import START, format_id, parse_id
from eventsched.schema.settings import Settings
from eventsched.store.operator_commands import Act


@dataclass(slots=True)
class Hold:
    """The lease of a set."""

    owner: str
    epoch: int
    until_ms: int
    passed: int | None = None
    """Entries that the set has passed; none for a revision."""


@dataclass(slots=True)
class Group:
    """A consumer group of the log."""

    position: str
    """Id of the last entry that it has delivered."""
    read: int | None
    """Entries that the log ever had up to the position; none if the server does not know."""
    consumers: set[str] = field(default_factory=set)


Record = tuple[str, str, str]
"""(projection, revision, entity)."""


class Sets:
    """The state of one cell that belongs to its projection sets."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now_ms = 0
        self.log: list[str] = []
        """Every id there ever was; the first `gone` of them are trimmed."""
        self.gone = 0
        self.archive: dict[str, str] = {}
        self.groups: dict[str, Group] = {}
        self.holds: dict[str, Hold] = {}
        self.live: dict[str, str] = {}
        self.promoted: dict[str, list[str]] = {}
        """The new revisions of rebuilds, by request; empty until they are promoted."""
        self.checkpoints: dict[str, str] = {}
        self.records: dict[Record, dict[str, bytes]] = {}
        self.listed: set[Record] = set()
        self.indexes: dict[str, list[str]] = {}
        self.node_indexes: dict[str, list[str]] = {}
        self.dead_letters: list[tuple[str, str, bytes, str]] = []

    def append(self) -> None:
        """Some event is in the log."""
        last_ms, last_no = parse_id(self.log[-1]) if self.log else (0, 0)
        self.log.append(f"{self.now_ms}-{last_no + 1 if last_ms == self.now_ms else 0}")

    def _is_fenced(self, name: str, epoch: int) -> bool:
        hold = self.holds.get(name)
        return hold is None or hold.epoch != epoch


# --- holding a set --------------------------------------------------------------------------------


def acquire(
    s: Sets, projection_set: ProjectionSet, owner: str, lease_ms: int
) -> SetLease | Standby | OtherVersion:
    versions = [(projection.name, projection.version) for projection in projection_set.projections]
    return _acquire(s, projection_set.name, owner, lease_ms, versions, has_group=True)


def acquire_revision(
    s: Sets, revision_set: str, owner: str, lease_ms: int
) -> SetLease | Standby | OtherVersion:
    return _acquire(s, revision_set, owner, lease_ms, [], has_group=False)


def _acquire(
    s: Sets,
    name: str,
    owner: str,
    lease_ms: int,
    versions: Sequence[tuple[str, int]],
    *,
    has_group: bool,
) -> SetLease | Standby | OtherVersion:
    hold = s.holds.get(name, Hold("", 0, 0))
    is_held = hold.until_ms > s.now_ms
    if is_held and hold.owner != owner:
        return Standby(hold.until_ms - s.now_ms)
    revisions = [s.live.get(projection, f"{version}.1") for projection, version in versions]
    for (projection, version), revision in zip(versions, revisions, strict=True):
        if revision.partition(".")[0] != str(version):
            return OtherVersion(projection, revision)
    for (projection, _), revision in zip(versions, revisions, strict=True):
        s.live[projection] = revision
    epoch = hold.epoch if is_held else hold.epoch + 1
    is_moved = False
    if has_group:
        if _saved(s, name) is None:
            hold.passed = s.gone
        is_moved = _restore(s, name, hold.passed or 0)
        if lease_ms == 0:
            s.groups[name].consumers.discard(owner)
        elif is_moved or not is_held:
            s.groups[name].consumers = {owner}
    s.holds[name] = Hold(owner, epoch, s.now_ms + lease_ms, hold.passed)
    return SetLease(epoch, tuple(revisions), is_moved)


def _saved(s: Sets, name: str) -> str | None:
    """The position that the owner of the group has saved."""
    return s.archive.get("to") if name == "archive" else s.checkpoints.get(name)


def _restore(s: Sets, name: str, passed: int) -> bool:
    """The group is at the position that its owner has saved; returns whether it was elsewhere."""
    saved = _saved(s, name) or START
    group = s.groups.setdefault(name, Group(saved, passed))
    is_moved = (group.position, group.read) != (saved, passed)
    group.position, group.read = saved, passed
    return is_moved


# --- other programs -------------------------------------------------------------------------------


def read_group(s: Sets, name: str, consumer: str, count: int, *, creates: bool) -> list[str]:
    """Read without acknowledgement: the group moves past the entries.

    `creates` says whether a read without entries creates the consumer, as from Redis 7.2 on.
    """
    group = s.groups[name]
    entries = _after(s, group.position)[:count]
    if entries or creates:
        group.consumers.add(consumer)
    for entry_id in entries:
        place = s.log.index(entry_id) + 1
        if group.read is not None:
            group.read += 1
        elif place in (s.gone + 1, len(s.log)):  # the server knows the number of these two only
            group.read = place
        group.position = entry_id
    return entries


def move_group(s: Sets, name: str, position: str) -> None:
    """XGROUP SETID by hand, without a number of entries."""
    s.groups[name].position, s.groups[name].read = position, None


def _after(s: Sets, position: str) -> list[str]:
    return [entry_id for entry_id in s.log[s.gone :] if parse_id(entry_id) > parse_id(position)]


# --- folding --------------------------------------------------------------------------------------


def save(s: Sets, batch: Save) -> Saved:
    if s._is_fenced(batch.projection_set, batch.epoch):
        return "fenced"
    if s.checkpoints.get(batch.projection_set, START) != batch.start:
        return "moved"
    hold = s.holds[batch.projection_set]
    if batch.group and _after(s, batch.start)[:1] != [batch.first]:
        _restore(s, batch.group, hold.passed or 0)
        s.groups[batch.group].consumers = {hold.owner}
        return "moved"
    for change in batch.changes:
        if (s.live.get(change.projection) == change.revision) != bool(batch.group):
            return "rebuilt"
    hold.until_ms = s.now_ms + batch.lease_ms
    if batch.group and batch.start != batch.to:
        group = s.groups[batch.group]
        hold.passed = (hold.passed or 0) + batch.count
        group.position, group.read = batch.to, hold.passed
    for change in batch.changes:
        _change(s, change)
    for session, ids in batch.indexes.items():
        index = s.indexes.setdefault(session, [])
        index += ids
        _trim_index(s, index, len(ids))
    for node, ids in batch.node_indexes.items():
        s.node_indexes.setdefault(node, []).extend(ids)
    s.dead_letters += [
        (dead.id, dead.type, dead.context, dead.reason) for dead in batch.dead_letters
    ]
    s.checkpoints[batch.projection_set] = batch.to
    return "saved"


def _trim_index(s: Sets, index: list[str], added: int) -> None:
    """Remove up to twice as many ids of trimmed entries, and one, as were added."""
    first = parse_id(s.log[s.gone]) if s.gone < len(s.log) else (0, 0)
    trimmed = list(takewhile(lambda id_: parse_id(id_) < first, index[: 2 * added + 1]))
    del index[: len(trimmed)]


def _change(s: Sets, change: Changes) -> None:
    for drop in change.drops:
        s.listed.discard((change.projection, change.revision, drop))
        s.records.pop((change.projection, change.revision, drop), None)
    for put in change.puts:
        record = change.projection, change.revision, put.entity
        if put.is_new:
            s.listed.add(record)
        s.records.setdefault(record, {}).update(put.fields, at=put.at.encode())


# --- revisions ------------------------------------------------------------------------------------


def start_rebuild(
    s: Sets, revision_set: str, epoch: int, act: Act, revisions: Sequence[tuple[str, str]]
) -> tuple[str, list[str]]:
    if s.promoted.get(act.request):
        return "done", s.promoted[act.request]
    if s._is_fenced(revision_set, epoch):
        return "fenced", []
    if act.request not in s.promoted:
        s.append()
        s.promoted[act.request] = []
    return "started", []


def switch(
    s: Sets,
    live_set: str,
    revision_set: str,
    epoch: int,
    act: Act,
    revisions: Sequence[tuple[str, str, str]],
) -> tuple[str, str]:
    if s._is_fenced(revision_set, epoch):
        return "fenced", ""
    checkpoint = s.checkpoints.get(live_set, START)
    if s.checkpoints.get(revision_set, START) != checkpoint:
        return "behind", checkpoint
    for projection, known, _ in revisions:
        if s.live.get(projection, "") != known:
            return "rebuilt", projection
    for projection, _, new in revisions:
        s.live[projection] = new
    s.append()
    s.promoted[act.request] = [new for _, _, new in revisions]
    return "switched", ""


def drop_all(
    s: Sets, revision_set: str, epoch: int, lease_ms: int, projection_set: ProjectionSet
) -> int | None:
    """All steps: the records of these projections that belong to no live revision are deleted."""
    if s._is_fenced(revision_set, epoch):
        return None
    s.holds[revision_set].until_ms = s.now_ms + lease_ms
    names = {projection.name for projection in projection_set.projections}
    old = [r for r in s.records if r[0] in names and s.live.get(r[0], "") != r[1]]
    for record in old:
        del s.records[record]
    s.listed = {r for r in s.listed if r[0] not in names or s.live.get(r[0], "") == r[1]}
    s.checkpoints.pop(revision_set, None)
    return len(old)


# --- what may go ----------------------------------------------------------------------------------


def look(s: Sets) -> ArchiveState:
    """The positions of the archive and of the log at this time."""
    left = s.log[s.gone :]
    return ArchiveState(
        now_ms=s.now_ms,
        added=len(s.log),
        log_entries=len(left),
        first=left[0] if left else "",
        last=left[-1] if left else "",
        to=s.archive.get("to", ""),
        fingerprint=s.archive.get("of", ""),
        entries_max=s.settings.archive_entries_max,
        window_ms=s.settings.archive_window_ms,
    )


def record(
    s: Sets, epoch: int, *, start: str, to: str, fingerprint: str, processed: int, audio: bool
) -> Recorded:
    """The archive holds the log up to `to`."""
    if s._is_fenced("archive", epoch):
        return "fenced"
    if s.archive and s.archive["of"] != fingerprint:
        return "other"
    if s.archive.get("to", START) not in (start, to):
        return "moved"
    passed = s.gone if to == START else processed
    s.groups["archive"].position, s.groups["archive"].read = to, passed
    s.archive = {"to": to, "of": fingerprint, "audio": str(int(audio))}
    s.holds["archive"].passed = passed
    return "recorded"


def abandon(s: Sets, of: str) -> Abandoned | Literal["key", "archive"]:
    """The cell no longer has an archive, unless an archiver writes it; a refusal is named."""
    if not s.archive:
        return "duplicate"
    if s.archive["of"] != of:
        return "key"
    hold = s.holds["archive"]
    if hold.until_ms > s.now_ms:
        return "archive"
    s.append()
    s.archive = {}
    del s.groups["archive"]
    hold.epoch += 1
    return "ok"


def trim(s: Sets) -> Trimmed:
    """Remove the entries that the archive holds, or that are too old, and that every set has
    passed.
    """
    floors = [(max(0, s.now_ms - s.settings.log_keep_ms), 0)]
    if len(s.log) - s.gone < 2:
        return Trimmed(0, False, START)
    if s.archive:
        floors.append(_behind(s.archive["to"]))
    elif s.settings.log_retention_ms:
        floors.append((max(0, s.now_ms - s.settings.log_retention_ms), 0))
    else:
        return Trimmed(0, False, START)
    for name, group in s.groups.items():
        floors.append(_behind(group.position))
        if name in s.checkpoints:
            floors.append(_behind(s.checkpoints[name]))
        rebuild = s.holds.get(f"rebuild-{name}")
        if rebuild is not None and rebuild.until_ms > s.now_ms:
            floors.append(_behind(s.checkpoints.get(f"rebuild-{name}", START)))
    floor = min(floors)
    count = sum(parse_id(entry_id) < floor for entry_id in s.log[s.gone :])
    if count:
        s.gone += count
        s.append()
    return Trimmed(count, False, format_id(*floor))


def _behind(entry_id: str) -> tuple[int, int]:
    ms, number = parse_id(entry_id)
    return ms, number + 1


def trim_node_indexes(s: Sets) -> int:
    """Remove trimmed entries from the indexes that begin before the log."""
    first = parse_id(s.log[s.gone])
    old = [node for node, ids in s.node_indexes.items() if parse_id(ids[0])[0] < first[0]]
    for node in old:
        s.node_indexes[node] = [id_ for id_ in s.node_indexes[node] if parse_id(id_) >= first]
        if not s.node_indexes[node]:
            del s.node_indexes[node]
    return len(old)


def drop_session_indexes(s: Sets) -> int:
    """Delete the indexes whose last entry is older than the first entry of the log."""
    first_ms, _ = parse_id(s.log[s.gone])
    old = [session for session, ids in s.indexes.items() if parse_id(ids[-1])[0] < first_ms]
    for session in old:
        del s.indexes[session]
    return len(old)
