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

import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import anyio

from eventsched.client.client import Client, running_client
from eventsched.encryption.keystore import AnyKeys, find_key_store
from eventsched.errors import Backpressure, InvalidMessage
from eventsched.interrupts import drain_on_signal
from eventsched.logs import get_logger
from eventsched.node.batches import Batch
from eventsched.node.executor import Handler, Run, Runner, runner
from eventsched.node.hooks import Hooks, check_hook
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
from eventsched.store.connection import open_connection
from eventsched.store.node_commands import NodeGrant
from eventsched.store.retry import Backoff, run_until

DRAIN_S = 60.0
DRAIN_S_MAX = 300.0

log = get_logger("eventsched.node.node")
H = TypeVar("H", bound=Handler)
F = TypeVar("F", bound=Callable[..., Any])


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
        self._hooks = Hooks()
        self._drain = anyio.Event()
        self._drain_s = DrainLimit(DRAIN_S)

    @overload
    def job(self, handler: H) -> H: ...
    @overload
    def job(
        self, *, processes: bool = False, timeout_s: float | None = None
    ) -> Callable[[H], H]: ...
    @overload
    def job(self, *, batch: Batch, timeout_s: float | None = None) -> Callable[[F], F]: ...
    def job(
        self,
        handler: Any = None,
        *,
        processes: bool = False,
        timeout_s: float | None = None,
        batch: Batch | None = None,
    ) -> Any:
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
            timeout_s: The handler's own time limit, 0.1 to 300 s. After it, the attempt fails with
                the retryable code HANDLER_TIMEOUT; the lease lasts at least as long.
            batch: Call the handler with a list of jobs, for one call of a model; it returns a list
                with an outcome for each. Not with `processes`.

        Returns:
            The function itself.

        Raises:
            ValueError: The node has a handler already.
            InvalidMessage: The handler could never run: a generator, a class, or with `processes`
                a function that no other process can load.
        """

        def declare(function: Any) -> Any:
            if self._runner is not None:
                raise ValueError(f"node {self.name} has a handler already")
            self._runner = runner(
                function,
                slots=self.slots,
                processes=processes,
                timeout_s=timeout_s,
                batch=batch,
            )
            return function

        return declare if handler is None else declare(handler)

    def startup(self, hook: F) -> F:
        """Declare what runs once in each process of the handler before its first job.

        As `@node.startup`, to load a model. The node registers after it. With `processes=True` it
        runs in a worker process for each slot, at the same time, otherwise in the process of the
        node: an `async def` in the event loop, a plain function in a thread. The node is not
        registered if it raises.

        Args:
            hook: A function without arguments.

        Returns:
            The function itself.

        Raises:
            InvalidMessage: It takes an argument.
        """
        check_hook("startup", hook)
        self._hooks = self._hooks._replace(startup=hook)
        return hook

    def shutdown(self, hook: F) -> F:
        """Declare what runs once in each process of the handler after its last job.

        As `@node.shutdown`, to release what `startup` has taken. It has 10 s, 5 s in a worker
        process; it does not run in a process that is killed.

        Args:
            hook: A function without arguments.

        Returns:
            The function itself.

        Raises:
            InvalidMessage: It takes an argument.
        """
        check_hook("shutdown", hook)
        self._hooks = self._hooks._replace(shutdown=hook)
        return hook

    def drain(self, *, within_s: float = DRAIN_S) -> None:
        """Take no new attempts; `run` returns when the running ones have ended.

        May be called again with a shorter time, also from a signal handler of the event loop.

        Args:
            within_s: After so many seconds, 300 at most, attempts that still run go to other nodes.
        """
        self._drain_s.seconds = min(max(within_s, 0.0), DRAIN_S_MAX)
        self._drain.set()

    async def serve(
        self,
        url: str | None = None,
        *,
        data: str | os.PathLike[str] | None = None,
        keys: AnyKeys | None = None,
    ) -> int:
        """Connect, run, and drain on SIGTERM or SIGINT, as `eventsched node` does.

        A second signal cancels the running jobs and ends the program within 10 s, a third ends it
        at once. Call it in the main thread. It waits for a named server that is away.

        Args:
            url: As for `connect`.
            data: As for `connect`.
            keys: As for `connect`.

        Returns:
            The exit code for the program: 0, or 128 and the number of the second signal.

        Raises:
            NodeSuperseded: As `run`.
            InvalidMessage: As `run`, or the address is not acceptable.
        """
        connecting = anyio.CancelScope()

        async def main() -> None:
            async with AsyncExitStack() as stack:
                with connecting:
                    folder = None if data is None else Path(data)
                    connection = await stack.enter_async_context(
                        open_connection(url, data=folder, wait=True)
                    )
                    client = Client(
                        connection.stores, url=connection.url, keys=find_key_store(keys)
                    )
                if not connecting.cancelled_caught:
                    await self.run(await stack.enter_async_context(running_client(client)))

        def drain() -> None:
            connecting.cancel()
            self.drain()

        return await drain_on_signal(main, drain)

    async def run(self, es: Client) -> None:
        """Register and run attempts until drained or cancelled.

        An operator may drain the node as well (`eventsched drain`): then `run` returns, too.
        A lost registration is replaced by a new one. While the server is away, refuses calls or
        is under backpressure, the node tries again. A drain does not wait for a server that does
        not answer within 5 s.

        Args:
            es: A client of the server, as `connect` yields it.

        Raises:
            NodeSuperseded: A newer process has registered under this name.
            InvalidMessage: The node has no handler, or one that no other process can load, or its
                startup hook failed.
        """
        if self._runner is None:
            raise InvalidMessage.of(
                "node", f"{self.name} has no handler", "declare one with @node.job"
            )
        full_id = keys.complete(self.name, es.cells)
        if not self._drain.is_set():
            async with self._runner(self._hooks) as run:
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
            if await registration.run(self._drain, self._drain_s) == "drained":
                return
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
