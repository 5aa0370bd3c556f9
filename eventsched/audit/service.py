"""Why a job went to a node, and whether every decision follows from what was before it.

Owns: folding a cell's history up to the decisions in question, hot or cold.
Never does: decide, tell. Read next: explain.py, replay.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eventsched.audit.explain import Decision, JobExplanation, decision, explain, is_decision
from eventsched.audit.replay import Replay, Replayed
from eventsched.audit.scheduler_state import SchedulerState
from eventsched.errors import NotFound
from eventsched.history.log import History
from eventsched.history.position import LogPosition
from eventsched.history.reader import EventFilter, Reader
from eventsched.history.source import HistorySource, session_of_job
from eventsched.projection.fold import FailedEvent, decode_event
from eventsched.schema import keys
from eventsched.schema.events import Event
from eventsched.schema.ids import START, ms_of, parse_id

Progress = Callable[[int], None]
TOLD_EVERY = 1_000


async def why(past: HistorySource, job: str) -> JobExplanation:
    """The job's decisions and stages. Raises NotFound when there is no such job."""
    reader = Reader(past)
    key = await reader.job_key(job)
    session = past.complete(session_of_job(key))
    found = [one async for one in reader.history(EventFilter(session=session))]
    session_events = [one for one in found if isinstance(one, Event)]
    if not any(one.job == key for one in session_events):
        raise NotFound(f"no job {job}")
    history = await past.history_for(session)
    decisions = await _decisions(history, [one for one in session_events if one.job == key])
    last = await past.last_id(keys.cell_of(session))
    return explain(key, session_events, decisions, ms_of(last))


async def _decisions(history: History, job: Sequence[Event]) -> list[Decision]:
    """Each with everything as it was before it, where that is still known."""
    taken = [one for one in job if is_decision(one)]
    if not taken or not await history.is_complete():
        return [decision(None, one) for one in taken]
    ids = [one.id for one in taken]
    start = _just_before(ids[0])
    standing = await _standing_at(history, start)
    found = []
    async for entry in history.entries(start, ids[-1]):
        event = decode_event(entry)
        if isinstance(event, FailedEvent):
            continue
        if event.id in ids:
            found.append(decision(standing, event))
        standing.add(event)
    return found


async def size_of(past: HistorySource, cell: str) -> int:
    """About how many entries a cell's history has: for progress."""
    views, count = past.projection_store(cell), 0
    if past.archive is not None:
        count = sum(record.events for record in past.archive.cell(cell).records())
    if views is not None:
        log = views.keys.log
        count = max(count, await views.transport.command("XLEN", log, key=log))
    return count


async def replay(
    past: HistorySource,
    cell: str,
    since: LogPosition | None,
    until: LogPosition | None,
    progress: Progress,
) -> Replayed:
    """Every decision of a cell in a range, computed again.

    Raises NotFound when the beginning of its history is gone: decisions rest on all before them.
    """
    history = await past.history_of(cell)
    if not await history.is_complete():
        raise NotFound(f"no beginning of cell {cell}'s history is kept: what its decisions rest on")
    first = since.before if since else START
    done = Replay(await _standing_at(history, first))
    count = 0
    async for entry in history.entries(first, until.last if until else ""):
        event = decode_event(entry)
        if isinstance(event, Event):
            done.take(event)
        count += 1
        if count % TOLD_EVERY == 0:
            progress(count)
    return done.report


async def _standing_at(history: History, entry_id: str) -> SchedulerState:
    if parse_id(entry_id) == parse_id(START):
        return SchedulerState.at_the_start()
    return SchedulerState(await history.folding_at(entry_id))


def _just_before(entry_id: str) -> str:
    ms, seq = parse_id(entry_id)
    return LogPosition(ms, seq, entry_id).before
