"""The read models, one file each. They import public names of eventsched and nothing else.

Owns: the records that the log's events fold into, per session, group, job and node, and
the counters of a cell; the set `core`,
which one projector folds in one pass; the session indexes that an event belongs to.
Must not: do I/O, read a clock, decide anything. The same events give the same records at any time.
Records are stored as arrays without field names. A new field is added at the end, with a default;
every other change of the fields needs a new version of the read model.
Read next: session.py.
"""

from __future__ import annotations

from eventsched.projection.protocol import ProjectionSet
from eventsched.schema.events import Event
from eventsched.schema.keys import name_of
from projections.group import PLAYBACKS, Groups
from projections.job import Jobs
from projections.metrics import Metrics
from projections.node import Nodes
from projections.session import Sessions


def sessions_of(event: Event) -> tuple[str, ...]:
    """Return the session of the event and, for a playback, the session whose speech is played."""
    if not event.session:
        return ()
    name = name_of(event.session)
    data = event.data
    if isinstance(data, PLAYBACKS):
        origin = name_of(data.origin)
        return (name,) if origin == name else (name, origin)
    return (name,)


core = ProjectionSet("core", (Sessions(), Groups(), Jobs(), Nodes(), Metrics()), sessions_of)
