"""Verify: check on a running system that views and stored state follow from the log.

Owns: one streaming fold of the log, and the comparison of views, state and streams with it.
Must not: pause or write anything.
Read next: invariants.py (checks of each event), state_diff.py, stream_checks.py, group_checks.py.

Every read returns the log id at which it is exact. The fold advances to that id before the two are
compared, so the system can keep running. Memory: the records of all sessions that are not retired.

An entity that an entry concerns which could not be folded is not compared: its record lacks the
entry, and its stored state does not. The report names it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from eventsched.audit.class_checks import (
    class_differences,
    classes_of,
    pair_differences,
    pairs_of,
)
from eventsched.audit.group_checks import GroupChecks
from eventsched.audit.incomplete import Incomplete
from eventsched.audit.invariants import Hole, Records, Violation, holes_of, violations_of
from eventsched.audit.log_facts import LogFacts
from eventsched.audit.missing_timers import retry_timer
from eventsched.audit.state_diff import (
    Stored,
    job_differences,
    node_differences,
    outbox_differences,
    room_differences,
    session_differences,
    tenant_differences,
    utterances_without_job,
)
from eventsched.audit.stream_checks import READ_MAX, Chunks, Outbox, StreamChecks
from eventsched.errors import UnexpectedReply, UnreadableRecord
from eventsched.history.log import History
from eventsched.projection.fold import FailedEvent, ProjectionState, decode_event
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore, is_made_by
from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import (
    CellRepaired,
    Event,
    JobsRetired,
    NodeRetired,
    SessionRetired,
    StreamTrimmed,
)
from eventsched.schema.ids import START, id_before, is_id, parse_id
from eventsched.schema.keys import name_of, session_of_job, tenant_of_job
from eventsched.store.lag import ConsumerLag
from eventsched.store.replies import fields_of
from eventsched.store.transport import Entry
from projections.job import Job, retired_jobs
from projections.node import Node
from projections.session import Session

ENTITIES_MAX = 32
"""Entities read in one script call."""
VIOLATIONS_MAX = 1_000
"""Violations reported in full; further ones are only counted."""
OUTBOX_MAX = 1_000
"""Entries that an outbox has at most; lua/include/outbox.lua trims the others."""
LOOKUPS_MAX = 2
"""How often a dispatch entry is looked up: a retry may be moving it back from the dead letters."""
Progress = Callable[[int], None]
"""Called with the number of events folded so far."""


class RecordedRepair(msgspec.Struct, frozen=True, kw_only=True):
    """A CellRepaired event. It proves nothing: any program with access to the log can append it."""

    id: str
    where: str
    what: str
    why: str
    by: str
    accepts: str = ""
    """Id of the log entry whose violations it accepts; empty if it accepts none."""


class Report(msgspec.Struct, kw_only=True):
    """What was checked, and the violations found."""

    events: int = 0
    last_id: str = START
    """Id of the last folded log entry."""
    checkpoint: str = START
    """Checkpoint of the live views at the start."""
    sessions: int = 0
    jobs: int = 0
    nodes: int = 0
    records: int = 0
    """Live records compared with the fold."""
    audio_chunks: int = 0
    """Audio chunks still stored."""
    outbox_entries: int = 0
    """Outbox entries still stored."""
    dead_letters: int = 0
    stalled_timers: int = 0
    """Timers whose last call had no effect and that are called again after a pause."""
    repairs: int = 0
    """Changes that a repair has recorded in the log."""
    accepted: int = 0
    """Violations of log entries that a repair has accepted, because the log does not change."""
    acceptances: list[RecordedRepair] = []
    """The first VIOLATIONS_MAX repairs that accept violations."""
    changes: list[RecordedRepair] = []
    """The first VIOLATIONS_MAX other repairs."""
    failed_entries: list[str] = []
    """Log entries that a projection could not fold: id and reason."""
    not_compared: list[str] = []
    """The first VIOLATIONS_MAX sessions, jobs and nodes that such an entry concerns, with its id.
    The jobs of such a session are not compared either."""
    not_compared_total: int = 0
    trimmed_entries: int = 0
    """Entries trimmed from the log."""
    is_complete: bool = True
    """False if the first entries were trimmed and not archived: then nothing can be compared."""
    violations: list[Violation] = []
    violations_total: int = 0

    @property
    def is_clean(self) -> bool:
        return not self.violations_total

    def add_repair(self, event: Event, data: CellRepaired) -> None:
        """Count a repair; list it within the bound."""
        self.repairs += 1
        listed = self.acceptances if data.accepts else self.changes
        if len(listed) < VIOLATIONS_MAX:
            fields = {name: getattr(data, name) for name in RecordedRepair.__struct_fields__[1:]}
            listed.append(RecordedRepair(id=event.id, **fields))

    def add(self, violations: Iterable[Violation]) -> None:
        """Count the violations; keep the first VIOLATIONS_MAX."""
        for violation in violations:
            self.violations_total += 1
            if len(self.violations) < VIOLATIONS_MAX:
                self.violations.append(violation)


class Verifier:
    """One verification of one cell.

    Args:
        store: The cell.
        projection_set: The set whose views are compared.
        progress: Called after every batch.
        history: The log with the archive that has its trimmed entries; by default the log alone.
    """

    def __init__(
        self,
        store: ProjectionStore,
        projection_set: ProjectionSet,
        progress: Progress | None = None,
        *,
        history: History | None = None,
    ) -> None:
        self.report = Report()
        self._store = store
        self._set = projection_set
        self._progress = progress or (lambda _: None)
        self._history = history or History(store, None, projection_set)
        self._jobs_of: dict[str, set[str]] = {}
        self._recorded_trims = 0
        self._not_compared: set[str] = set()
        """Sessions with a key of another type."""
        self._incomplete = Incomplete()
        self._log_facts = LogFacts()
        self._compared_rooms: set[str] = set()
        self._other_type: set[str] = set()
        """Keys of another type, after the prefix of the cell."""
        self._deliveries: dict[str, deque[str]] = {}
        """Session -> ids of the last log entries that deliver to its listener."""
        self._holes: list[tuple[str, Hole]] = []
        """Delivery numbers that no utterance has and no event explains yet, by log entry."""
        self._accepted_ids: set[str] = set()
        """Log entries whose violations a repair has accepted."""
        self._log_violations: dict[str, list[Violation]] = {}
        """The violations of log entries that no repair has accepted, by entry id."""

    async def run(self) -> Report:
        """Check the cell; return the report.

        Raises:
            ArchiveError: Trimmed entries are in an archive that was not passed.
        """
        self.report.trimmed_entries = await self._store.trimmed_count()
        self.report.is_complete = await self._history.is_complete()
        first = await self._store.first_id(self._store.keys.log)
        # Every entry of the log is folded: the first may be the StreamTrimmed that is compared.
        start = first if first == START else id_before(first)
        self.report.last_id, self._folding = await self._history.nearest_folding(start)
        self._parts = {part.projection.name: part for part in self._folding.parts}
        await self._note_failed_before(self.report.last_id)
        self._records = Records(
            self._parts["session"].views, self._parts["job"].views, self._parts["node"].views
        )
        if self.report.is_complete:
            await self._compare_all()
        await self._check_trims()
        self.report.add(await GroupChecks(self._store).run())
        for found in self._log_violations.values():
            self.report.add(found)
        lines = self._incomplete.lines()
        self.report.not_compared = lines[:VIOLATIONS_MAX]
        self.report.not_compared_total = len(lines)
        return self.report

    async def _compare_all(self) -> None:
        self.report.checkpoint = await self._store.checkpoint(self._set.name)
        await self._fold_to(self.report.checkpoint)
        for part in self._folding.parts:
            await self._compare_records(part)
        await self._fold_to(await self._store.last_id(self._store.keys.log))
        await self._compare_state()
        await self._compare_streams()

    # --- the fold ---------------------------------------------------------------------------

    async def _fold_to(self, upto: str) -> None:
        """Advance the fold to exactly this log id."""
        if parse_id(self.report.last_id) >= parse_id(upto):
            return
        async for entries in self._history.batches(self.report.last_id, upto):
            for entry in entries:
                self._fold(entry)
            self.report.events += len(entries)
            self.report.last_id = entries[-1][0]
            self._progress(self.report.events)
        if parse_id(self.report.last_id) < parse_id(upto):
            where = f"log/{self.report.last_id}"
            self.report.add([Violation("I10", where, f"no entry after it up to {upto}")])
            self.report.last_id = upto

    def _fold(self, entry: Entry) -> None:
        """Check the event against the records before it, then fold it."""
        event = decode_event(entry)
        if isinstance(event, Event):
            self._check_event(event)
            failed = self._folding.fold(event, atomic=False)
            self._drop_retired_jobs(event)
            self._log_facts.fold(event)
            self._note_delivery(event)
            self._note_trim(event)
            self._note_retired_epoch(event)
            self._incomplete.retire(event)
        else:
            failed = event
        if failed is not None:
            self.report.failed_entries.append(f"{failed.id} {failed.reason}")
            self._incomplete.add(entry, failed, self._folding)

    async def _note_failed_before(self, start: str) -> None:
        """Note the dead letters of entries up to the start of the fold, which a snapshot lacks."""
        low, key = "-", self._store.keys.dead_letters
        while page := await self._store.read_range(key, low, "+", READ_MAX):
            for _, flat in page:
                letter = fields_of(flat)
                id_ = letter.get(b"id", b"").decode(errors="replace")
                if letter.get(b"from") != b"log" or not is_id(id_):
                    continue
                if parse_id(id_) <= parse_id(start):
                    await self._note_failed(id_)
            low = f"({page[-1][0]}"

    async def _note_failed(self, id_: str) -> None:
        """Note what an entry concerns that became a dead letter."""
        async for entry in self._history.entries(id_before(id_), id_):
            event = decode_event(entry)
            if isinstance(event, Event):
                names = tuple(self._parts)
                event = FailedEvent(event.id, event, names, "dead letter", event.session)
            self._incomplete.add(entry, event, self._folding)

    def _check_event(self, event: Event) -> None:
        """Note the violations of the event. A repair accepts those of an earlier entry."""
        if isinstance(event.data, CellRepaired):
            self.report.add_repair(event, event.data)
            self.report.accepted += len(self._log_violations.pop(event.data.accepts, ()))
            self._accepted_ids.add(event.data.accepts)
        found = violations_of(event, self._records)
        if found and not self._incomplete.concerns(event):
            self._log_violations[event.id] = found
            self._holes += [(event.id, hole) for hole in holes_of(event, self._records)]
        if self._holes:
            self._explain_holes(event)

    def _explain_holes(self, event: Event) -> None:
        """Drop the violation of a hole in delivery numbers that is delivered as missing."""
        for entry_id, hole in self._holes:
            if not hole.explain(event):
                continue
            found = self._log_violations.pop(entry_id, [])  # empty if a repair has accepted them
            if left := [each for each in found if each != hole.violation]:
                self._log_violations[entry_id] = left
        self._holes = [each for each in self._holes if each[1].first < each[1].end]

    def _note_delivery(self, event: Event) -> None:
        """Note to whose outboxes the event says that an outcome was appended."""
        if isinstance(event.data, SessionRetired):
            self._deliveries.pop(name_of(event.session), None)
            return
        delivery = delivery_of(event.data)
        if delivery is not None:
            for full in set(delivery.to) - set(delivery.skipped):
                ids = self._deliveries.setdefault(name_of(full), deque(maxlen=OUTBOX_MAX))
                ids.append(event.id)

    def _drop_retired_jobs(self, event: Event) -> None:
        """Drop the records of a retired session's jobs, which are not compared."""
        if event.job:
            self._jobs_of.setdefault(event.session, set()).add(event.job)
        if isinstance(event.data, JobsRetired) and event.session in self._jobs_of:
            retired = retired_jobs(event.session, event.data)
            self._jobs_of[event.session].difference_update(retired)
        if isinstance(event.data, SessionRetired):
            jobs = self._parts["job"]
            for key in self._jobs_of.pop(event.session, ()):
                jobs.views.pop(key, None)
                jobs.changed.pop(key, None)

    async def _check_trims(self) -> None:
        """I10: the trimmed entries are those that StreamTrimmed events recorded, and no consumer
        needed them.

        The total of the last event may include entries that are trimmed during this check.
        """
        trimmed = await self._store.trimmed_count()
        if self.report.is_complete:
            await self._fold_to(await self._store.last_id(self._store.keys.log))
        else:
            await self._read_trims()
        if not trimmed <= self._recorded_trims <= await self._store.trimmed_count():
            what = f"{trimmed} entries are trimmed, events record {self._recorded_trims}"
            self.report.add([Violation("I10", "log", what)])
        for name, passed in (await ConsumerLag(self._store).processed()).items():
            if passed < trimmed:
                what = f"{trimmed} entries are trimmed, it had passed {passed}"
                self.report.add([Violation("I10", f"checkpoint:{name}", what)])

    async def _read_trims(self) -> None:
        """Read the StreamTrimmed events of a log that cannot be folded from its start."""
        async for entries in self._history.batches():
            for event in map(decode_event, entries):
                if isinstance(event, Event):
                    self._note_trim(event)
            self.report.events += len(entries)
            self.report.last_id = entries[-1][0]

    def _note_trim(self, event: Event) -> None:
        if isinstance(event.data, StreamTrimmed) and event.data.stream == "log":
            self._recorded_trims = event.data.total

    def _note_retired_epoch(self, event: Event) -> None:
        if isinstance(event.data, NodeRetired):
            self._records.retired_epoch = max(self._records.retired_epoch, event.data.epoch)

    # --- I6: live views ---------------------------------------------------------------------

    async def _compare_records(self, part: ProjectionState) -> None:
        """Every record of the fold equals the live one, and there are no other live records."""
        name = part.projection.name
        live = await self._store.active_revision(name)
        if live is not None and not is_made_by(live, part.projection):
            what = f"{live} has another version: a projector of this version will rebuild it"
            self.report.add([Violation("I6", f"active_revision:{name}", what)])
            return
        for entities in _chunked(list(part.views)):
            await self._compare_records_of(part, entities)
        if live is None:
            return
        async for ids in self._store.scan(f"view:{name}:{live}"):
            await self._compare_unknown(part, ids)
        await self._compare_listed(part, live)

    async def _compare_listed(self, part: ProjectionState, live: str) -> None:
        """Compare the ids in the list of the records that no record has."""
        name, after = part.projection.name, b""
        while ids := await self._listed(name, live, after):
            texts = [id_.decode(errors="replace") for id_ in ids]
            for id_, text in zip(ids, texts, strict=True):
                if text.encode() != id_:
                    what = "the list of ids has bytes that are no text"
                    self.report.add([Violation("I6", f"view:{name}:{text}", what)])
            await self._compare_unknown(part, texts)
            after = ids[-1]

    async def _listed(self, name: str, live: str, after: bytes) -> list[bytes]:
        try:
            return await self._store.listed_ids(name, live, after, ENTITIES_MAX)
        except UnexpectedReply as error:
            key = f"view_ids:{name}:{live}"
            self.report.add([Violation("I6", key, str(error))])
            return []

    async def _compare_unknown(self, part: ProjectionState, ids: Sequence[str]) -> None:
        """Compare the entities of which the fold has no record."""
        name = part.projection.name
        unknown = [id_ for id_ in ids if id_ not in part.views and self._is_live(name, id_)]
        await self._compare_records_of(part, unknown)

    def _is_live(self, projection: str, entity: str) -> bool:
        """False for jobs of a retired session, whose records are not compared."""
        return projection != "job" or not self._is_of_retired(entity)

    def _is_of_retired(self, job_key: str) -> bool:
        """Whether the session of the job is retired; false for a text that is no job key."""
        session = session_of_job(job_key)
        return session != "" and name_of(session) not in self._records.sessions

    async def _compare_records_of(self, part: ProjectionState, entities: Sequence[str]) -> None:
        """Read the stored records of the entities, and report each difference from the fold.

        The log is folded up to the checkpoint of the records first.
        """
        name = part.projection.name
        entities = [each for each in entities if not self._incomplete.has(name, each)]
        if not entities:
            return
        checkpoint, records = await self._store.read_records(self._set.name, name, entities)
        await self._fold_to(checkpoint)
        for entity, (is_listed, stored) in zip(entities, records, strict=True):
            self.report.records += 1
            self.report.add(_record_differences(part, entity, stored, is_listed=is_listed))

    # --- I5, I7, I8: authoritative state ----------------------------------------------------

    async def _compare_state(self) -> None:
        self.report.sessions = await self._compare_kind(
            "session", self._records.sessions, self._session_differences
        )
        jobs, nodes = self._records.jobs, self._records.nodes
        self.report.jobs = await self._compare_kind("job", jobs, self._job_differences)
        self.report.nodes = await self._compare_kind("node", nodes, self._node_differences)
        await self._compare_classes()
        await self._compare_pairs()
        await self._compare_tenants()
        await self._compare_rooms()

    def _session_differences(
        self, name: str, view: Session | None, stored: Stored
    ) -> Iterable[Violation]:
        return session_differences(name, view, stored, self._log_facts.sessions.get(name))

    def _job_differences(self, key: str, view: Job | None, stored: Stored) -> Iterable[Violation]:
        session = self._records.sessions.get(name_of(view.session)) if view is not None else None
        return job_differences(key, view, stored, session, self._log_facts)

    def _node_differences(
        self, name: str, view: Node | None, stored: Stored
    ) -> Iterable[Violation]:
        return node_differences(name, view, stored, self._log_facts.drained_by.get(name))

    async def _compare_classes(self) -> None:
        """Every capability class that is folded or stored."""
        async for names in self._names("class", classes_of(self._records.nodes.values())):
            last, stored_classes = await self._store.read_entities("class", names)
            await self._fold_to(last)
            if self._incomplete.has_nodes():
                return
            classes = classes_of(self._records.nodes.values())
            for class_id, stored in zip(names, stored_classes, strict=True):
                if other_type := stored.get("other_type"):
                    await self._note_other_type("class", class_id, other_type)
                    continue
                members = classes.get(class_id, [])
                found = list(class_differences(class_id, members, stored))
                self.report.add(found)
                if found:
                    await self._note_class(class_id, members, stored, found)

    async def _note_class(
        self,
        class_id: str,
        members: Sequence[Node],
        stored: Mapping[str, Any],
        found: Sequence[Violation],
    ) -> None:
        """Called for a class that differs from its nodes. A repair plans its changes."""

    async def _compare_pairs(self) -> None:
        """The classes of every language pair that is folded or stored."""
        folded = pairs_of(classes_of(self._records.nodes.values()))
        async for names in self._names("pair", folded):
            last, stored_pairs = await self._store.read_entities("pair", names)
            await self._fold_to(last)
            if self._incomplete.has_nodes():
                return
            pairs = pairs_of(classes_of(self._records.nodes.values()))
            for pair, stored in zip(names, stored_pairs, strict=True):
                if other_type := stored.get("other_type"):
                    await self._note_other_type("pair", pair, other_type)
                    continue
                classes = pairs.get(pair, set())
                found = list(pair_differences(pair, classes, stored))
                self.report.add(found)
                if found:
                    await self._note_pair(pair, classes, stored, found)

    async def _note_pair(
        self,
        pair: str,
        classes: set[str],
        stored: Mapping[str, Any],
        found: Sequence[Violation],
    ) -> None:
        """Called for a pair with other classes than the log has. A repair plans its changes."""

    async def _names(self, kind: str, folded: Mapping[str, Any]) -> AsyncIterator[Sequence[str]]:
        """The folded names of a kind, then the stored ones that are not folded, in chunks."""
        for names in _chunked(sorted(folded)):
            yield names
        async for ids in self._store.scan(kind):
            for names in _chunked([id_ for id_ in ids if id_ not in folded]):
                yield names

    async def _compare_tenants(self) -> None:
        """The number of waiting jobs of every tenant for which one is folded or stored."""
        stored = await self._store.read_hash(self._store.keys.tenant_queued)
        for names in _chunked(sorted(stored.keys() | self._queued_jobs().keys())):
            last, tenants = await self._store.read_entities("tenant", names)
            await self._fold_to(last)
            if self._incomplete.has_jobs():
                return
            queued = self._queued_jobs()
            for name, state in zip(names, tenants, strict=True):
                found = list(tenant_differences(name, queued[name], state))
                self.report.add(found)
                if found:
                    await self._note_tenant(name, queued[name], state, found[0])

    def _queued_jobs(self) -> Counter[str]:
        """How many jobs of each tenant wait for a slot or back off, by the fold."""
        jobs = self._records.jobs.items()
        waiting = ("queued", "backoff")
        return Counter(tenant_of_job(key) for key, job in jobs if job.status in waiting)

    async def _note_tenant(
        self, name: str, queued: int, stored: Mapping[str, Any], found: Violation
    ) -> None:
        """Called for a tenant with another number of waiting jobs. A repair plans its change."""

    async def _compare_rooms(self) -> None:
        """The members of every room that is folded or stored."""
        views = self._records.sessions.values()
        for names in _chunked(sorted({name_of(view.room) for view in views if view.in_room})):
            await self._compare_members(names)
        async for names in self._store.scan("room"):
            for chunk in _chunked(names):
                await self._compare_members(chunk)

    async def _compare_members(self, names: Sequence[str]) -> None:
        names = [name for name in names if name not in self._compared_rooms]
        if not names:
            return
        self._compared_rooms.update(names)
        last, rooms = await self._store.read_entities("room", names)
        await self._fold_to(last)
        folded: dict[str, dict[str, str]] = {name: {} for name in names}
        for view in self._records.sessions.values():
            if view.in_room and (members := folded.get(name_of(view.room))) is not None:
                members[view.session] = view.listen_language
        for name, stored in zip(names, rooms, strict=True):
            if other_type := stored.get("other_type"):
                await self._note_other_type("room", name, other_type)
                continue
            if any(self._incomplete.has("session", name_of(each)) for each in stored["members"]):
                continue
            if any(self._incomplete.has("session", name_of(each)) for each in folded[name]):
                continue
            found = list(room_differences(name, folded[name], stored))
            self.report.add(found)
            if found:
                await self._note_members(name, folded[name], found)

    async def _note_members(
        self, name: str, members: Mapping[str, str], found: Sequence[Violation]
    ) -> None:
        """Called for a room with other members than the log has. A repair plans its changes."""

    async def _compare_kind(
        self, kind: str, folded: Mapping[str, Any], differences: Callable[..., Any]
    ) -> int:
        """Compare every folded and every stored entity of this kind; return how many are folded."""
        count = 0
        for names in _chunked(list(folded)):
            count += await self._compare_entities(kind, folded, differences, names)
        async for ids in self._store.scan(kind):
            unknown = [id_ for id_ in ids if id_ not in folded]
            count += await self._compare_entities(kind, folded, differences, unknown)
        return count

    async def _compare_entities(
        self,
        kind: str,
        folded: Mapping[str, Any],
        differences: Callable[..., Any],
        names: Sequence[str],
    ) -> int:
        names = [name for name in names if not self._incomplete.has(kind, name)]
        if not names:
            return 0
        nodes = [name for name in names if kind == "node" and name in folded]
        epochs = {name: _epochs_of(folded[name]) for name in nodes}
        last, entities = await self._store.read_entities(kind, names, epochs)
        await self._fold_to(last)
        for name, stored in zip(names, entities, strict=True):
            if self._incomplete.has(kind, name):
                continue  # by an entry that the last fold has read
            if other_type := stored.get("other_type"):
                await self._note_other_type(kind, name, other_type)
                continue
            if kind == "job" and self._is_of_retired(name):
                continue  # the session is retired, and its jobs are being removed
            found = list(differences(name, folded.get(name), stored))
            self.report.add(found)
            await self._note_differences(kind, name, stored, found)
        if kind == "job":
            for name in names:
                if not self._incomplete.has(kind, name):
                    await self._check_retry(name)
        return len(names)

    async def _note_other_type(self, kind: str, name: str, keys: Sequence[str]) -> None:
        """I7: report the keys of an entity that have another type; else it is not compared.

        A repair deletes them. Its next round compares the entity, and builds them again.
        """
        if kind == "session":
            self._not_compared.add(name)
        for key in keys:
            if key not in self._other_type:
                self._other_type.add(key)
                self.report.add([Violation("I7", key, f"{key} is of another type")])

    async def _check_retry(self, key: str) -> None:
        """I8: a job whose attempt has ended, and that no call has continued, has a timer.

        The timer is not read at the same log id as the job. So it is missing only if the job has
        not moved on before and after the timer was read.
        """
        missing = None
        for _ in range(LOOKUPS_MAX):
            job = self._records.jobs.get(key)
            timer = retry_timer(job) if job is not None else None
            if timer is None or await self._store.has_timer(timer.member):
                return
            if timer == missing:
                what = f"{timer.state} without a {timer.kind} timer"
                self.report.add([Violation("I8", f"job:{key}", what)])
                await self._note_released(key)
            missing = timer
            last, _ = await self._store.read_entities("job", [key])
            await self._fold_to(last)

    async def _note_released(self, key: str) -> None:
        """Called for a job without the timer that continues it. A repair plans its changes."""

    async def _note_differences(
        self, kind: str, name: str, stored: Mapping[str, Any], found: list[Violation]
    ) -> None:
        """Called for each entity, at the log id of its stored state. A repair plans its changes."""

    # --- I1, I8, I9, I10: streams -----------------------------------------------------------

    async def _compare_streams(self) -> None:
        streams = StreamChecks(self._store)
        for name in self._records.sessions.keys() - self._not_compared:
            if self._incomplete.has("session", name):
                continue
            chunks = await streams.chunks(name)
            deliveries = [*self._deliveries.get(name, ())]  # before the outbox is read
            outbox = await streams.outbox(name)
            self.report.audio_chunks += chunks.count
            self.report.outbox_entries += outbox.count
            self.report.add([*chunks.violations, *outbox.violations])
            view, stored = await self._read_session(name)
            if view is not None:
                lost = [*chunks.missing(name, view), *chunks.uncounted(name, stored)]
                self.report.add(lost)
                await self._note_streams(name, chunks, outbox, lost)
                undelivered = outbox.undelivered(deliveries, stored)
                await self._check_undelivered(name, outbox, undelivered, stored)
                utterances = utterances_without_job(view, stored)
                await self._check_undispatched(streams, name, utterances)
        self.report.dead_letters = await streams.dead_letter_count()
        self.report.stalled_timers = await streams.stalled_timer_count()

    async def _check_undelivered(
        self, name: str, outbox: Outbox, undelivered: Sequence[str], stored: Mapping[str, Any]
    ) -> None:
        """I9: the outbox has every outcome that the log says was delivered to the listener."""
        accepted = [each for each in undelivered if each in self._accepted_ids]
        self.report.accepted += len(accepted)
        undelivered = [each for each in undelivered if each not in self._accepted_ids]
        for log_id in undelivered:
            what = f"the outcome that log/{log_id} delivers is not in the outbox"
            self.report.add([Violation("I9", f"outbox:{name}", what)])
        if undelivered:
            await self._note_undelivered(name, outbox, undelivered, stored)
        elif stored.get("hash") and not outbox.holes:  # else the counters are repaired with these
            found = list(outbox_differences(name, stored, is_new=self._has_no_delivery(name)))
            self.report.add(found)
            if found:
                await self._note_outbox_counters(name, stored, found)

    def _has_no_delivery(self, name: str) -> bool:
        """Whether the fold has the whole session, and nothing for its outbox."""
        is_open = self._records.sessions[name].status == "open"
        return is_open and name in self._log_facts.sessions and not self._deliveries.get(name)

    async def _note_outbox_counters(
        self, name: str, stored: Mapping[str, Any], found: Sequence[Violation]
    ) -> None:
        """Called for a session with other counters than its outbox. A repair plans its changes."""

    async def _note_undelivered(
        self, name: str, outbox: Outbox, undelivered: Sequence[str], stored: Mapping[str, Any]
    ) -> None:
        """Called for outcomes that an outbox lacks. A repair plans its changes."""

    async def _note_streams(
        self, name: str, chunks: Chunks, outbox: Outbox, lost: list[Violation]
    ) -> None:
        """Called for each session after its streams were read. A repair plans its changes."""

    async def _note_undispatched(self, name: str, utterances: set[int]) -> None:
        """Called for utterances without a job. A repair plans its changes."""

    async def _read_session(self, name: str) -> tuple[Session | None, Mapping[str, Any]]:
        """Return the session's record and its stored state, both at the same log id."""
        last, (stored,) = await self._store.read_entities("session", [name])
        await self._fold_to(last)
        return self._records.sessions.get(name), stored

    async def _check_undispatched(
        self, streams: StreamChecks, name: str, utterances: set[int]
    ) -> None:
        """I8: an open outcome without a job has a dispatch entry or a dead letter.

        The streams are not read at the same log id as the jobs. So an utterance is lost only if it
        has no entry, and no job before and after the streams were read.
        """
        for _ in range(LOOKUPS_MAX):
            if not utterances:
                return
            utterances -= await streams.utterances_with_entry(name)
            view, stored = await self._read_session(name)
            utterances &= utterances_without_job(view, stored) if view is not None else set()
        if utterances:
            await self._note_undispatched(name, utterances)
            what = f"utterances {sorted(utterances)[:5]} have no job, entry or dead letter"
            self.report.add([Violation("I8", f"outcomes:{name}", what)])


