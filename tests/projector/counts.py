"""A user's read model: how many utterances each session has had.

Its first event does not make a record anew: what is folded twice shows.
"""

from __future__ import annotations

import msgspec

from eventsched.projection.protocol import ProjectionSet
from eventsched.schema.events import Event
from eventsched.schema.keys import name_of


class Counted(msgspec.Struct, frozen=True):
    utterances: int = 0


class Counts:
    name, version, view, handles = "counts", 1, Counted, frozenset({"UtteranceFinalized"})

    def initial(self) -> Counted:
        return Counted()

    def route(self, event: Event) -> tuple[str, ...]:
        return (name_of(event.session),)

    def apply(self, view: Counted, _: Event) -> Counted:
        return Counted(view.utterances + 1)


COUNTS = ProjectionSet("counts", (Counts(),))
