"""Typed calls for what folds the log: one per script or read.

Owns: how projections talk to Redis: hold a set, read, save, load, switch and drop revisions.
Never does: folding, waiting other than through the transport.
Read next: roles/projector.py (live), roles/rebuild.py (anew), lua/README.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, TypeAlias

import msgspec

from eventsched.projection.protocol import Projection, ProjectionSet
from eventsched.schema.keys import Keys
from eventsched.store.transport import Arg, Entry, Transport, entries_of

START = "0-0"
"""The checkpoint of a set that has folded nothing yet."""
LOADED_MAX = 128
"""Records read in one script call: 1 to 2 ms."""
ITEM_MAX = 1_000
"""Arguments of one record or index that a script takes at once."""
Saved: TypeAlias = Literal["saved", "fenced", "moved", "rebuilt"]


class SetLease(msgspec.Struct, frozen=True):
    """The caller folds the set, until a higher epoch does."""

    epoch: int
    revisions: tuple[str, ...]
    """Live revision of each projection of the set."""


class Standby(msgspec.Struct, frozen=True):
    """Somebody else folds the set, for this long at least."""

    ms: int


class OtherVersion(msgspec.Struct, frozen=True):
    """The live revision was made by another version of this projection."""

    projection: str
    revision: str


def is_made_by(revision: str, projection: Projection) -> bool:
    """Whether this version of the projection made its records; others may have another form."""
    return revision.partition(".")[0] == str(projection.version)


class Put(msgspec.Struct, frozen=True):
    """One record to write."""

    entity: str
    at: str
    """The log id that changed it last."""
    fields: Mapping[str, bytes]
    """`v`, and others."""


class Changes(msgspec.Struct, frozen=True):
    """What a batch makes of one revision's records; what is dropped goes first."""

    projection: str
    revision: str
    puts: Sequence[Put] = ()
    drops: Sequence[str] = ()
    """Entities."""


class Dead(msgspec.Struct, frozen=True):
    """One log entry that could not be folded, and why."""

    id: str
    type: str
    told: bytes
    """JSON: the set, the projections that failed, the tries."""
    reason: str


class Save(msgspec.Struct, frozen=True, kw_only=True):
    """What one batch changes."""

    projection_set: str
    group: str
    """Consumer group; empty for a revision."""
    epoch: int
    start: str
    to: str
    count: int = 0
    """Entries of the log that the group has passed by it."""
    lease_ms: int
    """For so long its owner goes on holding the set."""
    changes: Sequence[Changes]
    """Of each projection of the set, be it that nothing has changed."""
    indexes: Mapping[str, Sequence[str]] = {}
    dead: Sequence[Dead] = ()


