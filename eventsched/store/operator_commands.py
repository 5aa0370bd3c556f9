"""Calls of operators: retry and discard dead letters, drain a node, drop a consumer group.

Owns: the arguments and replies of these scripts; who acts and why, which their events record.
Must not: decide, retry or wait; the scripts decide.
Read next: lua/include/operator.lua (requests), audit/dead_letters.py,
docs/adr/0036-operator-acts.md.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from eventsched.schema.keys import name_of
from eventsched.store.cell_connection import CellConnection

RETRIED_MAX = 16
"""Dead letters that one call retries."""
DISCARDED_MAX = 128
"""Dead letters that one call discards."""
RetryWord: TypeAlias = Literal[
    "retried", "passed_over", "partial", "projection", "unreadable", "unknown"
]


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator does, for the events: who does it and why. A repeated act is done once."""

    by: str
    """The operator: the subject of a token, or `user@host`; 1 to 200 bytes."""
    why: str
    """The reason, 1 to 500 bytes."""
    request: str
    """Id of the act: a call with the id of an act that was done changes nothing."""

    @classmethod
    def of(cls, by: str, why: str, request: str = "") -> Act:
        """Return an act with this request id, or with a new one."""
        return cls(by=by, why=why, request=request or secrets.token_hex(8))

    def part(self, name: str | int) -> Act:
        """Return a part of the act, which is an act of its own."""
        return Act(by=self.by, why=self.why, request=f"{self.request}-{name}")


class RetryOutcome(msgspec.Struct, frozen=True):
    """What the retry of a dead letter did."""

    word: RetryWord
    """lua/retry_dead_letters.lua defines each word; all but the first two changed nothing."""
    retried: int
    passed_over: int


class DrainReply(msgspec.Struct, frozen=True):
    """The drain of a node at the time of the call."""

    epoch: int
    leases: int
    """Attempts that the node has not ended; 0 if the registration has ended."""


class OperatorCommands(CellConnection):
    """The calls of a cell that operators make. Each act is an event."""

    async def retry_dead_letters(
        self, dead_ids: Sequence[str], act: Act, *, chosen_by: str = "", force: bool = False
    ) -> list[RetryOutcome]:
        """Process dead letters again; with `force` also those that were processed in part.

        Args:
            dead_ids: Ids in the list of dead letters, at most RETRIED_MAX.
            act: Who does it and why.
            chosen_by: How the operator chose them, for the event.
            force: Retry even an entry that was processed partially.

        Returns:
            What the retry of each did, in their order.
        """
        reply = await self.run(
            "retry_dead_letters",
            act.request,
            chosen_by,
            act.why,
            act.by,
            int(force),
            *dead_ids,
        )
        lines = [line.decode().split(" ") for line in reply]
        return [RetryOutcome(word, int(done), int(skipped)) for word, done, skipped in lines]

    async def discard_dead_letters(
        self, dead_ids: Sequence[str], act: Act, *, chosen_by: str = ""
    ) -> list[Literal["discarded", "work", "unknown"]]:
        """Delete dead letters that are no work: events that a read model could not fold.

        Args:
            dead_ids: Ids in the list of dead letters, at most DISCARDED_MAX.
            act: Who does it and why.
            chosen_by: How the operator chose them, for the event.

        Returns:
            For each in their order: `discarded`, or why it was not. `work` stays: without it its
            outcomes would never end.
        """
        reply = await self.run(
            "discard_dead_letters", act.request, chosen_by, act.why, act.by, *dead_ids
        )
        return [word.decode() for word in reply]

    async def request_drain(self, node: str, act: Act, *, within_ms: int) -> DrainReply:
        """The node gets no new jobs; jobs that it has not ended within `within_ms` are retried.

        When the node has no attempts left, its registration ends, and its process is refused.
        Raises NodeUnknown if the node is not registered.
        """
        epoch, leases = await self.run(
            "request_drain", name_of(node), within_ms, act.request, act.why, act.by
        )
        return DrainReply(int(epoch), int(leases))

    async def drop_consumer_group(self, group: str, act: Act) -> Literal["dropped", "absent"]:
        """Delete a consumer group of another program from the log.

        Args:
            group: Its name.
            act: Who does it and why.

        Returns:
            `absent` if there is no such group.

        Raises:
            InvalidMessage: The group is one of the system, or an argument is not acceptable.
        """
        reply = await self.run("drop_consumer_group", group, act.request, act.why, act.by)
        return reply.decode()  # type: ignore[no-any-return]
