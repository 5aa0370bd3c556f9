"""Calls that the store's typed methods would not make, and proof that one changed nothing."""

from __future__ import annotations

from typing import Any

from eventsched.errors import Refused
from eventsched.store.client import Client
from eventsched.store.session_commands import Chunk, Receipt, SessionGrant
from eventsched.store.transport import Arg
from tests.fixtures_store import TimedStore


async def call(store: TimedStore, script: str, *args: Arg) -> Any:
    """The bare reply of a script, given whatever arguments."""
    return await store.transport.run(script, [store.keys.log], [store.at_ms, *args])


async def code_of(store: TimedStore, script: str, *args: Arg) -> str:
    """How a script refuses; a refusal of one item counts as well."""
    try:
        reply = await call(store, script, *args)
    except Refused as refused:
        return said_by(refused)
    if isinstance(reply, list) and isinstance(reply[0], bytes) and reply[0].startswith(b"refused "):
        return reply[0].removeprefix(b"refused ").decode()
    raise AssertionError(f"{script} took {args}: {reply}")


async def contents(redis: Client, store: TimedStore) -> dict[bytes, bytes | None]:
    """All that the cell holds, but for its clock."""
    found: dict[bytes, bytes | None] = {}
    async for key in redis.scan_iter(match=f"{store.keys.prefix}*", count=1_000):
        if key != store.keys.clock.encode():
            found[key] = await redis.dump(key)
    return found


def chunk(session: SessionGrant, seq: int, **given: Any) -> Chunk:
    """100 ms of PCM16 unless told otherwise."""
    asked: dict[str, Any] = {"epoch": session.epoch, "ms": 100, "payload": b"\1\2" * 1_600}
    return Chunk(session=session.session, seq=seq, **asked | given)


async def append(store: TimedStore, session: SessionGrant, seq: int, **given: Any) -> Receipt:
    """One chunk, or its refusal raised."""
    (reply,) = await store.append_audio([chunk(session, seq, **given)])
    if not isinstance(reply, Receipt):
        raise reply
    return reply


async def refused(store: TimedStore, *chunks: Chunk) -> str:
    """How the last of these chunks is refused."""
    *_, reply = await store.append_audio(chunks)
    assert isinstance(reply, Refused), reply
    return said_by(reply)


def said_by(refused: Refused) -> str:
    """The refusal without what is always to be done about one of its code."""
    return str(refused).removesuffix(f"; {refused.remedy}")


async def events(store: TimedStore, *types: str) -> list[Any]:
    """Events of the given types, with `data` as whatever it is."""
    return list(await store.log(*types))


async def finalized(store: TimedStore) -> list[tuple[int, int, str, int]]:
    """(utterance, turn, reason, padding) of each, in order."""
    return [
        (event.data.utterance, event.data.turn, event.data.reason, event.data.padding_ms)
        for event in await events(store, "UtteranceFinalized")
    ]
