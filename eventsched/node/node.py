"""A node: its declaration, and the loop that registers it and runs its attempts.

Owns: the declaration and its limits, the handler, registering anew after a lost registration,
draining.
Must not: handle what happens within one registration (registration.py).
Read next: registration.py, job.py.

    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"], slots=4)

    @node.job
    async def translate(job: eventsched.Job) -> eventsched.Result: ...

    async with eventsched.connect() as es:
        await node.run(es)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, overload

import anyio
import structlog

from eventsched.client.client import Client
from eventsched.errors import Backpressure, InvalidMessage
from eventsched.node.executor import Handler, Run, Runner, runner
from eventsched.node.registration import SILENT_S, DrainLimit, Registration
from eventsched.node.task_guard import exits_contained
from eventsched.schema import keys
from eventsched.schema.validation import (
    LANGUAGES_MAX,
    PAIRS_MAX,
    SERVICES_MAX,
    SLOTS_MAX,
    VERSION_BYTES_MAX,
    check_address,
    check_between,
    check_language,
    check_list,
    check_name,
)
from eventsched.store.cell import Store
from eventsched.store.node_commands import NodeGrant
from eventsched.store.retry import Backoff, run_until

DRAIN_S = 60.0
DRAIN_S_MAX = 300.0

log = structlog.get_logger("eventsched.node.node")
H = TypeVar("H", bound=Handler)


class Node:
    """A worker with declared languages and features and a number of slots.

    Args:
        name: Name of the node, or its full id. A second process with the same name ends the
            registration of the first. Use stable names, not a new one for each start.
        sources: Source languages that it recognises, 1 to 64; `auto` if it detects the language.
        targets: Target languages that it produces, 1 to 64; at most 1,024 pairs with the sources.
        features: Features beside languages, such as voices, at most 16.
        slots: Attempts that it runs at the same time, 1 to 256.
        version: Free text for people, at most 64 bytes, shown by `status`.

    Raises:
        InvalidMessage: An argument is not acceptable; field, limit and remedy are named.
    """

    def __init__(
        self,
        name: str,
        *,
        sources: Sequence[str],
        targets: Sequence[str],
        features: Sequence[str] = (),
        slots: int = 1,
        version: str = "",
    ) -> None:
        self.name = check_address("name", name)
        self.sources = _languages("sources", sources, auto=True)
        self.targets = _languages("targets", targets, auto=False)
        if len(self.sources) * len(self.targets) > PAIRS_MAX:
            raise InvalidMessage.of(
                "targets",
                f"at most {PAIRS_MAX} pairs, got {len(self.sources)} x {len(self.targets)}",
                "declare fewer languages, or more nodes",
            )
        listed = check_list("features", features, SERVICES_MAX)
        self.features = [check_name("features", feature) for feature in listed]
        self.slots = check_between("slots", slots, 1, SLOTS_MAX)
        if len(version.encode()) > VERSION_BYTES_MAX:
            raise InvalidMessage.of(
                "version", f"at most {VERSION_BYTES_MAX} bytes", "use a shorter version"
            )
        self.version = version
        self._runner: Runner | None = None
        self._drain = anyio.Event()
        self._drain_s = DrainLimit(DRAIN_S)

    @overload
    def job(self, handler: H) -> H: ...
    @overload
    def job(self, *, processes: bool = False) -> Callable[[H], H]: ...
    def job(self, handler: Any = None, *, processes: bool = False) -> Any:
        """Declare the handler, as `@node.job` or `@node.job(processes=True)`.

        An `async def` gets a Job and runs in the event loop. A plain function gets a BlockingJob
        and runs in a thread, or with `processes` in a process, which is killed when the attempt is
        cancelled. An awaitable that the handler returns is awaited.

        The handler returns a Result or NoSpeech, or raises NoSpeechError or JobError; these two
        may be returned as well. Any other exception is a retryable failure with the code
        HANDLER_ERROR.

        Args:
            handler: The function, when the decorator has no arguments.
            processes: Run a plain function in processes instead of threads.

        Returns:
            The function itself.

        Raises:
            ValueError: The node has a handler already.
            InvalidMessage: The handler could never run: a generator, a class, or with `processes`
                a function that no other process can load.
        """

        def declare(function: H) -> H:
            if self._runner is not None:
                raise ValueError(f"node {self.name} has a handler already")
            self._runner = runner(function, slots=self.slots, processes=processes)
            return function

        return declare if handler is None else declare(handler)

    def drain(self, *, within_s: float = DRAIN_S) -> None:
        """Take no new attempts; `run` returns when the running ones have ended.

        May be called again with a shorter time, also from a signal handler of the event loop.

        Args:
            within_s: After so many seconds, 300 at most, attempts that still run go to other nodes.
        """
        self._drain_s.seconds = min(max(within_s, 0.0), DRAIN_S_MAX)
        self._drain.set()

    async def run(self, es: Client) -> None:
        """Register and run attempts until drained or cancelled.

        A lost registration is replaced by a new one. While the server is away, refuses calls or
        is under backpressure, the node tries again. A drain does not wait for a server that does
        not answer within 5 s.

        Args:
            es: A client of the server, as `connect` yields it.

        Raises:
            NodeSuperseded: A newer process has registered under this name.
            InvalidMessage: The node has no handler, or one that no other process can load.
        """
        if self._runner is None:
            raise InvalidMessage.of(
                "node", f"{self.name} has no handler", "declare one with @node.job"
            )
        full_id = keys.complete(self.name, es.cells)
        if not self._drain.is_set():
            async with self._runner() as run:
                with exits_contained():
                    await self._serve(es, full_id, run)
        log.info("drained", node=full_id)

    async def _serve(self, es: Client, full_id: str, run: Run) -> None:
        store = es.store_of(full_id)
        while not self._drain.is_set():
            register = partial(self._register, store, full_id, es.new_name())
            grant = await run_until(partial(self._wait_for_drain, store), register)
            if grant is None:
                return
            log.info("serving", node=full_id, epoch=grant.epoch, slots=self.slots)
            registration = Registration(
                store, grant, run, slots=self.slots, url=es.url, keys=es.keys
            )
            if await registration.run(self._drain, self._drain_s) == "unknown":
                log.warning("registration lost, registering again", node=full_id)

    async def _wait_for_drain(self, store: Store) -> None:
        """Return when the node is to drain and a call in flight has had its time to end."""
        await self._drain.wait()
        await store.transport.sleep(SILENT_S)

    async def _register(self, store: Store, full_id: str, token: str) -> NodeGrant | None:
        """Try until the node is registered, or drained. A repeated token gets the same reply."""
        backoff = Backoff(store.transport, log, node=full_id)
        while not self._drain.is_set():
            async with backoff.attempt():
                try:
                    return await store.register_node(
                        node=full_id,
                        token=token,
                        sources=self.sources,
                        targets=self.targets,
                        features=self.features,
                        slots=self.slots,
                        version=self.version,
                    )
                except Backpressure as pressure:
                    log.warning("not registered yet", node=full_id, reason=str(pressure))
                    await store.transport.sleep(pressure.retry_after_ms / 1_000)
        return None


def _languages(field: str, values: Sequence[str], *, auto: bool) -> list[str]:
    listed = check_list(field, values, LANGUAGES_MAX)
    if not listed:
        raise InvalidMessage.of(field, "at least one language expected", "name it")
    return [check_language(field, language, auto=auto) for language in listed]
