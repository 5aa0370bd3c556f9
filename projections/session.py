"""The session: its state, its open outcomes, and its last utterances.

Owns: rules 1 to 8 (sessions and utterances) and 23 to 25 (one result per job, no speech, ordered
delivery) as a fold. A record holds everything by which scripts decide (`verify` checks it, I7):
status, epoch, utterance index, turn, delivery order, open outcomes, open playbacks, affinity.
Must not: do I/O, read a clock, decide anything. Read next: group.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import compress
from operator import attrgetter, is_not
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from eventsched.projection.protocol import Step, handled
from eventsched.schema.deliveries import Delivery, delivery_of
from eventsched.schema.events import (
    Event,
    JobDispatched,
    JobFailed,
    JobsRetired,
    Outcome,
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
    Target,
    UtteranceFinalized,
)
from eventsched.schema.keys import name_of
from eventsched.schema.nesting import check_msgpack

RECENT_MAX = 16
Status: TypeAlias = Literal["open", "closing", "closed"]


class OpenOutcome(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """The outcome of one utterance and target, not delivered yet."""

    utterance: int
    first: str
    """Id of the utterance's first chunk: the audio is needed from there on."""
    recipients: tuple[str, ...] = ()
    """Sessions that get the outcome; empty means the speaker's session alone."""
    outcome: Outcome | Literal[""] = ""
    """How the job ended, if an earlier delivery number is still open; empty while it runs."""
    ready_ms: int = 0
    """When the job ended."""


