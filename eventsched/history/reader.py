"""Reads events, and the state of an entity now or at an earlier position.

Owns: filtering events, merging cells into one order, following the log; reading records of the
active views, or folding them from events if a record is not stored or the position is earlier.
Must not: write.
Read next: source.py (opens the histories), audit/service.py, status.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio
import msgspec

from eventsched.encryption.decrypt import EventDecryptor
from eventsched.errors import DecryptionError, InvalidMessage, NotFound
from eventsched.history.log import ALL_ENTRIES, EntryFilter
from eventsched.history.position import LogPosition
from eventsched.history.session_tenants import SessionTenants
from eventsched.history.source import HistorySource, session_of_job
from eventsched.projection.fold import FailedEvent, Folding, decode_event, sessions_of
from eventsched.projection.installed import missing_read_model
from eventsched.projection.protocol import HasParts, Projection, decode_record, record_codec
from eventsched.projection.store import ProjectionStore, is_made_by
from eventsched.schema import keys
from eventsched.schema.events import Event, SessionOpened, UtteranceFinalized
from eventsched.schema.ids import START, ms_of, parse_id
from eventsched.store.transport import Entry

REVISIONS_MAX = 3
"""Tries to read a record while a rebuild changes the active revision."""
FOLLOWED_MAX = 1_000
"""Entries of one cell in one read while following."""
DIGITS_MAX = 16
"""Digits of an utterance's number in the name of a job."""
MERGED_MAX = 256
"""Events of several cells in one list of `Reader.batches`."""
SCANNED_MAX = 10_000
"""Entries that one page of events reads."""
PAGE_BYTES_MAX = 4 * 2**20
"""Bytes of the events of one page; the last event may go beyond them."""
LOOKUPS_MAX = 100
"""Sessions whose tenants one page looks up in their history, because they have no record."""
BLOCK_MS = 2_000


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects events that match all given fields."""

    session: str = ""
    """Full id. Matches all events that the session's index lists."""
    job: str = ""
    """Key. Matches the job's events, and the end of the utterance that it is for."""
    node: str = ""
    """Full id."""
    tenant: str = ""
    types: frozenset[str] = frozenset()
    since: LogPosition | None = None
    until: LogPosition | None = None

    def __post_init__(self) -> None:
        """Raise InvalidMessage for a session without a name, which would select all events."""
        if self.index and not keys.name_of(self.index):
            raise InvalidMessage.of("session", f"{self.index!r} has no name", "check the id")

    @property
    def index(self) -> str:
        """The session whose index lists all matching events; empty if there is none."""
        return session_of_job(self.job) if self.job else self.session

    @property
    def is_index_only(self) -> bool:
        """Whether every event of the index matches that is in the range."""
        return not (self.types or self.node or self.tenant or self.job)

    def matches(self, event: Event) -> bool:
        """Whether the event matches; the tenant, which only SessionOpened has, is not checked."""
        if self.types and event.type not in self.types:
            return False
        if self.node and event.node != self.node:
            return False
        return not self.job or event.job == self.job or _is_utterance_of(event, self.job)


def _matches(event: Event | FailedEvent, where: EventFilter) -> bool:
    """Whether the event matches; of an event that can be decoded, the tenant is not checked."""
    if isinstance(event, FailedEvent):
        return not (where.types or where.node or where.tenant or where.job)
    return where.matches(event)


def _shows_existence(event: Event | FailedEvent, where: EventFilter) -> bool:
    """Whether the event proves that the job, session or node of the filter exists."""
    return isinstance(event, Event) and (not where.job or event.job == where.job)


def _stored_bytes(event: Event | FailedEvent) -> int:
    """The bytes of an event in the log, nearly."""
    if isinstance(event, Event):
        return len(msgspec.msgpack.encode(event))
    return sum(map(len, event.fields.values())) + len(event.reason)


def _is_utterance_of(event: Event, job: str) -> bool:
    data = event.data
    return isinstance(data, UtteranceFinalized) and str(data.utterance) == job.split(":")[2]


