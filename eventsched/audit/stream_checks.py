"""Checks of streams: entries are numbered without holes, and stored while they are needed.

Owns: reading audio, outboxes, dispatch entries and dead letters for verify (I1, I8, I9, I10).
Must not: fold, write. Read next: verify.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from eventsched.audit.invariants import Violation
from eventsched.projection.store import ProjectionStore
from eventsched.schema.events import AudioChunkAppended
from eventsched.schema.ids import AFTER_ALL, START, is_id, ms_of, parse_id
from eventsched.schema.keys import name_of
from eventsched.schema.nesting import check_json
from eventsched.store.replies import fields_of
from projections.session import Session

READ_MAX = 500
_CHUNK = msgspec.json.Decoder(AudioChunkAppended)


class Chunks(msgspec.Struct, frozen=True):
    """The stored chunks of one session: their ids, and the violations in their numbers."""

    ids: list[str]
    violations: list[Violation]
    holes: list[str] = []
    """Ids of the entries whose number does not follow that of the entry before."""
    last: int = -1
    """Number of the newest chunk."""

    @property
    def count(self) -> int:
        return len(self.ids)

    def missing(self, name: str, view: Session) -> Iterator[Violation]:
        """I10: the audio of every open outcome is stored. `view` may be newer than the chunks."""
        if not view.open_outcomes:
            return
        ids, last = set(self.ids), parse_id(self.ids[-1] if self.ids else START)
        for key, outcome in view.open_outcomes.items():
            if outcome.outcome:
                continue  # the job has ended
            is_newer = self.ids and parse_id(outcome.first) > last
            if outcome.first not in ids and not is_newer:
                what = f"the first chunk of {key}, {outcome.first}, is trimmed while it is open"
                yield Violation("I10", f"audio:{name}", what)

    def uncounted(self, name: str, stored: Mapping[str, Any]) -> Iterator[Violation]:
        """I1: the session has counted every stored chunk. `stored` is newer than the chunks."""
        counted = stored.get("hash", {}).get("buffer", "").partition("|")[0]
        if counted.isdecimal() and int(counted) <= self.last:
            yield Violation("I1", f"audio:{name}", f"chunk {self.last} is stored, not counted")


class Outbox(msgspec.Struct, frozen=True):
    """The stored entries of one outbox: their ids, and the violations in their numbers."""

    ids: list[str]
    violations: list[Violation]
    holes: list[str] = []
    """Ids of the entries whose number does not follow that of the entry before."""
    delivered: dict[str, str] = {}
    """Id of each result -> id of the log entry that it delivers."""
    last: tuple[int, int] = (-1, -1)
    """Number of the newest entry, and the bytes up to it."""

    @property
    def count(self) -> int:
        return len(self.ids)

    def undelivered(self, deliveries: Iterable[str], stored: Mapping[str, Any]) -> list[str]:
        """I9: which of these log entries the outbox lacks, although they are not trimmed from it.

        Args:
            deliveries: Ids of the log entries that deliver to the session, read before the outbox.
            stored: The state of the session, read after the outbox.
        """
        found = {each for each in self.delivered.values() if is_id(each)}
        first = min(map(parse_id, found), default=AFTER_ALL)
        confirmed = stored.get("hash", {}).get("confirmed", START)
        trimmed_ms = ms_of(confirmed if is_id(confirmed) else START)
        if self.ids:
            trimmed_ms = max(trimmed_ms, ms_of(self.ids[0]))
        return [
            each
            for each in deliveries
            if each not in found and (ms_of(each) > trimmed_ms or parse_id(each) > first)
        ]


class _Numbered(NamedTuple):
    """The entries of an audio stream or an outbox; the fields as in Chunks and Outbox."""

    ids: list[str]
    violations: list[Violation]
    holes: list[str]
    last: int
    delivered: dict[str, str]
    bytes: int
    """Bytes up to the newest entry of an outbox."""


class StreamChecks:
    """Reads and checks the streams of one cell."""

    def __init__(self, store: ProjectionStore) -> None:
        self._store = store

    async def chunks(self, name: str) -> Chunks:
        """I1: the chunk numbers of an utterance have no hole, as far as its audio is stored.

        An empty chunk between two utterances has a number and is not stored.
        """
        numbered = await self._numbered("audio", name, "I1")
        return Chunks(numbered.ids, numbered.violations, numbered.holes, numbered.last)

    async def outbox(self, name: str) -> Outbox:
        """I9: the numbers of an outbox have no hole."""
        numbered = await self._numbered("outbox", name, "I9")
        last = (numbered.last, numbered.bytes)
        return Outbox(numbered.ids, numbered.violations, numbered.holes, numbered.delivered, last)

    async def _numbered(
        self, kind: Literal["audio", "outbox"], name: str, invariant: str
    ) -> _Numbered:
        """Return the ids of all stored entries, and a violation for every hole."""
        ids: list[str] = []
        delivered: dict[str, str] = {}
        holes: list[str] = []
        violations: list[Violation] = []
        number: int | None = None
        utterance, total = -1, -1
        while page := await self._store.read_entry_numbers(kind, name, ids[-1] if ids else START):
            for index, (entry_id, field) in enumerate(page):
                previous, previous_utterance = number, utterance
                number, utterance = _place(kind, field)
                total = _total(field) if kind == "outbox" else -1
                is_hole = previous is not None and number != previous + 1
                if previous is not None and utterance == previous_utterance + 1:
                    is_hole = number <= previous
                # the oldest entries may be trimmed between two reads
                if is_hole and (index or not await self._is_trimmed(kind, name, ids[-1])):
                    what = f"{entry_id}: number {number} after {previous}"
                    violations.append(Violation(invariant, f"{kind}:{name}", what))
                    holes.append(entry_id)
                ids.append(entry_id)
                if log_id := field.partition(b" ")[2] if kind == "outbox" else b"":
                    delivered[entry_id] = log_id.decode(errors="replace")
        last = -1 if number is None else number
        return _Numbered(ids, violations, holes, last, delivered, total)

    async def _is_trimmed(self, kind: Literal["audio", "outbox"], name: str, entry_id: str) -> bool:
        oldest = await self._store.read_entry_numbers(kind, name, START)
        return not oldest or parse_id(oldest[0][0]) > parse_id(entry_id)

    async def utterances_with_entry(self, name: str) -> set[int]:
        """Return the session's utterances with an entry in the dispatch stream or a dead letter."""
        keys = self._store.keys
        utterances: set[int] = set()
        for key in (keys.dispatch, keys.dead_letters):
            async for fields in self._entries(key):
                session, utterance = _utterance(fields) or ("", -1)
                if session == name:
                    utterances.add(utterance)
        return utterances

    async def stalled_timer_count(self) -> int:
        key = self._store.keys.stalled_timers
        return int(await self._store.transport.command("ZCARD", key, key=key))

    async def dead_letter_count(self) -> int:
        key = self._store.keys.dead_letters
        return int(await self._store.transport.command("XLEN", key, key=key))

    async def _entries(self, key: str) -> Any:
        after = START
        while entries := await self._store.read_range(key, f"({after}", "+", READ_MAX):
            for _, flat in entries:
                yield fields_of(flat)
            after = entries[-1][0]


def _place(kind: str, field: bytes) -> tuple[int, int]:
    """The number of an entry, from the field that `read_entry_numbers` returns; -1 if it has none.

    A program other than the scripts has written an entry without a number.

    Returns:
        The number, and the utterance of a chunk, -2 of another entry.
    """
    try:
        if kind == "audio":
            chunk = _CHUNK.decode(check_json(field))
            return chunk.seq, chunk.utterance
        return int(field.partition(b":")[0]), -2
    except (msgspec.DecodeError, ValueError):
        return -1, -2


def _total(field: bytes) -> int:
    """The bytes up to an entry of an outbox; -1 if it names none."""
    total = field.partition(b" ")[0].partition(b":")[2]
    return int(total) if total.isdigit() else -1


def _utterance(fields: dict[bytes, bytes]) -> tuple[str, int] | None:
    """Return (session name, utterance) of a dispatch entry or a dead letter of one.

    None for other entries, and for an entry that cannot be parsed and was dead-lettered for it.
    """
    if fields.get(b"k") != b"utterance":
        return None
    try:
        session, utterance, _ = fields[b"d"].split(b" ", 2)
        return name_of(session.decode()), int(utterance)
    except ValueError:
        return None
