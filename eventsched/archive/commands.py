"""Calls of the archive: one per script.

Owns: the arguments and replies of these scripts.
Must not: access files, or wait.
Read next: archiver.py and roles/trimmer.py (the callers), lua/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from eventsched.archive.layout import SetAsideNote
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import OtherVersion, ProjectionStore, SetLease, Standby
from eventsched.store.lag import ARCHIVE
from eventsched.store.transport import Arg

SET = ProjectionSet(ARCHIVE, ())
"""The archive's consumer group, leased like a projection set."""
LEASE_MS = 15_000
NAMES_MAX = 500
Abandoned: TypeAlias = Literal["ok", "duplicate"]
SetAsideReply: TypeAlias = Literal["ok", "duplicate", "fenced"]
Recorded: TypeAlias = Literal["recorded", "fenced", "moved", "other"]


class ArchiveState(msgspec.Struct, frozen=True):
    """The log and the archive of a cell at one time."""

    now_ms: int
    added: int
    """Entries that the log ever had."""
    log_entries: int
    """Entries that the log has now."""
    first: str
    last: str
    to: str
    """Id of the last archived entry; empty if the cell has no archive."""
    fingerprint: str
    """Of the archive's key."""
    entries_max: int
    window_ms: int
    """With `entries_max`, the limits of a segment."""

    @property
    def trimmed(self) -> int:
        """Entries that were trimmed from the log."""
        return self.added - self.log_entries


class Trimmed(msgspec.Struct, frozen=True):
    """What one call of the script trim_log did."""

    count: int
    is_more: bool
    before: str
    """Entries before this id may be trimmed."""


class ArchiveCommands:
    """The archive's calls of one cell."""

    def __init__(self, store: ProjectionStore) -> None:
        self.store = store

    async def acquire(self, owner: str, lease_ms: int) -> SetLease | Standby | OtherVersion:
        """Acquire or renew the lease of the cell's archive; 0 ms releases it."""
        return await self.store.acquire(SET, owner, lease_ms)

    async def read_state(self) -> ArchiveState:
        """The state of log and archive. No entry with a time before its `now_ms` is added later."""
        now, added, entries, *texts, entries_max, window_ms = await self.store.run("read_archive")
        first, last, to, key = [text.decode() for text in texts]
        return ArchiveState(now, added, entries, first, last, to, key, entries_max, window_ms)

    async def record(
        self,
        epoch: int,
        *,
        start: str,
        to: str,
        fingerprint: str,
        processed: int,
        audio: bool,
        audio_to: Mapping[str, str],
    ) -> Recorded:
        """Record that the archive has the log up to `to`.

        Args:
            epoch: Of the caller's lease.
            start: The end of the archive before.
            to: Id of the last archived entry.
            fingerprint: Of the archive's key.
            processed: Entries that the log ever had up to `to`.
            audio: Whether the archive has audio.
            audio_to: Session -> id of the last archived chunk of its audio.
        """
        args: list[Arg] = [epoch, start, to, fingerprint, processed, int(audio)]
        pairs = [part for pair in audio_to.items() for part in pair] if audio else []
        for part in _parts(pairs) or [[]]:
            word: Recorded = (await self.store.run("record_seal", *args, *part)).decode()
            if word != "recorded":
                return word
        return "recorded"

    async def abandon(self, fingerprint: str, *, why: str, by: str) -> Abandoned:
        """The cell no longer has the archive with this key, which is lost.

        Args:
            fingerprint: Fingerprint of the key.
            why: The operator's reason, 1 to 500 bytes.
            by: The operator, 1 to 200 bytes.

        Raises:
            InvalidMessage: An archiver has the lease of the archive, or there is no reason.
        """
        reply = await self.store.run("abandon_archive", fingerprint, why, by)
        word: Abandoned = reply.decode()
        return word

    async def set_aside(
        self, epoch: int, note: SetAsideNote, roots: Sequence[str]
    ) -> SetAsideReply:
        """The log records that these segments, which it has lost, are set aside.

        Raises InvalidMessage for another archive than the cell's, or a reason that is too long.
        """
        word: SetAsideReply = (
            await self.store.run(
                "set_aside_archive",
                epoch,
                note.key,
                note.first_segment,
                note.segments,
                note.entries,
                note.first,
                note.last,
                note.head,
                ",".join(roots),
                note.why,
                note.by,
            )
        ).decode()
        return word

    async def trim(self) -> Trimmed:
        """Trim a bounded number of entries from the log."""
        count, is_more, before = await self.store.run("trim_log")
        return Trimmed(count, bool(is_more), before.decode())

    async def trim_node_indexes(self) -> int:
        """Remove trimmed entries from the indexes of nodes; returns the number of indexes."""
        return await self._run_until_done("trim_node_indexes")

    async def drop_session_indexes(self) -> int:
        """Drop the session indexes all of whose entries were trimmed; returns their number."""
        return await self._run_until_done("drop_session_indexes")

    async def _run_until_done(self, script: str) -> int:
        """Call a script until it returns 0; return the sum of its replies."""
        total = 0
        while count := await self.store.run(script):
            total += count
        return total


def _parts(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start : start + NAMES_MAX] for start in range(0, len(names), NAMES_MAX)]