def _epochs_of(node: Node) -> list[int]:
    """The registrations of a node that have live attempts.

    A lost registration keeps its leases until its jobs are dispatched again.
    """
    return sorted({attempt.epoch for attempt in node.live.values()})


def _chunked(entities: Sequence[str]) -> Iterable[Sequence[str]]:
    for first in range(0, len(entities), ENTITIES_MAX):
        yield entities[first : first + ENTITIES_MAX]


def _record_differences(
    part: ProjectionState, entity: str, stored: Mapping[str, bytes], *, is_listed: bool
) -> Iterable[Violation]:
    """Compare a live record with the fold: its view, its fields, the id that changed it last.

    The list of ids has the record if it exists.
    """
    where = f"view:{part.projection.name}:{entity}"
    fields = part.record(entity)
    if "other_type" in stored:
        yield Violation("I6", where, f"{where} is of another type")
        return
    if (fields is None) != (not stored):
        folded = "no record" if fields is None else "a record"
        live = "a record" if stored else "no record"
        yield Violation("I6", where, f"the fold has {folded}, the live view has {live}")
        return
    if is_listed != bool(stored):
        what = "lists a record that does not exist" if is_listed else "does not list the record"
        yield Violation("I6", where, f"the list of ids {what}")
    if fields is None or not stored:
        return
    try:
        live_view = part.decode(entity, stored)
    except UnreadableRecord as error:
        yield Violation("I6", where, f"unreadable: {error}")
        return
    if live_view != part.views[entity]:
        yield Violation("I6", where, _first_difference(part.views[entity], live_view))
    at = stored.get("at", b"").decode()
    if at != part.changed[entity]:
        yield Violation("I6", where, f"at {at}, last changed by {part.changed[entity]}")
    for field in sorted((fields.keys() | stored.keys()) - {"v", "at"}):
        if fields.get(field) != stored.get(field):
            yield Violation("I6", where, f"{field} differs")


def _first_difference(folded: Any, live: Any) -> str:
    for field in folded.__struct_fields__:
        if getattr(folded, field) != getattr(live, field):
            return f"{field}: rebuilt {getattr(folded, field)!r}, live {getattr(live, field)!r}"
    return "differs"
