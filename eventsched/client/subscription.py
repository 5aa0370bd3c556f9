"""What a session hears: one reader per client and cell for all of its sessions.

Owns: the blocking read over many `out` streams, each session's mailbox and its position, and
noticing what was trimmed before it could be read.
Never does: confirming (channel.py sends positions along with appends and keepalives).
Read next: session.py (`results`), lua/include/delivery.lua (what writes the entries).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import anyio
import msgspec
import structlog

from eventsched.schema.ids import START, id_before
from eventsched.schema.keys import name_of
from eventsched.store.cell import Store
from eventsched.store.replies import fields_of
from eventsched.store.retry import Backoff
from eventsched.store.transport import Entry

BLOCK_MS = 2_000
READ_COUNT = 64
MAILBOX_ENTRIES = 256
MAILBOX_BYTES = 4 * 1024 * 1024
"""A mailbox beyond either is not read on until its owner has taken some of it."""

log = structlog.get_logger("eventsched.client.subscription")
Kind: TypeAlias = Literal["result", "partial", "state", "truncated"]


class OutboxEntry(msgspec.Struct, frozen=True):
    """One entry of an `out` stream, or the news that some before it are gone."""

    id: str
    number: int
    kind: Kind
    data: dict[str, Any]
    body: bytes
    audio: bytes

    @property
    def size(self) -> int:
        return len(self.body) + len(self.audio)


def parse(entry: Entry) -> OutboxEntry:
    """An entry as deliver.tell writes it; `i` is `<number>:<bytes so far>`."""
    entry_id, flat = entry
    fields = fields_of(flat)
    return OutboxEntry(
        entry_id,
        int(fields[b"i"].partition(b":")[0]),
        fields[b"t"].decode(),  # type: ignore[arg-type]
        msgspec.json.decode(fields[b"d"], type=dict[str, Any]),
        fields[b"b"],
        fields[b"a"],
    )


class Subscription:
    """What one session was told and nobody has taken yet.

    Entries are numbered without holes. Reading starts at the entry `after` itself: if it is
    gone, or a number is left out later, the reader was overtaken and is told `truncated` once.
    """

    def __init__(self, session: str, after: str) -> None:
        self.session = session
        self.position = START if after == START else id_before(after)
        self.drains = False
        """Read on without bound: the session closes, so what is left is bounded itself."""
        self.closed = anyio.Event()
        self._bookmark = "" if after == START else after
        self._expected = 1
        self._told: deque[OutboxEntry] = deque()
        self._bytes = 0
        self._came = anyio.Event()

    @property
    def wants_more(self) -> bool:
        if self.closed.is_set():
            return False
        has_room = len(self._told) < MAILBOX_ENTRIES and self._bytes < MAILBOX_BYTES
        return has_room or self.drains

    def put(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.position = entry[0]
            told = self._parsed(entry)
            if told is not None and not self._is_bookmark(told):
                self._keep(told)
        self._came.set()

    def _parsed(self, entry: Entry) -> OutboxEntry | None:
        """None where no script wrote it: it has no number, so whoever listens misses nothing."""
        try:
            return parse(entry)
        except (KeyError, ValueError, msgspec.DecodeError) as error:
            told = {"session": self.session, "entry": entry[0], "error": str(error)}
            log.error("no entry of a script", **told)
            return None

    def _is_bookmark(self, told: OutboxEntry) -> bool:
        bookmark, self._bookmark = self._bookmark, ""
        if not bookmark:
            return False
        # Not there any more: any number that follows is beyond a gap.
        self._expected = told.number + 1 if told.id == bookmark else -1
        return told.id == bookmark

    def _keep(self, told: OutboxEntry) -> None:
        if told.number != self._expected:
            self._told.append(OutboxEntry(id_before(told.id), 0, "truncated", {}, b"", b""))
        self._expected = told.number + 1
        self._told.append(told)
        self._bytes += told.size
        if told.kind == "state" and told.data.get("state") == "closed":
            self.closed.set()

    def pop(self) -> OutboxEntry | None:
        """The oldest that nobody has taken."""
        if not self._told:
            return None
        told = self._told.popleft()
        self._bytes -= told.size
        return told

    async def wait(self) -> None:
        """Until something may have come."""
        if not self._told:
            self._came = anyio.Event()
            await self._came.wait()


class SubscriptionReader:
    """Reads for every mailbox of one cell; `run` must run somewhere."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._boxes: dict[str, Subscription] = {}
        self._changed = anyio.Event()
        self._reading: anyio.CancelScope | None = None

    def add(self, box: Subscription) -> None:
        self._boxes[self._store.keys.outbox(name_of(box.session))] = box
        self.look_again()

    def remove(self, box: Subscription) -> None:
        key = self._store.keys.outbox(name_of(box.session))
        if self._boxes.get(key) is box:
            del self._boxes[key]

    async def take(self, box: Subscription) -> OutboxEntry | None:
        """The oldest entry that nobody has taken; none when the session is closed and all is."""
        while True:
            was_full = not box.wants_more
            told = box.pop()
            if told is not None:
                if was_full and box.wants_more:
                    self.look_again()
                return told
            if box.closed.is_set():
                return None
            await box.wait()

    def look_again(self) -> None:
        """Who wants more has changed: end the present wait, which loses nothing."""
        self._changed.set()
        if self._reading is not None:
            self._reading.cancel()

    async def run(self) -> None:
        backoff = Backoff(self._store.transport, log, cell=self._store.cell)
        while True:
            async with backoff.attempt():
                await self._step()

    async def _step(self) -> None:
        self._changed = anyio.Event()
        wanted = {key: box for key, box in self._boxes.items() if box.wants_more}
        if not wanted:
            await self._changed.wait()
            return
        positions = {key: box.position for key, box in wanted.items()}
        found: dict[str, list[Entry]] = {}
        with anyio.CancelScope() as self._reading:
            found = await self._store.transport.read_blocking(positions, BLOCK_MS, READ_COUNT)
        self._reading = None
        for key, entries in found.items():
            if self._boxes.get(key) is wanted[key]:
                wanted[key].put(entries)
