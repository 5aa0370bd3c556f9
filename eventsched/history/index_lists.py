"""What a console shows of one cell: newest sessions, waiting jobs, nodes, by pages.

For operators and auditors of one tenant or of all, who look for what happens now. Programs that
read every record of a read model list by id: records_by_id.py.

Owns: the order of each list, the fields of an item, the bound of one page.
Must not: read a whole index; fold events.
Read next: list_position.py, page.py, reader.py (one record), gateway/listing.py.

The lists follow sorted sets that exist for other reasons, so a page costs the same whatever the
length of the list:

    sessions, groups    session_index_ends: sessions with events in the log, newest event first
    waiting jobs        waiting_tags: jobs that wait for a node, in the order of their tags
    nodes               node_index_starts: nodes with events in the log, oldest event first
    jobs of a session   its record: utterances and targets, from which the job keys follow

Records are those of the read models, so a list is as new as their checkpoint. A member that changes
its place between two pages may be listed twice or not at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec

from eventsched.errors import NotFound, UnreadableRecord
from eventsched.history.list_position import ListPosition, bad_position
from eventsched.history.page import Page, PageBuilder
from eventsched.history.reader import REVISIONS_MAX, Reader
from eventsched.history.record_json import named
from eventsched.history.session_tenants import SessionTenants
from eventsched.projection.protocol import decode_record, record_codec
from eventsched.projection.store import ProjectionStore, is_made_by
from eventsched.schema.ids import ms_of
from eventsched.schema.keys import job_key, name_of

STEP = 500
"""Members that one read of a sorted set returns."""
LOOKED_AT_MAX = 5_000
"""Members that one page looks at."""
PAGE_MAX = 500
"""Items of one page."""
_RETIRED = b"NodeRetired"
_LAST = "\U0010ffff"
"""After every member."""
SHOWN = {
    "session": (
        "status", "source", "targets", "features", "room", "listen_language", "encoding",
        "sample_rate", "priority", "opened_ms", "updated_ms", "utterance", "turn", "reason",
    ),
    "job": (
        "session", "utterance", "target", "source", "features", "status", "attempt", "node",
        "reason", "priority", "created_ms", "dispatched_ms", "deadline_ms", "outcome", "code",
        "ended_ms",
    ),
    "node": (
        "status", "epoch", "cls", "sources", "targets", "features", "slots", "version", "since_ms",
        "reason", "gone_ms", "dispatches", "results", "ended",
    ),
}  # fmt: skip
"""Read model -> the fields of its records that a list shows. None of them has what was spoken."""


class ListItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One session, job, node or group."""

    id: str
    """Full id of a session or node, key of a job, `<session>/<target>/<n>` of a group."""
    tenant: str = ""
    time_ms: int = 0
    """Of a session: time of its last event. Of a node: time of the first event in the log."""
    record: dict[str, Any] | None = None
    """Some fields of its record; none if the read model has no record of it now."""


