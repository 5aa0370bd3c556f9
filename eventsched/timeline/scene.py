"""The scene of a session: spans, marks and moments, each in a lane.

Owns: the spans that events make, their labels and their tooltips.
Must not: compute pixels. Read next: rows.py, render.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from functools import partial
from typing import Any

import msgspec

from eventsched.formatting import LAST_MS
from eventsched.schema import codec
from eventsched.schema.deliveries import Delivery, delivery_of
from eventsched.schema.events import (
    AttemptEnded,
    Event,
    JobDispatched,
    JobFailed,
    JobPromoted,
    JobQueued,
    PlaybackEnded,
    PlaybackStarted,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
    ResultRefused,
    SessionClosed,
    SessionClosing,
    SessionOpened,
    SessionResumed,
    SessionRetired,
    UtteranceFinalized,
)
from eventsched.schema.ids import ms_between
from eventsched.schema.keys import name_of

AUDIO, UTTERANCES, WAITING, PLAYBACK = "audio", "utterances", "waiting", "playback"
PARTS_MAX = 20_000
"""Spans, marks and moments of a scene; later events are left out."""
TARGETS_MAX = 64
DISPATCH_WAIT_MS_MIN = 100
"""A shorter wait for the dispatcher is not drawn."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """An interval: an utterance, a wait, an attempt, a playback."""

    lane: str
    kind: str
    from_ms: int
    to_ms: int
    label: str = ""
    title: str = ""
    is_open: bool = False
    """The interval had not ended at the last event."""
    is_retry: bool = False
    """A second attempt or later."""
    chain: str = ""
    """The job. Its spans share a track if possible; otherwise a line joins them."""
    outcome: str = ""
    """The outcome at its end, which is drawn as a shape."""
    event: str = ""
    """Id of the event with which it began; of an utterance, of the event that completed it."""
    job: str = ""
    """Key of its job; empty for an utterance, and for one that has no job yet."""
    utterance: int = -1
    """Number of its utterance."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A point in time in one lane."""

    lane: str
    kind: str
    at_ms: int
    title: str = ""
    event: str = ""
    """Id of its event."""
    job: str = ""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A point in time of the session as a whole, drawn through all lanes."""

    kind: str
    at_ms: int
    label: str
    event: str = ""
    """Id of its event."""


class Scene(msgspec.Struct, kw_only=True):
    """Everything that is drawn of one session."""

    session: str = ""
    summary: str = ""
    from_ms: int = 0
    to_ms: int = 0
    lanes: list[str] = []
    """From top to bottom."""
    spans: list[Span] = []
    marks: list[Mark] = []
    moments: list[Moment] = []
    is_cut: bool = False
    """The session has more than PARTS_MAX parts: what is later than `to_ms` is left out."""


class _SceneBuilder:
    """Folds the events of one session into a scene."""

    def __init__(self, events: Sequence[Event], opened: Event | None = None) -> None:
        last = [event.ms for event in events if not isinstance(event.data, SessionRetired)]
        self.scene = Scene(
            session=events[0].session, from_ms=events[0].ms, to_ms=max(last, default=events[0].ms)
        )
        self._finalized: dict[int, Event] = {}
        self._undispatched: dict[tuple[int, str], Event] = {}
        self._queued: dict[str, Event] = {}
        self._promoted: dict[str, Event] = {}
        self._running: dict[str, Event] = {}
        self._ready: dict[tuple[str, int], Event] = {}
        self._playing: dict[tuple[str, str, str, int], Event] = {}
        self._nodes: dict[str, None] = {}
        self._targets: dict[str, None] = {}
        self._opened_ms = 0
        if opened is not None:
            self._name_session(opened)
        for event in events:
            if self._part_count() >= PARTS_MAX:
                self.scene.is_cut, self.scene.to_ms = True, event.ms
                break
            step = _STEPS.get(type(event.data))
            if step is not None:
                step(self, event, event.data)
        self._add_open_spans()
        nodes = [_lane_of(node) for node in sorted(self._nodes)]
        targets = [f"→ {target}" for target in sorted(self._targets)]
        self.scene.lanes = [AUDIO, UTTERANCES, WAITING, *nodes, *targets, PLAYBACK]

    def _part_count(self) -> int:
        """The parts so far, with the intervals that have not ended."""
        scene = self.scene
        groups: tuple[Sized, ...] = (
            scene.spans, scene.marks, scene.moments, self._undispatched, self._queued,
            self._running, self._ready, self._playing,
        )  # fmt: skip
        return sum(map(len, groups))

    def _span(
        self, lane: str, kind: str, begin: Event, to_ms: int, *, job: str = "", **fields: Any
    ) -> None:
        data: Any = begin.data
        self.scene.spans.append(
            Span(
                lane=lane, kind=kind, from_ms=begin.ms, to_ms=to_ms, event=begin.id,
                job=job or begin.job, utterance=data.utterance, **fields,
            )
        )  # fmt: skip

    def _mark(self, lane: str, kind: str, event: Event, **fields: Any) -> None:
        self.scene.marks.append(
            Mark(lane=lane, kind=kind, at_ms=event.ms, event=event.id, job=event.job, **fields)
        )

    def _node(self, full_id: str) -> str:
        self._nodes[full_id] = None
        return _lane_of(full_id)

    def _target(self, target: str) -> str:
        self._targets[target] = None
        return f"→ {target}"

    def _add_open_spans(self) -> None:
        """Extend every interval that has not ended to the end of the scene."""
        end_ms = self.scene.to_ms
        for (utterance, target), event in self._undispatched.items():
            label = f"u{utterance} {target}"
            self._span(WAITING, "undispatched", event, end_ms, label=label, is_open=True)
        for event in self._queued.values():
            kind, words = _wait_of(event)
            title = f"{words} since {_time_since(event, end_ms)}{self._promotion(event)}"
            self._span(
                WAITING,
                kind,
                event,
                end_ms,
                label=_job_label(event),
                title=title,
                is_open=True,
            )
        for event in self._running.values():
            self._attempt(event, end_ms, "running", "still running", is_open=True)
        for event in self._ready.values():
            data: Any = event.data
            label = f"u{data.utterance}"
            title = f"{label} is ready, waits for an earlier outcome"
            self._span(
                self._target(data.target), "ready", event, end_ms, label=label, title=title,
                is_open=True,
            )  # fmt: skip
        for event in self._playing.values():
            self._span(PLAYBACK, "playback", event, end_ms, label=_job_label(event), is_open=True)

    # --- the session ------------------------------------------------------------------------

    def on_session_opened(self, event: Event, _: SessionOpened) -> None:
        self._name_session(event)
        self._add_moment(event, "opened", "opened")

    def _name_session(self, event: Event) -> None:
        data = event.data
        assert isinstance(data, SessionOpened)
        targets = f" → {', '.join(data.targets)}" if data.targets else ""
        room = f", room {data.room}" if data.room else ""
        self._opened_ms = event.ms
        self.scene.session = event.session
        self.scene.summary = f"tenant {data.tenant}, {data.source}{targets}{room}"

    def _add_moment(self, event: Event, kind: str, label: str) -> None:
        self.scene.moments.append(Moment(kind=kind, at_ms=event.ms, label=label, event=event.id))

    def on_session_resumed(self, event: Event, data: SessionResumed) -> None:
        self._add_moment(event, "resumed", f"resumed, epoch {data.epoch}")

    def on_session_closing(self, event: Event, data: SessionClosing) -> None:
        self._add_moment(event, "closing", "closing" + (" (idle)" if data.reason == "idle" else ""))

    def on_session_closed(self, event: Event, _: SessionClosed) -> None:
        self._add_moment(event, "closed", "closed")

    def on_utterance_finalized(self, event: Event, data: UtteranceFinalized) -> None:
        first_ms = ms_between(data.first, self._opened_ms, event.ms)
        last_ms = ms_between(data.last, first_ms, event.ms)
        self._finalized[data.utterance] = event
        for target in data.targets[:TARGETS_MAX]:
            self._undispatched[data.utterance, target.target] = event
        self.scene.from_ms = min(self.scene.from_ms, first_ms)
        title = f"u{data.utterance}: {_seconds(data.ms)} in {data.count} chunks"
        delay = _duration(event.ms - last_ms)
        add = self.scene.spans.append
        place = partial(Span, from_ms=first_ms, event=event.id, utterance=data.utterance)
        add(place(lane=AUDIO, kind="audio", to_ms=last_ms, title=title))
        add(
            place(
                lane=UTTERANCES, kind="utterance", to_ms=event.ms, label=f"u{data.utterance}",
                title=f"{title}, by {data.reason} {delay} after the last chunk",
            )
        )  # fmt: skip

    def on_playback_started(self, event: Event, data: PlaybackStarted) -> None:
        self._playing[_playback(event, data)] = event

    def on_playback_ended(self, event: Event, data: PlaybackEnded) -> None:
        begin = self._playing.pop(_playback(event, data), None)
        if begin is not None:
            title = f"u{data.utterance} → {data.target} at {event.session}: {data.reason}"
            self._span(PLAYBACK, "playback", begin, event.ms, label=_job_label(event), title=title)

    # --- jobs -------------------------------------------------------------------------------

    def _end_dispatch_wait(
        self, event: Event, data: JobQueued | JobDispatched | ResultMissing
    ) -> None:
        """The job was dispatched or queued for the first time, or will never be."""
        begin = self._undispatched.pop((data.utterance, data.target), None)
        if begin is not None and event.ms - begin.ms > DISPATCH_WAIT_MS_MIN:
            title = f"{_job_label(event)} waited {_time_since(begin, event.ms)} for a dispatcher"
            is_queued = isinstance(event.data, JobQueued)
            self._span(
                WAITING, "undispatched", begin, event.ms,
                label="" if is_queued else _job_label(event),
                title=title, chain=event.job,
            )  # fmt: skip

    def on_job_queued(self, event: Event, data: JobQueued) -> None:
        self._end_dispatch_wait(event, data)
        self._end_wait(event, "in the queue")
        self._queued[event.job] = event
        self._promoted.pop(event.job, None)

    def on_job_promoted(self, event: Event, _: JobPromoted) -> None:
        self._promoted[event.job] = event

    def _promotion(self, begin: Event) -> str:
        """When the job moved to a higher priority during the wait that began then."""
        promoted = self._promoted.get(begin.job)
        return f", promoted after {_time_since(begin, promoted.ms)}" if promoted else ""

    def on_job_dispatched(self, event: Event, data: JobDispatched) -> None:
        self._end_dispatch_wait(event, data)
        self._end_wait(event, f"to {name_of(event.node)} by {data.rule}")
        self._running[event.job] = event

    def _end_wait(self, event: Event, how: str) -> None:
        begin = self._queued.pop(event.job, None)
        if begin is None:
            return
        reason = begin.data.reason  # type: ignore[union-attr]
        kind, _ = _wait_of(begin)
        title = (
            f"{_job_label(begin)} waited {_time_since(begin, event.ms)}: {reason}"
            f"{self._promotion(begin)}, then {how}"
        )
        self._span(
            WAITING,
            kind,
            begin,
            event.ms,
            label=_job_label(begin),
            title=title,
            chain=event.job,
        )

    def on_attempt_ended(self, event: Event, data: AttemptEnded) -> None:
        begin = self._running.pop(event.job, None)
        if begin is not None:
            kind = "cancelled" if data.reason == "cancelled" else "lost"
            how = data.code or data.reason
            self._attempt(begin, event.ms, kind, f"{data.reason} {data.code}".strip(), how)

    def on_result_recorded(self, event: Event, data: ResultRecorded) -> None:
        begin = self._running.pop(event.job, None)
        if begin is not None:
            kind = "ok" if data.status == "ok" else "no_speech"
            self._attempt(begin, event.ms, kind, f"{data.status} {data.code}".strip())
        self._ready[data.target, data.delivery_no] = event
        delivery = delivery_of(data)
        if delivery is not None:
            self._draw_delivery(event, delivery)

    def _attempt(
        self, begin: Event, to_ms: int, kind: str, how: str, suffix: str = "", *,
        is_open: bool = False,
    ) -> None:  # fmt: skip
        data = begin.data
        assert isinstance(data, JobDispatched)
        label = _job_label(begin) + (f" ×{data.attempt}" if data.attempt > 1 else "")  # noqa: RUF001
        title = (
            f"{label} on {begin.node}, by {data.rule}, attempt {data.attempt}: {how} "
            f"after {_time_since(begin, to_ms)}"
        )
        self._span(
            self._node(begin.node), kind, begin, to_ms,
            label=f"{label} {suffix}".rstrip(), title=title, is_open=is_open,
            is_retry=data.attempt > 1, chain=begin.job,
        )  # fmt: skip

    def on_job_failed(self, event: Event, data: JobFailed) -> None:
        self._end_wait(event, f"failed: {data.code}")
        self._ready[data.target, data.delivery_no] = event

    def on_result_refused(self, event: Event, data: ResultRefused) -> None:
        title = f"{data.what} of attempt {data.attempt} refused: {data.code}"
        self._mark(self._node(event.node), "refused", event, title=title)

    def on_result_delivered(self, event: Event, data: ResultDelivered) -> None:
        delivery = delivery_of(data)
        if delivery is not None:
            self._draw_delivery(event, delivery)

    def _draw_delivery(self, event: Event, delivery: Delivery) -> None:
        kind = {"result": "ok", "no_speech": "no_speech", "failed": "failed"}[delivery.outcome]
        begin = self._ready.pop((delivery.target, delivery.delivery_no), event)
        title = f"u{delivery.utterance} #{delivery.delivery_no} {delivery.outcome} {delivery.code}"
        title = title.rstrip() + self._since_finalized(event, delivery.utterance)
        if event.ms > begin.ms:
            title += (
                f"; it was ready and waited {_time_since(begin, event.ms)} for an earlier outcome"
            )
        self._span(
            self._target(delivery.target), "ready", begin, event.ms,
            label=f"u{delivery.utterance}",
            title=title + _text(event), outcome=kind,
        )  # fmt: skip

    def on_result_missing(self, event: Event, data: ResultMissing) -> None:
        """End the waits of the job, and draw an abandoned span in its target's lane."""
        self._end_dispatch_wait(event, data)
        self._end_wait(event, "missing")
        self._ready.pop((data.target, data.delivery_no), None)
        begin = self._finalized.get(data.utterance, event)
        title = f"u{data.utterance} #{data.delivery_no} missing ({data.reason})"
        self._span(
            self._target(data.target), "abandoned", begin, event.ms,
            label=f"u{data.utterance} missing",
            title=title + self._since_finalized(event, data.utterance), outcome="missing",
            job=event.job,
        )  # fmt: skip

    def _since_finalized(self, event: Event, utterance: int) -> str:
        begin = self._finalized.get(utterance)
        return f", {_time_since(begin, event.ms)} after finalize" if begin else ""


