"""Groups: results of one session and target, close enough in time to share context.

Owns: rules 27-30 as a fold. One record per session holds the active group of each target and
its context, one opaque field that dispatch copies into the next assignment.
Never does: I/O, clocks, decisions. Read next: job.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from eventsched.projection.protocol import Step, handled
from eventsched.schema.codec import decode_text
from eventsched.schema.events import (
    ContextText,
    Event,
    PlaybackEnded,
    PlaybackStarted,
    ResultDelivered,
    SessionClosed,
    SessionOpened,
    SessionRetired,
)
from eventsched.schema.keys import name_of

JOIN_MS = 2_000
PARTS_MAX = 8
CHARACTERS_MAX = 800


class Part(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One delivered result inside a group."""

    index: int
    utterance: int
    source_text: str
    text: str | None = None
    """The translation; none when it is missing."""
    sealed: bytes = b""
    """Both, encrypted; they are empty then."""
    sealed_characters: int = 0


class Group(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One target of a session: the active group, if any, and what plays of it."""

    n: int = -1
    """Number of the group, `<session>/<target>/<n>`; -1 before the first."""
    active: bool = False
    next_index: int = 0
    """The part_index that the next part gets; never used again."""
    last_part_ms: int = 0
    playing: tuple[str, ...] = ()
    """Open playbacks, `<listener>/<utterance>`."""
    played_ms: int = 0
    """When the last playback ended."""
    parts: tuple[Part, ...] = ()
    """Oldest first."""


_NONE = Group()


class SessionGroups(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """All groups of one session."""

    session: str
    closed: bool = False
    targets: dict[str, Group] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SessionGroups).decode
_said_of = msgspec.msgpack.Decoder(list[ContextText]).decode


def joins(group: Group, at_ms: int) -> bool:
    """Rule 27: whether a result delivered at `at_ms` belongs to the active group."""
    if not group.active:
        return False
    if group.playing:
        return True
    return at_ms - group.last_part_ms <= JOIN_MS or at_ms - group.played_ms <= JOIN_MS


def characters(parts: Sequence[Part]) -> int:
    """How long they are together, be they sealed or not."""
    total = 0
    for one in parts:
        total += len(one.source_text) + len(one.text or "") + one.sealed_characters
    return total


def kept(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Rule 28: the newest parts within both bounds; the oldest go first."""
    parts = parts[-PARTS_MAX:]
    while characters(parts) > CHARACTERS_MAX:
        parts = parts[1:]
    return parts


def context_of(group: Group) -> bytes:
    """What a node gets, oldest first: msgpack of `ContextText`, cut short where nothing is sealed.

    What is sealed stays so: the node opens it with the session's key.
    """
    return _encode(
        [
            [one.source_text, one.text, one.utterance]
            if not one.sealed
            else ["", None, one.utterance, one.sealed, one.sealed_characters]
            for one in group.parts
        ]
    )


def _opened(_: SessionGroups | None, event: Event, __: SessionOpened) -> SessionGroups:
    return SessionGroups(session=event.session)


def _delivered(view: SessionGroups, event: Event, data: ResultDelivered) -> SessionGroups:
    if data.outcome != "result" or view.closed:
        return view
    group, at_ms = view.targets.get(data.target, _NONE), event.ms
    if not joins(group, at_ms):
        group = Group(n=group.n + 1, active=True, playing=group.playing)
    said = decode_text(event.body)
    part = Part(
        group.next_index,
        data.utterance,
        said.source_text,
        said.text,
        said.sealed,
        said.characters,
    )
    return _put(
        view,
        data.target,
        replace(
            group,
            next_index=group.next_index + 1,
            last_part_ms=at_ms,
            parts=kept((*group.parts, part)),
        ),
    )


def _put(view: SessionGroups, target: str, group: Group) -> SessionGroups:
    return replace(view, targets={**view.targets, target: group})


def _heard(event: Event, data: PlaybackStarted | PlaybackEnded) -> str:
    return f"{event.session}/{data.utterance}"


def _playback_started(view: SessionGroups, event: Event, data: PlaybackStarted) -> SessionGroups:
    if view.closed:
        return view
    group = view.targets.get(data.target, _NONE)
    mark = _heard(event, data)
    if mark in group.playing:
        return view
    return _put(view, data.target, replace(group, playing=(*group.playing, mark)))


def _playback_ended(view: SessionGroups, event: Event, data: PlaybackEnded) -> SessionGroups:
    group = view.targets.get(data.target)
    mark = _heard(event, data)
    if group is None or mark not in group.playing:
        return view
    playing = tuple([one for one in group.playing if one != mark])
    return _put(view, data.target, replace(group, playing=playing, played_ms=event.ms))


def _closed(view: SessionGroups, _: Event, __: SessionClosed) -> SessionGroups:
    """Rule 30: closing a session closes its groups; there is no next job to get a context."""
    targets = {
        target: Group(n=group.n, next_index=group.next_index, last_part_ms=group.last_part_ms)
        for target, group in view.targets.items()
    }
    return replace(view, closed=True, targets=targets)


def _retired(_: SessionGroups, __: Event, ___: SessionRetired) -> None:
    return None


def _parts(group: Group, context: Sequence[ContextText]) -> tuple[Part, ...]:
    """What a context says, again as parts of the group: the last of them has the last index."""
    first = group.next_index - len(context)
    return tuple(
        [
            Part(first + i, one.utterance, one.source_text, one.text, one.sealed, one.characters)
            for i, one in enumerate(context)
        ]
    )


STEPS: dict[type, Step] = {
    SessionOpened: _opened,
    ResultDelivered: _delivered,
    PlaybackStarted: _playback_started,
    PlaybackEnded: _playback_ended,
    SessionClosed: _closed,
    SessionRetired: _retired,
}


class Groups:
    """One record per session, by its name in the cell; playbacks count for whose sound it is."""

    name = "group"
    version = 2
    view: Any = SessionGroups
    handles = handled(STEPS)

    def initial(self) -> None:
        return None

    def route(self, event: Event) -> tuple[str, ...]:
        data = event.data
        if isinstance(data, PlaybackStarted | PlaybackEnded):
            return (name_of(data.origin),)
        return (name_of(event.session),) if event.session else ()

    def apply(self, view: SessionGroups | None, event: Event) -> SessionGroups | None:
        step = STEPS.get(type(event.data))
        if step is None or (view is None and step is not _opened):
            return view
        after: SessionGroups | None = step(view, event, event.data)
        return after

    def part(self, view: SessionGroups, part: str) -> Group | None:
        """The group `<target>/<n>` while it is the active one (rule 34)."""
        target, _, n = part.partition("/")
        group = view.targets.get(target)
        return group if group is not None and group.active and str(group.n) == n else None

    def encode(self, view: SessionGroups, before: SessionGroups | None) -> dict[str, bytes]:
        """Parts are kept as the context of the next job alone: `context:<target>`, which the
        dispatch script copies unread (rule 29)."""
        known = before.targets if before is not None else {}
        bare = {target: replace(group, parts=()) for target, group in view.targets.items()}
        fields = {"v": _encode(replace(view, targets=bare))}
        for target, group in view.targets.items():
            if target not in known or known[target].parts is not group.parts:
                fields[f"context:{target}"] = context_of(group)
        return fields

    def decode(self, fields: Mapping[str, bytes]) -> SessionGroups:
        view = _decode(fields.get("v", b""))
        targets = {}
        for target, group in view.targets.items():
            context = _said_of(fields.get(f"context:{target}", b""))
            targets[target] = replace(group, parts=_parts(group, context))
        return replace(view, targets=targets)
