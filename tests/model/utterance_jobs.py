"""The jobs of a finalized utterance, one for each target, dispatched eagerly or by the dispatcher.

Owns: rules 10, job identity, and 11, one atomic dispatch; when a finalizing call dispatches itself,
and which records of ended jobs it deletes.
Never does: choose a node (queue.py). Read next: queue.py.
"""

from __future__ import annotations

from eventsched.schema.events import JobsRetired, Target
from eventsched.schema.ids import ms_of
from eventsched.schema.keys import job_key, name_of
from projections.job import retired_jobs
from tests.model import delivery, queue
from tests.model.world import Core, DispatchEntry, World

KEPT_UTTERANCES, RETIRED_JOBS_MAX = 16, 128
EAGER_JOBS_MAX = 8
"""Jobs that one call gives away itself."""


def dispatch(w: World, entry: DispatchEntry) -> None:
    """Dispatch the jobs in this call if the dispatch queue is empty and a dispatcher is present.

    A setting of the cell switches this off.
    """
    is_there = w.settings.eager_dispatch and w.dispatcher_until > w.now
    jobs_left = EAGER_JOBS_MAX - w.eager_jobs if is_there else 0
    if len(entry.targets) > jobs_left or w.streams.get(w.keys.dispatch):
        w.append(w.keys.dispatch, k="utterance", d=entry)
        w.count_undispatched(entry.tenant, len(entry.targets))
    else:
        w.eager_jobs += len(entry.targets)
        place(w, entry)


def place(w: World, entry: DispatchEntry) -> tuple[int, int]:
    """Create a job for each missing target: how many there are, how many find no slot."""
    cores = {
        _key_of(entry, target): _core_of(entry, target) for target in missing_targets(w, entry)
    }
    w.obsolete += len(entry.targets) - len(cores)
    w.cores |= cores
    reasons = [queue.place(w, key, 1, f"log/{entry.log}") for key in cores]
    return len(cores), reasons.count("NO_AVAILABLE_NODE")


def missing_targets(w: World, entry: DispatchEntry) -> list[Target]:
    """The targets that have no job yet and whose outcome is open."""
    name = name_of(entry.session)
    return [
        target
        for target in entry.targets
        if _key_of(entry, target) not in w.jobs
        and delivery.open_outcome(w, name, target.target, target.delivery_no) is not None
    ]


def retire(w: World, name: str) -> None:
    """Delete the records of ended jobs, oldest utterance first.

    Those of the newest 16 utterances stay, and those since the oldest with an open outcome.
    """
    view = w.sessions[name]
    before = min(
        [
            view.utterance - KEPT_UTTERANCES,
            *(each.utterance for each in view.open_outcomes.values()),
        ]
    )
    targets = sorted(view.allocated)
    step = max(1, min(KEPT_UTTERANCES, RETIRED_JOBS_MAX // max(1, len(targets))))
    if before < view.retired_to + step:
        return
    data = JobsRetired(
        tenant=view.tenant,
        features_hash=view.features_hash,
        first=view.retired_to,
        last=view.retired_to + step - 1,
        targets=targets,
    )
    keys = retired_jobs(view.session, data)
    assert all(w.jobs[key].status == "ended" for key in keys if key in w.jobs)
    w.emit(data, session=view.session)
    for key in keys:
        w.cores.pop(key, None)
        w.refused.pop(key, None)
        w.deadlines.pop(key, None)


def _key_of(entry: DispatchEntry, target: Target) -> str:
    return job_key(entry.tenant, entry.session, entry.utterance, target.target, entry.features_hash)


def _core_of(entry: DispatchEntry, target: Target) -> Core:
    return Core(
        tenant=entry.tenant,
        session=entry.session,
        utterance=entry.utterance,
        turn=entry.turn,
        source=entry.source,
        target=target.target,
        features=entry.features,
        encoding=entry.encoding,
        sample_rate=entry.sample_rate,
        first=entry.first,
        last=entry.last,
        count=entry.count,
        bytes=entry.bytes,
        ms=entry.ms,
        padding_ms=entry.padding_ms,
        priority=entry.priority,
        tp=entry.tp,
        key=entry.key,
        delivery_no=target.delivery_no,
        finalized=ms_of(entry.log),
    )
