"""What the streams of one kind of token show: the events that wait, encoded once for all of them.

Owns: the blocks that wait for the streams of a view, the bound of their bytes by tenant, the place
of each stream in them.
Never does: I/O. Read next: event_feed.py (puts events in), event_stream.py (sends them).

Streams with the same tenant, the same right to texts and the same cells show the same blocks. So
each block is made once, and a stream is a number: that of the next block to send. A block is
deleted when all streams have sent it, or when the blocks of the tenant have too many bytes. A
stream that has not sent a deleted block is slow, and ends; its client comes again with the position
that it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import anyio

from eventsched.gateway.access import share_of
from eventsched.gateway.cursor import format_cursor
from eventsched.tokens.claims import ALL_TENANTS, Claims

if TYPE_CHECKING:
    from eventsched.gateway.event_feed import EventFeed, FeedItem

WAITING_BYTES_MAX = 1024 * 1024
"""Bytes of blocks that wait for all streams of a tenant, or of a subject."""
POSITION_S = 1.0
"""How long a moved position waits for an event to carry it."""
BLOCK_BYTES = 128
"""Memory of a block beside its text."""
WRITE_BYTES = 16_384
"""Blocks are sent together up to this size."""


def event_block(positions: Mapping[str, str], data: bytes) -> bytes:
    """Return the block of an event with the position of a stream after it."""
    return b"id: %b\ndata: %b\n\n" % (format_cursor(positions).encode(), data)


class ViewKey(NamedTuple):
    """What two streams must have in common to show the same blocks."""

    share: str
    tenant: str
    texts: bool
    cells: tuple[str, ...]


class ShareViews:
    """The views of one tenant or subject, and the bytes of all their blocks."""

    def __init__(self) -> None:
        self.views: set[EventView] = set()
        self.bytes = 0

    def add_bytes(self, count: int) -> None:
        """Count the bytes of a block; delete the oldest blocks if there are too many."""
        self.bytes += count
        while self.bytes > WAITING_BYTES_MAX:
            max(self.views, key=lambda each: each.bytes).delete(1)


class EventView:
    """The blocks of one view.

    Args:
        key: What its streams have in common.
        owner: The views of the same tenant or subject.
    """

    def __init__(self, key: ViewKey, owner: ShareViews) -> None:
        self.key = key
        self.positions: dict[str, str] = {}
        """Id of the last event that was shown or left out, by cell that is joined."""
        self.users = 0
        """Streams that use the view, or are about to."""
        self.readers: set[ViewReader] = set()
        self.joining = anyio.Lock()
        self.bytes = 0
        """Of all blocks that wait."""
        self.moves = 0
        """How often the position has moved by events that are not shown."""
        self.shown_moves = 0
        """`moves` when the last block was made: its id has all of them."""
        self._due_moves = 0
        """`moves` when the streams were last woken for the position."""
        self._due_s = 0.0
        self._owner = owner
        self._blocks: list[bytes] = []
        self._first = 0
        """Number of the first block that waits."""

    @property
    def first(self) -> int:
        """Number of the first block that waits."""
        return self._first

    @property
    def end(self) -> int:
        """Number of the next block."""
        return self._first + len(self._blocks)

    @property
    def is_whole(self) -> bool:
        """Whether the events of all tenants are shown, with all evidence."""
        return self.key.tenant == ALL_TENANTS

    def put(self, cell: str, item: FeedItem) -> None:
        """Add an event, which the view shows."""
        self.positions[cell] = item.id
        if not self.readers:
            return
        data = item.data(texts=self.key.texts, is_whole=self.is_whole)
        block = event_block(self.positions, data)
        self._blocks.append(block)
        self.bytes += len(block) + BLOCK_BYTES
        self.shown_moves = self.moves
        self._owner.add_bytes(len(block) + BLOCK_BYTES)

    def move(self, cell: str, position: str) -> None:
        """Move the position past events that are not shown."""
        if self.positions[cell] != position:
            self.positions[cell] = position
            self.moves += 1

    def has_due_position(self, now_s: float) -> bool:
        """Whether to wake the streams for the position, at most once in POSITION_S."""
        if max(self.shown_moves, self._due_moves) == self.moves or now_s - self._due_s < POSITION_S:
            return False
        self._due_moves, self._due_s = self.moves, now_s
        return True

    def blocks_from(self, number: int, bytes_max: int) -> Sequence[bytes]:
        """Return the blocks from this number on, up to a size and at least one if there is one."""
        blocks: list[bytes] = []
        size, at = 0, number - self._first
        while at < len(self._blocks) and (not blocks or size + len(self._blocks[at]) <= bytes_max):
            blocks.append(self._blocks[at])
            size += len(self._blocks[at])
            at += 1
        return blocks

    def delete_sent(self) -> None:
        """Delete the blocks that all streams have sent but for slow ones, which end."""
        sent = (reader.number for reader in self.readers if not reader.is_slow)
        self.delete(min(sent, default=self.end) - self._first)

    def delete(self, count: int) -> None:
        """Delete the oldest blocks."""
        size = sum(len(block) + BLOCK_BYTES for block in self._blocks[:count])
        self.bytes -= size
        self._owner.bytes -= size
        del self._blocks[:count]
        self._first += count


class ViewReader:
    """The place of one stream in a view. It begins with the next event.

    Args:
        view: The view, which has joined its cells.
    """

    def __init__(self, view: EventView) -> None:
        self.view = view
        self.positions = dict(view.positions)
        """Position in all cells at which it began."""
        self.number = view.end
        """Number of the next block to send."""
        self.arrived = anyio.Event()
        self._moves = view.moves

    @property
    def is_slow(self) -> bool:
        """Whether a block was deleted before the stream has sent it."""
        return self.number < self.view.first

    def take(self) -> bytes:
        """Return the next blocks to send together; empty if there are none, or it is slow."""
        self.arrived = anyio.Event()
        if self.is_slow:
            return b""
        blocks = self.view.blocks_from(self.number, WRITE_BYTES)
        self.number += len(blocks)
        if blocks and self.number == self.view.end:
            self._moves = self.view.shown_moves
        return b"".join(blocks)

    def position_block(self) -> bytes:
        """Return a block that moves the client's position only; empty if it has not moved."""
        view = self.view
        if self.number != view.end or self._moves == view.moves:
            return b""
        self._moves = view.moves
        return b"id: %b\n\n" % format_cursor(view.positions).encode()


