"""What a finalized utterance owes: a job for each target, given away at once or by the dispatcher.

Owns: rules 10 and 11, and when whoever finalizes dispatches.
Never does: choose a node (queue.py). Read next: queue.py.
"""

from __future__ import annotations

from eventsched.schema.events import Target
from eventsched.schema.keys import job_key, name_of
from tests.model import delivery, queue
from tests.model.world import Core, Work, World

AT_ONCE_MAX = 8
"""Jobs that one call gives away itself."""


def dispatch(w: World, work: Work) -> None:
    """Nobody goes ahead of what is in `work`, and without a dispatcher all of it waits there."""
    may_give = AT_ONCE_MAX - w.given_at_once if w.dispatcher_until > w.now else 0
    if len(work.targets) > may_give or w.streams.get(w.keys.dispatch):
        w.append(w.keys.dispatch, k="utterance", d=work)
    else:
        w.given_at_once += len(work.targets)
        place(w, work)


def place(w: World, work: Work) -> tuple[int, int]:
    """Each target still owed and without a job gets one: how many, how many find no slot."""
    wanted = {_key_of(work, one): _core_of(work, one) for one in still_owed(w, work)}
    w.obsolete += len(work.targets) - len(wanted)
    w.cores |= wanted
    told = [queue.place(w, key, 1, f"log/{work.log}") for key in wanted]
    return len(wanted), told.count("NO_AVAILABLE_NODE")


def still_owed(w: World, work: Work) -> list[Target]:
    """Targets that nobody has made a job of, and whose listeners still wait."""
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
