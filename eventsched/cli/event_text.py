"""Events as people read them: one line each.

Owns: what a timeline says of each event type; the JSON of an event for programs.
Never does: I/O. Read next: history.py, schema/events.py (what became true).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from eventsched.formatting import clock, duration, plural
from eventsched.projection.fold import FailedEvent
from eventsched.schema import codec, events
from eventsched.schema.events import Event
from eventsched.schema.keys import name_of

WITH_TEXT = frozenset({"ResultRecorded", "ResultReplaced", "ResultDelivered"})


def tell(event: Event) -> str:
    """What became true, in some words; the type's name is said beside it."""
    teller = _TELLERS.get(type(event.data))
    return teller(event, event.data) if teller else _plain(event.data)


def as_json(event: Event | FailedEvent) -> dict[str, Any]:
    """The event with the names of its envelope; its text where it has one."""
    if isinstance(event, FailedEvent):
        return {"id": event.id, "undecodable": event.reason}
    data = msgspec.to_builtins(event.data)
    data.pop("type")
    told = {
        "id": event.id,
        "time": datetime.fromtimestamp(event.ms / 1000, tz=UTC).isoformat(timespec="milliseconds"),
        "type": event.type,
        "v": event.v,
        "session": event.session,
        "job": event.job,
        "node": event.node,
        "cause": event.cause,
        "traceparent": event.traceparent,
        "data": data,
    }
    text = _text(event)
    if text is not None:
        told["text"] = text
    elif event.body:
        told["body"] = base64.b64encode(event.body).decode()
    return told


def _text(event: Event) -> events.Text | None:
    """The text of a result; none where the body is none that this version can read."""
    if event.type not in WITH_TEXT or not event.body:
        return None
    try:
        return codec.decode_text(event.body)
    except codec.UnreadableText:
        return None  # shown as it is, in base64


def _plain(data: events.Data) -> str:
    named = msgspec.to_builtins(data)
    named.pop("type")
    return "  ".join(f"{name}={value}" for name, value in named.items())


def _said(event: Event) -> str:
    text = _text(event)
    if text is None:
        return "  unreadable" if event.body else ""
    if text.sealed:
        return f"  sealed, {plural(text.characters, 'character')}"
    # Into the language that was spoken, both are the same words.
    parts = dict.fromkeys(part for part in (text.source_text, text.text) if part)
    return "  " + " → ".join(f"“{part}”" for part in parts) if parts else ""


def _place(data: Any) -> str:
    """Which utterance into which language."""
    return f"u{data.utterance} → {data.target}"


def _also(*words: str) -> str:
    return "".join(f", {word}" for word in words if word)


def _listed(names: list[str]) -> str:
    return ", ".join(names)


def _opened(_: Event, d: events.SessionOpened) -> str:
    heard = f" → {_listed(d.targets)}" if d.targets else ""
    features = f"features {_listed(d.features)}" if d.features else ""
    room = f"room {d.room}" if d.room else ""
    listen_language = f"hears {d.listen_language}" if d.listen_language else ""
    kind = f"{d.encoding} {d.sample_rate:,} Hz"
    key = f"encrypted with key {d.key}" if d.key else ""
    return f"tenant {d.tenant}, {d.source}{heard}, {kind}" + _also(
        features, room, listen_language, key
    )


def _finalized(_: Event, d: events.UtteranceFinalized) -> str:
    to = ", ".join(f"{one.target}#{one.delivery_no}" for one in d.targets) or "nobody"
    chunks = f"{d.count} chunk{'s' * (d.count != 1)}"
    return f"u{d.utterance} by {d.reason}: {duration(d.ms)} in {chunks}, for {to}"


def _queued(_: Event, d: events.JobQueued) -> str:
    return f"{_place(d)}  {d.reason}, attempt {d.attempt}, priority {d.priority}"


def _promoted(_: Event, d: events.JobPromoted) -> str:
    return f"{_place(d)}  waits at priority {d.priority} now, attempt {d.attempt}"


def _dispatched(event: Event, d: events.JobDispatched) -> str:
    passed = ""
    if d.affinity is not None and d.affinity.why:
        passed = f"not {name_of(d.affinity.node)}: {d.affinity.why}"
    context = "with context" if d.context_at else ""
    told = f"{_place(d)}  to {name_of(event.node)} by {d.rule}, attempt {d.attempt}"
    return told + _also(passed, context)


def _attempt_ended(event: Event, d: events.AttemptEnded) -> str:
    node = name_of(event.node)
    return f"{_place(d)}  attempt {d.attempt} on {node}: {d.reason}" + _also(d.code)


def _failed(_: Event, d: events.JobFailed) -> str:
    return f"{_place(d)}  {d.code} after attempt {d.attempt}"


