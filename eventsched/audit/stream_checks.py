"""What the streams of sessions still hold: numbered without holes, kept while it is needed.

Owns: reading audio, out, work and dead for verify (I1, I8, I9, I10).
Never does: folding, writing. Read next: verify.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from eventsched.audit.invariants import Violation
from eventsched.projection.fold import in_order
from eventsched.projection.store import START, ProjectionStore
from eventsched.schema.keys import name_of
from projections.session import Session

READ_MAX = 500


class Chunks(msgspec.Struct, frozen=True):
    """Chunks of one session that are still stored: ids, and what is wrong with their numbers."""

    ids: list[str]
    broken: list[Violation]

    @property
    def count(self) -> int:
        return len(self.ids)

    def missing(self, name: str, view: Session) -> Iterator[Violation]:
        """I10: audio of outcomes that are open, as of a moment after these were read."""
        if not view.open_outcomes:
            return
        kept, last = set(self.ids), in_order(self.ids[-1] if self.ids else START)
        for key, owed in view.open_outcomes.items():
            is_behind = self.ids and in_order(owed.first) > last
            if owed.first not in kept and not is_behind:
                what = f"the first chunk of {key}, {owed.first}, is gone while it is open"
                yield Violation("I10", f"audio:{name}", what)


class Heard(msgspec.Struct, frozen=True):
    """Entries of one out stream that are still stored."""

    count: int
    broken: list[Violation]


class StreamChecks:
    """The streams of one cell."""

    def __init__(self, views: ProjectionStore) -> None:
        self._views = views

    async def chunks(self, name: str) -> Chunks:
        """I1: chunk numbers of a session, as far as its audio is stored."""
        marks, broken = await self._numbered("audio", name, "I1")
        return Chunks(marks, broken)

    async def heard(self, name: str) -> Heard:
        """I9: what listeners were told is numbered without holes."""
        marks, broken = await self._numbered("outbox", name, "I9")
        return Heard(len(marks), broken)

    async def _numbered(
        self, kind: Literal["audio", "outbox"], name: str, invariant: str
    ) -> tuple[list[str], list[Violation]]:
        ids: list[str] = []
        broken: list[Violation] = []
        number: int | None = None
        while marks := await self._views.read_entry_numbers(kind, name, ids[-1] if ids else START):
            for place, (entry_id, mark) in enumerate(marks):
                following = number
                number = _number(kind, mark)
                is_hole = following is not None and number != following + 1
                # between two readings the oldest entries may have been trimmed
                if is_hole and (place or not await self._is_trimmed(kind, name, ids[-1])):
                    what = f"{entry_id}: number {number} after {following}"
                    broken.append(Violation(invariant, f"{kind}:{name}", what))
                ids.append(entry_id)
        return ids, broken

    async def _is_trimmed(self, kind: Literal["audio", "outbox"], name: str, entry_id: str) -> bool:
        oldest = await self._views.read_entry_numbers(kind, name, START)
        return not oldest or in_order(oldest[0][0]) > in_order(entry_id)

    async def utterances_in_work(self, name: str) -> set[int]:
        """Utterances of a session that `work` or `dead` has an entry of."""
        keys = self._views.keys
        found: set[int] = set()
        for key in (keys.dispatch, keys.dead_letters):
            async for fields in self._entries(key):
                told = _utterance(fields)
                if told is not None and told[0] == name:
                    found.add(told[1])
        return found

    async def dead_count(self) -> int:
        """Entries in `dead`."""
        key = self._views.keys.dead_letters
        return int(await self._views.transport.command("XLEN", key, key=key))

    async def _entries(self, key: str) -> Any:
        after = START
        while entries := await self._views.read_stream(key, after, READ_MAX):
            for _, flat in entries:
                yield dict(zip(flat[::2], flat[1::2], strict=True))
            after = entries[-1][0]


def _number(kind: str, mark: bytes) -> int:
    if kind == "audio":
        return int(msgspec.json.decode(mark)["seq"])
    return int(mark.partition(b":")[0])


class _Lead(msgspec.Struct):
    session: str
    utterance: int


def _utterance(fields: dict[bytes, bytes]) -> tuple[str, int] | None:
    """(session, utterance) of an entry of `work`, or of one that was parked from there: what
    cannot be read was parked for that, and is of none."""
    if fields.get(b"k") != b"utterance":
        return None
    try:
        lead = _lead(fields[b"d"])
        return name_of(lead.session), lead.utterance
    except (msgspec.MsgspecError, ValueError):
        return None


def _lead(work: bytes) -> _Lead:
    """The session and the number of its utterance, with which the entry begins."""
    session, utterance, _ = work.split(b" ", 2)
    return _Lead(session.decode(), int(utterance))