class Utterance(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One of the last utterances, with the outcomes of its targets so far."""

    utterance: int
    turn: int
    reason: str
    """Why it was finalized (rule 2, finalize reasons)."""
    finalized_ms: int
    audio_ms: int
    bytes: int = 0
    targets: tuple[str, ...] = ()
    outcomes: dict[str, Outcome] = {}
    """Target -> its outcome, once delivered."""


class Session(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One session, folded from the log."""

    session: str
    tenant: str
    source: str
    opened_ms: int
    updated_ms: int
    """Time of the last event that changed this record."""
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
    """Id of its key; empty if the session is not encrypted."""
    erased_ms: int = 0
    """When SessionErased recorded that the key is destroyed; 0 before."""
    in_room: bool = False
    utterance: int = 0
    """Index of the current utterance, which is not finalized yet."""
    turn: int = 0
    """The turn of the current utterance."""
    next_seq: int = 0
    """Number of the first chunk after the last finalized utterance, or a later one."""
    allocated: dict[str, int] = {}
    """Target -> how many delivery numbers are allocated, from 0; the next utterance gets this."""
    delivered: dict[str, int] = {}
    """Target -> how many delivery numbers are delivered; this number is delivered next."""
    open_outcomes: dict[str, OpenOutcome] = {}
    """By `<target>/<delivery_no>`."""
    playbacks: dict[str, int] = {}
    """Open playbacks: `<origin>/<target>/<utterance>` -> when a timer ends the playback."""
    node: str = ""
    """Node of the last dispatch."""
    node_turn: int = 0
    """Turn of the last dispatch."""
    reason: str = ""
    """Why the session is closing or closed."""
    closed_ms: int = 0
    audio_ms: int = 0
    dispatches: int = 0
    results: int = 0
    no_speech: int = 0
    failed: int = 0
    missing: int = 0
    refused: int = 0
    recent: tuple[Utterance, ...] = ()
    retired_to: int = 0
    """The jobs of the utterances before this index have no records any more."""


def outcome_key(target: str, delivery_no: int) -> str:
    return f"{target}/{delivery_no}"


def playback_key(data: PlaybackStarted | PlaybackEnded) -> str:
    return f"{data.origin}/{data.target}/{data.utterance}"


def _opened(_: Session | None, event: Event, data: SessionOpened) -> Session:
    return Session(
        session=event.session,
        tenant=data.tenant,
        source=data.source,
        opened_ms=event.ms,
        updated_ms=event.ms,
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
    return replace(view, epoch=data.epoch, updated_ms=event.ms)


def _finalized(view: Session, event: Event, data: UtteranceFinalized) -> Session:
    """Rule 25, ordered delivery: each target gets one open outcome.

    Rule 2, finalize reasons: an utterance that ends by its length does not end the turn.
    """
    allocated, open_outcomes, targets = view.allocated.copy(), view.open_outcomes.copy(), []
    for target in data.targets:
        targets.append(target.target)
        allocated[target.target] = target.delivery_no + 1
        key = outcome_key(target.target, target.delivery_no)
        recipients = _recipients(view, target)
        open_outcomes[key] = OpenOutcome(data.utterance, data.first, recipients)
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
        open_outcomes=open_outcomes,
        audio_ms=view.audio_ms + data.ms,
        recent=(*_recent(view.recent[1 - RECENT_MAX :], data.utterance + 1), latest),
        updated_ms=event.ms,
    )


def _recipients(view: Session, target: Target) -> tuple[str, ...]:
    """Return the recipients; the tuple of the outcome before if they are equal.

    So the outcomes of a room whose members do not change share one tuple, which `_separate` hashes
    once.
    """
    recipients = tuple(target.to)
    before = view.open_outcomes.get(outcome_key(target.target, target.delivery_no - 1))
    return before.recipients if before and before.recipients == recipients else recipients


def _recent(utterances: tuple[Utterance, ...], end: int) -> tuple[Utterance, ...]:
    """Keep those of the last 16 before index `end`; fewer, if an index was skipped."""
    first = end - RECENT_MAX
    if utterances and utterances[0].utterance < first:
        return tuple(utterance for utterance in utterances if utterance.utterance >= first)
    return utterances


def _dispatched(view: Session, event: Event, data: JobDispatched) -> Session:
    """Rule 16, choosing a node: affinity is to the node of this turn, else of this session."""
    return replace(
        view,
        node=event.node,
        node_turn=data.turn,
        dispatches=view.dispatches + 1,
        updated_ms=event.ms,
    )


def _job_ended(
    view: Session, event: Event, data: ResultRecorded | ResultReplaced | JobFailed
) -> Session:
    """The outcome is ready. It is delivered once all earlier delivery numbers are."""
    key = outcome_key(data.target, data.delivery_no)
    pending = view.open_outcomes.get(key)
    if pending is None:
        return replace(view, updated_ms=event.ms)
    outcome: Outcome = "failed"
    if not isinstance(data, JobFailed):
        outcome = "no_speech" if data.status == "no_speech" else "result"
    ready_ms = pending.ready_ms or event.ms  # a replaced result keeps the time of the first
    ready = OpenOutcome(pending.utterance, pending.first, pending.recipients, outcome, ready_ms)
    return replace(view, open_outcomes={**view.open_outcomes, key: ready}, updated_ms=event.ms)


def _recorded(view: Session, event: Event, data: ResultRecorded) -> Session:
    """The event of a result also delivers it if its number is next."""
    delivery = delivery_of(data)
    return _job_ended(view, event, data) if delivery is None else _end(view, event, delivery)


def _delivered(view: Session, event: Event, data: ResultDelivered | ResultMissing) -> Session:
    delivery = delivery_of(data)
    return view if delivery is None else _end(view, event, delivery)


def _end(view: Session, event: Event, delivery: Delivery) -> Session:
    """Rule 25, ordered delivery: the outcome is open no more, and the next number is due."""
    outcome = delivery.outcome
    open_outcomes = view.open_outcomes.copy()
    open_outcomes.pop(outcome_key(delivery.target, delivery.delivery_no), None)
    return replace(
        view,
        open_outcomes=open_outcomes,
        delivered={**view.delivered, delivery.target: delivery.delivery_no + 1},
        results=view.results + (outcome == "result"),
        no_speech=view.no_speech + (outcome == "no_speech"),
        failed=view.failed + (outcome == "failed"),
        missing=view.missing + (outcome == "missing"),
        recent=_with_outcome(view.recent, delivery.utterance, delivery.target, outcome),
        updated_ms=event.ms,
    )


def _with_outcome(
    recent: tuple[Utterance, ...], utterance: int, target: str, outcome: Outcome
) -> tuple[Utterance, ...]:
    place = min(utterance - recent[0].utterance, len(recent) - 1) if recent else -1
    while place > 0 and recent[place].utterance > utterance:  # an earlier index was skipped
        place -= 1
    if place < 0 or recent[place].utterance != utterance:
        return recent
    old = recent[place]
    new = replace(old, outcomes={**old.outcomes, target: outcome})
    return (*recent[:place], new, *recent[place + 1 :])


def _jobs_retired(view: Session, event: Event, data: JobsRetired) -> Session:
    return replace(view, retired_to=max(view.retired_to, data.last + 1), updated_ms=event.ms)


def _refused(view: Session, event: Event, _: ResultRefused) -> Session:
    return replace(view, refused=view.refused + 1, updated_ms=event.ms)


def _playback_started(view: Session, event: Event, data: PlaybackStarted) -> Session:
    """Rule 5, no pause during playback: the playback is open in the listener's session."""
    playbacks = {**view.playbacks, playback_key(data): data.until_ms}
    return replace(view, playbacks=playbacks, updated_ms=event.ms)


def _playback_ended(view: Session, event: Event, data: PlaybackEnded) -> Session:
    playbacks = view.playbacks.copy()
    playbacks.pop(playback_key(data), None)
    return replace(view, playbacks=playbacks, updated_ms=event.ms)


def _closing(view: Session, event: Event, data: SessionClosing) -> Session:
    return replace(view, status="closing", reason=data.reason, updated_ms=event.ms)


def _room_left(view: Session, event: Event, _: RoomLeft) -> Session:
    return replace(view, in_room=False, updated_ms=event.ms)


def _closed(view: Session, event: Event, _: SessionClosed) -> Session:
    closed_ms = view.closed_ms or event.ms  # a session closes once: a later event is forged
    return replace(view, status="closed", closed_ms=closed_ms, updated_ms=event.ms)


def _erased(view: Session, event: Event, _: SessionErased) -> Session:
    return replace(view, erased_ms=event.ms, updated_ms=event.ms)


def _retired(_: Session, __: Event, ___: SessionRetired) -> None:
    return None


STEPS: dict[type, Step] = {
    SessionOpened: _opened,
    SessionResumed: _resumed,
    UtteranceFinalized: _finalized,
    JobDispatched: _dispatched,
    JobFailed: _job_ended,
    ResultRecorded: _recorded,
    ResultReplaced: _job_ended,
    ResultRefused: _refused,
    ResultDelivered: _delivered,
    ResultMissing: _delivered,
    JobsRetired: _jobs_retired,
    PlaybackStarted: _playback_started,
    PlaybackEnded: _playback_ended,
    SessionClosing: _closing,
    RoomLeft: _room_left,
    SessionClosed: _closed,
    SessionErased: _erased,
    SessionRetired: _retired,
}


def _changed(recent: tuple[Utterance, ...], before: tuple[Utterance, ...]) -> Iterable[Utterance]:
    """Return the utterances that are new or differ from `before`."""
    if recent is before:
        return ()
    if before and recent:
        before = before[recent[0].utterance - before[0].utterance :]
    return (*compress(recent, map(is_not, recent, before)), *recent[len(before) :])


class Recipients(msgspec.Struct, frozen=True, array_like=True):
    """The recipients of all open outcomes, each session name and each list stored once."""

    names: tuple[str, ...]
    lists: tuple[tuple[int, ...], ...]
    """Each distinct list of recipients, as places in `names`."""
    outcomes: dict[str, int]
    """Open outcome -> the place of its list in `lists`; none for the speaker's session alone."""


def _has_recipients(view: Session | None) -> bool:
    return view is not None and any(each.recipients for each in view.open_outcomes.values())


def _separate(view: Session) -> tuple[Session, Recipients]:
    """Return the session without the recipients of its open outcomes, and the recipients."""
    names: dict[str, int] = {}
    lists: dict[tuple[str, ...], int] = {}
    places_by_id: dict[int, int] = {}
    outcomes, without = {}, {}
    for key, outcome in view.open_outcomes.items():
        recipients = outcome.recipients
        if not recipients:
            without[key] = outcome
            continue
        place = places_by_id.get(id(recipients))
        if place is None:
            place = places_by_id[id(recipients)] = lists.setdefault(recipients, len(lists))
        outcomes[key] = place
        without[key] = OpenOutcome(
            outcome.utterance, outcome.first, (), outcome.outcome, outcome.ready_ms
        )
    places = tuple(tuple(names.setdefault(name, len(names)) for name in each) for each in lists)
    return replace(view, open_outcomes=without), Recipients(tuple(names), places, outcomes)


def _join(view: Session, stored: Recipients) -> Session:
    """Return the session with the recipients of its open outcomes."""
    lists = [tuple(stored.names[place] for place in each) for each in stored.lists]
    open_outcomes = view.open_outcomes.copy()
    for key, place in stored.outcomes.items():
        open_outcomes[key] = replace(open_outcomes[key], recipients=lists[place])
    return replace(view, open_outcomes=open_outcomes)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Session).decode
