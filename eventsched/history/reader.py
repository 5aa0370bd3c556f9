"""Reading what happened and what was: events, the state of anything at any moment.

Owns: which events are wanted, cells merged into one order, following the log; records of the live
views, and folding them where they are not kept any more or where an earlier moment is asked for.
Never does: write. Read next: source.py (where it is read from), audit/service.py, status.py.

A Reader reads what roles wrote and changes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

import anyio
import msgspec

from eventsched.encryption.decrypt import EventDecryptor
from eventsched.errors import DecryptionError, InvalidMessage, NotFound
from eventsched.history.log import EVERYTHING, Of
from eventsched.history.position import LogPosition
from eventsched.history.source import HistorySource, of_job
from eventsched.projection.fold import FailedEvent, Folding, decoded, in_order, index_entries_of
from eventsched.projection.protocol import HasParts, Projection, record_codec
from eventsched.projection.store import START, ProjectionStore, is_made_by
from eventsched.schema import keys
from eventsched.schema.events import Event, SessionOpened, UtteranceFinalized

SWITCHES_MAX = 3
"""How often a record is looked for when a rebuild switches revisions meanwhile."""
FOLLOWED_MAX = 1_000
"""Entries of one cell taken in one call while following."""
BLOCK_MS = 2_000


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which events: those that fit everything that is given."""

    session: str = ""
    """Full id: all that its index names."""
    job: str = ""
    """Key: its events, and the utterance that it is of."""
    node: str = ""
    """Full id."""
    tenant: str = ""
    types: frozenset[str] = frozenset()
    since: LogPosition | None = None
    until: LogPosition | None = None

    @property
    def index(self) -> str:
        """The session in whose index they all are; empty when there is none."""
        return of_job(self.job) if self.job else self.session

    def fits(self, event: Event) -> bool:
        """All but the tenant, which only the session's first event tells."""
        if self.types and event.type not in self.types:
            return False
        if self.node and event.node != self.node:
            return False
        return not self.job or event.job == self.job or _is_utterance_of(event, self.job)


def _is_of(one: Event | FailedEvent, wanted: Wanted) -> bool:
    """Whether the event shows that the job, session or node exists."""
    return isinstance(one, Event) and (not wanted.job or one.job == wanted.job)


def _is_utterance_of(event: Event, job: str) -> bool:
    data = event.data
    return isinstance(data, UtteranceFinalized) and str(data.utterance) == job.split(":")[2]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What one record says, and as of when."""

    kind: str
    id: str
    cell: str
    at: str
    """Last log id that changed it."""
    is_live: bool
    """Read from the live view; else folded from its events."""
    dropped_at: str = ""
    """The log id that ended the record, as a session's retirement does: it says what it was."""
    view: Any
    """The projection's record."""


