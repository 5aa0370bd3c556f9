"""The conversations of a run: parts of recorded meetings that fit its length.

Owns: the choice of meetings and of the part of each, drawn from the seed.
Read next: producer.py (which speaks them).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from eventsched.loadtest.rttm import Conversation, Segment, Speaker, read_rttm

LANGS = ("en", "es")
ROOMS = 3
PAUSE_MS = 1_000
"""The pause before a conversation that is shorter than the run begins again."""


def choose(folder: Path, rng: Random, length_ms: float, rooms: int) -> list[Conversation]:
    """Some meetings of the folder, each a part of the recording that fits the run."""
    files = sorted(folder.glob("*.rttm"))
    if not files:
        raise SystemExit(f"no *.rttm in {folder}")
    return [
        _part(conversation, rng, length_ms)
        for path in rng.sample(files, min(rooms, len(files)))
        for conversation in read_rttm(path, LANGS).conversations
    ]


def _part(conversation: Conversation, rng: Random, length_ms: float) -> Conversation:
    """A part of a long conversation; a short one is repeated."""
    begin = int(rng.uniform(0, max(0.0, conversation.end_ms - length_ms)))
    period_ms = conversation.end_ms + PAUSE_MS
    speakers = []
    for speaker in conversation.speakers:
        moved = [
            Segment(segment.start_ms + repetition * period_ms - begin, segment.ms)
            for repetition in range(int(length_ms // period_ms) + 1)
            for segment in speaker.segments
        ]
        selected = tuple(segment for segment in moved if 0 <= segment.start_ms < length_ms)
        speakers.append(Speaker(speaker.name, speaker.listen_language, selected))
    return Conversation(conversation.name, tuple(speakers))


def as_plan(
    conversations: Sequence[Conversation],
) -> list[tuple[str, list[tuple[str, str, list[tuple[int, int]]]]]]:
    """The conversations in the form of a producer's plan."""
    return [
        (
            conversation.name,
            [
                (
                    speaker.name,
                    speaker.listen_language,
                    [(segment.start_ms, segment.ms) for segment in speaker.segments],
                )
                for speaker in conversation.speakers
            ],
        )
        for conversation in conversations
    ]