_decode_utterance = msgspec.msgpack.Decoder(Utterance).decode
_decode_recipients = msgspec.msgpack.Decoder(Recipients).decode
_NO_RECIPIENTS = _encode(Recipients((), (), {}))


class Sessions:
    """One record per session, by its name in the cell."""

    name = "session"
    version = 3
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
        """Return the field `v`, and a field for each utterance that changed since `before`.

        The field of an utterance is `u<index mod 16>`. An event changes one or two utterances.
        The field `r` has the recipients of the open outcomes, each name once, so that 1,024 open
        outcomes in a full room fit a record.
        """
        fields = {}
        if _has_recipients(view):
            without_recipients, recipients = _separate(view)
            fields["v"] = _encode(replace(without_recipients, recent=()))
            fields["r"] = _encode(recipients)
        else:
            fields["v"] = _encode(replace(view, recent=()))
            if before is None or _has_recipients(before):
                fields["r"] = _NO_RECIPIENTS
        for utterance in _changed(view.recent, before.recent if before is not None else ()):
            fields[f"u{utterance.utterance % RECENT_MAX}"] = _encode(utterance)
        return fields

    def decode(self, fields: Mapping[str, bytes]) -> Session:
        recent = [
            _decode_utterance(check_msgpack(value))
            for name, value in fields.items()
            if name[0] == "u"  # `u0` to `u15`
        ]
        recent.sort(key=attrgetter("utterance"))
        view = _decode(check_msgpack(fields.get("v", b"")))
        if "r" in fields:
            view = _join(view, _decode_recipients(check_msgpack(fields["r"])))
        return replace(view, recent=_recent(tuple(recent), view.utterance))
