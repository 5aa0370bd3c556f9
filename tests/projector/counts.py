"""A user's read model: the number of utterances of each session.

An event that is folded twice is counted twice.
"""

from __future__ import annotations

import msgspec

from eventsched.projection.protocol import ProjectionSet
from eventsched.schema.events import Event
from eventsched.schema.keys import name_of


class UtteranceCount(msgspec.Struct, frozen=True):
    utterances: int = 0


class Counts:
    name, version, view, handles = "counts", 1, UtteranceCount, frozenset({"UtteranceFinalized"})

    def initial(self) -> UtteranceCount:
        return UtteranceCount()

    def route(self, event: Event) -> tuple[str, ...]:
        return (name_of(event.session),)

    def apply(self, view: UtteranceCount, _: Event) -> UtteranceCount:
        return UtteranceCount(view.utterances + 1)


COUNTS = ProjectionSet("counts", (Counts(),))