class Reader:
    """Reads one past."""

    def __init__(self, past: HistorySource, opener: EventDecryptor | None = None) -> None:
        """`opener` has keys: texts that it can open are told, others stay sealed."""
        self._past = past
        self._opener = opener
        self._tenants: dict[str, str] = {}

    @property
    def projections(self) -> Mapping[str, Projection]:
        """Every read model that is installed, by name."""
        return {one.name: one for each in self._past.sets for one in each.projections}

    # --- what happened ----------------------------------------------------------------------

    async def history(
        self, wanted: Wanted, ends: Mapping[str, str] | None = None
    ) -> AsyncIterator[Event | FailedEvent]:
        """The wanted events, oldest first; an entry that is none comes as `FailedEvent`.

        `ends`: by cell, nothing behind these ids. Raises NotFound when there is no such session,
        job or node.
        """
        is_known = False
        async for one in self._merged(wanted, ends or {}):
            is_known = is_known or _is_of(one, wanted)
            if await self._fits(one, wanted):
                yield await self._opened(one)
        if not is_known:
            await self._check_known(wanted)

    async def follow(
        self, wanted: Wanted, after: Mapping[str, str], tell: Callable[[Event | FailedEvent], None]
    ) -> None:
        """Tell wanted events behind these ids, by cell, as they come; it never ends by itself."""
        async with anyio.create_task_group() as tasks:
            for cell in after:
                tasks.start_soon(self._follow_cell, cell, wanted, after[cell], tell)

    async def ends(self, wanted: Wanted) -> dict[str, str]:
        """By cell, the newest id that there is."""
        cells = [keys.cell_of(wanted.index)] if wanted.index else self._past.cells
        return {cell: await self._past.last_id(cell) for cell in cells}

    async def _follow_cell(
        self, cell: str, wanted: Wanted, after: str, tell: Callable[[Event | FailedEvent], None]
    ) -> None:
        views = self._past.views(cell)
        assert views is not None
        while True:
            await views.wait_log(after, BLOCK_MS)
            for entry in await views.read_log(after, FOLLOWED_MAX):
                after = entry[0]
                one = decoded(entry)
                if self._is_in_index(one, wanted) and await self._fits(one, wanted):
                    tell(await self._opened(one))

    def _is_in_index(self, one: Event | FailedEvent, wanted: Wanted) -> bool:
        if not wanted.index:
            return True
        return keys.name_of(wanted.index) in index_entries_of(one, self._past.trailing)

    async def _merged(
        self, wanted: Wanted, ends: Mapping[str, str]
    ) -> AsyncIterator[Event | FailedEvent]:
        """Events of the index, else of every cell in the order of their times."""
        if wanted.index:
            cells = [keys.cell_of(self._past.complete(wanted.index))]
        else:
            cells = self._past.cells
        heads = {}
        for cell in cells:
            rest = self._of_cell(cell, wanted, ends.get(cell, ""))
            if (first := await anext(rest, None)) is not None:
                heads[cell] = first, rest
        while heads:
            cell = min(heads, key=lambda one: (_ms(heads[one][0]), one))
            one, rest = heads.pop(cell)
            yield one
            if (following := await anext(rest, None)) is not None:
                heads[cell] = following, rest

    async def _of_cell(
        self, cell: str, wanted: Wanted, end: str
    ) -> AsyncIterator[Event | FailedEvent]:
        of = Of(session=keys.name_of(wanted.index), node="" if wanted.index else wanted.node)
        after = wanted.since.before if wanted.since else START
        upto = wanted.until.last if wanted.until else end
        history = await self._past.of_cell(cell)
        async for entry in history.entries(after, upto, of):
            yield decoded(entry)

    async def _fits(self, one: Event | FailedEvent, wanted: Wanted) -> bool:
        if isinstance(one, FailedEvent):
            return not (wanted.types or wanted.node or wanted.tenant or wanted.job)
        if not wanted.fits(one):
            return False
        return not wanted.tenant or await self._tenant(one) == wanted.tenant

    async def _opened(self, one: Event | FailedEvent) -> Event | FailedEvent:
        """With its text to read, if there is a key; a text that is not its own is told as such."""
        if self._opener is None or isinstance(one, FailedEvent):
            return one
        try:
            return await self._opener.decrypt(one)
        except DecryptionError as error:
            return FailedEvent(one.id, one, ("text",), str(error), one.session)

    async def _tenant(self, event: Event) -> str:
        """Whose event it is; empty for those of nodes and cells."""
        if event.job:
            return event.job.partition(":")[0]
        if not event.session:
            return ""
        if isinstance(event.data, SessionOpened):
            self._tenants[event.session] = event.data.tenant
        elif event.session not in self._tenants:
            self._tenants[event.session] = await self._tenant_of(event.session)
        return self._tenants[event.session]

    async def _tenant_of(self, session: str) -> str:
        history = await self._past.of(session)
        async for entry in history.entries(of=Of(session=keys.name_of(session))):
            event = decoded(entry)
            if isinstance(event, Event) and isinstance(event.data, SessionOpened):
                return event.data.tenant
        return ""

    async def _check_known(self, wanted: Wanted) -> None:
        """Nothing was found: raises NotFound unless that is because of the range."""
        what = wanted.job or wanted.session or wanted.node
        if not what:
            return
        if wanted.since or wanted.until:
            anything = msgspec.structs.replace(wanted, since=None, until=None)
            async for one in self._merged(anything, {}):
                if _is_of(one, wanted):
                    return
        kind = "job" if wanted.job else "session" if wanted.session else "node"
        raise NotFound(f"no {kind} {what}")

    async def job_key(self, text: str) -> str:
        """The key of a job that is named by it, or as `<session>:<utterance>:<target>`.

        Raises NotFound when there is no such job.
        """
        parts = text.split(":")
        if len(parts) != 3:
            of_job(text)
            return text
        session, utterance, target = self._past.complete(parts[0]), parts[1], parts[2]
        middle = f":{session}:{utterance.removeprefix('u')}:translation:"
        async for one in self._merged(Wanted(session=session), {}):
            if isinstance(one, Event) and middle in one.job and one.job.split(":")[4] == target:
                return one.job
        raise NotFound(f"no job {text}")

    # --- what was true ----------------------------------------------------------------------

    async def state(self, kind: str, entity: str, at: LogPosition | None = None) -> State:
        """The record of `entity` in the read model `kind`, now or as it was at a moment.

        Now is what the live view says; what it no longer has, or not yet, and what was at a
        moment, is folded from events. Raises NotFound, InvalidMessage for a read model or a moment
        that is not there.
        """
        projection = self.projections.get(kind)
        if projection is None:
            raise InvalidMessage.of(
                "kind", f"no read model {kind!r}", f"choose of {', '.join(self.projections)}"
            )
        whole, _, part = entity.partition("/")
        cell, record, of = self._place(kind, whole)
        picked = partial(_picked, projection, part)
        views = self._past.views(cell)
        if at is not None:
            await self._past.check_not_ahead(cell, at, "at")
        elif (
            views is not None
            and (live := await _live(views, projection, record))
            and (view := picked(live[0])) is not None
        ):
            changed = live[1]
            return State(kind=kind, id=entity, cell=cell, at=changed, is_live=True, view=view)
        found = await self._folded(cell, projection, record, of, at, picked)
        if found is None:
            raise NotFound(f"no {kind} {entity}" + await self._why_none(cell, of, at))
        view, changed, dropped = found
        return State(
            kind=kind, id=entity, cell=cell, at=changed, is_live=False, dropped_at=dropped,
            view=view,
        )  # fmt: skip

    def _place(self, kind: str, entity: str) -> tuple[str, str, Of]:
        """The cell that has the record, the record's id in it, and the events it is made of."""
        if kind == "job":
            session = self._past.complete(of_job(entity))
            return keys.cell_of(session), entity, Of(session=keys.name_of(session))
        full = self._past.complete(entity)
        name = keys.name_of(full)
        match kind:
            case "session" | "group":
                of = Of(session=name)
            case "node":
                of = Of(node=full)
            case _:
                of = EVERYTHING
        return keys.cell_of(full), name, of

    async def _folded(
        self,
        cell: str,
        projection: Projection,
        record: str,
        of: Of,
        at: LogPosition | None,
        picked: Callable[[Any], Any],
    ) -> tuple[Any, str, str] | None:
        """The record as its events make it: what it says, what changed it, what dropped it.

        A record that was dropped, or a part that is not there any more, is shown as it was before.
        """
        folding = Folding([projection], [""], complete=True)
        (folded,) = folding.parts
        found: tuple[Any, str, str] | None = None
        history = await self._past.of_cell(cell)
        async for entry in history.entries(upto=at.last if at else "", of=of):
            event = decoded(entry)
            if isinstance(event, FailedEvent):
                continue
            folding.fold(event, whole=False)  # what cannot be folded is passed by, as it was live
            view = picked(folded.views.get(record))
            if view is not None:
                found = view, folded.changed[record], ""
            elif found is not None and not found[2]:
                found = *found[:2], event.id
        return found

    async def _why_none(self, cell: str, of: Of, at: LogPosition | None) -> str:
        """When it began, for who asked for a moment before that; that its beginning is gone."""
        history = await self._past.of_cell(cell)
        told = f" at {at.text}" if at else ""
        if not await history.is_whole():
            return f"{told} in what is kept: the beginning of the history is gone"
        if at is not None and of is not EVERYTHING:
            async for entry in history.entries(of=of):
                is_later = in_order(entry[0]) > in_order(at.last)
                return told + (f": it begins at {entry[0]}" if is_later else "")
        return told


async def _live(
    views: ProjectionStore, projection: Projection, record: str
) -> tuple[Any, str] | None:
    """The stored record; none of a revision that another version made. A rebuild may switch between
    the two reads: then look again."""
    revision = await views.live(projection.name)
    for _ in range(SWITCHES_MAX):
        if revision is None or not is_made_by(revision, projection):
            return None
        (fields,) = await views.load(projection.name, revision, [record])
        if fields:
            return record_codec(projection).decode(fields), fields["at"].decode()
        before, revision = revision, await views.live(projection.name)
        if revision == before:
            return None
    return None


def _ms(one: Event | FailedEvent) -> int:
    return int(one.id.partition("-")[0])


def _picked(projection: Projection, part: str, view: Any) -> Any:
    """The record, or the part of it that was asked for; none when it is not there."""
    if view is None or not part:
        return view
    return projection.part(view, part) if isinstance(projection, HasParts) else None