def _recorded(event: Event, d: events.ResultRecorded) -> str:
    audio = f"{d.audio_bytes:,} B of sound" if d.audio_bytes else ""
    told = f"{_place(d)}  {d.status} from {name_of(event.node)}"
    return told + _also(d.code, audio) + _said(event)


def _refused(event: Event, d: events.ResultRefused) -> str:
    return f"{d.what} of {name_of(event.node)}, attempt {d.attempt}: {d.code}"


def _delivered(event: Event, d: events.ResultDelivered) -> str:
    skipped = f"skipped {_listed(d.skipped)}" if d.skipped else ""
    return f"{_place(d)}  #{d.delivery_no} {d.outcome}" + _also(d.code, skipped) + _said(event)


def _missing(_: Event, d: events.ResultMissing) -> str:
    return f"{_place(d)}  #{d.delivery_no} given up: {d.reason}"


def _playback(event: Event, d: events.PlaybackStarted | events.PlaybackEnded) -> str:
    reason = f"  {d.reason}" if isinstance(d, events.PlaybackEnded) else ""
    return f"{name_of(d.origin)} {_place(d)} at {name_of(event.session)}{reason}"


def _closed(_: Event, d: events.SessionClosed) -> str:
    return f"{d.missing} missing" if d.missing else "nothing missing"


def _retired(_: Event, d: events.SessionRetired) -> str:
    return f"after {plural(d.utterances, 'utterance')}: its records go, its history stays"


def _registered(_: Event, d: events.NodeRegistered) -> str:
    does = (
        f"{_listed(d.sources)} → {_listed(d.targets)}, {plural(d.slots, 'slot')}, epoch {d.epoch}"
    )
    return does + _also(*d.features, d.version)


def _lost(_: Event, d: events.NodeLost) -> str:
    held = f"{plural(d.leases, 'job')} to dispatch again" if d.leases else "it held nothing"
    return f"epoch {d.epoch}: {d.reason}, {held}"


def _subject(d: events.NodeSuspended | events.NodeResumed) -> str:
    return f"{d.scope.replace('_', ' ')} {d.subject}".rstrip()


def _suspended(_: Event, d: events.NodeSuspended) -> str:
    return f"epoch {d.epoch}: {_subject(d)} suspended until {clock(d.until_ms)}, {d.reason}"


def _pressure(_: Event, d: events.BackpressureStarted | events.BackpressureEnded) -> str:
    return f"{d.reason}: {d.seen:,}, the limit is {d.limit:,}"


def _adjusted(_: Event, d: events.ClockAdjusted) -> str:
    return f"the server's clock was {duration(d.behind_ms)} behind"


def _trimmed(_: Event, d: events.StreamTrimmed) -> str:
    return f"{plural(d.count, 'entry', 'entries')} of {d.stream} before {d.before}"


def _abandoned(_: Event, d: events.ArchiveAbandoned) -> str:
    gone = plural(d.gone, "entry", "entries")
    return f"archive {d.of}, which held the log up to {d.to}: {gone} gone for good"


_TELLERS: dict[type, Callable[[Event, Any], str]] = {
    events.SessionOpened: _opened,
    events.SessionResumed: lambda _, d: f"epoch {d.epoch}",
    events.UtteranceFinalized: _finalized,
    events.SessionClosing: lambda _, d: d.reason,
    events.SessionClosed: _closed,
    events.SessionErased: lambda _, d: f"key {d.key} is destroyed",
    events.SessionRetired: _retired,
    events.PlaybackStarted: _playback,
    events.PlaybackEnded: _playback,
    events.RoomJoined: lambda _, d: (
        d.room + _also(f"hears {d.listen_language}" if d.listen_language else "")
    ),
    events.RoomLeft: lambda _, d: d.room,
    events.JobQueued: _queued,
    events.JobPromoted: _promoted,
    events.JobDispatched: _dispatched,
    events.AttemptEnded: _attempt_ended,
    events.JobFailed: _failed,
    events.ResultRecorded: _recorded,
    events.ResultReplaced: _recorded,
    events.ResultRefused: _refused,
    events.ResultDelivered: _delivered,
    events.ResultMissing: _missing,
    events.NodeRegistered: _registered,
    events.NodeDraining: lambda _, d: f"epoch {d.epoch}: no new work",
    events.NodeDrained: lambda _, d: f"epoch {d.epoch}: holds nothing and is gone",
    events.NodeLost: _lost,
    events.NodeSuspended: _suspended,
    events.NodeResumed: lambda _, d: f"epoch {d.epoch}: {_subject(d)} resumed, {d.reason}",
    events.BackpressureStarted: _pressure,
    events.BackpressureEnded: _pressure,
    events.ClockAdjusted: _adjusted,
    events.StreamTrimmed: _trimmed,
    events.ArchiveAbandoned: _abandoned,
}
