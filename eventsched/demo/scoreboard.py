"""What the log says of each job of the demo: where it went, how long each step took.

Owns: folding events of the demo's sessions into rows, and judging them in the end.
Never does: I/O. Read next: view.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from eventsched.demo.speech.accuracy import word_accuracy
from eventsched.schema import codec, events
from eventsched.schema.events import Event
from eventsched.schema.keys import name_of

ACCURACY_MIN = 0.8


@dataclass(slots=True)
class Row:
    """One utterance on its way into one language. Times are those of the log; 0: not yet."""

    speaker: str
    utterance: int
    target: str
    to: tuple[str, ...]
    """Who hears it."""
    audio_ms: int
    finalized_ms: int
    node: str = ""
    attempt: int = 0
    dispatched_ms: int = 0
    recorded_ms: int = 0
    delivered_ms: int = 0
    outcome: str = ""
    code: str = ""
    said: str = ""
    translation: str | None = None

    @property
    def step(self) -> str:
        """What happened last."""
        if self.outcome:
            return self.outcome
        if self.recorded_ms:
            return "recorded"
        return "working" if self.dispatched_ms else "waiting"

    @property
    def waited_ms(self) -> int | None:
        """From the utterance's end to a node's slot."""
        return self.dispatched_ms - self.finalized_ms if self.dispatched_ms else None

    @property
    def worked_ms(self) -> int | None:
        """From the slot to the node's result: recognition and translation."""
        return self.recorded_ms - self.dispatched_ms if self.recorded_ms else None

    @property
    def held_ms(self) -> int | None:
        """From the result to its delivery: behind an earlier one that was not there yet."""
        return self.delivered_ms - self.recorded_ms if self._is_delivered else None

    @property
    def total_ms(self) -> int | None:
        """From the utterance's end to its listeners."""
        return self.delivered_ms - self.finalized_ms if self.delivered_ms else None

    @property
    def _is_delivered(self) -> bool:
        return bool(self.delivered_ms and self.recorded_ms)


@dataclass(slots=True)
class Board:
    """The rows, in the order in which their utterances ended."""

    speakers: Mapping[str, str]
    """Session -> who speaks there."""
    rows: dict[tuple[str, int, str], Row] = field(default_factory=dict)
    """By session, utterance and target."""
    states: dict[str, str] = field(default_factory=dict)
    """Session -> open, closing or closed."""

    def take(self, event: Event) -> list[Row]:
        """The rows that the event made or moved on; none for what is not the demo's."""
        if event.session not in self.speakers:
            return []
        match event.data:
            case events.SessionOpened():
                self.states[event.session] = "open"
            case events.SessionClosing():
                self.states[event.session] = "closing"
            case events.SessionClosed():
                self.states[event.session] = "closed"
            case events.UtteranceFinalized():
                return list(self._finalized(event, event.data))
            case (
                events.JobDispatched()
                | events.ResultRecorded()
                | events.ResultDelivered()
                | (events.ResultMissing())
            ):
                row = self.rows.get((event.session, event.data.utterance, event.data.target))
                if row is not None:
                    _move(row, event)
                    return [row]
        return []

    def _finalized(self, event: Event, data: events.UtteranceFinalized) -> Iterator[Row]:
        for owed in data.targets:
            key = (event.session, data.utterance, owed.target)
            self.rows[key] = Row(
                speaker=self.speakers[event.session],
                utterance=data.utterance,
                target=owed.target,
                to=tuple(self.speakers.get(one, name_of(one)) for one in owed.to),
                audio_ms=data.ms,
                finalized_ms=event.ms,
            )
            yield self.rows[key]


def _move(row: Row, event: Event) -> None:
    match event.data:
        case events.JobDispatched() as data:
            row.node, row.attempt = name_of(event.node), data.attempt
            row.dispatched_ms = event.ms
        case events.ResultRecorded():
            row.recorded_ms = event.ms
            text = codec.decode_text(event.body)
            row.said, row.translation = text.source_text, text.text
        case events.ResultDelivered() as data:
            row.delivered_ms, row.outcome, row.code = event.ms, data.outcome, data.code
        case events.ResultMissing() as data:
            row.delivered_ms, row.outcome, row.code = event.ms, "missing", data.reason


def accuracy(rows: list[Row], said: Mapping[str, list[str]]) -> float:
    """The word accuracy over all rows; `said` is what each speaker really said, in order."""
    expected = [said[row.speaker][row.utterance] for row in rows]
    words = sum(len(text.split()) for text in expected)
    right = sum(
        word_accuracy(text, row.said) * len(text.split())
        for text, row in zip(expected, rows, strict=True)
    )
    return right / words if words else 0.0


def problems(
    board: Board, said: Mapping[str, list[str]], owed: Mapping[str, list[str]]
) -> list[str]:
    """What is not as it should be, one line each; `owed`: speaker -> languages others hear."""
    found = []
    for speaker, texts in said.items():
        rows = [row for row in board.rows.values() if row.speaker == speaker]
        expected = [(at, target) for at in range(len(texts)) for target in owed[speaker]]
        seen = [(row.utterance, row.target) for row in rows]
        if sorted(seen) != sorted(expected):
            found.append(f"{speaker}: {len(expected)} jobs expected, {len(seen)} seen")
            continue
        for row in rows:
            place = f"{speaker} {row.utterance} → {row.target}"
            if row.outcome != "result":
                found.append(f"{place}: {row.step} {row.code}".rstrip())
            elif word_accuracy(texts[row.utterance], row.said) < ACCURACY_MIN:
                found.append(f"{place}: heard “{row.said}”, said “{texts[row.utterance]}”")
    return found
