"""One registration of a node, from its grant to its end.

Owns: reading the inbox, starting and cancelling attempts, reporting results and partials, draining.
Must not: register (node.py), send heartbeats (heartbeat.py), run handlers (executor.py), or manage
their tasks (attempts.py).
Read next: node.py, heartbeat.py, lua/record_results.lua.

Every message carries the fencing token (node, epoch, attempt), and the scripts refuse stale ones.
So a fault in this module can waste work, but cannot corrupt a result (rule 21, fencing).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from functools import partial
from time import monotonic
from typing import Any, Literal, TypeAlias

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec
from structlog.contextvars import bind_contextvars

from eventsched.current_span import current_span, log_fields
from eventsched.encryption.keystore import KeyStore
from eventsched.errors import (
    InvalidMessage,
    LeaseLost,
    NodeDrainedError,
    NodeSuperseded,
    NodeUnknown,
    Refused,
    ServerUnavailable,
)
from eventsched.instruments import instruments
from eventsched.logs import get_logger
from eventsched.node.attempts import Attempt, Attempts
from eventsched.node.executor import HANDLER_ERROR, Run, failed, handler_error, run_attempt
from eventsched.node.heartbeat import AttemptId, sending_heartbeats
from eventsched.node.job import Assignment, Cancel, Job, prepare
from eventsched.node.task_guard import in_handler
from eventsched.schema.ids import ms_of
from eventsched.schema.keys import name_of
from eventsched.schema.nesting import check_json
from eventsched.schema.validation import SLOTS_MAX
from eventsched.store.batcher import Batcher
from eventsched.store.cell import Store
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.replies import fields_of
from eventsched.store.retry import Backoff, run_until
from eventsched.store.transport import Entry

BLOCK_MS = 2_000
INBOX_COUNT = 64
RESULTS_MAX = 8
"""Results in one call. With the jobs that take the freed slots this is a good millisecond, in which
Redis serves no other client."""
PARTIALS_MAX = 16
RESULTS_BYTES_MAX = 4 * 1024 * 1024
REPORT_TRIES = 64
"""With their pauses about a minute, which is the longest lease."""
DRAIN_POLL_S = 0.1
SILENT_S = 5.0
"""How long a drain waits for an answer of the server. Without one, the node's leases expire and
its jobs go to other nodes."""

log = get_logger("eventsched.node.node")
End: TypeAlias = Literal["drained", "unknown"]
_ASSIGNMENT = msgspec.json.Decoder(Assignment)
_CANCEL = msgspec.json.Decoder(Cancel)


OnReported: TypeAlias = Callable[[Job, Refused | ServerUnavailable | None], Awaitable[None]]
"""Called after the result of an attempt was reported: with the error, or None if it counts."""


class DrainLimit:
    """How long a drain may last; `seconds` may be lowered while the drain runs."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Registration:
    """Runs the attempts that are assigned to one registration, until its end."""

    def __init__(
        self,
        store: Store,
        grant: NodeGrant,
        run: Run,
        *,
        slots: int,
        url: str,
        keys: KeyStore | None,
        is_remote: bool = False,
        on_reported: OnReported | None = None,
    ) -> None:
        """Prepare to run attempts.

        Args:
            store: The cell of the node.
            grant: The registration.
            run: Runs the handler.
            slots: Slots of the node.
            url: Address to which a thread connects for heartbeats; empty to send them from here.
            keys: Keys of encrypted sessions.
            is_remote: The node is another program that a connection serves. It sends heartbeats
                itself, by `heartbeat`, and the registration may be an earlier connection's: its
                live attempts start again.
            on_reported: Called with the fate of each result.
        """
        self.store = store
        self.grant = grant
        self._run = run
        self._log = log.bind()
        self._slots = slots
        self._url = url
        self._keys = keys
        self._is_remote = is_remote
        self._on_reported = on_reported
        self._attempts = Attempts()
        self._end: End | Exception | None = None
        self._position = grant.inbox_from
        self._is_draining = False
        self._is_answered = False
        """Whether the server has answered a call of the drain since this was last set to False."""
        self._tasks: anyio.abc.TaskGroup | None = None
        self._results: Batcher[NodeResult, Refused | None] = Batcher(
            self._report_results,
            items_max=RESULTS_MAX,
            in_flight=2,
            bytes_max=RESULTS_BYTES_MAX,
            size_of=lambda result: len(result.body) + len(result.audio),
        )
        self._partials: Batcher[tuple[str, int, bytes], Refused | None] = Batcher(
            self._send_partials,
            items_max=PARTIALS_MAX,
            bytes_max=RESULTS_BYTES_MAX,
            size_of=lambda item: len(item[2]),
        )

    async def run(self, drain: anyio.Event, drain_s: DrainLimit) -> End:
        """Serve until the registration is over, and return how it ended.

        `drain` starts the drain. `drain_s.seconds` limits it, and may be lowered while it runs.
        Raises NodeSuperseded, and errors of heartbeats.
        """
        async with (
            nullcontext() if self._is_remote else sending_heartbeats(self.store, self, self._url),
            anyio.create_task_group() as tasks,
        ):
            self._tasks = tasks
            tasks.start_soon(self._results.run)
            tasks.start_soon(self._partials.run)
            tasks.start_soon(self._attempts.run)
            tasks.start_soon(self._read_inbox)
            tasks.start_soon(self._drain_on_request, drain, drain_s)
        if isinstance(self._end, Exception):
            raise self._end
        assert self._end is not None
        return self._end

    def _finish(self, end: End | Exception) -> None:
        if self._end is None and self._tasks is not None:
            self._end = end
            self._tasks.cancel_scope.cancel()

    # --- for heartbeats -----------------------------------------------------------------------

    def attempts(self) -> Sequence[AttemptId]:
        return self._attempts.numbers()

    def load(self) -> int:
        return 1_000 * len(self._attempts) // self._slots

    async def heartbeat(self, attempts: Sequence[AttemptId]) -> list[str]:
        """Send the heartbeat of a remote node; cancel the attempts that it no longer holds.

        Args:
            attempts: (job key, attempt) of each attempt that the node runs, at most 256.

        Returns:
            The job keys of `attempts` that the node has lost.

        Raises ServerUnavailable. A registration that is over ends `run`.
        """
        grant = self.grant
        try:
            lost_jobs = await self.store.heartbeat_node(
                grant.node,
                grant.epoch,
                load=1_000 * len(attempts) // self._slots,
                attempts=attempts,
            )
        except (NodeUnknown, NodeSuperseded, NodeDrainedError) as error:
            self.on_end(error)
            return []
        self.on_lost([attempt for attempt in attempts if attempt[0] in lost_jobs])
        return lost_jobs

    def on_lost(self, attempts: Sequence[AttemptId]) -> None:
        for key, number in attempts:
            self._cancel(key, number, "heartbeat")

    def on_end(self, error: Exception) -> None:
        if isinstance(error, NodeDrainedError):
            log.warning("drained by an operator", node=self.grant.node)
            self._finish("drained")
        elif isinstance(error, NodeUnknown):
            self._finish("drained" if self._is_draining else "unknown")
        else:
            self._finish(error)

    # --- the inbox ----------------------------------------------------------------------------

    async def _read_inbox(self) -> None:
        backoff = Backoff(self.store.transport, log, node=self.grant.node)
        inbox = self.store.keys.inbox(name_of(self.grant.node))
        is_read = not self._is_remote
        while True:
            async with backoff.attempt():
                if not is_read:
                    await self._replay(inbox)
                    is_read = True
                reply = await self.store.transport.read_blocking(
                    {inbox: self._position}, BLOCK_MS, INBOX_COUNT
                )
                for entry in reply.get(inbox, ()):
                    self._position = entry[0]
                    self._take(entry)
            # Let the handlers start before the next read is sent, which takes longer.
            await anyio.lowlevel.checkpoint()

    async def _replay(self, inbox: str) -> None:
        """Start the attempts of this registration that are live and were assigned before."""
        position, assigned = self._position, dict[AttemptId, Entry]()
        while entries := await self.store.read_range(inbox, f"({position}", "+", INBOX_COUNT):
            position = entries[-1][0]
            assigned |= {attempt: each for each in entries if (attempt := self._assigned_in(each))}
        ids = list(assigned)
        for start in range(0, len(ids), SLOTS_MAX):
            part = ids[start : start + SLOTS_MAX]
            lost_jobs = await self.store.heartbeat_node(
                self.grant.node, self.grant.epoch, load=self.load(), attempts=part
            )
            for attempt in part:
                if attempt[0] not in lost_jobs:
                    self._take(assigned[attempt])
        self._position = position

    def _assigned_in(self, entry: Entry) -> AttemptId | None:
        """The attempt that an entry assigns to this registration; None for any other entry."""
        try:
            fields = fields_of(entry[1])
            if fields[b"t"] == b"cancel":
                return None
            key, assignment = fields[b"j"].decode(), _ASSIGNMENT.decode(check_json(fields[b"d"]))
        except (KeyError, ValueError):
            return None
        return (key, assignment.attempt) if assignment.epoch == self.grant.epoch else None

    def _take(self, entry: Entry) -> None:
        """Start or cancel the attempt of an entry. An entry of another form is skipped and logged:
        the lease of its attempt expires, if it has one, and the node continues.
        """
        key = ""
        try:
            fields = fields_of(entry[1])
            key = fields[b"j"].decode()
            if fields[b"t"] == b"cancel":
                cancel = _CANCEL.decode(check_json(fields[b"d"]))
                self._cancel(key, cancel.attempt, cancel.reason)
                return
            assignment = _ASSIGNMENT.decode(check_json(fields[b"d"]))
            job = Job(key, assignment, fields[b"b"], self)
        except (KeyError, ValueError) as error:
            log.error(
                "assignment not understood", entry=entry[0], job=key[:400], error=f"{error!r:.400}"
            )
            return
        if assignment.epoch == self.grant.epoch:
            age_s = (ms_of(entry[0]) - assignment.finalized) / 1_000
            run = partial(self._run_job, job, monotonic() - age_s)
            self._attempts.start(key, job.attempt, run)

    def _cancel(self, key: str, number: int, reason: str) -> None:
        if self._attempts.cancel(key, number):
            log.info("cancelled", job=key, attempt=number, reason=reason)

    # --- attempts -----------------------------------------------------------------------------

    async def _run_job(self, job: Job, finalized_s: float, attempt: Attempt) -> None:
        """Run the attempt and report its result.

        `finalized_s` is when the utterance was finalized, by the monotonic clock of this process,
        without the time that the assignment was on its way.
        """
        self._log.debug("started", session=job.session, job=job.key, attempt=job.attempt)
        began = monotonic()
        bind_contextvars(
            session=job.session, job=job.key, attempt=job.attempt, **log_fields(job.traceparent)
        )
        in_handler.set(True)
        result: NodeResult | None = None
        try:
            with attempt.scope:
                is_cancelled = partial(self._attempts.is_cancelled, attempt)
                run = partial(self._run_handler, finalized_s)
                result = await run_attempt(run, job, is_cancelled)
        except RuntimeError as error:  # the handler has left a cancel scope of its own open
            result = handler_error(job, error)
        in_handler.set(False)
        attempt.has_ended = True
        seconds = monotonic() - began
        if instruments.observer is not None:
            outcome = result.status if result is not None else "cancelled"
            instruments.observer.handler_ended(outcome, seconds)
        if result is not None:
            self._log_end(job, result, round(seconds * 1_000))
        if result is not None and not attempt.is_abandoned:
            await self._report(job, result)

    def _log_end(self, job: Job, result: NodeResult, ms: int) -> None:
        """Log the end of an attempt; an unexpected exception has been logged."""
        fields = {"session": job.session, "job": job.key, "attempt": job.attempt, "ms": ms}
        if result.status != "failed":
            self._log.debug("done", **fields)
        elif result.code != HANDLER_ERROR:
            self._log.warning("failed", **fields, code=result.code)

    async def _run_handler(self, finalized_s: float, job: Job) -> Any:
        await prepare(job, self._keys)
        if instruments.observer is not None and job.attempt == 1 and not self._is_remote:
            instruments.observer.handler_starts(monotonic() - finalized_s)
        with current_span(job.traceparent):
            return await self._run(job)

    async def _report(self, job: Job, result: NodeResult) -> None:
        try:
            refused = await self._submit(result)
            if isinstance(refused, InvalidMessage):
                log.error("result refused", session=job.session, job=job.key, error=str(refused))
                not_stored = await self._submit(failed(job, refused))
                # A node behind a connection learns why its own result does not count.
                refused = refused if self._is_remote else not_stored
        except ServerUnavailable as error:  # the lease expires, and the node continues
            log.error("result not reported", session=job.session, job=job.key, error=str(error))
            await self._tell_reported(job, error)
            return
        # An attempt reports once, so a duplicate is this call repeated after a lost reply.
        if refused is not None and refused.code != "DUPLICATE_RESULT":
            log.warning("result refused", session=job.session, job=job.key, code=str(refused))
        await self._tell_reported(job, refused)

    async def _submit(self, result: NodeResult) -> Refused | None:
        """Report a result; return why it alone, or the call with it, is refused."""
        try:
            (refused,) = await self._results.submit([result])
        except Refused as error:
            return error
        return refused

    async def _tell_reported(self, job: Job, error: Refused | ServerUnavailable | None) -> None:
        if self._on_reported is not None:
            await self._on_reported(job, error)

    async def _report_results(self, results: Sequence[NodeResult]) -> list[Refused | None]:
        grant = self.grant
        return await Backoff(self.store.transport).call(
            lambda: self.store.record_results(grant.node, grant.epoch, results),
            tries=REPORT_TRIES,
        )

    async def _send_partials(self, items: Sequence[tuple[str, int, bytes]]) -> list[Refused | None]:
        return await self.store.send_partials(self.grant.node, self.grant.epoch, items)

    # --- for jobs -----------------------------------------------------------------------------

    async def send_partial(self, key: str, attempt: int, body: bytes) -> None:
        try:
            (refused,) = await self._partials.submit([(key, attempt, body)])
        except ServerUnavailable as error:  # a partial result may be lost; the handler goes on
            self._log.debug("partial not sent", job=key, error=str(error))
            return
        if refused is not None:
            self._cancel_lost(key, attempt, refused)
            raise refused

    async def extend(self, key: str, attempt: int, more_ms: int) -> int:
        grant = self.grant
        try:
            return await Backoff(self.store.transport).call(
                lambda: self.store.extend_lease(
                    grant.node, grant.epoch, job=key, attempt=attempt, more_ms=more_ms
                ),
            )
        except Refused as refused:
            self._cancel_lost(key, attempt, refused)
            raise

    def _cancel_lost(self, key: str, attempt: int, refused: Refused) -> None:
        if isinstance(refused, LeaseLost):
            self._cancel(key, attempt, refused.code)

    # --- the end ------------------------------------------------------------------------------

    async def _drain_on_request(self, requested: anyio.Event, drain_s: DrainLimit) -> None:
        await requested.wait()
        self._is_draining = True
        log.info("draining", node=self.grant.node, attempts=len(self._attempts))
        await run_until(self._wait_for_silence, partial(self._wait_until_drained, drain_s))
        self._finish("drained")

    async def _wait_until_drained(self, drain_s: DrainLimit) -> None:
        """Ask the server to drain the node until it has no attempts left."""
        left_s = drain_s.seconds
        backoff = Backoff(self.store.transport, log, node=self.grant.node)
        while True:
            async with backoff.attempt():
                is_drained = await self._is_drained(left_s)
                self._is_answered = True
                if is_drained:
                    return
                await self.store.transport.sleep(DRAIN_POLL_S)
                left_s = max(0.0, min(left_s, drain_s.seconds) - DRAIN_POLL_S)

    async def _wait_for_silence(self) -> None:
        """Return when the server has not answered for SILENT_S."""
        while True:
            self._is_answered = False
            await self.store.transport.sleep(SILENT_S)
            if not self._is_answered:
                log.error("drain without its server", node=self.grant.node, silent_s=SILENT_S)
                return

    async def _is_drained(self, left_s: float) -> bool:
        """Ask the server to drain the node; whether it has no live attempts left.

        At the end of the time the server gives the remaining attempts to other nodes.
        """
        try:
            live = await self.store.drain_node(
                self.grant.node, self.grant.epoch, within_ms=round(left_s * 1_000)
            )
        except (NodeUnknown, NodeSuperseded, NodeDrainedError):
            return True
        return live == 0
