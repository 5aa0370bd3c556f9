"""The description of an event in one line.

Owns: one description per event type, as `eventsched history` and reports print it.
Must not: do I/O. Read next: event_json.py, schema/events.py (the event types).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from eventsched.formatting import clock, duration, plural
from eventsched.history.event_json import text_of
from eventsched.schema import events
from eventsched.schema.deliveries import Delivery, delivery_of
from eventsched.schema.events import Event
from eventsched.schema.keys import name_of


def describe(event: Event) -> str:
    """Return the event's data in a few words, without the name of the type."""
    description = _DESCRIPTIONS.get(type(event.data))
    return description(event, event.data) if description else _fields(event.data)


def _fields(data: events.Data) -> str:
    fields = msgspec.to_builtins(data)
    fields.pop("type")
    return "  ".join(f"{name}={value}" for name, value in fields.items())


def _quoted_text(event: Event) -> str:
    text = text_of(event)
    if text is None:
        return "  unreadable" if event.body else ""
    if text.encrypted:
        return f"  encrypted, {plural(text.characters, 'character')}"
    # The two texts are equal if the target language is the spoken one.
    parts = dict.fromkeys(part for part in (text.source_text, text.text) if part)
    return "  " + " → ".join(f"“{part}”" for part in parts) if parts else ""


def _job(data: Any) -> str:
    """Return the utterance and the target language of a job."""
    return f"u{data.utterance} → {data.target}"


def _suffix(*parts: str) -> str:
    """Return the parts that are not empty, each after a comma."""
    return "".join(f", {part}" for part in parts if part)


def _join(names: list[str]) -> str:
    return ", ".join(names)


def _listens_to(language: str) -> str:
    return f"listens to {language}" if language else ""


def _opened(_: Event, d: events.SessionOpened) -> str:
    targets = f" → {_join(d.targets)}" if d.targets else ""
    features = f"features {_join(d.features)}" if d.features else ""
    room = f"room {d.room}" if d.room else ""
    audio = f"{d.encoding} {d.sample_rate:,} Hz"
    key = f"encrypted with key {d.key}" if d.key else ""
    return f"tenant {d.tenant}, {d.source}{targets}, {audio}" + _suffix(
        features, room, _listens_to(d.listen_language), key
    )


def _finalized(_: Event, d: events.UtteranceFinalized) -> str:
    targets = ", ".join(f"{each.target}#{each.delivery_no}" for each in d.targets) or "no target"
    chunks = f"{d.count} chunk{'s' * (d.count != 1)}"
    return f"u{d.utterance} by {d.reason}: {duration(d.ms)} in {chunks}, for {targets}"


def _queued(_: Event, d: events.JobQueued) -> str:
    wait = f"{_job(d)}  {d.reason}, attempt {d.attempt}, priority {d.priority}"
    backoff = f"backs off until {clock(d.not_before_ms)}" if d.not_before_ms else ""
    avoided = f"avoids {name_of(d.last)} until {clock(d.avoid_until_ms)}" if d.last else ""
    return wait + _suffix(backoff, avoided)


def _promoted(_: Event, d: events.JobPromoted) -> str:
    return f"{_job(d)}  waits at priority {d.priority} now, attempt {d.attempt}"


def _dispatched(event: Event, d: events.JobDispatched) -> str:
    not_chosen = ""
    if d.affinity is not None and d.affinity.why and d.affinity.node != event.node:
        not_chosen = f"not {name_of(d.affinity.node)}: {d.affinity.why}"
    context = "with context" if d.context_at else ""
    choice = f"{_job(d)}  to {name_of(event.node)} by {d.rule}, attempt {d.attempt}"
    return choice + _suffix(not_chosen, context)


def _attempt_ended(event: Event, d: events.AttemptEnded) -> str:
    node = name_of(event.node)
    return f"{_job(d)}  attempt {d.attempt} on {node}: {d.reason}" + _suffix(d.code, d.error)


def _failed(_: Event, d: events.JobFailed) -> str:
    return f"{_job(d)}  {d.code} after attempt {d.attempt}"


def _recorded(event: Event, d: events.ResultRecorded | events.ResultReplaced) -> str:
    audio = f"{d.audio_bytes:,} B of audio" if d.audio_bytes else ""
    delivery = delivery_of(d)
    delivered = f"delivered as #{delivery.delivery_no}" if delivery else ""
    skipped = _skipped(delivery) if delivery else ""
    status = f"{_job(d)}  {d.status} from {name_of(event.node)}"
    return status + _suffix(d.code, audio, delivered, skipped) + _quoted_text(event)


def _refused(event: Event, d: events.ResultRefused) -> str:
    return f"{d.what} of {name_of(event.node)}, attempt {d.attempt}: {d.code}"


def _delivered(event: Event, d: events.ResultDelivered) -> str:
    outcome = f"{_job(d)}  #{d.delivery_no} {d.outcome}"
    return outcome + _suffix(d.code, _skipped(d)) + _quoted_text(event)


def _skipped(delivery: Delivery | events.ResultDelivered) -> str:
    return f"skipped {_join(delivery.skipped)}" if delivery.skipped else ""


def _missing(_: Event, d: events.ResultMissing) -> str:
    return f"{_job(d)}  #{d.delivery_no} missing: {d.reason}"


def _playback(event: Event, d: events.PlaybackStarted | events.PlaybackEnded) -> str:
    reason = f"  {d.reason}" if isinstance(d, events.PlaybackEnded) else ""
    return f"{name_of(d.origin)} {_job(d)} at {name_of(event.session)}{reason}"


def _closed(_: Event, d: events.SessionClosed) -> str:
    return f"{plural(d.missing, 'outcome')} missing" if d.missing else "no outcome missing"


