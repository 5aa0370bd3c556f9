"""Calls of a cell that projections make: one per script or read.

Owns: the lease of a projection set, reads of the log, saving and loading records, promoting and
dropping revisions.
Must not: fold events; wait other than through the transport.
Read next: roles/projector.py (folds live), roles/rebuild.py (folds anew), lua/README.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, TypeAlias

import msgspec

from eventsched.errors import ServerUnavailable, UnexpectedReply, UnreadableRecord
from eventsched.projection.protocol import Projection, ProjectionSet
from eventsched.schema.ids import START, is_id
from eventsched.store.cell_connection import CellConnection
from eventsched.store.lag import ARCHIVE
from eventsched.store.operator_commands import Act
from eventsched.store.replies import named_fields_of
from eventsched.store.transport import Arg, Entry, entries_of

LOADED_MAX = 128
"""Records read in one script call: 1 to 2 ms."""
ITEM_MAX = 1_000
"""Arguments of one record or index that a script takes at once."""
Saved: TypeAlias = Literal["saved", "fenced", "moved", "rebuilt"]


class SetLease(msgspec.Struct, frozen=True):
    """The caller folds the set until another caller gets a higher epoch."""

    epoch: int
    revisions: tuple[str, ...]
    """Active revision of each projection of the set."""
    is_moved: bool = False
    """Whether the consumer group was not at the checkpoint. It is now, but other consumers may read
    from it again."""


class Standby(msgspec.Struct, frozen=True):
    """Another owner folds the set, at least for this long."""

    ms: int


class OtherVersion(msgspec.Struct, frozen=True):
    """Another version of the projection made the active revision."""

    projection: str
    revision: str


def is_made_by(revision: str, projection: Projection) -> bool:
    """Whether this version of the projection made the records of the revision."""
    return revision.partition(".")[0] == str(projection.version)


class Put(msgspec.Struct, frozen=True):
    """A record to write."""

    entity: str
    at: str
    """Id of the log entry that changed the record last."""
    fields: Mapping[str, bytes]
    """`v`, and others."""
    is_new: bool
    """Whether the revision has no record of the entity, or a drop in the same save removes it."""


class Changes(msgspec.Struct, frozen=True):
    """What a batch changes in the records of a revision. Drops are applied before puts."""

    projection: str
    revision: str
    puts: Sequence[Put] = ()
    drops: Sequence[str] = ()
    """Entities."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A log entry that could not be folded, and why."""

    id: str
    type: str
    context: bytes
    """JSON: the set, the projections that failed, the number of tries."""
    reason: str


class Save(msgspec.Struct, frozen=True, kw_only=True):
    """What one batch changes."""

    projection_set: str
    group: str
    """Consumer group; empty for a revision."""
    epoch: int
    start: str
    first: str = ""
    """Id of the first entry of the batch; empty for a revision."""
    to: str
    count: int = 0
    """Log entries of the batch."""
    lease_ms: int
    """The save renews the owner's lease for this long."""
    changes: Sequence[Changes]
    """One for each projection of the set, also if nothing has changed."""
    indexes: Mapping[str, Sequence[str]] = {}
    """Session -> ids of its log entries."""
    node_indexes: Mapping[str, Sequence[str]] = {}
    """Node -> ids of its log entries."""
    dead_letters: Sequence[DeadLetter] = ()


