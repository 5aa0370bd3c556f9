"""One registration of a node, from its grant to its end.

Owns: reading the inbox, what becomes of an attempt, telling results and partials, draining.
Never does: registering (node.py), heartbeats (heartbeat.py), running handlers (executor.py), their
tasks (attempts.py). Read next: node.py, heartbeat.py, lua/record_results.lua.

Every message carries (node, epoch, attempt); what is stale is refused by the scripts, so a mistake
here can waste work but never spoil a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec
import structlog
from structlog.contextvars import bind_contextvars

from eventsched.encryption.keystore import KeyStore
from eventsched.errors import LeaseLost, NodeSuperseded, NodeUnknown, Refused
from eventsched.node.attempts import Attempt, Attempts
from eventsched.node.executor import Run, end_of, failed_by
from eventsched.node.heartbeat import Held, beating
from eventsched.node.job import Assignment, Job, prepare
from eventsched.node.task_guard import in_handler
from eventsched.schema.keys import name_of
from eventsched.store.batcher import Batcher
from eventsched.store.cell import Store
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.replies import fields_of
from eventsched.store.retry import Backoff
from eventsched.store.transport import Entry

BLOCK_MS = 2_000
INBOX_COUNT = 64
RESULTS_MAX = 8
"""Results a call: with those that take the freed slots a good millisecond of script time, in which
nobody else is served."""
PARTIALS_MAX = 16
RESULTS_BYTES_MAX = 4 * 1024 * 1024
TELL_TRIES = 64
"""With their pauses about a minute: the longest lease."""
DRAIN_POLL_S = 0.1

log = structlog.get_logger("eventsched.node.node")
End: TypeAlias = Literal["drained", "unknown"]
_ASSIGNMENT = msgspec.json.Decoder(Assignment)


class Registration:
    """Serves from `run`'s start to the registration's end."""

    def __init__(
        self,
        store: Store,
        grant: NodeGrant,
        run: Run,
        *,
        slots: int,
        url: str,
        keys: KeyStore | None,
    ) -> None:
        self.store = store
        self.grant = grant
        self._run = run
        self._log = log.bind()
        self._slots = slots
        self._url = url
        self._keys = keys
        self._attempts = Attempts()
        self._end: End | Exception | None = None
        self._position = grant.inbox_from
        self._is_draining = False
        self._tasks: anyio.abc.TaskGroup | None = None
        self._results: Batcher[NodeResult, Refused | None] = Batcher(
            self._tell_results,
            items_max=RESULTS_MAX,
            in_flight=2,
            bytes_max=RESULTS_BYTES_MAX,
            size_of=lambda result: len(result.body) + len(result.audio),
        )
        self._partials: Batcher[tuple[str, int, bytes], Refused | None] = Batcher(
            self._tell_partials,
            items_max=PARTIALS_MAX,
            bytes_max=RESULTS_BYTES_MAX,
            size_of=lambda item: len(item[2]),
        )

    async def run(self, drain: anyio.Event, within_s: list[float]) -> End:
        """Serve until the registration is over. Raises NodeSuperseded, and what ends the heart."""
        async with beating(self.store, self, self._url), anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._results.run)
            tasks.start_soon(self._partials.run)
            tasks.start_soon(self._attempts.run)
            tasks.start_soon(self._read_inbox)
            tasks.start_soon(self._drain_when_asked, drain, within_s)
        if isinstance(self._end, Exception):
            raise self._end
        assert self._end is not None
        return self._end

    def _finish(self, end: End | Exception) -> None:
        if self._end is None and self._tasks is not None:
            self._end = end
            self._tasks.cancel_scope.cancel()

    # --- what the heart asks and tells --------------------------------------------------------

    def held(self) -> Sequence[Held]:
        return self._attempts.numbers()

    def load(self) -> int:
        return 1_000 * len(self._attempts) // self._slots

    def lost(self, attempts: Sequence[Held]) -> None:
        for key, number in attempts:
            self._cancel(key, number, "heartbeat")

    def ended(self, error: Exception) -> None:
        if isinstance(error, NodeUnknown):
            self._finish("drained" if self._is_draining else "unknown")
        else:
            self._finish(error)

    # --- the inbox ----------------------------------------------------------------------------

    async def _read_inbox(self) -> None:
        backoff = Backoff(self.store.transport, log, node=self.grant.node)
        inbox = self.store.keys.inbox(name_of(self.grant.node))
        while True:
            async with backoff.attempt():
                found = await self.store.transport.read_blocking(
                    {inbox: self._position}, BLOCK_MS, INBOX_COUNT
                )
                for entry in found.get(inbox, ()):
                    self._position = entry[0]
                    self._take(entry)
            # Handlers begin before the next read is sent, which costs more than their beginning.
            await anyio.lowlevel.checkpoint()

    def _take(self, entry: Entry) -> None:
        fields = fields_of(entry[1])
        key = fields[b"j"].decode()
        if fields[b"t"] == b"cancel":
            told = msgspec.json.decode(fields[b"d"])
            self._cancel(key, told["attempt"], told["reason"])
            return
        try:
            assignment = _ASSIGNMENT.decode(fields[b"d"])
            job = Job(key, assignment, fields[b"b"], self)
        except msgspec.DecodeError as error:  # its lease ends; the node serves on
            log.error("assignment not understood", job=key, error=str(error))
            return
        if assignment.epoch == self.grant.epoch:
            self._attempts.start(key, job.attempt, partial(self._serve, job))

    def _cancel(self, key: str, number: int, reason: str) -> None:
        if self._attempts.cancel(key, number):
            log.info("cancelled", job=key, attempt=number, reason=reason)

    # --- attempts -----------------------------------------------------------------------------

    async def _serve(self, job: Job, attempt: Attempt) -> None:
        self._log.debug("started", session=job.session, job=job.key, attempt=job.attempt)
        bind_contextvars(session=job.session, job=job.key, attempt=job.attempt)
        in_handler.set(True)
        ending: NodeResult | None = None
        try:
            with attempt.scope:
                is_cancelled = partial(self._attempts.is_cancelled, attempt)
                ending = await end_of(self._unlocked, job, is_cancelled)
        except RuntimeError as error:  # the handler has left a cancel scope of its own open
            ending = failed_by(job, error)
        in_handler.set(False)
        attempt.has_ended = True
        if ending is not None and not attempt.is_given_up:
            await self._tell(job, ending)

    async def _unlocked(self, job: Job) -> Any:
        await prepare(job, self._keys)
        return await self._run(job)

    async def _tell(self, job: Job, ending: NodeResult) -> None:
        (refused,) = await self._results.submit([ending])
        # An attempt tells once: a duplicate is our own call, repeated after a lost reply.
        if refused is not None and refused.code != "DUPLICATE_RESULT":
            log.warning("result refused", session=job.session, job=job.key, code=str(refused))

    async def _tell_results(self, results: Sequence[NodeResult]) -> list[Refused | None]:
        grant = self.grant
        return await Backoff(self.store.transport).call(
            lambda: self.store.record_results(grant.node, grant.epoch, results),
            tries=TELL_TRIES,
        )

    async def _tell_partials(self, items: Sequence[tuple[str, int, bytes]]) -> list[Refused | None]:
        return await self.store.send_partials(self.grant.node, self.grant.epoch, items)

    # --- what handlers say through their job --------------------------------------------------

    async def say_partial(self, key: str, attempt: int, body: bytes) -> None:
        (refused,) = await self._partials.submit([(key, attempt, body)])
        if refused is not None:
            self._lose(key, attempt, refused)
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
            self._lose(key, attempt, refused)
            raise

    def _lose(self, key: str, attempt: int, refused: Refused) -> None:
        if isinstance(refused, LeaseLost):
            self._cancel(key, attempt, refused.code)

    # --- the end ------------------------------------------------------------------------------

    async def _drain_when_asked(self, asked: anyio.Event, within_s: list[float]) -> None:
        await asked.wait()
        self._is_draining = True
        left_s = within_s[0]
        log.info("draining", node=self.grant.node, attempts=len(self._attempts))
        backoff = Backoff(self.store.transport, log, node=self.grant.node)
        while True:
            async with backoff.attempt():
                if await self._drained(left_s):
                    break
                await self.store.transport.sleep(DRAIN_POLL_S)
                left_s = max(0.0, min(left_s, within_s[0]) - DRAIN_POLL_S)
        self._finish("drained")

    async def _drained(self, left_s: float) -> bool:
        """Whether the server holds nothing for this registration any more.

        At the bound's end what is left is handed back at once: other nodes take it.
        """
        try:
            live = await self.store.drain_node(
                self.grant.node, self.grant.epoch, within_ms=round(left_s * 1_000)
            )
        except (NodeUnknown, NodeSuperseded):
            return True
        return live == 0