_STEPS: dict[type, Callable[[_SceneBuilder, Event, Any], None]] = {
    SessionOpened: _SceneBuilder.on_session_opened,
    SessionResumed: _SceneBuilder.on_session_resumed,
    SessionClosing: _SceneBuilder.on_session_closing,
    SessionClosed: _SceneBuilder.on_session_closed,
    UtteranceFinalized: _SceneBuilder.on_utterance_finalized,
    PlaybackStarted: _SceneBuilder.on_playback_started,
    PlaybackEnded: _SceneBuilder.on_playback_ended,
    JobQueued: _SceneBuilder.on_job_queued,
    JobPromoted: _SceneBuilder.on_job_promoted,
    JobDispatched: _SceneBuilder.on_job_dispatched,
    AttemptEnded: _SceneBuilder.on_attempt_ended,
    ResultRecorded: _SceneBuilder.on_result_recorded,
    JobFailed: _SceneBuilder.on_job_failed,
    ResultRefused: _SceneBuilder.on_result_refused,
    ResultDelivered: _SceneBuilder.on_result_delivered,
    ResultMissing: _SceneBuilder.on_result_missing,
}


def _wait_of(queued: Event) -> tuple[str, str]:
    """Return the kind of the wait that began with this event, and a verb for it."""
    data = queued.data
    backs_off = isinstance(data, JobQueued) and data.not_before_ms > 0
    return ("backoff", "backs off") if backs_off else ("waiting", "waits")


