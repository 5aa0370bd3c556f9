"""Calls that the typed methods of the store would not make, and proofs that nothing has changed."""

from __future__ import annotations

from typing import Any

from eventsched.errors import Refused
from eventsched.store.client import Client
from eventsched.store.session_commands import Chunk, Postponed, Receipt, SessionGrant
from eventsched.store.transport import Arg
from tests.fixtures_store import TimedStore


async def call(store: TimedStore, script: str, *args: Arg) -> Any:
    """The bare reply of a script to any arguments."""
    return await store.transport.run(script, store.keys.declared, [store.at_ms, *args])


async def code_of(store: TimedStore, script: str, *args: Arg) -> str:
    """The refusal of a call, or of its first item."""
    try:
        reply = await call(store, script, *args)
    except Refused as refused:
        return message_of(refused)
    if isinstance(reply, list) and isinstance(reply[0], bytes) and reply[0].startswith(b"refused "):
        return reply[0].removeprefix(b"refused ").decode()
    raise AssertionError(f"{script} took {args}: {reply}")


async def contents(redis: Client, store: TimedStore) -> dict[bytes, bytes | None]:
    """Everything in the cell except its clock."""
    dumps: dict[bytes, bytes | None] = {}
    async for key in redis.scan_iter(match=f"{store.keys.prefix}*", count=1_000):
        if key != store.keys.clock.encode():
            dumps[key] = await redis.dump(key)
    return dumps


def chunk(session: SessionGrant, seq: int, **overrides: Any) -> Chunk:
    """100 ms of PCM16, unless overridden."""
    defaults: dict[str, Any] = {"epoch": session.epoch, "ms": 100, "payload": b"\1\2" * 1_600}
    return Chunk(session=session.session, seq=seq, **defaults | overrides)


async def append(store: TimedStore, session: SessionGrant, seq: int, **overrides: Any) -> Receipt:
    """Append one chunk, or raise its refusal."""
    (reply,) = await store.append_audio([chunk(session, seq, **overrides)])
    if isinstance(reply, Refused):
        raise reply
    assert isinstance(reply, Receipt)
    return reply


def word_of(reply: Receipt | Postponed | Refused) -> str:
    """The status, the number of a postponed chunk, or the code of the refusal."""
    if isinstance(reply, Postponed):
        return f"later {reply.next_seq}"
    return reply.code if isinstance(reply, Refused) else reply.status


async def refused(store: TimedStore, *chunks: Chunk) -> str:
    """The refusal of the last of these chunks."""
    *_, reply = await store.append_audio(chunks)
    assert isinstance(reply, Refused), reply
    return message_of(reply)


def message_of(refused: Refused) -> str:
    """The refusal without the remedy that belongs to its code."""
    return str(refused).removesuffix(f"; {refused.remedy}")


async def events(store: TimedStore, *types: str) -> list[Any]:
    """Events of the given types; `data` is untyped."""
    return list(await store.log(*types))


async def finalized(store: TimedStore) -> list[tuple[int, int, str, int]]:
    """(utterance, turn, reason, padding) of each, in order."""
    return [
        (event.data.utterance, event.data.turn, event.data.reason, event.data.padding_ms)
        for event in await events(store, "UtteranceFinalized")
    ]
