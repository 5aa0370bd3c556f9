"""Verify: does what is stored, and what is shown, follow from the log? On a running system.

Owns: one streaming fold of the log, and the order in which what is stored is held against it.
Never does: pause anything, write anything.
Read next: invariants.py (what each event must find true), state_diff.py, stream_checks.py.

Each reading comes with the log id that it is exact at; the fold goes on to that id and is
compared there. So nothing needs to stand still, and nothing is held against a moment that it does
not belong to. Memory: the records of what is not retired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from eventsched.audit.invariants import Before, Violation, broken_by
from eventsched.audit.state_diff import (
    job_differences,
    jobless,
    node_differences,
    session_differences,
)
from eventsched.audit.stream_checks import StreamChecks
from eventsched.history.log import History
from eventsched.projection.fold import FailedEvent, ProjectionState, decode_event
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore, is_made_by
from eventsched.schema.events import Event, SessionRetired, StreamTrimmed
from eventsched.schema.ids import START, parse_id
from eventsched.schema.keys import name_of
from eventsched.store.lag import ConsumerLag
from projections.session import Session

COMPARED_MAX = 32
"""Entities read in one script call."""
TOLD_MAX = 1_000
"""Violations kept with their text; beyond, they are counted."""
LOOKED_MAX = 2
"""How often an utterance without a job is looked for: it may be on its way back to `work`."""
Progress = Callable[[int], None]


class Report(msgspec.Struct, kw_only=True):
    """What verify looked at, and what it found."""

    events: int = 0
    last_id: str = START
    """Last log id that was folded."""
    checkpoint: str = START
    """How far the live views were."""
    sessions: int = 0
    jobs: int = 0
    nodes: int = 0
    records: int = 0
    """Live records compared with the fold."""
    chunks: int = 0
    """Audio chunks still stored."""
    heard: int = 0
    """Entries of out streams still stored."""
    dead: int = 0
    unfolded: list[str] = []
    """Log entries that no projection, or not all, could fold: id and reason."""
    gone: int = 0
    """Entries that the log no longer has."""
    is_folded: bool = True
    """False: the history's beginning is gone for good, so nothing can be held against its fold."""
    violations: list[Violation] = []
    violations_total: int = 0

    @property
    def is_clean(self) -> bool:
        return not self.violations_total

    def add(self, found: Iterable[Violation]) -> None:
        for violation in found:
            self.violations_total += 1
            if len(self.violations) < TOLD_MAX:
                self.violations.append(violation)


