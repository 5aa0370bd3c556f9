"""Many small calls as few large ones.

Owns: gathering what is submitted in one turn of the event loop into one call, with at most one
call in flight: what comes meanwhile forms the next. A submission that is alone goes at once.
Never does: retries, ordering beyond first come, first served.
Read next: channel.py (appends), serving.py (results, partials).
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


class Coalescer(Generic[Item, Reply]):
    """`call` takes a batch and returns one reply per item; `run` must run somewhere.

    A batch holds whole submissions: as many as fit `items_max` and `bytes_max`, at least one.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Item]], Awaitable[Sequence[Reply]]],
        *,
        items_max: int,
        bytes_max: int,
        size_of: Callable[[Item], int],
    ) -> None:
        self._call = call
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._size_of = size_of
        self._waiting: deque[tuple[Sequence[Item], asyncio.Future[Sequence[Reply]]]] = deque()
        self._came = anyio.Event()
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
        self._came.set()
        return await asyncio.shield(future)

    async def run(self) -> None:
        """Send batches until cancelled; then refuse what is left."""
        try:
            while True:
                await self._came.wait()
                self._came = anyio.Event()
                while self._waiting:
                    await self._send(*self._take())
        finally:
            self._is_over = True
            for _, future in self._waiting:
                _fail(future, ServerUnavailable("the connection was closed"))
            self._waiting.clear()

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
