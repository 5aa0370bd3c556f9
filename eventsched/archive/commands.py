"""Typed calls for the archive: one per script.

Owns: how archiver and trimming talk to Redis. Read next: archiver.py, roles/trimmer.py.
Never does: files, waiting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import OtherVersion, ProjectionStore, SetLease, Standby
from eventsched.store.lag import ARCHIVE
from eventsched.store.transport import Arg

SET = ProjectionSet(ARCHIVE, ())
"""The archive's consumer group, held like a projection set."""
NAMES_MAX = 500
Abandoned: TypeAlias = Literal["ok", "duplicate"]
Recorded: TypeAlias = Literal["recorded", "fenced", "moved", "other"]


class ArchiveState(msgspec.Struct, frozen=True):
    """Log and archive at one moment."""

    now_ms: int
    added: int
    """Entries that the log has ever had."""
    kept: int
    first: str
    last: str
    to: str
    """Archived up to here; empty: the cell has no archive."""
    of: str
    """Fingerprint of the archive's key."""
    entries_max: int
    window_ms: int
    """Where a segment ends."""

    @property
    def gone(self) -> int:
        return self.added - self.kept


class Trimmed(msgspec.Struct, frozen=True):
    """What one call of trim_log did."""

    count: int
    is_more: bool
    before: str
    """All before this id may go."""


class ArchiveCalls:
    """Calls of one cell."""

    def __init__(self, views: ProjectionStore) -> None:
        self.views = views

    async def acquire(self, owner: str, lease_ms: int) -> SetLease | Standby | OtherVersion:
        """Become or stay the one that archives this cell; 0 ms gives it up."""
        return await self.views.acquire(SET, owner, lease_ms)

    async def look(self) -> ArchiveState:
        """Whatever is older than its `now_ms` is complete."""
        now, added, kept, *ids, entries_max, window_ms = await self.views.run("read_archive")
        first, last, to, of = [one.decode() for one in ids]
        return ArchiveState(now, added, kept, first, last, to, of, entries_max, window_ms)

    async def record(
        self,
        epoch: int,
        *,
        start: str,
        to: str,
        of: str,
        passed: int,
        audio: bool,
        heard: Mapping[str, str],
    ) -> Recorded:
        """The archive holds the log up to `to`, and of these sessions the audio up to a chunk."""
        args: list[Arg] = [epoch, start, to, of, passed, int(audio)]
        pairs = [part for pair in heard.items() for part in pair] if audio else []
        for some in _some(pairs) or [[]]:
            word: Recorded = (await self.views.run("record_seal", *args, *some)).decode()
            if word != "recorded":
                return word
        return "recorded"

    async def abandon(self, of: str) -> Abandoned:
        """The archive with this key is lost: the cell has none any more. InvalidMessage if held."""
        word: Abandoned = (await self.views.run("abandon_archive", of)).decode()
        return word

    async def trim(self) -> Trimmed:
        """One step of trimming the log."""
        count, is_more, before = await self.views.run("trim_log")
        return Trimmed(count, bool(is_more), before.decode())

    async def drop_session_indexes(self) -> int:
        """Every index that names nothing that is left goes."""
        dropped = 0
        async for names in self.views.scan("session_index"):
            for some in _some(names):
                dropped += await self.views.run("drop_session_indexes", *some)
        return dropped


def _some(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[at : at + NAMES_MAX] for at in range(0, len(names), NAMES_MAX)]
