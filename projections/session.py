"""The session: what it is, what it owes its listeners, and its last utterances.

Owns: rules 1-8 and 23-25 as a fold. It holds all that scripts decide by (verify, I7): status,
epoch, index, turn, places in the delivery order, open outcomes, open playbacks, affinity.
Never does: I/O, clocks, decisions. Read next: group.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import compress
from operator import attrgetter, is_not
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from eventsched.projection.protocol import Step, handled
from eventsched.schema.events import (
    Event,
    JobDispatched,
    JobFailed,
    PlaybackEnded,
    PlaybackStarted,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
    ResultRefused,
    ResultReplaced,
    RoomLeft,
    SessionClosed,
    SessionClosing,
    SessionErased,
    SessionOpened,
    SessionResumed,
    SessionRetired,
    UtteranceFinalized,
)
from eventsched.schema.events import Outcome as End
from eventsched.schema.keys import name_of

RECENT_MAX = 16
Status: TypeAlias = Literal["open", "closing", "closed"]


class Owed(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """An open outcome: one (utterance, target) whose listeners still wait."""

    utterance: int
    first: str
    """Id of the utterance's first chunk: the audio is kept from there on."""
    to: tuple[str, ...] = ()
    """Sessions that hear it; empty means the speaker alone."""
    ready: End | Literal[""] = ""
    """How its job ended, while it waits behind a gap; empty while the job goes on."""
    ready_ms: int = 0


