"""Calls of the roles and of operators: dispatch, fire timers, backpressure, retry dead letters.

Owns: the arguments and replies of these scripts.
Must not: decide, retry or wait; the scripts decide, the roles loop.
Read next: lua/README.md (what each script decides), roles/dispatcher.py, roles/timer.py.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from eventsched.store.cell_connection import CellConnection


class DispatchReply(msgspec.Struct, frozen=True):
    """What one call of the dispatch script did."""

    last_id: str
    left: int
    """Entries of the dispatch stream that are not read yet."""
    jobs: int
    waiting: int
    """Of these jobs, those that were queued because no node has a free slot."""


class TimerReply(msgspec.Struct, frozen=True):
    """What one call of the timer script did."""

    fired: int
    next_ms: int | None
    now_ms: int


class RetryOutcome(msgspec.Struct, frozen=True):
    """What the retry of a dead letter did."""

    word: Literal["retried", "passed_over", "partial", "projection", "unreadable", "unknown"]
    """lua/retry_dead_letter.lua defines each word; all but the first two changed nothing."""
    retried: int
    passed_over: int


class RoleCommands(CellConnection):
    """The calls of a cell that roles and operators make."""

    async def set_backpressure(
        self, reason: str, *, is_active: bool, seen: int, limit: int
    ) -> Literal["started", "ended", "unchanged"]:
        """The cell refuses audio for this reason, or no longer does."""
        reply = await self.run("set_backpressure", reason, int(is_active), seen, limit)
        return reply.decode()  # type: ignore[no-any-return]

    async def dispatch_jobs(self, lease_ms: int = 0) -> DispatchReply:
        """Dispatch or queue the jobs of up to 12 entries of the dispatch stream.

        Args:
            lease_ms: How long the presence lease of the dispatcher lasts. Until it expires, a call
                that finalizes an utterance may assign its jobs itself if the dispatch stream is
                empty.
        """
        last_id, left, jobs, waiting = await self.run("dispatch_jobs", lease_ms)
        return DispatchReply(last_id.decode(), left, jobs, waiting)

    async def fire_timers(self) -> TimerReply:
        """Up to 16 due timers have fired."""
        fired, next_ms, now_ms = await self.run("fire_timers")
        return TimerReply(fired, None if next_ms < 0 else next_ms, now_ms)

    async def retry_dead_letter(self, dead_id: str, *, force: bool) -> RetryOutcome:
        """Process a dead letter again; with `force` also one that was processed in part."""
        word, retried, passed_over = await self.run("retry_dead_letter", dead_id, int(force))
        return RetryOutcome(word.decode(), retried, passed_over)
