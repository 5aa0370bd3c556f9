"""Typed calls of one cell: one method per script or read.

Owns: turning arguments into a script's ARGV and its reply into a struct, and refusals into
exceptions. Batch calls return one reply or refusal per item, in order.
Never does: decisions (they are the scripts'), waiting other than through its transport.
Read next: lua/README.md (what each script decides), transport.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from eventsched.errors import Backpressure, Refused, from_reply
from eventsched.schema.keys import Keys, name_of
from eventsched.store.transport import Arg, Entry, Transport, entries_of

Word: TypeAlias = Literal["ok", "duplicate"]
_WORDS: dict[bytes, Word] = {b"ok": "ok", b"duplicate": "duplicate"}
_REFUSED = b"refused "


class SessionGrant(msgspec.Struct, frozen=True):
    """Who may append, and from where."""

    session: str
    epoch: int
    next_seq: int
    utterance: int
    out_id: str
    """The last entry of its out stream that its listener has handled; `0-0` when none was."""


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of audio to append."""

    session: str
    epoch: int
    seq: int
    ms: int
    payload: bytes
    end_of_utterance: bool = False
    confirmed: str = ""
    """Last entry of the session's out stream that its reader has handled."""


class Finalize(msgspec.Struct, frozen=True, kw_only=True):
    """A producer asks that this utterance ends here."""

    session: str
    epoch: int
    utterance: int


class Receipt(msgspec.Struct, frozen=True):
    """What an append or a finalize did."""

    status: Word
    """`ok`, or `duplicate` if it had no effect."""
    utterance: int
    """Index of the current utterance after the call."""
    finalized: tuple[int, ...] = ()
    """Indices of the utterances that the call completed."""


class NodeGrant(msgspec.Struct, frozen=True):
    """A registration: with the attempt number, its epoch is the fencing token."""

    node: str
    epoch: int
    inbox_from: str
    heartbeat_ms: int


class NodeResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt ended, as its node says."""

    job: str
    attempt: int
    status: Literal["ok", "no_speech", "failed"]
    code: str = ""
    retryable: bool = False
    feature: str = ""
    """The service whose model is missing, with MODEL_NOT_AVAILABLE."""
    body: bytes = b""
    audio: bytes = b""
    audio_sha256: str = ""


class DispatchReply(msgspec.Struct, frozen=True):
    """What one call of the dispatch script did."""

    last_id: str
    left: int
    """Entries of `work` that are not read yet."""
    jobs: int
    waiting: int
    """Of the jobs those whose nodes have no slot free."""


class Clock(msgspec.Struct, frozen=True):
    """A cell's clock as scripts keep it."""

    is_manual: bool
    offset_ms: int
    """By how much it is ahead of the server's, which went back."""
    last_ms: int
    """The last now."""


class TimerReply(msgspec.Struct, frozen=True):
    """What one call of the timer script did."""

    fired: int
    next_ms: int | None
    now_ms: int


class Retried(msgspec.Struct, frozen=True):
    """What became of an entry in `dead` that was to go again."""

    word: Literal["retried", "passed_over", "partial", "projection", "unreadable", "unknown"]
    """lua/retry_dead_letter.lua says what each means; all but the first two changed nothing."""
    retried: int
    passed_over: int


