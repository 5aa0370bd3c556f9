"""Which entities an entry concerns that could not be folded.

Owns: the sessions, jobs and nodes whose folded record lacks an entry.
Must not: do I/O, compare.
Read next: verify.py (which compares the others), projection/fold.py.

Their record says less than their stored state, which may be right. So a comparison would show
differences that are none, and a repair would write the older state over the newer one.
"""

from __future__ import annotations

from collections.abc import Iterable

from eventsched.projection.fold import FailedEvent, Folding
from eventsched.projection.protocol import Projection
from eventsched.schema.events import Event, JobsRetired, NodeRetired, SessionRetired
from eventsched.schema.keys import name_of, session_of_job
from eventsched.store.replies import fields_of
from eventsched.store.transport import Entry
from projections.job import retired_jobs

KINDS = ("session", "job", "node")
"""The projections whose records state is compared with."""


class Incomplete:
    """The entities whose record lacks an entry, each with the id of the first such entry."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}

    def add(self, entry: Entry, failed: FailedEvent, folding: Folding) -> None:
        """The entry could not be folded, by the projections that `failed` names or by none."""
        if failed.event is None:
            self._add_names(failed.id, entry)
            return
        for part in folding.parts:
            kind = part.projection.name
            if kind not in KINDS or kind not in failed.projections:
                continue
            for entity in _routed(part.projection, failed.event):
                self._entries[kind].setdefault(entity, failed.id)
            if failed.event.session:
                self._entries["session"].setdefault(name_of(failed.event.session), failed.id)

    def _add_names(self, entry_id: str, entry: Entry) -> None:
        """The session, the job and the node in the envelope, which has one form in all versions."""
        fields = fields_of(entry[1])
        for kind, field in zip(KINDS, (b"s", b"j", b"n"), strict=True):
            name = fields.get(field, b"").decode(errors="replace")
            if name:
                entity = name if kind == "job" else name_of(name)
                self._entries[kind].setdefault(entity, entry_id)

    def has(self, kind: str, entity: str) -> bool:
        """Whether the record of the entity lacks an entry; also of a job whose session lacks one.

        Args:
            kind: A projection, or a kind of `read_entity`; others than KINDS lack none.
            entity: Name of a session or node, or key of a job.
        """
        if entity in self._entries.get(kind, ()):
            return True
        return kind == "job" and name_of(session_of_job(entity)) in self._entries["session"]

    def has_jobs(self) -> bool:
        """Whether the records of some job or session lack an entry."""
        return bool(self._entries["job"] or self._entries["session"])

    def has_nodes(self) -> bool:
        """Whether the record of some node lacks an entry."""
        return bool(self._entries["node"])

    def concerns(self, event: Event) -> bool:
        """Whether the records lack an entry with which the event would have to be compared."""
        return (
            self.has("session", name_of(event.session))
            or self.has("job", event.job)
            or self.has("node", name_of(event.node))
        )

    def retire(self, event: Event) -> None:
        """A record that is dropped lacks nothing more."""
        if isinstance(event.data, SessionRetired):
            name = name_of(event.session)
            self._entries["session"].pop(name, None)
            jobs = self._entries["job"]
            for key in [each for each in jobs if name_of(session_of_job(each)) == name]:
                del jobs[key]
        elif isinstance(event.data, JobsRetired) and self._entries["job"]:
            for key in retired_jobs(event.session, event.data):
                self._entries["job"].pop(key, None)
        elif isinstance(event.data, NodeRetired):
            self._entries["node"].pop(name_of(event.node), None)

    def lines(self) -> list[str]:
        """A line for each entity: its kind, its name, and the entry."""
        return [
            f"{kind} {entity}: log/{entry_id} could not be folded"
            for kind, entities in self._entries.items()
            for entity, entry_id in entities.items()
        ]


def _routed(projection: Projection, event: Event) -> Iterable[str]:
    """The entities that the projection changes by the event; none if it cannot name them."""
    try:
        return list(projection.route(event))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  the code of a projection failed before, in the fold
        return []