class ListReader:
    """Reads the lists of one cell.

    Args:
        store: The cell.
        reader: Reads the events of the cell.
        tenants: The tenants of sessions.
        tenant: Only sessions, jobs and groups of this tenant; empty for all tenants.
    """

    def __init__(
        self, store: ProjectionStore, reader: Reader, tenants: SessionTenants, tenant: str = ""
    ) -> None:
        self._store = store
        self._projections = reader.projections
        self._tenants = tenants
        self._tenant = tenant

    async def sessions(self, after: str, count: int, status: str = "") -> Page[ListItem]:
        """Return sessions, the one with the newest event first.

        Args:
            after: `next` of the page before; empty for the first page.
            count: Greatest number of items.
            status: Only sessions with this status: open, closing or closed.

        Raises:
            InvalidMessage: `after` is no position.
        """
        position = ListPosition.parse(after, "sessions") if after else None
        page = _IndexPage(count, position, "sessions")
        key = self._store.keys.session_index_ends
        step = STEP if status else self._step(count)
        async for members in self._members(key, position, is_newest_first=True, step=step):
            names = await self._of_tenant([name for _, name in members])
            listed = set(names)
            records = await self._records("session", names)
            for score, name in members:
                record = records.get(name)
                page.pass_member(score, name, is_shown=name in listed)
                if name in listed and status in ("", getattr(record, "status", "")):
                    page.add(self._item("session", name, record, time_ms=int(score)))
                if page.is_full:
                    return page.build(is_last=False)
        return page.build(is_last=True)

    async def groups(self, after: str, count: int) -> Page[ListItem]:
        """Return the groups of sessions, in the order of `sessions`; texts are left out.

        A page ends with all groups of a session, so it may have some more than `count` items.
        Raises InvalidMessage.
        """
        position = ListPosition.parse(after, "groups") if after else None
        page = _IndexPage(count, position, "groups")
        key = self._store.keys.session_index_ends
        async for members in self._members(key, position, is_newest_first=True):
            names = await self._of_tenant([name for _, name in members])
            listed = set(names)
            records = await self._records("group", names)
            for score, name in members:
                page.pass_member(score, name, is_shown=name in listed)
                for target, group in _targets(records.get(name)):
                    page.add(self._group(name, target, group))
                if page.is_full:
                    return page.build(is_last=False)
        return page.build(is_last=True)

    async def waiting_jobs(self, after: str, count: int) -> Page[ListItem]:
        """Return the jobs that wait for a node, by their tags. Raises InvalidMessage."""
        position = ListPosition.parse(after, "jobs") if after else None
        page = _IndexPage(count, position, "jobs")
        key, step = self._store.keys.waiting_tags, self._step(count)
        async for members in self._members(key, position, step=step):
            jobs = [member.partition(":")[2] for _, member in members]  # after the entry number
            own = [job for job in jobs if self._tenant in ("", job.partition(":")[0])]
            listed = set(own)
            records = await self._records("job", own)
            for (score, member), job in zip(members, jobs, strict=True):
                page.pass_member(score, member, is_shown=job in listed)
                if job in listed:
                    page.add(self._job(job, records.get(job)))
                if page.is_full:
                    return page.build(is_last=False)
        return page.build(is_last=True)

    async def jobs_of(self, session: str, after: str, count: int) -> Page[ListItem]:
        """Return the jobs of a session, by utterance and target.

        A page ends with all jobs of an utterance, so it may have some more than `count` items.

        Args:
            session: Full id.
            after: `next` of the page before: the last utterance; empty for the first page.
            count: Greatest number of items.

        Raises:
            NotFound: There is no such session with a record.
            InvalidMessage: `after` is no utterance.
        """
        name = name_of(session)
        record = (await self._records("session", [name])).get(name)
        if record is None or self._tenant not in ("", record.tenant):
            raise NotFound(f"no session {session}")
        if after and not (after.isascii() and after.isdigit() and len(after) < 16):
            raise bad_position(after)
        targets = sorted(record.allocated)
        first = int(after) + 1 if after else 0
        last = min(record.utterance, first + LOOKED_AT_MAX // max(1, len(targets)))
        keys = {
            utterance: [
                job_key(record.tenant, session, utterance, target, record.features_hash)
                for target in targets
            ]
            for utterance in range(first, last)
        }
        page = PageBuilder[ListItem](count, LOOKED_AT_MAX)
        step = max(1, STEP // max(1, len(targets)))
        for start in range(first, last, step):
            numbers = range(start, min(start + step, last))
            records = await self._records("job", [key for n in numbers for key in keys[n]])
            for number in numbers:
                for key in keys[number]:
                    if key in records:
                        page.add(self._job(key, records[key]))
                page.pass_by(str(number))
                if page.is_full:
                    return page.build(is_last=False)
        return page.build(is_last=last >= record.utterance)

    async def nodes(self, after: str, count: int, status: str = "") -> Page[ListItem]:
        """Return nodes, also lost ones, the one with the oldest event first.

        The record of a retired node is deleted: its item has when, and `retired` as the reason.

        Args:
            after: `next` of the page before; empty for the first page.
            count: Greatest number of items.
            status: Only nodes with this status: alive, draining or gone.

        Raises:
            InvalidMessage: `after` is no position.
        """
        position = ListPosition.parse(after, "nodes") if after else None
        page = _IndexPage(count, position, "nodes")
        key, step = self._store.keys.node_index_starts, STEP if status else min(STEP, count + 1)
        async for members in self._members(key, position, step=step):
            names = [name for _, name in members]
            records = await self._records("node", names)
            retired = await self._retired([name for name in names if name not in records])
            for score, name in members:
                page.pass_member(score, name)
                shown = _shown("node", records.get(name)) or retired.get(name)
                if not status or (shown or {}).get("status") == status:
                    full = self._store.keys.full(name)
                    page.add(ListItem(id=full, time_ms=int(score), record=shown))
                if page.is_full:
                    return page.build(is_last=False)
        return page.build(is_last=True)

    # --- members and records --------------------------------------------------------------------

    def _step(self, count: int) -> int:
        """Return how many members one read returns: if all tenants are shown, those of the page."""
        return STEP if self._tenant else min(STEP, count + 1)

    async def _members(
        self,
        key: str,
        position: ListPosition | None,
        *,
        is_newest_first: bool = False,
        step: int = STEP,
    ) -> AsyncIterator[list[tuple[float, str]]]:
        """Yield the (score, member) of a sorted set after a position, in batches."""
        last: tuple[float, str] | None = None
        left = 0
        """Members with the score of the position that are still passed over."""
        if position is not None:
            is_from_end = is_newest_first and not position.member
            last = position.score, _LAST if is_from_end else position.member
            left = position.further
        start, end = ("+inf", "-inf") if is_newest_first else ("-inf", "+inf")
        order = ("REV",) if is_newest_first else ()
        offset = 0
        while True:
            low = start if last is None else repr(last[0])
            reply = await self._store.transport.command(
                "ZRANGE", key, low, end, "BYSCORE", *order, "LIMIT", offset, step, "WITHSCORES",
                key=key,
            )  # fmt: skip
            read = _scored(reply)
            members = [
                member
                for member in read
                if last is None or (member < last if is_newest_first else member > last)
            ]
            if members:
                end_of_batch = members[-1]
                if left:
                    assert position is not None
                    equal = sum(score == position.score for score, _ in members)
                    members, left = members[min(left, equal) :], max(0, left - equal)
                if members:
                    left = 0
                    yield members
                last, offset = end_of_batch, 0
            else:
                offset += step  # all of these members have the score of the last one
            if len(read) < step:
                return

    async def _of_tenant(self, names: list[str]) -> list[str]:
        """Return those of these sessions that the list shows."""
        full = {name: self._store.keys.full(name) for name in names}
        await self._tenants.load_sessions(self._store, full.values())
        if not self._tenant:
            return names
        return [name for name in names if self._tenants.of_session(full[name]) == self._tenant]

    async def _records(self, kind: str, names: Sequence[str]) -> dict[str, Any]:
        """Return the records that the active revision has of these names."""
        projection = self._projections[kind]
        codec = record_codec(projection)
        records: dict[str, Any] = {}
        before = ""
        for _ in range(REVISIONS_MAX):
            revision = await self._store.active_revision(projection.name)
            if revision in (None, before) or not is_made_by(str(revision), projection):
                break  # the records were read, or another version has written them
            before = str(revision)
            left = [name for name in names if name not in records]
            loaded = await self._store.load(projection.name, before, left)
            for name, fields in zip(left, loaded, strict=True):
                if fields:
                    try:
                        records[name] = decode_record(projection, codec, name, fields)
                    except UnreadableRecord:
                        continue  # `verify` names it; the list shows its id
            if len(records) == len(names):
                break
        return records

    async def _retired(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return when those of these nodes were retired whose newest event says so."""
        store = self._store
        calls = [("LINDEX", store.keys.node_index(name), -1) for name in names]
        newest = {
            bytes(id_).decode(): name
            for name, id_ in zip(names, await store.read_many(calls), strict=True)
            if id_
        }
        return {
            newest[id_]: {"status": "gone", "reason": "retired", "gone_ms": ms_of(id_)}
            for id_, fields in await store.read_entries(list(newest))
            if _RETIRED in fields
        }

    # --- items ----------------------------------------------------------------------------------

    def _item(self, kind: str, name: str, record: Any, **fields: Any) -> ListItem:
        tenant = getattr(record, "tenant", "")
        full = self._store.keys.full(name)
        if kind == "session" and not tenant:
            tenant = self._tenants.of_session(full) or ""
        return ListItem(id=full, tenant=tenant, record=_shown(kind, record), **fields)

    def _job(self, key: str, record: Any) -> ListItem:
        return ListItem(id=key, tenant=key.partition(":")[0], record=_shown("job", record))

    def _group(self, name: str, target: str, group: Any) -> ListItem:
        session = self._store.keys.full(name)
        shown = {
            "active": group.active,
            "parts": len(group.parts),
            "next_index": group.next_index,
            "last_part_ms": group.last_part_ms,
            "playbacks": len(group.playbacks),
        }
        tenant = self._tenants.of_session(session) or ""
        return ListItem(id=f"{session}/{target}/{group.n}", tenant=tenant, record=shown)


class _IndexPage(PageBuilder[ListItem]):
    """A page of a sorted set.

    Its position names members that the list shows only: others belong to other tenants.
    """

    def __init__(self, count: int, position: ListPosition | None, of: str) -> None:
        super().__init__(count, LOOKED_AT_MAX)
        self._of = of
        self._at = position

    def pass_member(self, score: float, member: str, *, is_shown: bool = True) -> None:
        """Move the position after a member."""
        if is_shown:
            self._at = ListPosition(self._of, score, 0, member)
        elif self._at is not None and self._at.score == score:
            self._at = self._at._replace(further=self._at.further + 1)
        else:
            self._at = ListPosition(self._of, score, 1, "")
        self.pass_by(self._at.text())


def _scored(reply: Any) -> list[tuple[float, str]]:
    """Return the (score, member) of a reply: pairs, or one flat list by an older protocol."""
    pairs = reply if reply and isinstance(reply[0], list | tuple) else _pairs(reply)
    return [(float(score), bytes(member).decode(errors="replace")) for member, score in pairs]


def _pairs(reply: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(reply[::2], reply[1::2], strict=True)


def _targets(record: Any) -> list[tuple[str, Any]]:
    """Return the (target, group) of the groups that a record has."""
    return (
        []
        if record is None
        else [each for each in sorted(record.targets.items()) if each[1].n >= 0]
    )


def _shown(kind: str, record: Any) -> dict[str, Any] | None:
    """Return the fields of a record that a list shows."""
    if record is None:
        return None
    fields = named(record)
    return {name: fields[name] for name in SHOWN[kind] if name in fields}
