"""Reads the history for `why` and `why --replay`, from the log and the archive.

Owns: folding a cell's history up to the decisions in question.
Must not: compute decisions, format output. Read next: explain.py, replay.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from eventsched.audit.explain import Decision, JobExplanation, decision, explain, is_decision
from eventsched.audit.needed_entries import JobEntries, OpenEntries
from eventsched.audit.replay import Replay, ReplayReport
from eventsched.audit.scheduler_state import SchedulerState
from eventsched.errors import NotFound
from eventsched.history.event_json import without_error_message
from eventsched.history.log import EntryFilter, History
from eventsched.history.position import LogPosition
from eventsched.history.reader import JobName, Reader
from eventsched.history.source import HistorySource
from eventsched.projection.fold import FailedEvent, decode_event
from eventsched.schema import keys
from eventsched.schema.events import Event
from eventsched.schema.ids import START, id_before, ms_of, parse_id

Progress = Callable[[int], None]
"""Called with the number of entries read so far."""
PROGRESS_ENTRIES = 1_000
"""Entries between two calls of Progress."""


async def why(
    source: HistorySource, job: str, *, texts: bool = True, entries_max: int | None = None
) -> JobExplanation:
    """Explain the job by its decisions and stages. Raises NotFound if there is no such job.

    Args:
        source: The history.
        job: Key of the job, or session, utterance and target.
        texts: Include the messages of handlers, which may quote what was spoken.
        entries_max: Leave out the states of nodes at the decisions after so many entries of the
            history, since its start or the last snapshot; None: read all entries.
    """
    name = Reader(source).job_name(job)
    events = await _events_of_job(source, name)
    own_keys = (event.job for event in events if keys.is_job_key(event.job))
    key = next(filter(name.matches, own_keys), "")
    if not key:
        raise NotFound(f"no job {job}")
    if not texts:
        events = [without_error_message(event) for event in events]
    history = await source.history_for(name.session)
    own = [event for event in events if event.job == key]
    decisions = await _decisions(history, own, entries_max)
    last = await source.last_id(keys.cell_of(name.session))
    return explain(key, events, decisions, ms_of(last))


async def _events_of_job(source: HistorySource, name: JobName) -> list[Event]:
    """The events of a job's session that explain the job; of any other job few or none."""
    history = await source.history_for(name.session)
    needed = JobEntries(name.utterance, name.matches)
    where = EntryFilter(session=keys.name_of(name.session))
    async for batch in history.batches(where=where):
        for entry in batch:
            needed.add(entry)
    events = map(decode_event, needed.entries)
    return [event for event in events if isinstance(event, Event)]


async def why_all(
    source: HistorySource, session: str, events: Sequence[Event], jobs_max: int
) -> list[JobExplanation]:
    """Explain the first jobs of a session, in one pass over the history.

    An event that names a job by a key of another form belongs to no job.

    Args:
        source: The history.
        session: Full id of the session.
        events: All events of the session, in order.
        jobs_max: Greatest number of jobs.
    """
    own_keys = (event.job for event in events if keys.is_job_key(event.job))
    keys_ = list(dict.fromkeys(own_keys))[:jobs_max]
    history = await source.history_for(session)
    named = set(keys_)
    decisions = await _decisions(history, [event for event in events if event.job in named])
    jobs = {event.id: event.job for event in events}
    by_job: dict[str, list[Decision]] = {key: [] for key in keys_}
    for each in decisions:
        by_job[jobs[each.id]].append(each)
    last_ms = ms_of(await source.last_id(keys.cell_of(session)))
    return [explain(key, events, by_job[key], last_ms) for key in keys_]


async def _decisions(
    history: History, job: Sequence[Event], entries_max: int | None = None
) -> list[Decision]:
    """Explain each decision of these events, with the state before it if that is known."""
    events = [event for event in job if is_decision(event)]
    if not events or entries_max == 0 or not await history.is_complete():
        return [decision(None, event) for event in events]
    explained = await _with_states(history, events, entries_max)
    far = [decision(None, event) for event in events[len(explained) :]]
    return explained + [replace(each, is_far=True) for each in far]


async def _with_states(
    history: History, events: Sequence[Event], entries_max: int | None
) -> list[Decision]:
    """Explain the decisions with the state before each, the first of them if entries are many."""
    ids = {event.id for event in events}
    start = id_before(events[0].id)
    state, count = await _open_state_at(history, start, entries_max)
    decisions: list[Decision] = []
    if state is None:
        return decisions
    async for entry in history.entries(start, events[-1].id):
        count += 1
        if entries_max is not None and count > entries_max:
            break
        event = decode_event(entry)
        if isinstance(event, FailedEvent):
            continue
        if event.id in ids:
            decisions.append(decision(state, event))
        state.add(event)
    return decisions


async def entry_count(source: HistorySource, cell: str) -> int:
    """About how many entries the history of a cell has; for a progress bar."""
    store, count = source.projection_store(cell), 0
    if source.archive is not None:
        head = source.archive.cell(cell).signed_records().head
        count = head.events if head is not None else 0
    if store is not None:
        log = store.keys.log
        count = max(count, await store.transport.command("XLEN", log, key=log))
    return count


async def replay(
    source: HistorySource,
    cell: str,
    since: LogPosition | None,
    until: LogPosition | None,
    progress: Progress,
) -> ReplayReport:
    """Compute every decision of a cell in a range again.

    Raises:
        NotFound: The first entries of the cell's history are gone. A decision depends on all
            entries before it.
    """
    history = await source.history_of(cell)
    if not await history.is_complete():
        raise NotFound(f"the first entries of cell {cell} are gone: decisions depend on them")
    first = since.before if since else START
    replayed = Replay(await _state_at(history, first))
    count = 0
    async for entry in history.entries(first, until.last if until else ""):
        event = decode_event(entry)
        if isinstance(event, Event):
            replayed.add(event)
        count += 1
        if count % PROGRESS_ENTRIES == 0:
            progress(count)
    return replayed.report


async def _state_at(history: History, entry_id: str) -> SchedulerState:
    if parse_id(entry_id) == parse_id(START):
        return SchedulerState.empty()
    return SchedulerState(await history.folding_at(entry_id))


async def _open_state_at(
    history: History, entry_id: str, entries_max: int | None
) -> tuple[SchedulerState | None, int]:
    """The nodes and the waiting jobs after this entry, and the jobs that have not ended by then.

    None if more than `entries_max` entries precede. Also how many entries were read.
    """
    start, folding = await history.nearest_folding(entry_id)
    if parse_id(start) > parse_id(START):  # from a snapshot, which has jobs that end after it
        return await _state_at(history, entry_id), 0
    entries, count = OpenEntries(), 0
    if parse_id(entry_id) > parse_id(START):
        async for batch in history.batches(START, entry_id):
            count += len(batch)
            if entries_max is not None and count > entries_max:
                return None, count
            for entry in batch:
                entries.add(entry)
    for event in map(decode_event, entries):
        if isinstance(event, Event):
            folding.fold(event, atomic=False)
    return SchedulerState(folding), count