def build_scene(events: Sequence[Event], opened: Event | None = None) -> Scene:
    """Build the scene of one session from its events, in order; an empty one without events.

    `opened` is the SessionOpened event, if it is not one of them.
    """
    return _SceneBuilder(events, opened).scene if events else Scene()


def _lane_of(node: str) -> str:
    return f"node {name_of(node)}"


def _playback(event: Event, data: Any) -> tuple[str, str, str, int]:
    return event.session, data.origin, data.target, data.utterance


def _job_label(event: Event) -> str:
    data: Any = event.data
    return f"u{data.utterance} {data.target}"


def _text(event: Event) -> str:
    """The text of the result, in lines of their own; empty without one."""
    if not event.body:
        return ""
    try:
        text = codec.decode_text(event.body)
    except codec.UnreadableText:
        return "\n(unreadable)"
    if text.encrypted:
        return f"\n(encrypted, {text.characters} characters)"
    return "".join(f"\n{part}" for part in (text.source_text, text.text) if part)


def _time_since(begin: Event, to_ms: int) -> str:
    return _duration(to_ms - begin.ms)


def _duration(ms: int) -> str:
    return f"{ms} ms" if ms < 1_000 else _seconds(ms)


def _seconds(ms: int) -> str:
    """The time in seconds; a number of an archive may be too large for a fraction."""
    return f"{ms / 1000:.2f} s" if ms < LAST_MS else f"{ms // 1000} s"
