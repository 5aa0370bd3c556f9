"""Speech as people speak: how long, and how long not, drawn from recorded conversations.

Owns: the distribution in RTTM files, and a speaker who follows it at random.
Never does: I/O with a server. Read next: sessions.py, loadtest/rttm.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import TypeAlias

from eventsched.errors import InvalidMessage
from eventsched.loadtest.rttm import CHUNK_MS, read_rttm

Stretch: TypeAlias = tuple[int, int]
"""So many ms of silence, then so many of speech."""

Moment: TypeAlias = tuple[int, bool]
"""The ms from the start at which a chunk is complete, and whether it is its stretch's last."""


def stretches_in(folder: Path) -> list[Stretch]:
    """Of every speaker of every conversation in the folder."""
    files = sorted(folder.glob("*.rttm"))
    if not files:
        raise InvalidMessage.of("traces", f"no *.rttm in {folder}", "name a folder that has some")
    return [
        (after.start_ms - before.end_ms, after.ms)
        for path in files
        for conversation in read_rttm(path, ["en"]).conversations
        for speaker in conversation.speakers
        for before, after in pairwise(speaker.segments)
    ]


def chunks_of(stretches: Sequence[Stretch], rng: Random) -> Iterator[Moment]:
    """A speaker without end, in chunks of 100 ms."""
    silence_ms, speech_ms = rng.choice(stretches)
    at_ms = rng.randrange(-speech_ms, silence_ms + 1)  # somewhere amid what goes on
    while True:
        count = max(1, round(speech_ms / CHUNK_MS))
        for number in range(1, count + 1):
            due_ms = at_ms + number * CHUNK_MS
            if due_ms > 0:
                yield due_ms, number == count
        silence_ms, speech_ms = rng.choice(stretches)
        at_ms += count * CHUNK_MS + silence_ms