class JobName(msgspec.Struct, frozen=True):
    """What a text says of a job: its key, or its session, utterance and target."""

    session: str
    """Full id."""
    key: str = ""
    """Empty if the text has only parts of it: `middle` and `target`."""
    middle: str = ""
    target: str = ""

    @property
    def utterance(self) -> int:
        """The number of the utterance; -1 if the text has none, so that no job matches."""
        number = (self.key or self.middle).split(":")[2].removeprefix("u")
        return int(number) if number.isdecimal() and len(number) <= DIGITS_MAX else -1

    def matches(self, key: str) -> bool:
        """Whether the key is that of the job."""
        if self.key:
            return key == self.key
        return self.middle in key and keys.is_job_key(key) and key.split(":")[4] == self.target


class EventPage(msgspec.Struct, kw_only=True):
    """Some events, and where the next ones begin."""

    events: list[Event | FailedEvent]
    after: dict[str, str]
    """Id of the last entry that was read, by cell."""
    is_last: bool
    bytes: int = 0
    """The size of its events."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A record of a read model at a position."""

    kind: str
    id: str
    cell: str
    at: str
    """Id of the last event that changed it."""
    is_live: bool
    """Whether it was read from the active view; otherwise it was folded from events."""
    dropped_at: str = ""
    """Id of the event that dropped the record, or empty; `view` is then the record before it."""
    view: Any
    """The projection's record."""