class ProjectionStore(CellConnection):
    """The calls of a cell that projections make."""

    # --- leases -----------------------------------------------------------------------------------

    async def acquire(
        self, projection_set: ProjectionSet, owner: str, lease_ms: int
    ) -> SetLease | Standby | OtherVersion:
        """Acquire or renew the lease of a set; 0 ms releases it."""
        versions: list[Arg] = []
        for projection in projection_set.projections:
            versions += (projection.name, projection.version)
        name = projection_set.name
        reply = await self.run("acquire_set_lease", name, owner, lease_ms, name, *versions)
        return _set_lease(reply)

    async def acquire_revision(
        self, revision_set: str, owner: str, lease_ms: int
    ) -> SetLease | Standby | OtherVersion:
        """Acquire or renew the lease of a revision set, which has no consumer group."""
        return _set_lease(await self.run("acquire_set_lease", revision_set, owner, lease_ms, ""))

    # --- folding ----------------------------------------------------------------------------------

    async def save(self, save: Save) -> Saved:
        """Write records, checkpoint and position of the consumer group atomically, or nothing."""
        saved: Saved = (await self.run("save_views", *_save_args(save))).decode()
        return saved

    async def load(
        self, projection: str, revision: str, entities: Sequence[str]
    ) -> list[dict[str, bytes]]:
        """The stored fields of each entity's record; empty for an entity without a record."""
        records: list[dict[str, bytes]] = []
        for start in range(0, len(entities), LOADED_MAX):
            part = entities[start : start + LOADED_MAX]
            replies = await self.run("load_views", projection, revision, *part)
            records += map(named_fields_of, replies)
        return records

    async def list_records(
        self, projection: str, after: str, limit: int
    ) -> tuple[str, list[tuple[str, dict[str, bytes]]]]:
        """The active revision, and (entity, stored fields) in the order of the entities' bytes.

        Args:
            projection: Name of the projection.
            after: The entity after which the list begins; empty for the first.
            limit: Greatest number of records, 1 to LOADED_MAX.
        """
        revision, *rest = await self.run("list_views", projection, after, limit)
        pairs = zip(rest[::2], rest[1::2], strict=True)
        records = [(_text(projection, id_), named_fields_of(flat)) for id_, flat in pairs]
        return revision.decode(), records

    async def checkpoint(self, projection_set: str) -> str:
        """Id of the last log entry that the set has folded and saved."""
        key = self.keys.checkpoint(projection_set)
        stored = await self._read_string(key)
        return START if stored is None else _checked_id(key, stored)

    async def saved_position(self, consumer: str) -> str:
        """Id of the last log entry that a set, or the archive, has processed."""
        if consumer != ARCHIVE:
            return await self.checkpoint(consumer)
        key = self.keys.archive
        return _checked_id(f"{key} to", (await self.read_hash(key)).get("to", START))

    async def has_saved(self, projection_set: str) -> bool:
        """Whether the set has a checkpoint. A revision set with a checkpoint may have records."""
        key = self.keys.checkpoint(projection_set)
        return bool(await self.transport.command("EXISTS", key, key=key))

    async def active_revision(self, projection: str) -> str | None:
        """The revision that readers read."""
        return await self._read_string(self.keys.active_revision(projection))

    async def _read_string(self, key: str) -> str | None:
        value = await self.transport.command("GET", key, key=key)
        return value.decode(errors="replace") if value is not None else None

    # --- the log ----------------------------------------------------------------------------------

    async def read_group(
        self, projection_set: str, owner: str, count: int, block_ms: int = 0
    ) -> list[Entry]:
        """The next log entries of the set's consumer group; waits for one at most `block_ms`."""
        return await self.transport.read_group(
            self.keys.log, projection_set, owner, block_ms=block_ms, count=count
        )

    async def read_log(self, after: str, count: int, upto: str = "+") -> list[Entry]:
        """Log entries after `after`, oldest first."""
        return await self.read_range(self.keys.log, f"({after}", upto, count)

    async def read_entries(self, ids: Sequence[str]) -> list[Entry]:
        """The log entries with these ids that still exist, in the order of the ids."""
        calls = [("XRANGE", self.keys.log, id_, id_) for id_ in ids]
        return [entry for reply in await self.read_many(calls) for entry in entries_of(reply)]

    async def check_log_exists(self) -> None:
        """Check that the cell has a log. Raises ServerUnavailable if it is missing."""
        log = self.keys.log
        if not await self.transport.command("EXISTS", log, key=log):
            raise ServerUnavailable(f"the log of cell {self.cell} is not on this server now")

    async def is_log_complete(self) -> bool:
        """Whether no entry has been trimmed from the log."""
        return not await self.trimmed_count()

    async def has_archive(self) -> bool:
        """Whether the entries that were trimmed from the log are in an archive."""
        key = self.keys.archive
        return bool(await self.transport.command("EXISTS", key, key=key))

    async def trimmed_count(self) -> int:
        """The number of entries that were trimmed from the log."""
        log = self.keys.log
        if not await self.transport.command("EXISTS", log, key=log):
            return 0
        info = named_fields_of(await self.transport.command("XINFO", "STREAM", log, key=log))
        return int(info["entries-added"]) - int(info["length"])

    async def wait_log(self, after: str, block_ms: int) -> None:
        """Return when the log has an entry after `after`, or after `block_ms`."""
        await self.transport.read_blocking({self.keys.log: after}, block_ms, 1)

    # --- revisions --------------------------------------------------------------------------------

    async def start_rebuild(
        self, revision_set: str, epoch: int, act: Act, revisions: Sequence[tuple[str, str]]
    ) -> tuple[str, list[str]]:
        """Record that a rebuild begins.

        Args:
            revision_set: The set that folds the new revisions.
            epoch: Epoch of the lease of `revision_set`.
            act: Who asked for it and why.
            revisions: (projection, new revision).

        Returns:
            The script's word, and with `done` the revisions that an earlier rebuild of the act has
            promoted; see lua/start_rebuild.lua.
        """
        args = [text for revision in revisions for text in revision]
        word, *rest = await self.run(
            "start_rebuild", revision_set, epoch, act.request, act.why, act.by, *args
        )
        return word.decode(), [revision.decode() for revision in rest]

    async def promote_revisions(
        self,
        active_set: str,
        revision_set: str,
        epoch: int,
        act: Act,
        revisions: Sequence[tuple[str, str, str]],
        *,
        entries: int = 0,
        left_out: int = 0,
    ) -> tuple[str, str]:
        """Make revisions active.

        Args:
            active_set: The set whose active revisions are replaced.
            revision_set: The set that folded the new revisions.
            epoch: Epoch of the lease of `revision_set`.
            act: Who asked for it and why.
            revisions: (projection, active revision, new revision).
            entries: Number of log entries that were folded, for the event.
            left_out: Of these, how many could not be folded.

        Returns:
            The script's word and its detail; see lua/promote_revision.lua.
        """
        args = [text for revision in revisions for text in revision]
        word, *rest = await self.run(
            "promote_revision",
            active_set,
            revision_set,
            epoch,
            entries,
            left_out,
            act.request,
            act.why,
            act.by,
            *args,
        )
        return word.decode(), rest[0].decode() if rest else ""

    async def drop_revision(
        self,
        revision_set: str,
        epoch: int,
        lease_ms: int,
        cursor: str,
        projections: Sequence[Projection],
    ) -> tuple[str, int] | None:
        """Remove some records of inactive revisions: (next cursor, removed); None if fenced."""
        names = [projection.name for projection in projections]
        word, *rest = await self.run("drop_revision", revision_set, epoch, lease_ms, cursor, *names)
        return None if word == b"fenced" else (rest[0].decode(), int(rest[1]))

    # --- state to compare with the log ------------------------------------------------------------

    async def read_entities(
        self, kind: str, names: Sequence[str], epochs: Mapping[str, Iterable[int]] | None = None
    ) -> tuple[str, list[Any]]:
        """The last log id, and the state of entities at it; `{}` for an unknown entity.

        Args:
            kind: session, job, node, room, tenant, class or pair.
            names: Names in the cell, job keys, `<tenant>/<room>`, tenants, ids of classes, or
                `<source>:<target>`.
            epochs: By name of a node, registrations whose leases are read as well. Those of the
                present registration and of the two before it are always read.
        """
        args: list[Arg] = []
        for name in names:
            args += (name, ",".join(map(str, (epochs or {}).get(name, ()))))
        # Bytes that are not UTF-8, which a change by hand may leave, are a difference and no error.
        text = (await self.run("read_entity", kind, *args)).decode(errors="replace")
        reply = msgspec.json.decode(text)
        return reply["last"], list(reply["entities"])

    async def has_timer(self, member: str) -> bool:
        """Whether the timer `kind|id` exists."""
        key = self.keys.timers
        return await self.transport.command("ZSCORE", key, member, key=key) is not None

    async def read_records(
        self, projection_set: str, projection: str, entities: Sequence[str]
    ) -> tuple[str, list[tuple[bool, dict[str, bytes]]]]:
        """The checkpoint, and the active records at it; empty for an entity without a record.

        Each has a flag before it: whether the list of ids has the entity.
        """
        checkpoint, _, *rest = await self.run("read_views", projection_set, projection, *entities)
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return checkpoint.decode(), [(bool(flag), named_fields_of(flat)) for flag, flat in pairs]

    async def listed_ids(
        self, projection: str, revision: str, after: bytes, count: int
    ) -> list[bytes]:
        """Ids in the list of a revision's records after an id; an empty id for the first."""
        key = self.keys.view_ids(projection, revision)
        start = b"(" + after if after else "-"
        ids: list[bytes] = await self.transport.command(
            "ZRANGE", key, start, "+", "BYLEX", "LIMIT", 0, count, key=key
        )
        return ids

    async def scan(self, kind: str) -> AsyncIterator[list[str]]:
        """Ids of all keys of a kind, a few at a time; an id may come twice.

        Bytes of an id that are not UTF-8 become the replacement character.
        """
        cursor = "0"
        while True:
            reply, ids = await self.run("scan_ids", kind, cursor)
            cursor = reply.decode()
            yield [id_.decode(errors="replace") for id_ in ids]
            if cursor == "0":
                return

    async def read_entry_numbers(
        self, kind: Literal["audio", "outbox"], session: str, after: str
    ) -> list[tuple[str, bytes]]:
        """Up to 128 (id, number) of a session's stream after `after`."""
        reply = await self.run("read_entry_numbers", kind, session, after)
        return list(named_fields_of(reply).items())


