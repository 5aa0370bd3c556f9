"""What there is to see of a session: spans, marks and moments, each in a lane.

Owns: which events make which span, what it is called, and what the tooltip says.
Never does: pixels. Read next: paging.py, drawing.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from eventsched.schema import codec
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
from eventsched.schema.keys import name_of

AUDIO, UTTERANCES, WAITING, PLAYBACK = "audio", "utterances", "waiting", "playback"
PICKED_UP_MS = 100
"""A job that dispatch takes up within this is not shown as waiting for it."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Something that lasted."""

    lane: str
    kind: str
    from_ms: int
    to_ms: int
    label: str = ""
    title: str = ""
    is_open: bool = False
    """It had not ended when the last event came."""
    is_again: bool = False
    """A second attempt or later."""
    chain: str = ""
    """The job: its spans follow each other in one line where they can, else a line joins them."""
    ends: str = ""
    """The outcome that it ends in: drawn as a shape at its end."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened, and did not last."""

    lane: str
    kind: str
    at_ms: int
    title: str = ""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to the session as a whole."""

    kind: str
    at_ms: int
    label: str


class Scene(msgspec.Struct, kw_only=True):
    """One session."""

    session: str = ""
    about: str = ""
    from_ms: int = 0
    to_ms: int = 0
    lanes: list[str] = []
    """From top to bottom."""
    spans: list[Span] = []
    marks: list[Mark] = []
    moments: list[Moment] = []


class _Building:
    """Folds the events of one session into a scene."""

    def __init__(self, events: Sequence[Event]) -> None:
        last = [event.ms for event in events if not isinstance(event.data, SessionRetired)]
        self.scene = Scene(
            session=events[0].session, from_ms=events[0].ms, to_ms=max(last, default=events[0].ms)
        )
        self._finalized: dict[int, Event] = {}
        self._untaken: dict[tuple[int, str], Event] = {}
        self._queued: dict[str, Event] = {}
        self._promoted: dict[str, Event] = {}
        self._running: dict[str, Event] = {}
        self._ready: dict[tuple[str, int], Event] = {}
        self._playing: dict[tuple[str, str, str, int], Event] = {}
        self._nodes: dict[str, None] = {}
        self._targets: dict[str, None] = {}
        for event in events:
            step = _STEPS.get(type(event.data))
            if step is not None:
                step(self, event, event.data)
        self._leave_open()
        nodes = [_lane_of(one) for one in sorted(self._nodes)]
        targets = [f"→ {one}" for one in sorted(self._targets)]
        self.scene.lanes = [AUDIO, UTTERANCES, WAITING, *nodes, *targets, PLAYBACK]

    def _span(self, lane: str, kind: str, begin: Event, to_ms: int, **told: Any) -> None:
        span = Span(lane=lane, kind=kind, from_ms=begin.ms, to_ms=to_ms, **told)
        self.scene.spans.append(span)

    def _mark(self, lane: str, kind: str, event: Event, **told: Any) -> None:
        self.scene.marks.append(Mark(lane=lane, kind=kind, at_ms=event.ms, **told))

    def _node(self, full_id: str) -> str:
        self._nodes[full_id] = None
        return _lane_of(full_id)

    def _target(self, target: str) -> str:
        self._targets[target] = None
        return f"→ {target}"

    def _leave_open(self) -> None:
        """What had not ended goes to the picture's end."""
        end_ms = self.scene.to_ms
        for (utterance, target), event in self._untaken.items():
            label = f"u{utterance} {target}"
            self._span(WAITING, "untaken", event, end_ms, label=label, is_open=True)
        for event in self._queued.values():
            title = f"waits since {_after(event, end_ms)}{self._promotion(event)}"
            self._span(
                WAITING, "waiting", event, end_ms, label=_place(event), title=title, is_open=True
            )
        for event in self._running.values():
            self._attempt(event, end_ms, "running", "still running", is_open=True)
        for event in self._ready.values():
            data: Any = event.data
            label = f"u{data.utterance}"
            title = f"{label} is ready, behind a gap"
            self._span(
                self._target(data.target), "held", event, end_ms, label=label, title=title,
                is_open=True,
            )  # fmt: skip
        for event in self._playing.values():
            self._span(PLAYBACK, "playback", event, end_ms, label=_place(event), is_open=True)

    # --- the session ------------------------------------------------------------------------

    def opened(self, event: Event, data: SessionOpened) -> None:
        heard = f" → {', '.join(data.targets)}" if data.targets else ""
        room = f", room {data.room}" if data.room else ""
        self.scene.session = event.session
        self.scene.about = f"tenant {data.tenant}, {data.source}{heard}{room}"
        self.moment(event, "opened", "opened")

    def moment(self, event: Event, kind: str, label: str) -> None:
        self.scene.moments.append(Moment(kind=kind, at_ms=event.ms, label=label))

    def resumed(self, event: Event, data: SessionResumed) -> None:
        self.moment(event, "resumed", f"resumed, epoch {data.epoch}")

    def closing(self, event: Event, data: SessionClosing) -> None:
        self.moment(event, "closing", "closing" + (" (idle)" if data.reason == "idle" else ""))

    def closed(self, event: Event, _: SessionClosed) -> None:
        self.moment(event, "closed", "closed")

    def finalized(self, event: Event, data: UtteranceFinalized) -> None:
        first_ms, last_ms = _ms(data.first), _ms(data.last)
        self._finalized[data.utterance] = event
        for one in data.targets:
            self._untaken[data.utterance, one.target] = event
        self.scene.from_ms = min(self.scene.from_ms, first_ms)
        said = f"u{data.utterance}: {data.ms / 1000:.2f} s in {data.count} chunks"
        add = self.scene.spans.append
        add(Span(lane=AUDIO, kind="audio", from_ms=first_ms, to_ms=last_ms, title=said))
        add(
            Span(
                lane=UTTERANCES, kind="utterance", from_ms=first_ms, to_ms=event.ms,
                label=f"u{data.utterance}",
                title=f"{said}, by {data.reason} {_took(event.ms - last_ms)} after the last chunk",
            )
        )  # fmt: skip

    def playback_started(self, event: Event, data: PlaybackStarted) -> None:
        self._playing[_sound(event, data)] = event

    def playback_ended(self, event: Event, data: PlaybackEnded) -> None:
        begin = self._playing.pop(_sound(event, data), None)
        if begin is not None:
            title = f"u{data.utterance} → {data.target} at {event.session}: {data.reason}"
            self._span(PLAYBACK, "playback", begin, event.ms, label=_place(event), title=title)

    # --- jobs -------------------------------------------------------------------------------

    def _taken(self, event: Event, data: JobQueued | JobDispatched | ResultMissing) -> None:
        """Dispatch has looked at the job for the first time, or nobody ever will."""
        begin = self._untaken.pop((data.utterance, data.target), None)
        if begin is not None and event.ms - begin.ms > PICKED_UP_MS:
            title = f"{_place(event)} waited {_after(begin, event.ms)} for a dispatcher"
            goes_on = isinstance(event.data, JobQueued)
            self._span(
                WAITING, "untaken", begin, event.ms, label="" if goes_on else _place(event),
                title=title, chain=event.job,
            )  # fmt: skip

    def queued(self, event: Event, data: JobQueued) -> None:
        self._taken(event, data)
        self._queued[event.job] = event
        self._promoted.pop(event.job, None)

    def promoted(self, event: Event, _: JobPromoted) -> None:
        self._promoted[event.job] = event

    def _promotion(self, begin: Event) -> str:
        """When the job moved to a higher priority during the wait that began then."""
        promoted = self._promoted.get(begin.job)
        return f", promoted after {_after(begin, promoted.ms)}" if promoted else ""

    def dispatched(self, event: Event, data: JobDispatched) -> None:
        self._taken(event, data)
        self._end_wait(event, f"to {name_of(event.node)} by {data.rule}")
        self._running[event.job] = event

    def _end_wait(self, event: Event, how: str) -> None:
        begin = self._queued.pop(event.job, None)
        if begin is None:
            return
        reason = begin.data.reason  # type: ignore[union-attr]
        title = (
            f"{_place(begin)} waited {_after(begin, event.ms)}: {reason}"
            f"{self._promotion(begin)}, then {how}"
        )
        self._span(
            WAITING, "waiting", begin, event.ms, label=_place(begin), title=title, chain=event.job
        )

    def attempt_ended(self, event: Event, data: AttemptEnded) -> None:
        begin = self._running.pop(event.job, None)
        if begin is not None:
            kind = "cancelled" if data.reason == "cancelled" else "lost"
            how = data.code or data.reason
            self._attempt(begin, event.ms, kind, f"{data.reason} {data.code}".strip(), how)

    def recorded(self, event: Event, data: ResultRecorded) -> None:
        begin = self._running.pop(event.job, None)
        if begin is not None:
            kind = "ok" if data.status == "ok" else "no_speech"
            self._attempt(begin, event.ms, kind, f"{data.status} {data.code}".strip())
        self._ready[data.target, data.delivery_no] = event

    def _attempt(
        self, begin: Event, to_ms: int, kind: str, how: str, shown: str = "", *,
        is_open: bool = False,
    ) -> None:  # fmt: skip
        data = begin.data
        assert isinstance(data, JobDispatched)
        place = _place(begin) + (f" ×{data.attempt}" if data.attempt > 1 else "")  # noqa: RUF001
        title = (
            f"{place} on {begin.node}, by {data.rule}, attempt {data.attempt}: {how} "
            f"after {_after(begin, to_ms)}"
        )
        self._span(
            self._node(begin.node), kind, begin, to_ms,
            label=f"{place} {shown}".rstrip(), title=title, is_open=is_open,
            is_again=data.attempt > 1, chain=begin.job,
        )  # fmt: skip

    def failed(self, event: Event, data: JobFailed) -> None:
        self._end_wait(event, f"given up: {data.code}")
        self._ready[data.target, data.delivery_no] = event

    def refused(self, event: Event, data: ResultRefused) -> None:
        title = f"{data.what} of attempt {data.attempt} refused: {data.code}"
        self._mark(self._node(event.node), "refused", event, title=title)

    def delivered(self, event: Event, data: ResultDelivered) -> None:
        kind = {"result": "ok", "no_speech": "no_speech", "failed": "failed"}[data.outcome]
        begin = self._ready.pop((data.target, data.delivery_no), event)
        title = f"u{data.utterance} #{data.delivery_no} {data.outcome} {data.code}".rstrip()
        title += self._since_finalized(event, data.utterance)
        if event.ms > begin.ms:
            title += f"; it was ready and waited {_after(begin, event.ms)} behind a gap"
        self._span(
            self._target(data.target), "held", begin, event.ms, label=f"u{data.utterance}",
            title=title + _said(event), ends=kind,
        )  # fmt: skip

    def missing(self, event: Event, data: ResultMissing) -> None:
        self._taken(event, data)
        self._end_wait(event, "given up")
        self._ready.pop((data.target, data.delivery_no), None)
        begin = self._finalized.get(data.utterance, event)
        title = f"u{data.utterance} #{data.delivery_no} missing, given up by {data.reason}"
        self._span(
            self._target(data.target), "given_up", begin, event.ms,
            label=f"u{data.utterance} missing",
            title=title + self._since_finalized(event, data.utterance), ends="missing",
        )  # fmt: skip

    def _since_finalized(self, event: Event, utterance: int) -> str:
        begin = self._finalized.get(utterance)
        return f", {_after(begin, event.ms)} after finalize" if begin else ""


