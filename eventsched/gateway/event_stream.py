"""Events as they happen: `GET /v1/events`, server-sent events.

Owns: the start of a stream (now, or after a position), catching up from log and archive, the end of
a stream.
Never does: read new events; event_feed.py reads them once for all streams.
Read next: event_view.py, event_feed.py, cursor.py, docs/gateway.md.

The id of an event is a position in all cells of the stream. A browser that connects again sends it
as `Last-Event-ID`, and the stream goes on after it, without gap or repeat. An event that the stream
does not show moves the id by a block without data.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import anyio
import msgspec
from anyio.lowlevel import checkpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eventsched.errors import EventschedError, InvalidMessage
from eventsched.gateway.access import share_of
from eventsched.gateway.connections import abort_of, end_with_client
from eventsched.gateway.cursor import parse_cursor
from eventsched.gateway.event_feed import FeedItem
from eventsched.gateway.event_view import WRITE_BYTES, ViewReader, event_block
from eventsched.gateway.peer_log import peer_log
from eventsched.gateway.replies import error_response
from eventsched.gateway.service import Gateway
from eventsched.gateway.tenant_shares import TooManyStreams
from eventsched.history.log import History
from eventsched.history.source import HistorySource
from eventsched.schema.ids import START, id_before, parse_id
from eventsched.tokens.claims import Claims

QUIET_S = 15.0
"""A stream without events sends a comment this often, so that proxies do not close it."""
CATCH_UP_ROUNDS = 3
"""Reads of the history before a stream joins the shared reader."""
CATCH_UP_S = 30.0
"""How long a stream may catch up, so that it does not keep the others of its tenant waiting; then
it ends, and its client comes again."""
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
    return _EventStream(gateway, claims, start, is_continued=bool(positions))


class _EventStream(Response):
    """The response. It ends with the client, the token or the gateway."""

    def __init__(
        self, gateway: Gateway, claims: Claims, start: dict[str, str], *, is_continued: bool
    ) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._gateway = gateway
        self._claims = claims
        self._share = share_of(claims)
        self._positions = dict(start)
        """Id of the last event that was sent or left out, by cell, until the stream follows."""
        self._reader: ViewReader | None = None
        self._is_continued = is_continued
        """The client has named a position; a stream from now on has next to nothing to catch up."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._gateway.streams.take(self._share):
                await self._serve(scope, receive, send)
        except TooManyStreams as error:
            await error_response(error)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        self._send, self._abort = send, abort_of(scope)
        with self._gateway.counted_socket():
            await send(head)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(end_with_client, receive, tasks.cancel_scope)
                    tasks.start_soon(self._end_with_gateway, tasks.cancel_scope)
                    await self._run()
                    tasks.cancel_scope.cancel()
            except* EventschedError as errors:
                peer_log.warning("stream ended: events cannot be read", error=f"{errors!r:.500}")
                self._abort()
            finally:
                if self._reader is not None:
                    self._gateway.views.leave(self._reader)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _end_with_gateway(self, scope: anyio.CancelScope) -> None:
        with anyio.move_on_after(max(0.0, self._claims.exp - time.time())):
            await self._gateway.stopping.wait()
        scope.cancel()

    async def _run(self) -> None:
        """Send events, until cancelled or until the client is slow."""
        await self._write(_COMMENT)
        source = self._gateway.history_source()
        if self._is_continued and await self._is_behind(source):
            async with self._gateway.catch_ups.turn(self._share):
                with anyio.move_on_after(CATCH_UP_S):
                    for _ in range(CATCH_UP_ROUNDS):
                        for cell in self._positions:
                            await self._catch_up(source, cell, await source.last_id(cell))
                    await self._join(source)
        else:
            await self._join(source)
        if self._reader is None or self._reader.is_slow or self._is_behind_of(self._reader):
            peer_log.warning("stream ended: its client catches up too slowly")
        else:
            await self._follow(self._reader)

    async def _is_behind(self, source: HistorySource) -> bool:
        """Whether events exist that the stream has not sent."""
        for cell, position in self._positions.items():
            if parse_id(position) < parse_id(await source.last_id(cell)):
                return True
        return False

    def _is_behind_of(self, reader: ViewReader) -> bool:
        return any(
            parse_id(self._positions[cell]) < parse_id(upto)
            for cell, upto in reader.positions.items()
        )

    async def _join(self, source: HistorySource) -> None:
        """Get new events from the shared reader, after the events before."""
        for cell, position in self._positions.items():
            await self._gateway.feeds[cell].reach(position)
        self._reader = await self._gateway.views.join(self._claims, list(self._positions))
        for cell, upto in self._reader.positions.items():
            await self._catch_up(source, cell, upto)

    async def _follow(self, reader: ViewReader) -> None:
        """Send the events of the shared reader, until cancelled or until the client is slow."""
        while not reader.is_slow:
            block = reader.take()
            if not block and not reader.is_slow:
                with anyio.move_on_after(QUIET_S) as quiet:
                    await reader.arrived.wait()
                block = reader.take() or reader.position_block()
                if not block and quiet.cancelled_caught:
                    block = _COMMENT
            if block:
                await self._write(block)
        peer_log.warning("stream ended: its client reads events too slowly")

    async def _write(self, block: bytes) -> None:
        await self._send({"type": "http.response.body", "body": block, "more_body": True})
        await checkpoint()  # a peer that reads at once must not keep other work waiting

    # --- catching up ------------------------------------------------------------------------

    async def _catch_up(self, source: HistorySource, cell: str, upto: str) -> None:
        """Send the events of a cell up to this id, from the log or the archive."""
        after = self._positions[cell]
        if parse_id(after) >= parse_id(upto):
            return
        history = await source.history_of(cell)
        first = await self._first_after_hole(history, cell, after)
        if first:
            data = msgspec.json.encode({"cell": cell, "first": first})
            await self._write(b"event: truncated\ndata: %b\n\n" % data)
            after = id_before(first)
        async with aclosing(history.batches(after, upto)) as batches:
            while True:
                async with self._gateway.reads.turn(self._claims, is_stream=True):
                    entries = await anext(batches, None)
                    if entries is None:
                        self._positions[cell] = upto
                        return
                    items = await self._gateway.feeds[cell].items_of(entries)
                async for blocks in self._blocks_of(cell, items):
                    await self._write(blocks)

    async def _blocks_of(self, cell: str, items: Sequence[FeedItem]) -> AsyncIterator[bytes]:
        """Yield what the stream shows of some events, in parts of some size."""
        part = b""
        for item in items:
            data = await item.data_for(self._claims)
            self._positions[cell] = item.id
            if data:
                part += event_block(self._positions, data)
            if len(part) >= WRITE_BYTES:
                yield part
                part = b""
        if part:
            yield part

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