class EventViews:
    """The views of one gateway that have streams.

    Args:
        feeds: The readers of new events, by cell.
    """

    def __init__(self, feeds: Mapping[str, EventFeed]) -> None:
        self._feeds = feeds
        self._views: dict[ViewKey, EventView] = {}
        self._shares: dict[str, ShareViews] = {}

    @property
    def streams(self) -> int:
        """How many streams have joined a view."""
        return sum(len(view.readers) for view in self._views.values())

    def bytes_of(self, share: str) -> int:
        """Return the bytes of the blocks that wait for the streams of a tenant or subject."""
        owner = self._shares.get(share)
        return owner.bytes if owner else 0

    async def join(self, claims: Claims, cells: Sequence[str]) -> ViewReader:
        """Return the place of a new stream. It gets all events after `positions` of the place."""
        key = ViewKey(share_of(claims), claims.tenant, claims.texts, tuple(sorted(cells)))
        view = self._views.get(key)
        if view is None:
            owner = self._shares.setdefault(key.share, ShareViews())
            view = self._views[key] = EventView(key, owner)
            owner.views.add(view)
        view.users += 1
        try:
            async with view.joining:
                for cell in key.cells:
                    if cell not in view.positions:
                        await self._feeds[cell].join(view)
        except BaseException:
            self._leave(view)
            raise
        reader = ViewReader(view)
        view.readers.add(reader)
        return reader

    def leave(self, reader: ViewReader) -> None:
        """Give the stream nothing more."""
        reader.view.readers.discard(reader)
        self._leave(reader.view)

    def _leave(self, view: EventView) -> None:
        view.users -= 1
        view.delete_sent()
        if view.users:
            return
        for cell in view.key.cells:
            self._feeds[cell].leave(view)
        del self._views[view.key]
        owner = self._shares[view.key.share]
        owner.views.discard(view)
        if not owner.views:
            del self._shares[view.key.share]