_STEPS: dict[type, Callable[[_Building, Event, Any], None]] = {
    SessionOpened: _Building.opened,
    SessionResumed: _Building.resumed,
    SessionClosing: _Building.closing,
    SessionClosed: _Building.closed,
    UtteranceFinalized: _Building.finalized,
    PlaybackStarted: _Building.playback_started,
    PlaybackEnded: _Building.playback_ended,
    JobQueued: _Building.queued,
    JobPromoted: _Building.promoted,
    JobDispatched: _Building.dispatched,
    AttemptEnded: _Building.attempt_ended,
    ResultRecorded: _Building.recorded,
    JobFailed: _Building.failed,
    ResultRefused: _Building.refused,
    ResultDelivered: _Building.delivered,
    ResultMissing: _Building.missing,
}


def scene_of(events: Sequence[Event]) -> Scene:
    """The scene of one session's events, in their order; of none, nothing."""
    return _Building(events).scene if events else Scene()


def _lane_of(node: str) -> str:
    return f"node {name_of(node)}"


def _sound(event: Event, data: Any) -> tuple[str, str, str, int]:
    return event.session, data.origin, data.target, data.utterance


def _place(event: Event) -> str:
    data: Any = event.data
    return f"u{data.utterance} {data.target}"


def _said(event: Event) -> str:
    """The text, where it is one that can be read."""
    if not event.body:
        return ""
    try:
        text = codec.decode_text(event.body)
    except codec.UnreadableText:
        return "\n(unreadable)"
    if text.sealed:
        return f"\n(sealed, {text.characters} characters)"
    return "".join(f"\n{one}" for one in (text.source_text, text.text) if one)


def _after(begin: Event, to_ms: int) -> str:
    return _took(to_ms - begin.ms)


def _took(ms: int) -> str:
    return f"{ms} ms" if ms < 1_000 else f"{ms / 1000:.2f} s"


def _ms(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])