class Store:
    """One cell. `now_ms` is honoured by cells that were created with a manual clock."""

    def __init__(
        self, transport: Transport, cell: str, *, now_ms: Callable[[], int] | None = None
    ) -> None:
        self.transport = transport
        self.cell = cell
        self.keys = Keys(cell)
        self._now_ms = now_ms

    async def _run(self, script: str, *args: Arg) -> Any:
        now = self._now_ms() if self._now_ms else ""
        return await self.transport.run(script, [self.keys.log], [now, *args])

    # --- the cell ---------------------------------------------------------------------------

    async def configure_cell(
        self, settings: Mapping[str, int], *, overwrite: bool, manual_clock: bool = False
    ) -> Literal["created", "changed", "kept"]:
        """The cell exists; with `overwrite` it has these settings, else it keeps its own."""
        mode = "manual" if manual_clock else "server"
        told = msgspec.json.encode(dict(settings))
        reply = await self._run("configure_cell", mode, int(overwrite), told)
        return reply.decode()  # type: ignore[no-any-return]

    async def set_backpressure(
        self, reason: str, *, is_active: bool, seen: int, limit: int
    ) -> Literal["started", "ended", "unchanged"]:
        """Producers are refused, or served again, for this reason."""
        reply = await self._run("set_backpressure", reason, int(is_active), seen, limit)
        return reply.decode()  # type: ignore[no-any-return]

    # --- sessions ---------------------------------------------------------------------------

    async def open_session(
        self,
        *,
        name: str,
        token: str,
        tenant: str,
        source: str,
        targets: Sequence[str],
        features: Sequence[str],
        features_hash: str,
        encoding: str,
        sample_rate: int,
        priority: int,
        room: str,
        listen_language: str,
        traceparent: str,
        key: str = "",
    ) -> SessionGrant:
        """The session exists; the same token again gets the same reply."""
        reply = await self._run(
            "open_session",
            name,
            token,
            tenant,
            source,
            _joined(targets),
            _joined(features),
            features_hash,
            encoding,
            sample_rate,
            priority,
            room,
            listen_language,
            traceparent,
            key,
        )
        return self._granted(name, reply)

    async def resume_session(self, session: str, token: str) -> SessionGrant:
        """This token's holder may append from `next_seq`; earlier holders no longer can."""
        name = name_of(session)
        return self._granted(name, await self._run("resume_session", name, token))

    def _granted(self, name: str, reply: Any) -> SessionGrant:
        epoch, next_seq, utterance, out_id = reply
        return SessionGrant(self.keys.full(name), epoch, next_seq, utterance, out_id.decode())

    async def append_audio(self, chunks: Sequence[Chunk]) -> list[Receipt | Refused]:
        """Each chunk is stored, or was before, or is refused and says why."""
        args: list[Arg] = []
        for c in chunks:
            args += (
                name_of(c.session),
                c.epoch,
                c.seq,
                c.ms,
                int(c.end_of_utterance),
                c.payload,
                c.confirmed,
            )
        try:
            replies = await self._run("append_audio", *args)
        except Backpressure as refused:  # the server is full: no chunk was stored
            return [refused] * len(chunks)
        return [_receipt(item) for item in replies]

    async def finalize_utterances(self, asked: Sequence[Finalize]) -> list[Receipt | Refused]:
        """Each is complete; `duplicate` when it is not the current one, or empty; or refused."""
        args: list[Arg] = []
        for one in asked:
            args += (name_of(one.session), one.epoch, one.utterance)
        return [_receipt(item) for item in await self._run("finalize_utterances", *args)]

    async def keep_alive(self, items: Sequence[tuple[str, int, str]]) -> list[Refused | None]:
        """(session, epoch, confirmed out id or empty): none of them is idle from now on."""
        args: list[Arg] = []
        for session, epoch, confirmed in items:
            args += (name_of(session), epoch, confirmed)
        return [_refused(item) for item in await self._run("keep_alive", *args)]

    async def mark_playback(
        self, session: str, epoch: int, *, origin: str, target: str, utterance: int, started: bool
    ) -> Word:
        """Sound of (origin, target, utterance) plays at the session, or no longer does."""
        reply = await self._run(
            "mark_playback", name_of(session), epoch, origin, target, utterance, int(started)
        )
        return reply.decode()  # type: ignore[no-any-return]

    async def close_session(self, session: str, epoch: int) -> Word:
        """No more chunks; the session closes when everything it owes has ended."""
        reply = await self._run("close_session", name_of(session), epoch)
        return reply.decode()  # type: ignore[no-any-return]

    async def erase_session(self, session: str, key: str) -> Word:
        """It is on record that the session's key, of this id, is destroyed."""
        reply = await self._run("erase_session", name_of(session), key)
        return reply.decode()  # type: ignore[no-any-return]

    # --- nodes ------------------------------------------------------------------------------

    async def register_node(
        self,
        *,
        node: str,
        token: str,
        sources: Sequence[str],
        targets: Sequence[str],
        features: Sequence[str],
        slots: int,
        version: str,
    ) -> NodeGrant:
        """The node serves with all slots free; the same token again gets the same reply."""
        epoch, inbox_from, heartbeat_ms = await self._run(
            "register_node",
            name_of(node),
            token,
            _joined(sources),
            _joined(targets),
            _joined(features),
            slots,
            version,
        )
        return NodeGrant(node, epoch, inbox_from.decode(), heartbeat_ms)

    async def heartbeat_node(
        self, node: str, epoch: int, *, load: int, held: Sequence[tuple[str, int]]
    ) -> list[str]:
        """The node is alive. Returns those of `held` (job key, attempt) that it holds no more."""
        args: list[Arg] = [part for pair in held for part in pair]
        reply = await self._run("heartbeat_node", name_of(node), epoch, load, *args)
        return [job.decode() for job in reply]

    async def drain_node(self, node: str, epoch: int, *, within_ms: int) -> int:
        """The node gets no new work; what it holds after `within_ms` goes elsewhere.

        Returns its live attempts.
        """
        return int(await self._run("drain_node", name_of(node), epoch, within_ms))

    async def record_results(
        self, node: str, epoch: int, results: Sequence[NodeResult]
    ) -> list[Refused | None]:
        """Each result took effect (none), or is refused and on record."""
        args: list[Arg] = []
        for r in results:
            args += (r.job, r.attempt, r.status, r.code, int(r.retryable), r.feature, r.body)
            args += (r.audio, r.audio_sha256)
        return [
            _refused(item)
            for item in await self._run("record_results", name_of(node), epoch, *args)
        ]

    async def send_partials(
        self, node: str, epoch: int, items: Sequence[tuple[str, int, bytes]]
    ) -> list[Refused | None]:
        """(job, attempt, body): its listeners see it at once; it is kept nowhere else."""
        args: list[Arg] = [part for item in items for part in item]
        return [
            _refused(item) for item in await self._run("send_partials", name_of(node), epoch, *args)
        ]

    async def extend_lease(
        self, node: str, epoch: int, *, job: str, attempt: int, more_ms: int
    ) -> int:
        """The attempt's new deadline in ms: `more_ms` from now, 300 s after dispatch at most."""
        return int(await self._run("extend_lease", name_of(node), epoch, job, attempt, more_ms))

    # --- roles ------------------------------------------------------------------------------

    async def dispatch_jobs(self, back_ms: int = 0) -> DispatchReply:
        """Up to 12 entries of `work` are dispatched or queued.

        A caller that comes again within `back_ms` may say so: until then whoever finalizes gives
        its jobs away itself where nothing waits before them.
        """
        last_id, left, jobs, waiting = await self._run("dispatch_jobs", back_ms)
        return DispatchReply(last_id.decode(), left, jobs, waiting)

    async def fire_timers(self) -> TimerReply:
        """Up to 16 due timers have fired."""
        fired, next_ms, now_ms = await self._run("fire_timers")
        return TimerReply(fired, None if next_ms < 0 else next_ms, now_ms)

    async def retry_dead_letter(self, dead_id: str, *, force: bool) -> Retried:
        """What could not be processed goes again; with `force`, even if it had begun to write."""
        word, retried, passed_over = await self._run("retry_dead_letter", dead_id, int(force))
        return Retried(word.decode(), retried, passed_over)

    # --- reads ------------------------------------------------------------------------------

    async def read_range(
        self, key: str, low: str, high: str, count: int, *, newest_first: bool = False
    ) -> list[Entry]:
        """Entries of a stream from `low` to `high`, `(` before an id leaves that one out."""
        parts = ("XREVRANGE", key, high, low) if newest_first else ("XRANGE", key, low, high)
        return entries_of(await self.transport.command(*parts, "COUNT", count, key=key))

    async def last_id(self, key: str) -> str:
        """Id of the newest entry of a stream, `0-0` when it has none."""
        newest = await self.read_range(key, "-", "+", 1, newest_first=True)
        return newest[0][0] if newest else "0-0"

    async def read_clock(self) -> Clock:
        """The cell's clock as it was last read."""
        kept = await self.transport.command("GET", self.keys.clock, key=self.keys.clock)
        mode, offset, last, _ = (kept or b"|0|0|").decode().split("|")
        return Clock(mode == "manual", int(offset), int(last))

    async def read_hash(self, key: str) -> dict[str, str]:
        """A hash as text; empty when there is none."""
        reply = await self.transport.command("HGETALL", key, key=key)
        pairs = reply.items() if isinstance(reply, dict) else zip(*[iter(reply)] * 2, strict=True)
        return {name.decode(): value.decode(errors="replace") for name, value in pairs}


def _joined(names: Sequence[str]) -> str:
    """Scripts take lists sorted and joined: equal sets are equal text."""
    return ",".join(sorted(set(names)))


def _receipt(item: bytes) -> Receipt | Refused:
    refused = _refused(item)
    if refused is not None:
        return refused
    word, utterance, *finalized = item.split()
    return Receipt(_WORDS[word], int(utterance), tuple(map(int, finalized)))


def _refused(item: bytes) -> Refused | None:
    if not item.startswith(_REFUSED):
        return None
    told = item[len(_REFUSED) :].decode(errors="replace")
    return from_reply(told) or Refused(told)
