"""Events as they happen: `GET /v1/events`, server-sent events.

Owns: the start of a stream (now, or after a position), catching up from log and archive, the form
and the end of a stream.
Never does: read new events; event_feed.py reads them once for all streams.
Read next: event_feed.py, cursor.py, docs/gateway.md.

The id of an event is a position in all cells of the stream. A browser that connects again sends it
as `Last-Event-ID`, and the stream goes on after it, without gap or repeat. An event that the stream
does not show moves the id by a block without data.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eventsched.errors import EventschedError, InvalidMessage
from eventsched.gateway.connections import abort_of
from eventsched.gateway.cursor import parse_cursor
from eventsched.gateway.event_feed import Watcher
from eventsched.gateway.service import Gateway
from eventsched.history.log import History
from eventsched.history.source import HistorySource
from eventsched.logs import get_logger
from eventsched.schema.ids import START, id_before, parse_id
from eventsched.store.transport import Entry
from eventsched.tokens.claims import Claims

QUIET_S = 15.0
"""A stream without events sends a comment this often, so that proxies do not close it."""
POSITION_S = 1.0
"""How long a moved position may wait for an event to carry it."""
SEND_S = 10.0
"""How long the client may accept no bytes before the connection is dropped."""
CATCH_UP_ROUNDS = 3
"""Reads of the history before a stream joins the shared reader."""
log = get_logger("eventsched.gateway")
_COMMENT = b": \n\n"


async def events(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Events as they happen, as server-sent events, from now or after a position."""
    known = gateway.connection.cells
    named = request.query_params.get("cells", "")
    cells = named.split(",") if named else known
    if unknown := [cell for cell in cells if cell not in known]:
        raise InvalidMessage.of("cells", f"no cell {unknown[0]!r:.40}", f"of {', '.join(known)}")
    after = request.headers.get("last-event-id") or request.query_params.get("after", "")
    positions = parse_cursor("after", after, known)
    source = gateway.history_source()
    start = {
        cell: positions.get(cell) or await source.last_id(cell) for cell in dict.fromkeys(cells)
    }
    return _EventStream(gateway, claims, start)


class _EventStream(Response):
    """The response. It ends with the client, the token or the gateway."""

    def __init__(self, gateway: Gateway, claims: Claims, start: dict[str, str]) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._gateway = gateway
        self._claims = claims
        self._watcher = Watcher(claims, dict(start))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        self._send, self._abort = send, abort_of(scope)
        with self._gateway.counted_socket():
            await send(head)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._end_with_client, receive, tasks.cancel_scope)
                    tasks.start_soon(self._end_with_gateway, tasks.cancel_scope)
                    await self._run()
            except* EventschedError as errors:
                log.warning("stream ended: events cannot be read", error=f"{errors!r:.500}")
                self._abort()
            finally:
                for feed in self._gateway.feeds.values():
                    feed.leave(self._watcher)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _end_with_client(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def _end_with_gateway(self, scope: anyio.CancelScope) -> None:
        with anyio.move_on_after(max(0.0, self._claims.exp - time.time())):
            await self._gateway.stopping.wait()
        scope.cancel()

    async def _run(self) -> None:
        await self._write(_COMMENT)
        source = self._gateway.history_source()
        for _ in range(CATCH_UP_ROUNDS):
            for cell in self._watcher.positions:
                await self._catch_up(source, cell, await source.last_id(cell))
        joined = {
            cell: await self._gateway.feeds[cell].join(self._watcher)
            for cell in self._watcher.positions
        }
        for cell, upto in joined.items():
            await self._catch_up(source, cell, upto)
        await self._follow()

    async def _follow(self) -> None:
        """Send the events of the shared reader, until cancelled."""
        quiet_s, watcher = 0.0, self._watcher
        while not watcher.is_slow:
            with anyio.move_on_after(POSITION_S):
                await watcher.arrived.wait()
            block = watcher.take() or watcher.position_block()
            quiet_s = 0.0 if block else quiet_s + POSITION_S
            if quiet_s >= QUIET_S:
                block, quiet_s = _COMMENT, 0.0
            if block:
                await self._write(block)
        log.warning("stream ended: its client reads events too slowly")
        self._abort()

    async def _write(self, block: bytes) -> None:
        with anyio.move_on_after(SEND_S) as scope:
            await self._send({"type": "http.response.body", "body": block, "more_body": True})
        if scope.cancelled_caught:
            self._abort()

    # --- catching up ------------------------------------------------------------------------

    async def _catch_up(self, source: HistorySource, cell: str, upto: str) -> None:
        """Send the events of a cell up to this id, from the log or the archive."""
        after = self._watcher.positions[cell]
        if parse_id(after) >= parse_id(upto):
            return
        history = await source.history_of(cell)
        first = await self._first_after_hole(history, cell, after)
        if first:
            data = msgspec.json.encode({"cell": cell, "first": first})
            await self._write(b"event: truncated\ndata: %b\n\n" % data)
            after = id_before(first)
        batches = history.batches(after, upto)
        while True:
            async with self._gateway.reads.turn(self._claims, is_stream=True):
                entries = await anext(batches, None)
                if entries is None:
                    return
                blocks = await self._blocks_of(cell, entries)
            for block in blocks:
                await self._write(block)

    async def _blocks_of(self, cell: str, entries: Sequence[Entry]) -> list[bytes]:
        """Return what the stream shows of some entries."""
        blocks = []
        for item in await self._gateway.feeds[cell].items_of(entries):
            data = await self._watcher.data_of(item)
            if block := self._watcher.block_of(cell, item.id, data):
                blocks.append(block)
        return blocks

    async def _first_after_hole(self, history: History, cell: str, after: str) -> str:
        """Return the id of the first entry that exists if earlier ones are gone, else empty."""
        if await history.is_complete():
            return ""
        if self._gateway.archive is None:
            store = self._gateway.connection.stores[cell]
            first = await store.first_id(store.keys.log)
        else:
            first = await anext((entry[0] async for entry in history.entries()), START)
        return first if parse_id(first) > parse_id(after) else ""
