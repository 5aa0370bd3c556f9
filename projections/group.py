"""Groups: results of one session and target, close enough in time to share context.

Owns: rules 27 to 30 (joining a group, group bounds, context of a job, closing groups) as a fold.
One record per session holds the active group of each target. The context of a group is a field of
its own, which the dispatch script copies into the next assignment without decoding it.
Must not: do I/O, read a clock, decide anything. Read next: job.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from eventsched.projection.protocol import Step, handled
from eventsched.schema.codec import decode_text
from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import (
    ContextText,
    Event,
    PlaybackEnded,
    PlaybackStarted,
    ResultDelivered,
    ResultRecorded,
    SessionClosed,
    SessionOpened,
    SessionRetired,
)
from eventsched.schema.keys import name_of
from eventsched.schema.nesting import check_msgpack

JOIN_MS = 2_000
PARTS_MAX = 8
CHARACTERS_MAX = 800
CIPHERTEXT_BYTES_MAX = 8_192
"""More than encrypted texts of 800 characters have: a script refuses longer ones."""
TARGETS_MAX = 64
"""Targets of a session, as the scripts bound them: a playback adds none beyond."""


PLAYBACKS = (PlaybackStarted, PlaybackEnded)


class Part(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One delivered result inside a group."""

    index: int
    utterance: int
    source_text: str
    text: str | None = None
    """The translation; None if it is missing."""
    ciphertext: bytes = b""
    """Both texts, encrypted. The two text fields are empty then."""
    ciphertext_characters: int = 0
    """How many characters the encrypted texts have."""


