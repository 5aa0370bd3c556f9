"""An example of your own read model: the amount of speech on each day.

A projector folds it once your package names it in an entry point, and once the operator enables it:

    [project.entry-points."eventsched.projections"]
    minutes = "eventsched.examples.minutes:Minutes"

    export EVENTSCHED_PROJECTIONS=minutes

`eventsched state minutes 2026-11-25` reads a record; `eventsched rebuild minutes --why TEXT`
folds the whole history again.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from eventsched.schema.events import Event, UtteranceFinalized


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one day."""

    utterances: int = 0
    audio_ms: int = 0


class Minutes:
    """The fold. It reads no clock but the events' times, so equal events give equal records."""

    name = "minutes"
    version = 1
    view = Day
    handles = frozenset({"UtteranceFinalized"})

    def initial(self) -> Day:
        return Day()

    def route(self, event: Event) -> list[str]:
        """The ids of the records that the event changes: its day."""
        return [datetime.fromtimestamp(event.ms / 1_000, tz=UTC).date().isoformat()]

    def apply(self, view: Day, event: Event) -> Day:
        assert isinstance(event.data, UtteranceFinalized)
        return Day(utterances=view.utterances + 1, audio_ms=view.audio_ms + event.data.ms)
