"""RTTM files (who spoke when), and the outcome that a correct scheduler produces from them.

Owns: reading and checking RTTM, merging overlapping segments of a speaker, and the expectation,
which is computed from the files alone.
Must not: connect to a server.
Read next: replay.py.

One recording is one room; a file may hold several. Its speakers, by first appearance, are its
sessions: speaker i speaks `en` and listens to `langs[i mod n]`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from eventsched.errors import InvalidMessage

UTTERANCE_MS_MAX = 10_000
"""The setting `audio_ms_max`: a longer segment becomes several utterances."""
SPEAKERS_MAX = 32
"""Members of a room."""
CHUNK_MS = 100
END_MS_MAX = 7 * 86_400_000
_FIELDS_MIN = 8
_FIELD = re.compile(r"[^ \t\r\v\f]+")
"""ASCII white space separates fields; a name may contain other white space."""
_COMMENT = ";;"
_ZERO_LENGTH = "SPEAKER of 0 s"
_WORD_MAX = 20
_KINDS_SHOWN_MAX = 3
SAMPLES = Path(__file__).parent / "samples"
"""Invented conversations, for a load test without files."""


@dataclass(frozen=True, slots=True)
class Segment:
    """An interval of speech, in milliseconds from the start of the recording."""

    start_ms: int
    ms: int

    @property
    def end_ms(self) -> int:
        return self.start_ms + self.ms

    @property
    def utterances(self) -> int:
        return -(-self.ms // UTTERANCE_MS_MAX)

    def chunks(self) -> list[tuple[int, int, bool]]:
        """(start_ms, ms, end_of_utterance): 100 ms each, the last one shorter and marked."""
        starts = range(0, self.ms, CHUNK_MS)
        return [
            (self.start_ms + start, min(CHUNK_MS, self.ms - start), start + CHUNK_MS >= self.ms)
            for start in starts
        ]


@dataclass(frozen=True, slots=True)
class Speaker:
    """One session of the replay."""

    name: str
    listen_language: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One recording: one room."""

    name: str
    speakers: tuple[Speaker, ...]

    @property
    def start_ms(self) -> int:
        return min(speaker.segments[0].start_ms for speaker in self.speakers)

    @property
    def end_ms(self) -> int:
        return max(speaker.segments[-1].end_ms for speaker in self.speakers)


@dataclass(frozen=True, slots=True)
class RttmFile:
    """The conversations of one file."""

    conversations: tuple[Conversation, ...]
    """In the order in which their recordings first appear."""
    unused: Mapping[str, int]
    """Number of lines that were not used, by type, without comments and empty lines."""
    lines: int
    """Number of lines without comments and empty lines."""

    def describe_unused(self) -> str:
        """`2 of 9 lines not used: 1 SPKR-INFO, 1 SPEAKER of 0 s`; empty where all were used."""
        if not self.unused:
            return ""
        kinds = Counter(self.unused).most_common()
        parts = [f"{count:,} {kind}" for kind, count in kinds[:_KINDS_SHOWN_MAX]]
        if len(kinds) > _KINDS_SHOWN_MAX:
            parts.append(f"{sum(count for _, count in kinds[_KINDS_SHOWN_MAX:]):,} others")
        total = sum(self.unused.values())
        return f"{total:,} of {self.lines:,} lines not used: {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected counts, computed from the files alone."""

    sessions: int
    utterances: int
    jobs: int