class Verifier:
    """One run over one cell."""

    def __init__(
        self,
        views: ProjectionStore,
        projection_set: ProjectionSet,
        progress: Progress | None = None,
        *,
        history: History | None = None,
    ) -> None:
        """`history` has the archive, where the log's beginning may be."""
        self.report = Report()
        self._views = views
        self._set = projection_set
        self._progress = progress or (lambda _: None)
        self._history = history or History(views, None, projection_set)
        self._jobs_of: dict[str, set[str]] = {}
        self._trimmed = 0

    async def run(self) -> Report:
        """Everything that can be told of this cell.

        Raises ArchiveError when the log's beginning is in an archive that is not at hand.
        """
        self.report.gone = await self._views.trimmed_count()
        self.report.is_folded = await self._history.is_complete()
        first = await self._views.first_id(self._views.keys.log)
        self.report.last_id, self._folding = await self._history.nearest_folding(first)
        self._parts = {part.projection.name: part for part in self._folding.parts}
        self._before = Before(
            self._parts["session"].views, self._parts["job"].views, self._parts["node"].views
        )
        if self.report.is_folded:
            await self._compare_all()
        await self._check_trims()
        return self.report

    async def _compare_all(self) -> None:
        self.report.checkpoint = await self._views.checkpoint(self._set.name)
        await self._fold_to(self.report.checkpoint)
        for part in self._folding.parts:
            await self._compare_records(part)
        await self._fold_to(await self._views.last_id(self._views.keys.log))
        await self._compare_decided()
        await self._compare_streams()

    # --- the fold ---------------------------------------------------------------------------

    async def _fold_to(self, upto: str) -> None:
        """Fold on to exactly this log id."""
        if parse_id(self.report.last_id) >= parse_id(upto):
            return
        async for entries in self._history.batches(self.report.last_id, upto):
            for entry in entries:
                self._fold(decode_event(entry))
            self.report.events += len(entries)
            self.report.last_id = entries[-1][0]
            self._progress(self.report.events)
        if parse_id(self.report.last_id) < parse_id(upto):
            where = f"log/{self.report.last_id}"
            self.report.add([Violation("I10", where, f"nothing behind it up to {upto}")])
            self.report.last_id = upto

    def _fold(self, one: Event | FailedEvent) -> None:
        if isinstance(one, Event):
            self.report.add(broken_by(one, self._before))
            unfolded = self._folding.fold(one, whole=False)
            self._forget_retired(one)
            self._note_trim(one)
        else:
            unfolded = one
        if unfolded is not None:
            self.report.unfolded.append(f"{unfolded.id} {unfolded.reason}")

    def _forget_retired(self, event: Event) -> None:
        """Jobs go with their session: their records are no longer compared."""
        if event.job:
            self._jobs_of.setdefault(event.session, set()).add(event.job)
        if isinstance(event.data, SessionRetired):
            jobs = self._parts["job"]
            for key in self._jobs_of.pop(event.session, ()):
                jobs.views.pop(key, None)
                jobs.changed.pop(key, None)

    async def _check_trims(self) -> None:
        """What is gone was given up by events, of which the last one says how much that is.

        Entries that go meanwhile may be in that total, or not yet.
        """
        before = await self._views.trimmed_count()
        if self.report.is_folded:
            await self._fold_to(await self._views.last_id(self._views.keys.log))
        else:
            await self._look_for_trims()
        if not before <= self._trimmed <= await self._views.trimmed_count():
            what = f"{before} entries are gone, {self._trimmed} were given up by events"
            self.report.add([Violation("I10", "log", what)])
        for name, passed in (await ConsumerLag(self._views).processed()).items():
            if passed < before:
                what = f"{before} entries are gone, it was done with {passed}"
                self.report.add([Violation("I10", f"checkpoint:{name}", what)])

    async def _look_for_trims(self) -> None:
        async for entries in self._history.batches():
            for one in map(decode_event, entries):
                if isinstance(one, Event):
                    self._note_trim(one)
            self.report.events += len(entries)
            self.report.last_id = entries[-1][0]

    def _note_trim(self, event: Event) -> None:
        if isinstance(event.data, StreamTrimmed) and event.data.stream == "log":
            self._trimmed = event.data.total

    # --- I6: live views ---------------------------------------------------------------------

    async def _compare_records(self, part: ProjectionState) -> None:
        """Every record of the fold is live, and no other is."""
        name = part.projection.name
        live = await self._views.active_revision(name)
        if live is not None and not is_made_by(live, part.projection):
            what = f"{live} was made by another version: a projector of this one rebuilds it"
            self.report.add([Violation("I6", f"active_revision:{name}", what)])
            return
        for entities in _some(list(part.views)):
            await self._compare_some_records(part, entities)
        if live is None:
            return
        async for ids in self._views.scan(f"view:{name}:{live}"):
            strange = [one for one in ids if one not in part.views and self._is_kept(name, one)]
            await self._compare_some_records(part, strange)

    def _is_kept(self, projection: str, entity: str) -> bool:
        """Records of jobs stay when their session is retired: nobody folds them any more."""
        return projection != "job" or self._session_of(entity) in self._before.sessions

    @staticmethod
    def _session_of(job_key: str) -> str:
        return name_of(job_key.split(":")[1])

    async def _compare_some_records(self, part: ProjectionState, entities: Sequence[str]) -> None:
        if not entities:
            return
        name = part.projection.name
        checkpoint, found = await self._views.read_records(self._set.name, name, entities)
        await self._fold_to(checkpoint)
        for entity, stored in zip(entities, found, strict=True):
            self.report.records += 1
            self.report.add(_record_differences(part, entity, stored))

    # --- I5, I7, I8: decided state ----------------------------------------------------------

    async def _compare_decided(self) -> None:
        self.report.sessions = await self._compare_kind(
            "session", self._before.sessions, session_differences
        )
        self.report.jobs = await self._compare_kind("job", self._before.jobs, job_differences)
        self.report.nodes = await self._compare_kind("node", self._before.nodes, node_differences)

    async def _compare_kind(
        self, kind: str, folded: Mapping[str, Any], differences: Callable[..., Any]
    ) -> int:
        """What the log knows is stored as it says, and what is stored is known to the log."""
        count = 0
        for names in _some(list(folded)):
            count += await self._compare_entities(kind, folded, differences, names)
        async for ids in self._views.scan(kind):
            strange = [one for one in ids if one not in folded]
            count += await self._compare_entities(kind, folded, differences, strange)
        return count

    async def _compare_entities(
        self,
        kind: str,
        folded: Mapping[str, Any],
        differences: Callable[..., Any],
        names: Sequence[str],
    ) -> int:
        if not names:
            return 0
        last, found = await self._views.read_entities(kind, names)
        await self._fold_to(last)
        for name, read in zip(names, found, strict=True):
            if kind == "job" and self._session_of(name) not in self._before.sessions:
                continue  # retired: its records are going
            self.report.add(differences(name, folded.get(name), read))
        return len(names)

    # --- I1, I8, I9, I10: streams -----------------------------------------------------------

    async def _compare_streams(self) -> None:
        streams = StreamChecks(self._views)
        for name in list(self._before.sessions):
            chunks = await streams.chunks(name)
            heard = await streams.heard(name)
            self.report.chunks += chunks.count
            self.report.heard += heard.count
            self.report.add([*chunks.broken, *heard.broken])
            view, read = await self._session_now(name)
            if view is not None:
                self.report.add(chunks.missing(name, view))
                await self._look_for_work(streams, name, jobless(view, read))
        self.report.dead = await streams.dead_count()

    async def _session_now(self, name: str) -> tuple[Session | None, Mapping[str, Any]]:
        last, (read,) = await self._views.read_entities("session", [name])
        await self._fold_to(last)
        return self._before.sessions.get(name), read

    async def _look_for_work(self, streams: StreamChecks, name: str, wanted: set[int]) -> None:
        """I8: an outcome without a job is in `work` or `dead`. One that is in neither, and has no
        job before nor after these were read, is lost.
        """
        for _ in range(LOOKED_MAX):
            if not wanted:
                return
            wanted -= await streams.utterances_in_work(name)
            view, read = await self._session_now(name)
            wanted &= jobless(view, read) if view is not None else set()
        if wanted:
            what = f"utterances {sorted(wanted)[:5]} have no job and no entry in work or dead"
            self.report.add([Violation("I8", f"outcomes:{name}", what)])


