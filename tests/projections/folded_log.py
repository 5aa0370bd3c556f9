"""A log written one event a line, folded by one projection."""

from __future__ import annotations

from typing import Any

from eventsched.projection.protocol import Projection, record_codec
from eventsched.schema.codec import encode_text
from eventsched.schema.events import Data, Event, Text

CELL = "c0"
S1, S2 = "c0.s1", "c0.s2"


def job_key(utterance: int, target: str = "es", session: str = S1) -> str:
    return f"acme:{session}:{utterance}:translation:{target}:none"


def readable(source_text: str, text: str | None = None) -> bytes:
    return encode_text(Text(source_text=source_text, text=text))


def encrypted(characters: int, body: bytes = b"?") -> bytes:
    """A text that this test cannot decrypt; its length is readable."""
    return encode_text(Text(encrypted=body, characters=characters))


class FoldedLog:
    """The records of one projection after the events so far.

    The stored fields of each record are updated as well: after every event they must decode to the
    same record.
    """

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self.views: dict[str, Any] = {}
        self.stored: dict[str, dict[str, bytes]] = {}
        self.written: dict[str, bytes] = {}
        """The fields that the last event wrote."""
        self._codec = record_codec(projection)
        self._seq = 0

    def at(
        self,
        ms: int,
        data: Data,
        *,
        session: str = "",
        job: str = "",
        node: str = "",
        cause: str = "",
        body: bytes = b"",
    ) -> FoldedLog:
        """Append the event at `ms` and fold it."""
        self._seq += 1
        event = Event(
            id=f"{ms}-{self._seq}",
            type=type(data).__name__,
            session=session,
            job=job,
            cause=cause,
            node=node,
            data=data,  # type: ignore[arg-type]
            body=body,
        )
        if event.type in self.projection.handles:
            for entity in self.projection.route(event):
                before = self.views.get(entity, self.projection.initial())
                after = self.projection.apply(before, event)
                if after is None:
                    self.views.pop(entity, None)
                    self.stored.pop(entity, None)
                else:
                    self._store(entity, after)
                    self.views[entity] = after
        return self

    def _store(self, entity: str, after: Any) -> None:
        self.written = dict(self._codec.encode(after, self.views.get(entity)))
        fields = self.stored.setdefault(entity, {})
        fields.update(self.written)
        assert fields.items() >= self._codec.encode(after, None).items()
        assert self._codec.decode(fields | {"at": b"1-1"}) == after
