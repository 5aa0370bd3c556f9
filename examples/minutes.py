"""A read model of your own: how much was said on each day.

A projector folds it once your package names it by an entry point:

    [project.entry-points."eventsched.projections"]
    minutes = "examples.minutes:Minutes"

`eventsched state minutes 2026-11-25` reads a record, `eventsched rebuild minutes` folds all anew.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from eventsched.schema.events import Event, UtteranceFinalized


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """One record."""

    utterances: int = 0
    audio_ms: int = 0


class Minutes:
    """Pure: no clock but the event's, so the same events give the same records."""

    name = "minutes"
    version = 1
    view = Day
    handles = frozenset({"UtteranceFinalized"})

    def initial(self) -> Day:
        return Day()

    def route(self, event: Event) -> list[str]:
        """The record's id: the day."""
        return [datetime.fromtimestamp(event.ms / 1_000, tz=UTC).date().isoformat()]

    def apply(self, view: Day, event: Event) -> Day:
        assert isinstance(event.data, UtteranceFinalized)
        return Day(utterances=view.utterances + 1, audio_ms=view.audio_ms + event.data.ms)