def _jobs_retired(_: Event, d: events.JobsRetired) -> str:
    return f"u{d.first} to u{d.last}: job records deleted, events stay"


def _retired(_: Event, d: events.SessionRetired) -> str:
    return f"after {plural(d.utterances, 'utterance')}: records deleted, events stay"


def _registered(_: Event, d: events.NodeRegistered) -> str:
    languages = f"{_join(d.sources)} → {_join(d.targets)}"
    abilities = f"{languages}, {plural(d.slots, 'slot')}, epoch {d.epoch}"
    return abilities + _suffix(*d.features, d.version)


def _lost(_: Event, d: events.NodeLost) -> str:
    jobs = f"{plural(d.leases, 'job')} to dispatch again" if d.leases else "no jobs"
    return f"epoch {d.epoch}: {d.reason}, {jobs}"


def _subject(d: events.NodeSuspended | events.NodeResumed) -> str:
    return f"{d.scope.replace('_', ' ')} {d.subject}".rstrip()


def _suspended(_: Event, d: events.NodeSuspended) -> str:
    return f"epoch {d.epoch}: {_subject(d)} suspended until {clock(d.until_ms)}, {d.reason}"


def _backpressure(_: Event, d: events.BackpressureStarted | events.BackpressureEnded) -> str:
    tenant = f" of tenant {d.tenant}" if d.tenant else ""
    return f"{d.reason}{tenant}: {d.seen:,}, the limit is {d.limit:,}"


def _adjusted(_: Event, d: events.ClockAdjusted) -> str:
    return f"the server's clock was {duration(d.behind_ms)} behind"


def _trimmed(_: Event, d: events.StreamTrimmed) -> str:
    return f"{plural(d.count, 'entry', 'entries')} of {d.stream} before {d.before}"


def _abandoned(_: Event, d: events.ArchiveAbandoned) -> str:
    gone = plural(d.gone, "entry", "entries")
    return f"archive {d.of} with the log up to {d.to}: {gone} lost, by {d.by}: {d.why}"


def _set_aside(_: Event, d: events.ArchiveSetAside) -> str:
    segments = plural(d.segments, "segment")
    return f"{segments} of archive {d.of}, {d.first} to {d.last}, by {d.by}: {d.why}"


def _group_dropped(_: Event, d: events.ConsumerGroupDropped) -> str:
    pending = f", {plural(d.pending, 'entry', 'entries')} not acknowledged" if d.pending else ""
    return f"consumer group {d.group} at {d.position}{pending}, by {d.by}: {d.why}"


def _repaired(_: Event, d: events.CellRepaired) -> str:
    given_up = f"; gives up {d.gives_up}" if d.gives_up else ""
    by = f" ({d.by})" if d.by else ""
    return f"{d.where}: {d.what}{given_up}; why: {d.why}{by}"


def _draining(_: Event, d: events.NodeDraining) -> str:
    operator = f", by {d.by}: {d.why}" if d.by else ""
    return f"epoch {d.epoch}: no new attempts{operator}"


def _dead_letters(_: Event, d: events.DeadLettersRetried | events.DeadLettersDiscarded) -> str:
    chosen = f" ({d.filter})" if d.filter else ""
    return f"{plural(d.count, 'dead letter')}, {d.first} to {d.last}{chosen}, by {d.by}: {d.why}"


def _revisions(revisions: Sequence[events.Revision]) -> str:
    return ", ".join(f"{each.projection} {each.revision}" for each in revisions)


def _rebuilt(_: Event, d: events.RebuildPromoted) -> str:
    left_out = f", {d.left_out:,} left out" if d.left_out else ""
    entries = plural(d.entries, "entry", "entries")
    return f"{_revisions(d.revisions)}: {entries} folded{left_out}, by {d.by}: {d.why}"


_DESCRIPTIONS: dict[type, Callable[[Event, Any], str]] = {
    events.SessionOpened: _opened,
    events.SessionResumed: lambda _, d: f"epoch {d.epoch}",
    events.UtteranceFinalized: _finalized,
    events.SessionClosing: lambda _, d: d.reason,
    events.SessionClosed: _closed,
    events.SessionErased: lambda _, d: f"key {d.key} is destroyed",
    events.JobsRetired: _jobs_retired,
    events.SessionRetired: _retired,
    events.PlaybackStarted: _playback,
    events.PlaybackEnded: _playback,
    events.RoomJoined: lambda _, d: d.room + _suffix(_listens_to(d.listen_language)),
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
    events.NodeDraining: _draining,
    events.NodeDrained: lambda _, d: f"epoch {d.epoch}: no leases left, deregistered",
    events.NodeLost: _lost,
    events.NodeRetired: lambda _, d: f"after epoch {d.epoch}: record deleted, events stay",
    events.NodeSuspended: _suspended,
    events.NodeResumed: lambda _, d: f"epoch {d.epoch}: {_subject(d)} resumed, {d.reason}",
    events.BackpressureStarted: _backpressure,
    events.BackpressureEnded: _backpressure,
    events.ClockAdjusted: _adjusted,
    events.StreamTrimmed: _trimmed,
    events.ArchiveAbandoned: _abandoned,
    events.ArchiveSetAside: _set_aside,
    events.ConsumerGroupDropped: _group_dropped,
    events.CellRepaired: _repaired,
    events.DeadLettersRetried: _dead_letters,
    events.DeadLettersDiscarded: _dead_letters,
    events.RebuildStarted: lambda _, d: f"{_revisions(d.revisions)}, by {d.by}: {d.why}",
    events.RebuildPromoted: _rebuilt,
}
