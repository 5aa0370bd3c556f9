"""The progress of each job of the demo according to the log, with the time of each step.

Owns: folding the events of the demo's sessions into rows, and the faults in these rows.
Must not: do I/O.
Read next: view.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from eventsched.demo.speech.accuracy import word_accuracy
from eventsched.schema import codec, events
from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import Event
from eventsched.schema.keys import name_of

ACCURACY_MIN = 0.8


@dataclass(slots=True)
class Row:
    """One utterance in one target language. Times are times of the log; 0 if not reached yet.

    The fields have the same names in the output of `eventsched demo --json`.
    """

    speaker: str
    utterance: int
    target: str
    to: tuple[str, ...]
    """Names of the speakers who receive the outcome."""
    audio_ms: int
    finalized_ms: int
    node: str = ""
    attempt: int = 0
    dispatched_ms: int = 0
    recorded_ms: int = 0
    delivered_ms: int = 0
    outcome: str = ""
    code: str = ""
    transcript: str = ""
    translation: str | None = None

    @property
    def step(self) -> str:
        """The last step that was reached, or the outcome."""
        if self.outcome:
            return self.outcome
        if self.recorded_ms:
            return "recorded"
        return "working" if self.dispatched_ms else "waiting"

    @property
    def waited_ms(self) -> int | None:
        """From the end of the utterance to the dispatch."""
        return self.dispatched_ms - self.finalized_ms if self.dispatched_ms else None

    @property
    def worked_ms(self) -> int | None:
        """From the dispatch to the node's result: recognition and translation."""
        return self.recorded_ms - self.dispatched_ms if self.recorded_ms else None

    @property
    def held_ms(self) -> int | None:
        """From the result to its delivery, which waits for earlier results."""
        return self.delivered_ms - self.recorded_ms if self._is_delivered else None

    @property
    def total_ms(self) -> int | None:
        """From the end of the utterance to the delivery."""
        return self.delivered_ms - self.finalized_ms if self.delivered_ms else None

    @property
    def _is_delivered(self) -> bool:
        return bool(self.delivered_ms and self.recorded_ms)


@dataclass(slots=True)
class Board:
    """The rows, in the order in which their utterances ended."""

    speakers: Mapping[str, str]
    """Names of the speakers by session."""
    rows: dict[tuple[str, int, str], Row] = field(default_factory=dict)
    """Rows by session, utterance and target."""
    states: dict[str, str] = field(default_factory=dict)
    """`open`, `closing` or `closed` by session."""

    def apply(self, event: Event) -> list[Row]:
        """Apply an event; returns the rows that it created or changed."""
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
                | events.ResultMissing()
            ):
                row = self.rows.get((event.session, event.data.utterance, event.data.target))
                if row is not None:
                    _update(row, event)
                    return [row]
        return []

    def _finalized(self, event: Event, data: events.UtteranceFinalized) -> Iterator[Row]:
        for target in data.targets:
            key = (event.session, data.utterance, target.target)
            self.rows[key] = Row(
                speaker=self.speakers[event.session],
                utterance=data.utterance,
                target=target.target,
                to=tuple(self.speakers.get(id_, name_of(id_)) for id_ in target.to),
                audio_ms=data.ms,
                finalized_ms=event.ms,
            )
            yield self.rows[key]


def _update(row: Row, event: Event) -> None:
    match event.data:
        case events.JobDispatched() as data:
            row.node, row.attempt = name_of(event.node), data.attempt
            row.dispatched_ms = event.ms
        case events.ResultRecorded():
            row.recorded_ms = event.ms
            text = codec.decode_text(event.body)
            row.transcript, row.translation = text.source_text, text.text
    delivery = delivery_of(event.data)
    if delivery is not None:
        row.delivered_ms, row.outcome, row.code = event.ms, delivery.outcome, delivery.code
        if isinstance(event.data, events.ResultMissing):
            row.code = event.data.reason


def accuracy(rows: list[Row], texts: Mapping[str, list[str]]) -> float:
    """The word accuracy over all rows; `texts` holds the spoken sentences by speaker, in order."""
    expected = [texts[row.speaker][row.utterance] for row in rows]
    words = sum(len(text.split()) for text in expected)
    right = sum(
        word_accuracy(text, row.transcript) * len(text.split())
        for text, row in zip(expected, rows, strict=True)
    )
    return right / words if words else 0.0


def problems(
    board: Board, texts: Mapping[str, list[str]], languages: Mapping[str, list[str]]
) -> list[str]:
    """The faults in the rows, one line each.

    Args:
        board: The rows at the end of the demo.
        texts: The spoken sentences by speaker, in order.
        languages: The expected target languages by speaker.
    """
    faults = []
    for speaker, sentences in texts.items():
        rows = [row for row in board.rows.values() if row.speaker == speaker]
        expected = [(at, target) for at in range(len(sentences)) for target in languages[speaker]]
        actual = [(row.utterance, row.target) for row in rows]
        if sorted(actual) != sorted(expected):
            faults.append(f"{speaker}: {len(expected)} jobs expected, {len(actual)} in the log")
            continue
        for row in rows:
            place = f"{speaker} {row.utterance} → {row.target}"
            sentence = sentences[row.utterance]
            if row.outcome != "result":
                faults.append(f"{place}: {row.step} {row.code}".rstrip())
            elif word_accuracy(sentence, row.transcript) < ACCURACY_MIN:
                faults.append(f"{place}: recognised “{row.transcript}”, spoken “{sentence}”")
    return faults