class Utterance(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One of the last utterances and how each of its targets ended so far."""

    utterance: int
    turn: int
    reason: str
    at_ms: int
    ms: int
    bytes: int = 0
    targets: tuple[str, ...] = ()
    ended: dict[str, End] = {}


class Session(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One session as the log tells it."""

    session: str
    tenant: str
    source: str
    opened_ms: int
    at_ms: int
    """Time of the last event of this session."""
    status: Status = "open"
    epoch: int = 1
    targets: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    features_hash: str = "none"
    encoding: str = "pcm16"
    sample_rate: int = 16_000
    priority: int = 1
    room: str = ""
    listen_language: str = ""
    key: str = ""
    """Id of its key; empty when it is not encrypted."""
    erased_ms: int = 0
    """When it was on record that its key is destroyed."""
    in_room: bool = False
    utterance: int = 0
    """Index of the utterance that is not finalized yet."""
    turn: int = 0
    """The turn that it belongs to."""
    next_seq: int = 0
    """The first chunk number after the last finalized utterance, or later."""
    allocated: dict[str, int] = {}
    """Target -> the delivery number that the next utterance gets."""
    delivered: dict[str, int] = {}
    """Target -> the delivery number that goes out next."""
    owed: dict[str, Owed] = {}
    """`<target>/<delivery_no>` -> the open outcome."""
    playing: dict[str, int] = {}
    """`<origin>/<target>/<utterance>` -> when it is taken as ended."""
    node: str = ""
    """Node of the last dispatch, and the turn that it worked for."""
    node_turn: int = 0
    reason: str = ""
    """Why it closes."""
    closed_ms: int = 0
    audio_ms: int = 0
    dispatches: int = 0
    results: int = 0
    no_speech: int = 0
    failed: int = 0
    missing: int = 0
    refused: int = 0
    recent: tuple[Utterance, ...] = ()


def owed_key(target: str, delivery_no: int) -> str:
    return f"{target}/{delivery_no}"


def playing_key(data: PlaybackStarted | PlaybackEnded) -> str:
    return f"{data.origin}/{data.target}/{data.utterance}"


def _opened(_: Session | None, event: Event, data: SessionOpened) -> Session:
    return Session(
        session=event.session,
        tenant=data.tenant,
        source=data.source,
        opened_ms=event.ms,
        at_ms=event.ms,
        epoch=data.epoch,
        targets=tuple(data.targets),
        features=tuple(data.features),
        features_hash=data.features_hash,
        encoding=data.encoding,
        sample_rate=data.sample_rate,
        priority=data.priority,
        room=data.room,
        listen_language=data.listen_language,
        key=data.key,
        in_room=bool(data.room),
    )


def _resumed(view: Session, event: Event, data: SessionResumed) -> Session:
    return replace(view, epoch=data.epoch, at_ms=event.ms)


def _finalized(view: Session, event: Event, data: UtteranceFinalized) -> Session:
    """Rule 25: each target owes one outcome. Rule 2: a cut by length keeps the turn."""
    allocated, owed, targets = view.allocated.copy(), view.owed.copy(), []
    for one in data.targets:
        targets.append(one.target)
        allocated[one.target] = one.delivery_no + 1
        key = owed_key(one.target, one.delivery_no)
        owed[key] = Owed(data.utterance, data.first, tuple(one.to))
    latest = Utterance(
        data.utterance,
        data.turn,
        data.reason,
        event.ms,
        data.ms,
        data.bytes,
        tuple(targets),
    )
    return replace(
        view,
        utterance=data.utterance + 1,
        turn=data.turn if data.reason == "max_duration" else data.turn + 1,
        next_seq=data.first_seq + data.count,
        allocated=allocated,
        owed=owed,
        audio_ms=view.audio_ms + data.ms,
        recent=(*_recent(view.recent[1 - RECENT_MAX :], data.utterance + 1), latest),
        at_ms=event.ms,
    )


def _recent(utterances: tuple[Utterance, ...], end: int) -> tuple[Utterance, ...]:
    """Of the last 16 before `end`; where one was passed by, they are fewer."""
    if utterances and utterances[0].utterance < end - RECENT_MAX:
        return tuple(one for one in utterances if one.utterance >= end - RECENT_MAX)
    return utterances


def _dispatched(view: Session, event: Event, data: JobDispatched) -> Session:
    """Rule 16: affinity is to the node of this turn, else of this session."""
    return replace(
        view,
        node=event.node,
        node_turn=data.turn,
        dispatches=view.dispatches + 1,
        at_ms=event.ms,
    )


def _job_ended(view: Session, event: Event, data: ResultRecorded | JobFailed) -> Session:
    """Its outcome is ready; it goes out with the delivery event, now or behind a gap."""
    key = owed_key(data.target, data.delivery_no)
    owed = view.owed.get(key)
    if owed is None:
        return replace(view, at_ms=event.ms)
    end: End = "failed"
    if isinstance(data, ResultRecorded):
        end = "no_speech" if data.status == "no_speech" else "result"
    ready_ms = owed.ready_ms or event.ms  # a replaced result keeps its place in time
    ready = Owed(owed.utterance, owed.first, owed.to, end, ready_ms)
    return replace(view, owed={**view.owed, key: ready}, at_ms=event.ms)


def _delivered(view: Session, event: Event, data: ResultDelivered | ResultMissing) -> Session:
    end: End = data.outcome if isinstance(data, ResultDelivered) else "missing"
    owed = view.owed.copy()
    owed.pop(owed_key(data.target, data.delivery_no), None)
    return replace(
        view,
        owed=owed,
        delivered={**view.delivered, data.target: data.delivery_no + 1},
        results=view.results + (end == "result"),
        no_speech=view.no_speech + (end == "no_speech"),
        failed=view.failed + (end == "failed"),
        missing=view.missing + (end == "missing"),
        recent=_with_end(view.recent, data.utterance, data.target, end),
        at_ms=event.ms,
    )


def _with_end(
    recent: tuple[Utterance, ...], utterance: int, target: str, end: End
) -> tuple[Utterance, ...]:
    place = min(utterance - recent[0].utterance, len(recent) - 1) if recent else -1
    while place > 0 and recent[place].utterance > utterance:  # one before it was passed by
        place -= 1
    if place < 0 or recent[place].utterance != utterance:
        return recent
    old = recent[place]
    new = replace(old, ended={**old.ended, target: end})
    return (*recent[:place], new, *recent[place + 1 :])


def _refused(view: Session, event: Event, _: ResultRefused) -> Session:
    return replace(view, refused=view.refused + 1, at_ms=event.ms)


def _playback_started(view: Session, event: Event, data: PlaybackStarted) -> Session:
    """Rule 5: open where it is heard, until ended or overdue."""
    playing = {**view.playing, playing_key(data): data.until_ms}
    return replace(view, playing=playing, at_ms=event.ms)


def _playback_ended(view: Session, event: Event, data: PlaybackEnded) -> Session:
    playing = view.playing.copy()
    playing.pop(playing_key(data), None)
    return replace(view, playing=playing, at_ms=event.ms)


def _closing(view: Session, event: Event, data: SessionClosing) -> Session:
    return replace(view, status="closing", reason=data.reason, at_ms=event.ms)


def _left(view: Session, event: Event, _: RoomLeft) -> Session:
    return replace(view, in_room=False, at_ms=event.ms)


def _closed(view: Session, event: Event, _: SessionClosed) -> Session:
    return replace(view, status="closed", closed_ms=event.ms, at_ms=event.ms)


def _erased(view: Session, event: Event, _: SessionErased) -> Session:
    return replace(view, erased_ms=event.ms, at_ms=event.ms)


def _retired(_: Session, __: Event, ___: SessionRetired) -> None:
    return None


STEPS: dict[type, Step] = {
    SessionOpened: _opened,
    SessionResumed: _resumed,
    UtteranceFinalized: _finalized,
    JobDispatched: _dispatched,
    JobFailed: _job_ended,
    ResultRecorded: _job_ended,
    ResultReplaced: _job_ended,
    ResultRefused: _refused,
    ResultDelivered: _delivered,
    ResultMissing: _delivered,
    PlaybackStarted: _playback_started,
    PlaybackEnded: _playback_ended,
    SessionClosing: _closing,
    RoomLeft: _left,
    SessionClosed: _closed,
    SessionErased: _erased,
    SessionRetired: _retired,
}


def _new_of(recent: tuple[Utterance, ...], before: tuple[Utterance, ...]) -> Iterable[Utterance]:
    """Those that were not there before, or not so."""
    if recent is before:
        return ()
    if before and recent:
        before = before[recent[0].utterance - before[0].utterance :]
    return (*compress(recent, map(is_not, recent, before)), *recent[len(before) :])


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Session).decode
_utterance = msgspec.msgpack.Decoder(Utterance).decode


class Sessions:
    """One record per session, by its name in the cell."""

    name = "session"
    version = 2
    view: Any = Session
    handles = handled(STEPS)

    def initial(self) -> None:
        return None

    def route(self, event: Event) -> tuple[str, ...]:
        return (name_of(event.session),) if event.session else ()

    def apply(self, view: Session | None, event: Event) -> Session | None:
        step = STEPS.get(type(event.data))
        if step is None or (view is None and step is not _opened):
            return view
        after: Session | None = step(view, event, event.data)
        return after

    def encode(self, view: Session, before: Session | None) -> dict[str, bytes]:
        """The last utterances are fields of their own, `u<index mod 16>`: one or two of them change
        at a time."""
        fields = {"v": _encode(replace(view, recent=()))}
        for one in _new_of(view.recent, before.recent if before is not None else ()):
            fields[f"u{one.utterance % RECENT_MAX}"] = _encode(one)
        return fields

    def decode(self, fields: Mapping[str, bytes]) -> Session:
        recent = [_utterance(value) for name, value in fields.items() if name[0] == "u"]
        recent.sort(key=attrgetter("utterance"))
        view = _decode(fields.get("v", b""))
        return replace(view, recent=_recent(tuple(recent), view.utterance))
