"""Calls of nodes: register, heartbeat, results, partials, leases, drain.

Owns: the arguments and replies of these scripts. A batch call returns one refusal or none per
item, in order.
Must not: decide, retry or wait; the scripts decide, callers retry.
Read next: lua/README.md (what each script decides), node/registration.py (the caller).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from eventsched.errors import Refused
from eventsched.schema.keys import name_of
from eventsched.store.cell_connection import CellConnection, name_list
from eventsched.store.replies import refusal_in
from eventsched.store.transport import Arg


class NodeGrant(msgspec.Struct, frozen=True):
    """A registration. The fencing token is its epoch together with the attempt number."""

    node: str
    epoch: int
    inbox_from: str
    heartbeat_ms: int


class NodeResult(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended, as its node reports it."""

    job: str
    attempt: int
    status: Literal["ok", "no_speech", "failed"]
    code: str = ""
    retryable: bool = False
    feature: str = ""
    """With MODEL_NOT_AVAILABLE: the feature whose model is missing; empty for the language pair."""
    retry_in_ms: int | None = None
    """Of a retryable failure: the backoff before the next attempt; none for the setting's."""
    body: bytes = b""
    audio: bytes = b""
    audio_sha256: str = ""
    error_type: str = ""
    """Why the handler failed: class, first line and place of its exception."""
    error_message: str = ""
    error_place: str = ""


class NodeCommands(CellConnection):
    """The calls of a cell that nodes make."""

    async def register_node(
        self,
        *,
        node: str,
        token: str,
        sources: Sequence[str],
        targets: Sequence[str],
        features: Sequence[str],
        slots: int,
        version: str,
    ) -> NodeGrant:
        """The node serves, all slots free. A repeated call with its token gets the same reply."""
        epoch, inbox_from, heartbeat_ms = await self.run(
            "register_node",
            name_of(node),
            token,
            name_list(sources),
            name_list(targets),
            name_list(features),
            slots,
            version,
        )
        return NodeGrant(node, epoch, inbox_from.decode(), heartbeat_ms)

    async def heartbeat_node(
        self, node: str, epoch: int, *, load: int, attempts: Sequence[tuple[str, int]]
    ) -> list[str]:
        """The node is alive.

        Args:
            attempts: (job key, attempt) of each lease that the node believes it owns.

        Returns:
            The job keys of `attempts` whose leases the node has lost.
        """
        args: list[Arg] = [part for pair in attempts for part in pair]
        reply = await self.run("heartbeat_node", name_of(node), epoch, load, *args)
        return [job.decode() for job in reply]

    async def drain_node(self, node: str, epoch: int, *, within_ms: int) -> int:
        """The node gets no new jobs; jobs that it has not ended within `within_ms` are retried.

        Returns:
            The number of its live attempts.
        """
        return int(await self.run("drain_node", name_of(node), epoch, within_ms))

    async def record_results(
        self, node: str, epoch: int, results: Sequence[NodeResult]
    ) -> list[Refused | None]:
        """Each result took effect (none), or is refused and the log records the refusal."""
        args: list[Arg] = []
        for r in results:
            args += (r.job, r.attempt, r.status, r.code, int(r.retryable), r.feature)
            args += ("" if r.retry_in_ms is None else r.retry_in_ms, r.body, r.audio)
            args += (r.audio_sha256, r.error_type, r.error_message, r.error_place)
        replies = await self.run("record_results", name_of(node), epoch, *args)
        return [refusal_in(item) for item in replies]

    async def send_partials(
        self, node: str, epoch: int, items: Sequence[tuple[str, int, bytes]]
    ) -> list[Refused | None]:
        """Publish partial results to the listeners at once. They are not stored.

        Args:
            items: (job key, attempt, body).
        """
        args: list[Arg] = [part for item in items for part in item]
        replies = await self.run("send_partials", name_of(node), epoch, *args)
        return [refusal_in(item) for item in replies]

    async def extend_lease(
        self, node: str, epoch: int, *, job: str, attempt: int, more_ms: int
    ) -> int:
        """The attempt's new deadline in ms: `more_ms` from now, at most 300 s after dispatch."""
        return int(await self.run("extend_lease", name_of(node), epoch, job, attempt, more_ms))
