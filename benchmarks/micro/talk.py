"""Random speech with the durations of speech and silence in recorded conversations.

Owns: reading the durations from RTTM files, and a speaker that draws from them at random.
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
"""Milliseconds of silence, then milliseconds of speech."""

Moment: TypeAlias = tuple[int, bool]
"""Time in ms at which a chunk is complete, and whether it is the last chunk of its stretch."""


def stretches_in(folder: Path) -> list[Stretch]:
    """Return the stretches of all speakers of all conversations in the folder.

    Raises InvalidMessage if the folder has no RTTM file.
    """
    files = sorted(folder.glob("*.rttm"))
    if not files:
        raise InvalidMessage.of("traces", f"no *.rttm in {folder}", "name another folder")
    return [
        (after.start_ms - before.end_ms, after.ms)
        for path in files
        for conversation in read_rttm(path, ["en"]).conversations
        for speaker in conversation.speakers
        for before, after in pairwise(speaker.segments)
    ]


def chunks_of(stretches: Sequence[Stretch], rng: Random) -> Iterator[Moment]:
    """Yield the chunks of an endless speaker, 100 ms each."""
    silence_ms, speech_ms = rng.choice(stretches)
    at_ms = rng.randrange(-speech_ms, silence_ms + 1)  # start at a random time of a stretch
    while True:
        count = max(1, round(speech_ms / CHUNK_MS))
        for number in range(1, count + 1):
            due_ms = at_ms + number * CHUNK_MS
            if due_ms > 0:
                yield due_ms, number == count
        silence_ms, speech_ms = rng.choice(stretches)
        at_ms += count * CHUNK_MS + silence_ms
