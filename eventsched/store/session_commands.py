"""Calls about sessions: open, resume, append audio, finalize, keep alive, close, erase.

Owns: the arguments and replies of these scripts. A batch call returns one reply or refusal per
item, in order.
Must not: decide, retry or wait; the scripts decide, callers retry.
Read next: lua/README.md (what each script decides), client/channel.py (the caller).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from eventsched.errors import Backpressure, Refused
from eventsched.schema.keys import name_of
from eventsched.store.cell_connection import CellConnection, name_list
from eventsched.store.replies import Status, refusal_in
from eventsched.store.transport import Arg

_STATUSES: dict[bytes, Status] = {b"ok": "ok", b"duplicate": "duplicate"}


class SessionGrant(msgspec.Struct, frozen=True):
    """The right to append to a session, and the position to continue from."""

    session: str
    epoch: int
    next_seq: int
    utterance: int
    out_id: str
    """Last entry of the session's outbox that its reader has confirmed; `0-0` if none."""


class Chunk(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A piece of audio to append."""

    session: str
    epoch: int
    seq: int
    ms: int
    payload: bytes
    end_of_utterance: bool = False
    traceparent: str = ""
    """Of the utterance, which ends with the chunk; empty: that of the session."""
    confirmed: str = ""
    """Last entry of the session's outbox that its reader has handled; empty: unchanged."""


class Finalize(msgspec.Struct, frozen=True, kw_only=True):
    """A producer's request to end this utterance."""

    session: str
    epoch: int
    utterance: int
    traceparent: str = ""
    """Of the utterance; empty: that of the session."""


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What an append or a finalize did."""

    status: Status
    """`ok`, or `duplicate` if it had no effect."""
    utterance: int
    """Index of the current utterance after the call."""
    finalized: tuple[int, ...] = ()
    """Indices of the utterances that the call completed."""


class Postponed(msgspec.Struct, frozen=True):
    """The chunk is not stored: the call has finalized as much as one call may. Send it again."""

    next_seq: int
    """Number of the first chunk of the session that is not stored."""


def hash_secret(secret: str) -> str:
    """What a session stores of its resume secret: the SHA-1, which a function can compute.

    SHA-1 suffices, because the secret has 127 random bits (docs/adr/0016-resume-secret.md).
    """
    return hashlib.sha1(secret.encode(), usedforsecurity=False).hexdigest()


class SessionCommands(CellConnection):
    """The calls of a cell that concern sessions."""

    async def open_session(
        self,
        *,
        name: str,
        token: str,
        secret_sha1: str,
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
        """The session exists. A repeated call with the same token gets the same reply.

        `secret_sha1` is the SHA-1 of the secret that resumes the session.
        """
        reply = await self.run(
            "open_session",
            name,
            token,
            secret_sha1,
            tenant,
            source,
            name_list(targets),
            name_list(features),
            features_hash,
            encoding,
            sample_rate,
            priority,
            room,
            listen_language,
            traceparent,
            key,
        )
        return self._grant(name, reply)

    async def resume_session(self, session: str, secret: str, token: str) -> SessionGrant:
        """The owner of this token may append from `next_seq`; earlier owners may not.

        A secret that is not the session's gets the reply of a session that does not exist.
        """
        name = name_of(session)
        return self._grant(name, await self.run("resume_session", name, secret, token))

    def _grant(self, name: str, reply: Any) -> SessionGrant:
        epoch, next_seq, utterance, out_id = reply
        return SessionGrant(self.keys.full(name), epoch, next_seq, utterance, out_id.decode())

    async def append_audio(self, chunks: Sequence[Chunk]) -> list[Receipt | Postponed | Refused]:
        """Each chunk is stored, was stored by an earlier call, or is refused with a reason.

        A call finalizes at most 8 utterances, with at most 64 outcomes. The chunks of a session
        from the one that would pass a limit are postponed.
        """
        args: list[Arg] = []
        for c in chunks:
            args += (
                name_of(c.session),
                c.epoch,
                c.seq,
                c.ms,
                c.traceparent or int(c.end_of_utterance),
                c.payload,
                c.confirmed,
            )
        try:
            replies = await self.run("append_audio", *args)
        except Backpressure as refusal:  # the server is full: no chunk was stored
            return [refusal] * len(chunks)
        return [_stored(item) for item in replies]

    async def finalize_utterances(self, requests: Sequence[Finalize]) -> list[Receipt | Refused]:
        """Each utterance is complete, or its request is refused.

        The status is `duplicate` if the utterance is not the current one, or is empty.
        """
        args: list[Arg] = []
        for request in requests:
            args += (
                name_of(request.session),
                request.epoch,
                request.utterance,
                request.traceparent,
            )
        return [_receipt(item) for item in await self.run("finalize_utterances", *args)]

    async def keep_alive(self, items: Sequence[tuple[str, int, str]]) -> list[Refused | None]:
        """Restart the idle timeout of sessions.

        Args:
            items: (session, epoch, confirmed entry of its outbox or empty).
        """
        args: list[Arg] = []
        for session, epoch, confirmed in items:
            args += (name_of(session), epoch, confirmed)
        return [refusal_in(item) for item in await self.run("keep_alive", *args)]

    async def mark_playback(
        self, session: str, epoch: int, *, origin: str, target: str, utterance: int, started: bool
    ) -> Status:
        """The session plays the audio of (origin, target, utterance), or has stopped playing it."""
        script = "start_playback" if started else "end_playback"
        reply = await self.run(script, name_of(session), epoch, origin, target, utterance)
        return reply.decode()  # type: ignore[no-any-return]

    async def close_session(self, session: str, epoch: int) -> Status:
        """No more chunks; the session closes after all its jobs have ended."""
        reply = await self.run("close_session", name_of(session), epoch)
        return reply.decode()  # type: ignore[no-any-return]

    async def erase_session(self, session: str, key: str) -> Status:
        """The log records that the session's key, of this id, is destroyed."""
        reply = await self.run("erase_session", name_of(session), key)
        return reply.decode()  # type: ignore[no-any-return]


def _stored(item: bytes) -> Receipt | Postponed | Refused:
    word, _, rest = item.partition(b" ")
    return Postponed(int(rest)) if word == b"later" else _receipt(item)


def _receipt(item: bytes) -> Receipt | Refused:
    refusal = refusal_in(item)
    if refusal is not None:
        return refusal
    word, utterance, *finalized = item.split()
    return Receipt(_STATUSES[word], int(utterance), tuple(map(int, finalized)))