def _checked_id(place: str, stored: str) -> str:
    if not is_id(stored):
        raise UnexpectedReply(
            f"{place}: {stored!r:.80} in place of a log id, so another program wrote it; "
            "correct or delete it"
        )
    return stored


def _text(projection: str, id_: bytes) -> str:
    """Return the id of a record. Raises UnreadableRecord for bytes that are not UTF-8."""
    try:
        return id_.decode()
    except UnicodeDecodeError as error:
        raise UnreadableRecord.of(projection, repr(id_), "its id is not UTF-8") from error


def _set_lease(reply: Any) -> SetLease | Standby | OtherVersion:
    word, *rest = reply
    if word == b"acquired":
        revisions = tuple(revision.decode() for revision in rest[2:])
        return SetLease(int(rest[0]), revisions, bool(rest[1]))
    if word == b"standby":
        return Standby(int(rest[0]))
    return OtherVersion(rest[0].decode(), rest[1].decode())


def _save_args(save: Save) -> list[Arg]:
    """The sections of save_views.lua, in its order."""
    args: list[Arg] = [save.projection_set, save.group, save.epoch, save.start, save.first]
    args += (save.to, save.count, save.lease_ms, len(save.changes))
    for changes in save.changes:
        args += (changes.projection, changes.revision)
    for changes in save.changes:
        args += (len(changes.drops), *changes.drops)
        args += _runs(map(_put_args, changes.puts), head=4)
    for indexes in (save.indexes, save.node_indexes):
        args += _runs([[name, *ids] for name, ids in indexes.items()], head=1)
    args.append(len(save.dead_letters))
    for letter in save.dead_letters:
        args += (letter.id, letter.type, letter.context, letter.reason)
    return args


def _put_args(put: Put) -> list[Arg]:
    item: list[Arg] = [put.entity, put.at, int(put.is_new), put.fields["v"]]
    for name, value in put.fields.items():
        if name != "v":
            item += (name, value)
    return item


def _runs(items: Iterable[list[Arg]], *, head: int) -> list[Arg]:
    """Group items by length, so that each length is sent once for many items.

    Items longer than a script takes at once are split; each part repeats the first `head`
    arguments. The longest runs come first, so the last part of an item follows its other parts.
    """
    by_length: dict[int, list[list[Arg]]] = {}
    for item in items:
        for part in (item,) if len(item) <= ITEM_MAX else _split(item, head):
            by_length.setdefault(len(part), []).append(part)
    args: list[Arg] = [len(by_length)]
    for length, run in sorted(by_length.items(), reverse=True):
        args += (len(run), length)
        args.extend(chain.from_iterable(run))
    return args


def _split(item: list[Arg], head: int) -> Iterator[list[Arg]]:
    step = (ITEM_MAX - head) // 2 * 2  # a name and its value stay together
    for start in range(head, len(item), step):
        yield item[:head] + item[start : start + step]
