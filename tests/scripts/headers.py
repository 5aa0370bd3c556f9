"""The headers of the scripts, parsed; and a transport that compares calls with them.

Owns: the form of a header (keys, arguments, reply, refusals, events, bound).
Read next: test_headers.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from eventsched.errors import Refused, from_reply
from eventsched.schema.codec import UndecodableEvent, decode
from eventsched.store.client import Client
from eventsched.store.transport import Arg, RedisTransport, entries_of

_ROW = re.compile(r"^--   (\w+) +\S.*$", re.MULTILINE)
_PART = re.compile(r"^-- (Reply|Refusals|Events|Bound): (.*(?:\n--   .*)*)", re.MULTILINE)
_COMMENTS = re.compile(r"(?:-- (?!include:).*\n)+")
_NAME = re.compile(r"\b[A-Z][A-Za-z]+\b")
_CODE = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b|\bBACKPRESSURE\b")
NOT_BY_TIMERS = frozenset({"SessionOpened", "RoomJoined", "SessionResumed", "NodeRegistered",
    "ResultRecorded", "ResultReplaced", "ResultRefused", "NodeDraining", "NodeSuspended",
    "PlaybackStarted", "DeadLettersRetried", "DeadLettersDiscarded", "RebuildStarted",
    "RebuildPromoted"})  # fmt: skip
BY_ANY = frozenset({"ClockAdjusted"})
"""Any script may find the clock behind."""


@dataclass(frozen=True, slots=True)
class Header:
    """One header. `events` is None for `any but …`."""

    keys: tuple[str, ...]
    args: tuple[str, ...]
    has_more: bool
    """Whether arguments of a variable number follow."""
    reply: str
    refusals: frozenset[str]
    events: frozenset[str] | None
    bound: str


def source(name: str) -> str:
    """The text of the file."""
    return files("eventsched").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


@cache
def header(name: str) -> Header:
    """The header of a script. Raises KeyError if a part is missing."""
    lines = _COMMENTS.match(source(name).partition("\n")[2])[0]  # type: ignore[index]
    keys, _, rest = lines.partition("\n-- ARGV\n")[0].partition("\n-- KEYS\n")[2].partition("\0")
    args = lines.partition("\n-- ARGV\n")[2].partition("\n-- Reply")[0]
    fixed, more, _ = (args + rest).partition("--   then ")
    parts = {part[1]: part[2] for part in _PART.finditer(lines)}
    event_names = parts["Events"]
    return Header(
        tuple(_ROW.findall(keys)),
        tuple(_ROW.findall(fixed)),
        bool(more),
        parts["Reply"],
        frozenset(_CODE.findall(parts["Refusals"])),
        None if event_names.startswith("any but") else frozenset(_NAME.findall(event_names)),
        parts["Bound"],
    )


def may_append(script: str, kind: str) -> bool:
    """Whether the header allows this event type."""
    allowed = header(script).events
    return kind in BY_ANY or (kind in allowed if allowed is not None else kind not in NOT_BY_TIMERS)


class HeaderCheckingTransport(RedisTransport):
    """The real transport; each call that runs alone is compared with the header of its script."""

    def __init__(self, calling: Client, blocking: Client) -> None:
        super().__init__(calling, blocking)
        self._running = 0
        self._begun = 0
        self._seen = (0, 0)

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        self._running += 1
        self._begun += 1
        alone = self._begun if self._running == 1 else 0
        try:
            reply = await super().run(script, keys, args)
        except Refused as refused:
            assert refused.code in header(script).refusals, (script, str(refused))
            raise
        finally:
            self._running -= 1
            await self._compare(script, keys[0], alone)
        for item in reply if isinstance(reply, list) else ():
            if isinstance(item, bytes) and item.startswith(b"refused "):
                refusal = from_reply(item.removeprefix(b"refused ").decode())
                assert refusal is not None, (script, item)
                assert refusal.code in header(script).refusals, (script, item)
        return reply

    async def _compare(self, script: str, log: str, alone: int) -> None:
        """The new entries of the log; they are of this script if no other call began."""
        after = "({}-{}".format(*self._seen)
        entries = await self.command("XRANGE", log, after, "+", key=log)
        for entry_id, fields in entries_of(entries):
            ms, _, number = entry_id.partition("-")
            self._seen = max(self._seen, (int(ms), int(number)))
            kind = fields[1].decode()
            assert alone != self._begun or may_append(script, kind), (script, kind)
            try:
                decode(entry_id, fields)
            except UndecodableEvent as error:
                raise AssertionError(f"{script}: {error}") from error
