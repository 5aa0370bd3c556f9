"""The jobs of a finalized utterance, one for each target, dispatched eagerly or by the dispatcher.

Owns: rules 10, job identity, and 11, one atomic dispatch; when a finalizing call dispatches itself.
Never does: choose a node (queue.py). Read next: queue.py.
"""

from __future__ import annotations

from eventsched.schema.events import Target
from eventsched.schema.keys import job_key, name_of
from tests.model import delivery, queue
from tests.model.world import Core, Work, World

EAGER_JOBS_MAX = 8
"""Jobs that one call gives away itself."""


def dispatch(w: World, work: Work) -> None:
    """Dispatch the jobs in this call if the dispatch queue is empty and a dispatcher is present."""
    jobs_left = EAGER_JOBS_MAX - w.eager_jobs if w.dispatcher_until > w.now else 0
    if len(work.targets) > jobs_left or w.streams.get(w.keys.dispatch):
        w.append(w.keys.dispatch, k="utterance", d=work)
    else:
        w.eager_jobs += len(work.targets)
        place(w, work)


def place(w: World, work: Work) -> tuple[int, int]:
    """Create a job for each missing target: how many there are, how many find no slot."""
    cores = {_key_of(work, one): _core_of(work, one) for one in missing_targets(w, work)}
    w.obsolete += len(work.targets) - len(cores)
    w.cores |= cores
    told = [queue.place(w, key, 1, f"log/{work.log}") for key in cores]
    return len(cores), told.count("NO_AVAILABLE_NODE")


def missing_targets(w: World, work: Work) -> list[Target]:
    """The targets that have no job yet and whose outcome is open."""
    name = name_of(work.session)
    return [
        one
        for one in work.targets
        if _key_of(work, one) not in w.jobs
        and delivery.open_outcome(w, name, one.target, one.delivery_no) is not None
    ]


def _key_of(work: Work, one: Target) -> str:
    return job_key(work.tenant, work.session, work.utterance, one.target, work.features_hash)


def _core_of(work: Work, one: Target) -> Core:
    return Core(
        tenant=work.tenant,
        session=work.session,
        utterance=work.utterance,
        turn=work.turn,
        source=work.source,
        target=one.target,
        features=work.features,
        encoding=work.encoding,
        sample_rate=work.sample_rate,
        first=work.first,
        last=work.last,
        count=work.count,
        bytes=work.bytes,
        ms=work.ms,
        padding_ms=work.padding_ms,
        priority=work.priority,
        tp=work.tp,
        key=work.key,
        delivery_no=one.delivery_no,
    )