class ProjectionStore:
    """Calls of one cell."""

    def __init__(
        self, transport: Transport, cell: str, *, now_ms: Callable[[], int] | None = None
    ) -> None:
        self.transport = transport
        self.cell = cell
        self.keys = Keys(cell)
        self._now_ms = now_ms

    async def run(self, script: str, *args: Arg) -> Any:
        """The reply of one script."""
        now = self._now_ms() if self._now_ms else ""
        return await self.transport.run(script, [self.keys.log], [now, *args])

    # --- holding a set ----------------------------------------------------------------------------

    async def acquire(
        self, projection_set: ProjectionSet, owner: str, lease_ms: int
    ) -> SetLease | Standby | OtherVersion:
        """Become or stay the one that folds a set live; 0 ms gives it up."""
        versions: list[Arg] = []
        for projection in projection_set.projections:
            versions += (projection.name, projection.version)
        name = projection_set.name
        reply = await self.run("acquire_set_lease", name, owner, lease_ms, name, *versions)
        return _set_lease(reply)

    async def acquire_revision(
        self, revision_set: str, owner: str, lease_ms: int
    ) -> SetLease | Standby | OtherVersion:
        """Become or stay the one that folds a revision, which has no consumer group."""
        return _set_lease(await self.run("acquire_set_lease", revision_set, owner, lease_ms, ""))

    # --- folding ----------------------------------------------------------------------------------

    async def save(self, save: Save) -> Saved:
        """Views, checkpoint and the consumer group's place in one step, or nothing."""
        saved: Saved = (await self.run("save_views", *_save_args(save))).decode()
        return saved

    async def load(
        self, projection: str, revision: str, entities: Sequence[str]
    ) -> list[dict[str, bytes]]:
        """The fields of records as stored, one for each entity; empty where there is none."""
        found: list[dict[str, bytes]] = []
        for first in range(0, len(entities), LOADED_MAX):
            some = entities[first : first + LOADED_MAX]
            found += map(_record, await self.run("load_views", projection, revision, *some))
        return found

    async def checkpoint(self, projection_set: str) -> str:
        """Last log id that the set has folded and saved."""
        return await self._text(self.keys.checkpoint(projection_set)) or START

    async def has_saved(self, projection_set: str) -> bool:
        """Whether the set has a checkpoint, be it the start: of a revision there may be records."""
        key = self.keys.checkpoint(projection_set)
        return bool(await self.transport.command("EXISTS", key, key=key))

    async def live(self, projection: str) -> str | None:
        """The revision that readers read."""
        return await self._text(self.keys.active_revision(projection))

    async def _text(self, key: str) -> str | None:
        kept = await self.transport.command("GET", key, key=key)
        return kept.decode() if kept is not None else None

    # --- the log ----------------------------------------------------------------------------------

    async def read_log(self, after: str, count: int, upto: str = "+") -> list[Entry]:
        """Entries behind `after`, oldest first."""
        log = self.keys.log
        reply = await self.transport.command(
            "XRANGE", log, f"({after}", upto, "COUNT", count, key=log
        )
        return entries_of(reply)

    async def last_id(self) -> str:
        """Id of the log's newest entry."""
        log = self.keys.log
        reply = await self.transport.command("XREVRANGE", log, "+", "-", "COUNT", 1, key=log)
        newest = entries_of(reply)
        return newest[0][0] if newest else START

    async def first_id(self) -> str:
        """Id of the oldest entry that the log has."""
        oldest = await self.read_log(START, 1)
        return oldest[0][0] if oldest else START

    async def is_log_whole(self) -> bool:
        """Whether nothing has been trimmed from the log."""
        return not await self.log_gone()

    async def has_archive(self) -> bool:
        """Whether what was trimmed from the log is in an archive."""
        key = self.keys.archive
        return bool(await self.transport.command("EXISTS", key, key=key))

    async def log_gone(self) -> int:
        """How many entries the log has had and has no more."""
        log = self.keys.log
        if not await self.transport.command("EXISTS", log, key=log):
            return 0
        flat = await self.transport.command("XINFO", "STREAM", log, key=log)
        pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
        told = {_text(name): value for name, value in pairs}
        return int(told["entries-added"]) - int(told["length"])

    async def wait_log(self, after: str, block_ms: int) -> None:
        """Return when the log has an entry behind `after`, or after `block_ms`."""
        await self.transport.read_blocking({self.keys.log: after}, block_ms, 1)

    # --- revisions --------------------------------------------------------------------------------

    async def switch(
        self,
        live_set: str,
        revision_set: str,
        epoch: int,
        revisions: Sequence[tuple[str, str, str]],
    ) -> tuple[str, str]:
        """Make revisions live, each (projection, live, new). Replies a word and its detail."""
        args = [text for revision in revisions for text in revision]
        word, *rest = await self.run("promote_revision", live_set, revision_set, epoch, *args)
        return word.decode(), rest[0].decode() if rest else ""

    async def drop(
        self,
        revision_set: str,
        epoch: int,
        lease_ms: int,
        cursor: str,
        projections: Sequence[Projection],
    ) -> tuple[str, int] | None:
        """Remove some records of no live revision: (next cursor, removed); None if fenced."""
        names = [one.name for one in projections]
        word, *rest = await self.run("drop_revision", revision_set, epoch, lease_ms, cursor, *names)
        return None if word == b"fenced" else (rest[0].decode(), int(rest[1]))

    # --- reading what is stored beside what the log says ------------------------------------------

    async def read_entities(self, kind: str, names: Sequence[str]) -> tuple[str, list[Any]]:
        """The log's last id and the decided state of entities at it; `{}` where there is none."""
        told = msgspec.json.decode(await self.run("read_entity", kind, *names))
        return told["last"], list(told["entities"])

    async def read_records(
        self, projection_set: str, projection: str, entities: Sequence[str]
    ) -> tuple[str, list[dict[str, bytes]]]:
        """The live checkpoint and the live records at it; empty where there is none."""
        checkpoint, _, *found = await self.run("read_views", projection_set, projection, *entities)
        return checkpoint.decode(), [_record(flat) for flat in found]

    async def scan(self, kind: str) -> AsyncIterator[list[str]]:
        """Ids of all keys of a kind, some at a time; one may come twice."""
        cursor = "0"
        while True:
            reply, ids = await self.run("scan_ids", kind, cursor)
            cursor = reply.decode()
            yield [one.decode() for one in ids]
            if cursor == "0":
                return

    async def read_entry_numbers(
        self, kind: Literal["audio", "outbox"], session: str, after: str
    ) -> list[tuple[str, bytes]]:
        """Up to 128 (id, mark) of a session's stream behind `after`."""
        flat = await self.run("read_entry_numbers", kind, session, after)
        return [(id_.decode(), mark) for id_, mark in zip(flat[::2], flat[1::2], strict=True)]

    async def read_stream(self, key: str, after: str, count: int) -> list[Entry]:
        """Entries of a stream behind `after`."""
        reply = await self.transport.command(
            "XRANGE", key, f"({after}", "+", "COUNT", count, key=key
        )
        return entries_of(reply)


