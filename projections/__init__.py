"""The read models, one file each. They import public names of eventsched and nothing else.

Owns: what the log's events add up to, per session, group, job and node; which of them make up
the set `core`, folded in one pass; which sessions' trails an event belongs to.
Never does: I/O, clocks, decisions. The same events give the same records, whenever replayed.
Records are stored as arrays, without names: a new field goes to the end and has a default, and any
other change of fields is a new version of its read model.
Read next: session.py.
"""

from __future__ import annotations

from eventsched.projection.protocol import ProjectionSet
from eventsched.schema.events import Event, PlaybackEnded, PlaybackStarted
from eventsched.schema.keys import name_of
from projections.group import Groups
from projections.job import Jobs
from projections.node import Nodes
from projections.session import Sessions


def sessions_of(event: Event) -> tuple[str, ...]:
    """The sessions that the event is part of: whose it is, and whose sound was heard there."""
    if not event.session:
        return ()
    name = name_of(event.session)
    if isinstance(event.data, PlaybackStarted | PlaybackEnded):
        origin = name_of(event.data.origin)
        return (name,) if origin == name else (name, origin)
    return (name,)


core = ProjectionSet("core", (Sessions(), Groups(), Jobs(), Nodes()), sessions_of)
