"""Many small calls as few large ones.

Owns: gathering what is submitted in one turn of the event loop into one call. A submission that is
alone goes at once; what comes while a call is in flight forms the next. Where a second call may be
in flight, it goes once it is full: the server is never idle for a reply to be read.
Never does: retries, ordering beyond first come, first served.
Read next: client/channel.py (appends, finalizes), node/registration.py (results, partials).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

from eventsched.errors import ServerUnavailable

Item = TypeVar("Item")
Reply = TypeVar("Reply")


class _Lane:
    """Has one call in flight at a time; takes the next when so many items wait."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.called = anyio.Event()


class Batcher(Generic[Item, Reply]):
    """`call` takes a batch and returns one reply per item; `run` must run somewhere.

    A batch holds whole submissions: as many as fit `items_max` and `bytes_max`, at least one.
    `in_flight` calls may overlap: with more than one, batches may arrive in another order.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Item]], Awaitable[Sequence[Reply]]],
        *,
        items_max: int,
        bytes_max: int,
        size_of: Callable[[Item], int],
        in_flight: int = 1,
    ) -> None:
        self._call = call
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._size_of = size_of
        self._waiting: deque[tuple[Sequence[Item], asyncio.Future[Sequence[Reply]]]] = deque()
        self._count = 0
        self._lanes = [_Lane(0), *(_Lane(items_max) for _ in range(1, in_flight))]
        self._is_over = False
        self.calls = 0

    async def submit(self, items: Sequence[Item]) -> Sequence[Reply]:
        """The replies to these items, in order; raises what the call raised.

        A submission whose caller is cancelled goes out all the same.
        """
        if self._is_over:
            await anyio.lowlevel.checkpoint_if_cancelled()  # the end that ended `run` too
            raise ServerUnavailable("the connection was closed")
        future: asyncio.Future[Sequence[Reply]] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, future))
        self._count += len(items)
        for lane in self._lanes:
            if self._count >= lane.enough:
                lane.called.set()
        return await future  # cancelled, it is done: nobody is told, and the items go out

    async def run(self) -> None:
        """Send batches until cancelled; then refuse what is left."""
        try:
            async with anyio.create_task_group() as tasks:
                for lane in self._lanes:
                    tasks.start_soon(self._serve, lane)
        finally:
            self._is_over = True
            for _, future in self._waiting:
                _fail(future, ServerUnavailable("the connection was closed"))
            self._waiting.clear()

    async def _serve(self, lane: _Lane) -> None:
        while True:
            await lane.called.wait()
            lane.called = anyio.Event()
            while self._waiting and self._count >= lane.enough:
                await self._send(*self._take())

    def _take(self) -> tuple[list[Item], list[tuple[int, asyncio.Future[Sequence[Reply]]]]]:
        batch: list[Item] = []
        owners: list[tuple[int, asyncio.Future[Sequence[Reply]]]] = []
        size = 0
        while self._waiting:
            items, future = self._waiting[0]
            added = sum(map(self._size_of, items))
            full = len(batch) + len(items) > self._items_max or size + added > self._bytes_max
            if batch and full:
                break
            self._waiting.popleft()
            self._count -= len(items)
            batch.extend(items)
            owners.append((len(items), future))
            size += added
        return batch, owners

    async def _send(
        self, batch: list[Item], owners: list[tuple[int, asyncio.Future[Sequence[Reply]]]]
    ) -> None:
        self.calls += 1
        try:
            replies = await self._call(batch)
        except Exception as error:  # noqa: BLE001 - handed to those who wait for the reply
            for _, future in owners:
                _fail(future, error)
            return
        except BaseException:
            for _, future in owners:
                _fail(future, ServerUnavailable("the connection was closed amid a call"))
            raise
        at = 0
        for count, future in owners:
            if not future.done():
                future.set_result(replies[at : at + count])
            at += count


def _fail(future: asyncio.Future[Sequence[Reply]], error: Exception) -> None:
    if future.done():
        return
    future.set_exception(error)
    future.exception()  # read once: no complaint when the caller is gone