def _some(entities: Sequence[str]) -> Iterable[Sequence[str]]:
    for first in range(0, len(entities), COMPARED_MAX):
        yield entities[first : first + COMPARED_MAX]


def _record_differences(
    part: ProjectionState, entity: str, stored: Mapping[str, bytes]
) -> Iterable[Violation]:
    """A live record beside the fold: the same view, the same fields, changed at the same id."""
    where = f"view:{part.projection.name}:{entity}"
    fields = part.record(entity)
    if fields is None or not stored:
        if (fields is None) != (not stored):
            said = "no record" if fields is None else "a record"
            kept = "one is live" if stored else "none is live"
            yield Violation("I6", where, f"the log says {said}, {kept}")
        return
    try:
        live = part.decode(stored)
    except msgspec.MsgspecError as error:
        yield Violation("I6", where, f"unreadable: {error}")
        return
    if live != part.views[entity]:
        yield Violation("I6", where, _first_difference(part.views[entity], live))
    at = stored.get("at", b"").decode()
    if at != part.changed[entity]:
        yield Violation("I6", where, f"at {at}, last changed by {part.changed[entity]}")
    for field in sorted((fields.keys() | stored.keys()) - {"v", "at"}):
        if fields.get(field) != stored.get(field):
            yield Violation("I6", where, f"{field} differs")


def _first_difference(told: Any, live: Any) -> str:
    for field in told.__struct_fields__:
        if getattr(told, field) != getattr(live, field):
            return f"{field}: rebuilt {getattr(told, field)!r}, live {getattr(live, field)!r}"
    return "differs"