def _set_lease(reply: Any) -> SetLease | Standby | OtherVersion:
    word, *rest = reply
    if word == b"acquired":
        return SetLease(int(rest[0]), tuple(revision.decode() for revision in rest[1:]))
    if word == b"standby":
        return Standby(int(rest[0]))
    return OtherVersion(rest[0].decode(), rest[1].decode())


def _record(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _save_args(save: Save) -> list[Arg]:
    """The sections of save_views.lua, in its order."""
    args: list[Arg] = [save.projection_set, save.group, save.epoch, save.start, save.to]
    args += (save.count, save.lease_ms, len(save.changes))
    for one in save.changes:
        args += (one.projection, one.revision)
    for one in save.changes:
        args += (len(one.drops), *one.drops)
        args += _runs(map(_item, one.puts), head=3)
    args += _runs([[name, *ids] for name, ids in save.indexes.items()], head=1)
    args.append(len(save.dead))
    for dead in save.dead:
        args += (dead.id, dead.type, dead.told, dead.reason)
    return args


def _item(put: Put) -> list[Arg]:
    fields = dict(put.fields)
    item: list[Arg] = [put.entity, put.at, fields.pop("v")]
    for field in fields.items():
        item += field
    return item


def _runs(items: Iterable[list[Arg]], *, head: int) -> list[Arg]:
    """Items by length, so that it is told once for many. What is too long for a script to take at
    once becomes several items that begin alike, with `head` arguments. The longest go first: what
    is left of one comes behind the rest of it."""
    by_length: dict[int, list[list[Arg]]] = {}
    for item in items:
        for part in (item,) if len(item) <= ITEM_MAX else _in_parts(item, head):
            by_length.setdefault(len(part), []).append(part)
    args: list[Arg] = [len(by_length)]
    for length, run in sorted(by_length.items(), reverse=True):
        args += (len(run), length)
        args.extend(chain.from_iterable(run))
    return args


def _in_parts(item: list[Arg], head: int) -> Iterator[list[Arg]]:
    step = (ITEM_MAX - head) // 2 * 2  # names stay with their values
    for at in range(head, len(item), step):
        yield item[:head] + item[at : at + step]