class Group(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One target of a session: its active group, if any, and the open playbacks of its speech."""

    n: int = -1
    """Number of the group, `<session>/<target>/<n>`; -1 before the first."""
    active: bool = False
    next_index: int = 0
    """Index of the next part; an index is never reused."""
    last_part_ms: int = 0
    playbacks: tuple[str, ...] = ()
    """Open playbacks, `<listener>/<utterance>`."""
    playback_ended_ms: int = 0
    """When the last playback ended."""
    parts: tuple[Part, ...] = ()
    """Oldest first."""


_EMPTY = Group()


class SessionGroups(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """All groups of one session."""

    session: str
    closed: bool = False
    targets: dict[str, Group] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SessionGroups).decode
_decode_context = msgspec.msgpack.Decoder(list[ContextText]).decode


def is_joinable(group: Group, at_ms: int) -> bool:
    """Rule 27, joining a group: whether a result delivered at `at_ms` joins the active group."""
    if not group.active:
        return False
    if group.playbacks:
        return True
    return at_ms - group.last_part_ms <= JOIN_MS or at_ms - group.playback_ended_ms <= JOIN_MS


def newest_parts(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Rule 28, group bounds: drop the oldest parts until the group is within all bounds.

    A node states the number of encrypted characters, so the ciphertext has a bound of its own.
    """
    parts = parts[-PARTS_MAX:]
    while not _is_within_bounds(parts):
        parts = parts[1:]
    return parts


def _is_within_bounds(parts: Sequence[Part]) -> bool:
    """Whether all texts, encrypted or not, have few enough characters, and the ciphertext bytes."""
    characters = ciphertext_bytes = 0
    for part in parts:
        characters += len(part.source_text) + part.ciphertext_characters
        if part.text:
            characters += len(part.text)
        ciphertext_bytes += len(part.ciphertext)
    return characters <= CHARACTERS_MAX and ciphertext_bytes <= CIPHERTEXT_BYTES_MAX


def encode_context(group: Group) -> bytes:
    """Encode the parts, oldest first, as the msgpack of `ContextText` that a node gets with a job.

    The last two fields are left out if a part is not encrypted. An encrypted part stays encrypted:
    the node decrypts it with the session's key.
    """
    return _encode(
        [
            [part.source_text, part.text, part.utterance]
            if not part.ciphertext
            else ["", None, part.utterance, part.ciphertext, part.ciphertext_characters]
            for part in group.parts
        ]
    )


def _opened(_: SessionGroups | None, event: Event, __: SessionOpened) -> SessionGroups:
    return SessionGroups(session=event.session)


def _delivered(
    view: SessionGroups, event: Event, data: ResultRecorded | ResultDelivered
) -> SessionGroups:
    """Rule 27, joining a group: a result joins when it is delivered, at the time of that event."""
    delivery = delivery_of(data)
    if delivery is None or delivery.outcome != "result" or view.closed:
        return view
    group, at_ms = view.targets.get(delivery.target, _EMPTY), event.ms
    if not is_joinable(group, at_ms):
        group = Group(n=group.n + 1, active=True, playbacks=group.playbacks)
    text = decode_text(event.body)
    part = Part(
        group.next_index,
        delivery.utterance,
        text.source_text,
        text.text,
        text.encrypted,
        text.characters,
    )
    return _with_group(
        view,
        delivery.target,
        replace(
            group,
            next_index=group.next_index + 1,
            last_part_ms=at_ms,
            parts=newest_parts((*group.parts, part)),
        ),
    )


def _with_group(view: SessionGroups, target: str, group: Group) -> SessionGroups:
    return replace(view, targets={**view.targets, target: group})


def _playback(event: Event, data: PlaybackStarted | PlaybackEnded) -> str:
    return f"{event.session}/{data.utterance}"


def _playback_started(view: SessionGroups, event: Event, data: PlaybackStarted) -> SessionGroups:
    if view.closed:
        return view
    group = view.targets.get(data.target, _EMPTY)
    playback = _playback(event, data)
    is_new = data.target not in view.targets
    if playback in group.playbacks or (is_new and len(view.targets) >= TARGETS_MAX):
        return view
    return _with_group(view, data.target, replace(group, playbacks=(*group.playbacks, playback)))


def _playback_ended(view: SessionGroups, event: Event, data: PlaybackEnded) -> SessionGroups:
    group = view.targets.get(data.target)
    playback = _playback(event, data)
    if group is None or playback not in group.playbacks:
        return view
    group = replace(
        group,
        playbacks=tuple([other for other in group.playbacks if other != playback]),
        playback_ended_ms=event.ms,
    )
    return _with_group(view, data.target, group)


def _closed(view: SessionGroups, _: Event, __: SessionClosed) -> SessionGroups:
    """Rule 30, closing groups: no job follows that would get a context."""
    targets = {
        target: Group(n=group.n, next_index=group.next_index, last_part_ms=group.last_part_ms)
        for target, group in view.targets.items()
    }
    return replace(view, closed=True, targets=targets)


def _retired(_: SessionGroups, __: Event, ___: SessionRetired) -> None:
    return None


def _parts(group: Group, context: Sequence[ContextText]) -> tuple[Part, ...]:
    """Rebuild the parts of a group from its context; the last part has the last index."""
    first = group.next_index - len(context)
    return tuple(
        [
            Part(
                index, part.utterance, part.source_text, part.text, part.encrypted, part.characters
            )
            for index, part in enumerate(context, first)
        ]
    )


STEPS: dict[type, Step] = {
    SessionOpened: _opened,
    ResultRecorded: _delivered,
    ResultDelivered: _delivered,
    PlaybackStarted: _playback_started,
    PlaybackEnded: _playback_ended,
    SessionClosed: _closed,
    SessionRetired: _retired,
}


class Groups:
    """One record per session, by its name in the cell.

    A playback belongs to the session whose speech is played, not to the listener's.
    """

    name = "group"
    version = 2
    view: Any = SessionGroups
    handles = handled(STEPS)

    def initial(self) -> None:
        return None

    def route(self, event: Event) -> tuple[str, ...]:
        """Return the name of the event's session.

        For a playback, this is the session whose speech is played.
        """
        data = event.data
        if isinstance(data, PLAYBACKS):
            return (name_of(data.origin),)
        return (name_of(event.session),) if event.session else ()

    def apply(self, view: SessionGroups | None, event: Event) -> SessionGroups | None:
        step = STEPS.get(type(event.data))
        if step is None or (view is None and step is not _opened):
            return view
        after: SessionGroups | None = step(view, event, event.data)
        return after

    def part(self, view: SessionGroups, part: str) -> Group | None:
        """Return the group `<target>/<n>` if it is active (rule 34, names)."""
        target, _, n = part.partition("/")
        group = view.targets.get(target)
        return group if group is not None and group.active and str(group.n) == n else None

    def encode(self, view: SessionGroups, before: SessionGroups | None) -> dict[str, bytes]:
        """Store the parts as contexts only: `context:<target>`, which the dispatch script copies
        without decoding (rule 29, context of a job)."""
        stored = before.targets if before is not None else {}
        without_parts = {target: replace(group, parts=()) for target, group in view.targets.items()}
        fields = {"v": _encode(replace(view, targets=without_parts))}
        for target, group in view.targets.items():
            if target not in stored or stored[target].parts is not group.parts:
                fields[f"context:{target}"] = encode_context(group)
        return fields

    def decode(self, fields: Mapping[str, bytes]) -> SessionGroups:
        view = _decode(check_msgpack(fields.get("v", b"")))
        targets = {}
        for target, group in view.targets.items():
            context = _decode_context(check_msgpack(fields.get(f"context:{target}", b"")))
            targets[target] = replace(group, parts=_parts(group, context))
        return replace(view, targets=targets)