def read_rttm(path: Path, langs: Sequence[str]) -> RttmFile:
    """The conversations in one file. Raises InvalidMessage, which names the line and the fault."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidMessage.of(
            "file", f"{path} cannot be read: {error}", "name an RTTM file"
        ) from None
    spoken: dict[str, dict[str, list[Segment]]] = {}
    unused: Counter[str] = Counter()
    lines = 0
    for number, line in enumerate(text.split("\n"), 1):
        fields = _FIELD.findall(line)
        if not fields or fields[0].startswith(_COMMENT):
            continue
        lines += 1
        if fields[0] != "SPEAKER":
            unused[fields[0][:_WORD_MAX]] += 1
            continue
        segment = _segment(fields, f"{path.name}:{number}")
        if segment.ms > 0:
            spoken.setdefault(fields[1], {}).setdefault(fields[7], []).append(segment)
        else:
            unused[_ZERO_LENGTH] += 1
    if not spoken:
        raise _no_speech(path, unused[_ZERO_LENGTH])
    names = {
        recording: path.stem if len(spoken) == 1 else f"{path.stem}-{recording}"
        for recording in spoken
    }
    return RttmFile(
        tuple(
            _conversation(path, names[recording], speakers, langs)
            for recording, speakers in spoken.items()
        ),
        unused,
        lines,
    )


def _no_speech(path: Path, zero_length: int) -> InvalidMessage:
    if zero_length:
        limit = f"{path}: a SPEAKER line of more than 0 s expected, got {zero_length:,} of 0 s"
        return InvalidMessage.of("file", limit, "check the file")
    return InvalidMessage.of("file", f"{path} has no SPEAKER line", "name an RTTM file")


def _conversation(
    path: Path, name: str, spoken: Mapping[str, Sequence[Segment]], langs: Sequence[str]
) -> Conversation:
    if len(spoken) > SPEAKERS_MAX:
        limit = f"{path}: at most {SPEAKERS_MAX} speakers of one recording, got {len(spoken)}"
        raise InvalidMessage.of("file", limit, "split it")
    merged = {speaker: merge(segments) for speaker, segments in spoken.items()}
    # The sort is stable: speakers who start at the same time stay in the order of their lines.
    order = sorted(merged, key=lambda speaker: merged[speaker][0].start_ms)
    return Conversation(
        name,
        tuple(
            Speaker(speaker, langs[place % len(langs)], merged[speaker])
            for place, speaker in enumerate(order)
        ),
    )


def _segment(fields: Sequence[str], where: str) -> Segment:
    if len(fields) < _FIELDS_MIN:
        raise InvalidMessage.of(
            "line", f"{where}: {len(fields)} fields instead of 8 or more", "check the file"
        )
    try:
        start = Decimal(fields[3])
        start_ms, end_ms = _ms(start), _ms(start + Decimal(fields[4]))
    except (InvalidOperation, ValueError, OverflowError):
        raise InvalidMessage.of(
            "line",
            f"{where}: {fields[3]} and {fields[4]} are no times in seconds",
            "check the file",
        ) from None
    if not 0 <= start_ms <= end_ms <= END_MS_MAX:
        raise InvalidMessage.of(
            "line", f"{where}: 0 s to {END_MS_MAX // 1000:,} s, and no end before the start",
            "check the file",
        )  # fmt: skip
    return Segment(start_ms, end_ms - start_ms)


def _ms(seconds: Decimal) -> int:
    """Whole milliseconds, exact, because decimal seconds are never converted to floats."""
    if seconds.adjusted() > 9:  # beyond any bound; an int of this size might exhaust the memory
        return END_MS_MAX + 1
    return int((seconds * 1000).to_integral_value())


def merge(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Segments of one speaker in order of time, with overlapping ones merged."""
    merged: list[Segment] = []
    for segment in sorted(segments, key=lambda segment: (segment.start_ms, segment.ms)):
        if merged and segment.start_ms < merged[-1].end_ms:
            last = merged[-1]
            end_ms = max(last.end_ms, segment.end_ms)
            merged[-1] = Segment(last.start_ms, end_ms - last.start_ms)
        else:
            merged.append(segment)
    return tuple(merged)


def expect(conversations: Iterable[Conversation]) -> Expected:
    """The counts that the conversations lead to.

    Utterances: the sum of ceil(ms / 10,000) over all segments. Jobs: for each utterance, the number
    of different languages that the other speakers of its recording listen to.
    """
    sessions = utterances = jobs = 0
    for conversation in conversations:
        for speaker in conversation.speakers:
            spoken = sum(segment.utterances for segment in speaker.segments)
            languages = {
                other.listen_language for other in conversation.speakers if other is not speaker
            }
            sessions += 1
            utterances += spoken
            jobs += spoken * len(languages)
    return Expected(sessions, utterances, jobs)