class Reader:
    """Reads the events of a source, and states made of them."""

    def __init__(
        self,
        source: HistorySource,
        opener: EventDecryptor | None = None,
        tenants: SessionTenants | None = None,
    ) -> None:
        """Read from `source`.

        `opener` decrypts the texts that it has a key for; other texts stay encrypted. `tenants`
        remembers the tenants of sessions for several readers.
        """
        self._source = source
        self._opener = opener
        self._tenants = SessionTenants() if tenants is None else tenants
        self._lookups = 0
        """How many sessions were looked up in their history."""

    @property
    def projections(self) -> Mapping[str, Projection]:
        """The loaded read models by name."""
        return {part.name: part for each in self._source.sets for part in each.projections}

    # --- events ---------------------------------------------------------------------------------

    async def history(
        self, where: EventFilter, ends: Mapping[str, str] | None = None
    ) -> AsyncIterator[Event | FailedEvent]:
        """Matching events, oldest first; an entry that cannot be decoded is a `FailedEvent`.

        Args:
            where: Which events.
            ends: Id of the last entry to read, by cell.

        Raises NotFound if the session, job or node does not exist.
        """
        async for batch in self.batches(where, ends):
            for event in batch:
                yield event

    async def batches(
        self, where: EventFilter, ends: Mapping[str, str] | None = None
    ) -> AsyncIterator[list[Event | FailedEvent]]:
        """The events of `history` in lists, each of one read; a list may be empty.

        For very many events: an event of a list costs its reader no step of the event loop.
        """
        exists = False
        async for batch in self._merged_batches(where, ends or {}):
            exists = exists or any(_shows_existence(event, where) for event in batch)
            if where.tenant:
                batch = [event for event in batch if await self._matches(event, where)]  # noqa: PLW2901
            elif not where.is_index_only:
                batch = [event for event in batch if _matches(event, where)]  # noqa: PLW2901
            yield [await self._decrypted(event) for event in batch] if self._opener else batch
        if not exists:
            await self._check_exists(where)

    async def page(
        self,
        where: EventFilter,
        after: Mapping[str, str],
        count: int,
        size_of: Callable[[Event | FailedEvent], int] | None = None,
    ) -> EventPage:
        """At most `count` matching events after the given ids, oldest first.

        A page reads at most SCANNED_MAX entries and looks up LOOKUPS_MAX sessions in their history,
        and it ends after PAGE_BYTES_MAX bytes of events, so it may have fewer events and not be the
        last.

        Args:
            where: Which events.
            after: Id after which to read, by cell; a cell that is not named is read from its start.
            count: Greatest number of events.
            size_of: Returns the bytes of an event; by default, of its stored form. It is called
                once with each event of the page, in order.

        Raises NotFound if the session, job or node does not exist.
        """
        page = EventPage(events=[], after=dict(after), is_last=False)
        exists, scanned = bool(after), 0
        async with aclosing(self._merged(where, {}, after)) as merged:
            async for cell, event in merged:
                exists = exists or _shows_existence(event, where)
                if await self._matches(event, where):
                    page.events.append(await self._decrypted(event))
                    page.bytes += (size_of or _stored_bytes)(page.events[-1])
                page.after[cell] = event.id
                scanned += 1
                is_full = len(page.events) == count or scanned == SCANNED_MAX
                if is_full or page.bytes >= PAGE_BYTES_MAX or self._lookups >= LOOKUPS_MAX:
                    return page
        if not exists:
            await self._check_exists(where)
        page.is_last = True
        return page

    async def follow(
        self,
        where: EventFilter,
        after: Mapping[str, str],
        show: Callable[[Event | FailedEvent], None],
    ) -> None:
        """Call `show` with matching events as they are appended, until cancelled.

        `after` has the id to start after, by cell.
        """
        async with anyio.create_task_group() as tasks:
            for cell in after:
                tasks.start_soon(self._follow_cell, cell, where, after[cell], show)

    async def ends(self, where: EventFilter) -> dict[str, str]:
        """Id of the newest entry, by cell."""
        cells = [keys.cell_of(where.index)] if where.index else self._source.cells
        return {cell: await self._source.last_id(cell) for cell in cells}

    async def _follow_cell(
        self, cell: str, where: EventFilter, after: str, show: Callable[[Event | FailedEvent], None]
    ) -> None:
        store = self._source.projection_store(cell)
        assert store is not None
        while True:
            await store.wait_log(after, BLOCK_MS)
            for entry in await store.read_log(after, FOLLOWED_MAX):
                after = entry[0]
                event = decode_event(entry)
                if self._is_listed(event, where) and await self._matches(event, where):
                    show(await self._decrypted(event))

    def _is_listed(self, event: Event | FailedEvent, where: EventFilter) -> bool:
        if not where.index:
            return True
        return keys.name_of(where.index) in sessions_of(event, self._source.indexing_set)

    async def _merged(
        self,
        where: EventFilter,
        ends: Mapping[str, str],
        starts: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[tuple[str, Event | FailedEvent]]:
        """Events of the cell of a session or node, or of every cell, in the order of times.

        Each has the name of its cell before it. `starts` has ids after which to read.
        """
        events = {
            cell: self._events_of_cell(
                cell, where, ends.get(cell, ""), (starts or {}).get(cell, "")
            )
            for cell in self._cells_of(where)
        }
        cells = list(events)
        if len(cells) == 1:
            async for event in events[cells[0]]:
                yield cells[0], event
            return
        next_events = {}
        for cell, rest in events.items():
            if (first := await anext(rest, None)) is not None:
                next_events[cell] = first, rest
        while next_events:
            cell = min(next_events, key=lambda name: (ms_of(next_events[name][0].id), name))
            event, rest = next_events.pop(cell)
            yield cell, event
            if (following := await anext(rest, None)) is not None:
                next_events[cell] = following, rest

    async def _merged_batches(
        self, where: EventFilter, ends: Mapping[str, str]
    ) -> AsyncGenerator[list[Event | FailedEvent]]:
        """The events of `_merged` in lists: of one cell as they are read, else of a few events."""
        cells = self._cells_of(where)
        if len(cells) == 1:
            async for batch in self._batches_of_cell(cells[0], where, ends.get(cells[0], ""), ""):
                yield batch
            return
        merged: list[Event | FailedEvent] = []
        async for _, event in self._merged(where, ends):
            merged.append(event)
            if len(merged) == MERGED_MAX:
                yield merged
                merged = []
        yield merged

    def _cells_of(self, where: EventFilter) -> list[str]:
        """The cell of the session or node of the filter; all cells without either."""
        entity = where.index or where.node
        return [keys.cell_of(self._source.complete(entity))] if entity else self._source.cells

    async def _events_of_cell(
        self, cell: str, where: EventFilter, end: str, start: str
    ) -> AsyncIterator[Event | FailedEvent]:
        """Yield the events of `_batches_of_cell`."""
        async for batch in self._batches_of_cell(cell, where, end, start):
            for event in batch:
                yield event

    async def _batches_of_cell(
        self, cell: str, where: EventFilter, end: str, start: str
    ) -> AsyncIterator[list[Event | FailedEvent]]:
        """Yield the cell's events in the range of `where`, in lists.

        `end` is the last id if the range has no end; `start`, if given, replaces its start.
        They are limited to the session of `where`, or without a session to its node. The caller
        applies the other filters.
        """
        entries_where = EntryFilter(
            session=keys.name_of(where.index), node="" if where.index else where.node
        )
        after = start or (where.since.before if where.since else START)
        upto = where.until.last if where.until else end
        history = await self._source.history_of(cell)
        async for batch in history.batches(after, upto, entries_where):
            events = [decode_event(entry) for entry in batch]
            if where.tenant:
                await self.load_tenants(cell, events)
            yield events

    async def _matches(self, event: Event | FailedEvent, where: EventFilter) -> bool:
        if not _matches(event, where):
            return False
        if not where.tenant or isinstance(event, FailedEvent):
            return True
        return await self.tenant(event) == where.tenant

    async def read_entry(self, cell: str, entry: Entry) -> Event | FailedEvent:
        """The event of a log entry of a cell, decrypted; a FailedEvent if either fails."""
        event = await self._decrypted(decode_event(entry))
        return msgspec.structs.replace(event, cell=cell)

    async def _decrypted(self, event: Event | FailedEvent) -> Event | FailedEvent:
        """The event with its text decrypted, if there is a key; a FailedEvent if that fails."""
        if self._opener is None or isinstance(event, FailedEvent):
            return event
        try:
            return await self._opener.decrypt(event)
        except DecryptionError as error:
            return FailedEvent(event.id, event, ("text",), str(error), event.session)

    async def load_tenants(self, cell: str, events: Iterable[Event | FailedEvent]) -> None:
        """Look up the tenants of a batch of events of one cell, in few round trips."""
        store = self._source.projection_store(cell)
        if store is not None:
            await self._tenants.load(store, events)

    async def tenant(self, event: Event) -> str:
        """The tenant of an event; empty for events of nodes and cells."""
        tenant = self._tenants.of_event(event)
        if tenant is None:
            tenant = await self.tenant_of(event.session)
            self._tenants.remember(event.session, tenant)
        return tenant

    async def tenant_of(self, session: str) -> str:
        """The tenant of a session by its full id; empty if no event says that it was opened."""
        if keys.cell_of(session) not in self._source.cells:
            return ""
        store = self._source.projection_store(keys.cell_of(session))
        if store is not None:
            await self._tenants.load_sessions(store, [session])
        tenant = self._tenants.of_session(session)
        return await self._opened_by(session) if tenant is None else tenant

    async def _opened_by(self, session: str) -> str:
        """The tenant in SessionOpened, from the history of the session."""
        self._lookups += 1
        opened = await self.opened(session)
        if opened is None or not isinstance(opened.data, SessionOpened):
            return ""
        self._tenants.remember(session, opened.data.tenant)
        return opened.data.tenant

    async def opened(self, session: str) -> Event | None:
        """The event that opened a session, by its full id; None if the history lacks it."""
        history = await self._source.history_for(session)
        async for entry in history.entries(where=EntryFilter(session=keys.name_of(session))):
            event = decode_event(entry)
            if isinstance(event, Event) and isinstance(event.data, SessionOpened):
                return event
        return None

    async def _check_exists(self, where: EventFilter) -> None:
        """Raises NotFound unless the entity has events outside the range of the filter."""
        entity = where.job or where.session or where.node
        if not entity:
            return
        if where.since or where.until:
            any_time = msgspec.structs.replace(where, since=None, until=None)
            async for _, event in self._merged(any_time, {}):
                if _shows_existence(event, where):
                    return
        kind = "job" if where.job else "session" if where.session else "node"
        raise NotFound(f"no {kind} {entity}")

    async def job_key(self, text: str) -> str:
        """Return the key of the job that the text names.

        A text in the form of a job key is returned without a look-up. Any other text must be
        `<session>:<utterance>:<target>`. Raises NotFound if the text is neither, or if the job
        `<session>:<utterance>:<target>` does not exist.
        """
        name = self.job_name(text)
        if name.key:
            return name.key
        async for _, event in self._merged(EventFilter(session=name.session), {}):
            if isinstance(event, Event) and name.matches(event.job):
                return event.job
        raise NotFound(f"no job {text}")

    def job_name(self, text: str) -> JobName:
        """Parse the name of a job, without a look-up. Raises NotFound if the text is no name."""
        parts = text.split(":")
        if len(parts) != 3:
            return JobName(self._source.complete(session_of_job(text)), key=text)
        session, utterance, target = self._source.complete(parts[0]), parts[1], parts[2]
        middle = f":{session}:{utterance.removeprefix('u')}:translation:"
        return JobName(session, middle=middle, target=target)

    # --- states ---------------------------------------------------------------------------------

    async def state(self, kind: str, entity: str, at: LogPosition | None = None) -> State:
        """The record of `entity` in the read model `kind`, now or at a position.

        `entity` may be `<id>/<part>`: the state is then that part.

        The current record is read from the active view. A record that the view does not have, and
        a record at a position, is folded from events. Raises NotFound; InvalidMessage for an
        unknown read model or a position in the future.
        """
        projection = self.projections.get(kind)
        if projection is None:
            raise missing_read_model("kind", kind, self.projections)
        whole, _, part = entity.partition("/")
        cell, record, where = self._locate(kind, whole)
        select = partial(_part_of, projection, part)
        store = self._source.projection_store(cell)
        if at is not None:
            await self._source.check_not_ahead(cell, at, "at")
        elif (
            store is not None
            and (active := await _read_active(store, projection, record))
            and (view := select(active[0])) is not None
        ):
            changed_at = active[1]
            return State(kind=kind, id=entity, cell=cell, at=changed_at, is_live=True, view=view)
        folded = await self._fold(cell, projection, record, where, at, select)
        if folded is None:
            raise NotFound(f"no {kind} {entity}" + await self._explain_absence(cell, where, at))
        view, changed_at, dropped_at = folded
        return State(
            kind=kind, id=entity, cell=cell, at=changed_at, is_live=False, dropped_at=dropped_at,
            view=view,
        )  # fmt: skip

    def _locate(self, kind: str, entity: str) -> tuple[str, str, EntryFilter]:
        """The cell of the record, its id in that cell, and the events that it is made of."""
        if kind == "job":
            session = self._source.complete(session_of_job(entity))
            return keys.cell_of(session), entity, EntryFilter(session=keys.name_of(session))
        full = self._source.complete(entity)
        name = keys.name_of(full)
        match kind:
            case "session" | "group":
                where = EntryFilter(session=name)
            case "node":
                where = EntryFilter(node=full)
            case _:
                where = ALL_ENTRIES
        return keys.cell_of(full), name, where

    async def _fold(
        self,
        cell: str,
        projection: Projection,
        record: str,
        where: EntryFilter,
        at: LogPosition | None,
        select: Callable[[Any], Any],
    ) -> tuple[Any, str, str] | None:
        """The record folded from its events, the id that changed it, and the id that dropped it.

        If the record, or the part of it that `select` returns, was dropped: its last state.
        """
        folding = Folding([projection], [""], complete=True)
        (part,) = folding.parts
        state: tuple[Any, str, str] | None = None
        history = await self._source.history_of(cell)
        async for entry in history.entries(upto=at.last if at else "", where=where):
            event = decode_event(entry)
            if isinstance(event, FailedEvent):
                continue
            folding.fold(event, atomic=False)  # skips an event that cannot be folded, as live
            view = select(part.views.get(record))
            if view is not None:
                state = view, part.changed[record], ""
            elif state is not None and not state[2]:
                state = *state[:2], event.id
        return state

    async def _explain_absence(self, cell: str, where: EntryFilter, at: LogPosition | None) -> str:
        """Why there is no record: its first event is later, or the events are not stored."""
        history = await self._source.history_of(cell)
        when = f" at {at.text}" if at else ""
        if not await history.is_complete():
            return f"{when} in the stored events: the beginning of the history is gone"
        if at is not None and where is not ALL_ENTRIES:
            async for entry in history.entries(where=where):
                is_later = parse_id(entry[0]) > parse_id(at.last)
                return when + (f": it begins at {entry[0]}" if is_later else "")
        return when


async def _read_active(
    store: ProjectionStore, projection: Projection, record: str
) -> tuple[Any, str] | None:
    """The stored record and the id that changed it; None if another version made the revision.

    If a rebuild changes the active revision between the two reads, they are repeated. Raises
    UnreadableRecord.
    """
    revision = await store.active_revision(projection.name)
    for _ in range(REVISIONS_MAX):
        if revision is None or not is_made_by(revision, projection):
            return None
        (fields,) = await store.load(projection.name, revision, [record])
        if fields:
            view = decode_record(projection, record_codec(projection), record, fields)
            return view, fields["at"].decode()
        before, revision = revision, await store.active_revision(projection.name)
        if revision == before:
            return None
    return None


def _part_of(projection: Projection, part: str, view: Any) -> Any:
    """The record, or the named part of it; None if the record does not have the part."""
    if view is None or not part:
        return view
    return projection.part(view, part) if isinstance(projection, HasParts) else None
