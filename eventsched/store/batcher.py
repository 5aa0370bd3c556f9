"""Combines many small calls into few large ones.

Owns: the batches. Submissions of one turn of the event loop form a batch, which is sent at once;
submissions that arrive while a call is in flight form the next batch. If a second call may be in
flight, it is sent when its batch is full, so that the server has work while a reply is read.
Must not: retry, or order submissions other than first come, first served.
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
    """Has one call in flight at a time; sends a batch when at least `items_min` items wait."""

    def __init__(self, items_min: int) -> None:
        self.items_min = items_min
        self.wakeup = anyio.Event()


class Batcher(Generic[Item, Reply]):
    """Sends batches with `call`, which returns one reply per item. A task must execute `run`.

    A batch holds complete submissions: as many as fit `items_max` and `bytes_max`, at least one.
    Up to `in_flight` calls overlap; with more than one, batches may arrive in another order.
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
        self._is_closed = False
        self.calls = 0

    async def submit(self, items: Sequence[Item]) -> Sequence[Reply]:
        """Return the replies to these items, in order; raise the error of the call.

        The items are sent even if the caller is cancelled.
        """
        if self._is_closed:
            await anyio.lowlevel.checkpoint_if_cancelled()  # by the scope that cancelled `run`
            raise ServerUnavailable("the connection was closed")
        future: asyncio.Future[Sequence[Reply]] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, future))
        self._count += len(items)
        for lane in self._lanes:
            if self._count >= lane.items_min:
                lane.wakeup.set()
        return await future  # a cancelled future gets no reply; its items are still sent

    async def run(self) -> None:
        """Send batches until cancelled, then fail the submissions that wait."""
        try:
            async with anyio.create_task_group() as tasks:
                for lane in self._lanes:
                    tasks.start_soon(self._serve, lane)
        finally:
            self._is_closed = True
            for _, future in self._waiting:
                _fail(future, ServerUnavailable("the connection was closed"))
            self._waiting.clear()

    async def _serve(self, lane: _Lane) -> None:
        while True:
            await lane.wakeup.wait()
            lane.wakeup = anyio.Event()
            while self._waiting and self._count >= lane.items_min:
                await self._send(*self._take())

    def _take(self) -> tuple[list[Item], list[tuple[int, asyncio.Future[Sequence[Reply]]]]]:
        batch: list[Item] = []
        owners: list[tuple[int, asyncio.Future[Sequence[Reply]]]] = []
        size = 0
        while self._waiting:
            items, future = self._waiting[0]
            added = sum(map(self._size_of, items))
            is_full = len(batch) + len(items) > self._items_max or size + added > self._bytes_max
            if batch and is_full:
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
        except ServerUnavailable as error:
            for _, future in owners:
                _fail(future, error)
            return
        except Exception as error:  # noqa: BLE001 - raised in the callers of `submit`
            await self._send_apart(batch, owners, error)
            return
        except BaseException:
            for _, future in owners:
                _fail(future, ServerUnavailable("the connection was closed during a call"))
            raise
        start = 0
        for count, future in owners:
            if not future.done():
                future.set_result(replies[start : start + count])
            start += count

    async def _send_apart(
        self,
        batch: list[Item],
        owners: list[tuple[int, asyncio.Future[Sequence[Reply]]]],
        error: Exception,
    ) -> None:
        """Send each submission alone, since one of them has failed the call for all."""
        if len(owners) == 1:
            _fail(owners[0][1], error)
            return
        start = 0
        for count, future in owners:
            await self._send(batch[start : start + count], [(count, future)])
            start += count


def _fail(future: asyncio.Future[Sequence[Reply]], error: Exception) -> None:
    if future.done():
        return
    future.set_exception(error)
    future.exception()  # marks the error as retrieved: no warning if the caller is gone
