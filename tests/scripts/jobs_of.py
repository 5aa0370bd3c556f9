"""Steps of tests about nodes and jobs: speak, report a result, read assignments, refusals and
events.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from eventsched.audio.chunks import CHUNK_MS_MAX
from eventsched.errors import Refused
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.replies import named_fields_of
from eventsched.store.session_commands import SessionGrant
from tests.fixtures_store import TimedStore
from tests.job_record import job_record


async def speak(
    store: TimedStore, name: str, *, ms: int = 100, count: int = 1, **overrides: Any
) -> SessionGrant:
    """A new session with `count` finalized utterances of `ms` each; nothing is dispatched yet."""
    session, seq = await store.open(name, **overrides), 0
    for _ in range(count):
        chunks = [min(CHUNK_MS_MAX, ms - at_ms) for at_ms in range(0, ms, CHUNK_MS_MAX)]
        for number, chunk_ms in enumerate(chunks, 1):
            await store.say(session, seq, ms=chunk_ms, end_of_utterance=number == len(chunks))
            seq += 1
    return session


async def assigned(store: TimedStore, node: NodeGrant) -> list[dict[str, Any]]:
    """The assignments in the node's inbox, oldest first."""
    return [message for message in await store.inbox(node) if message["t"] == "assign"]


async def cancelled(store: TimedStore, node: NodeGrant) -> list[dict[str, Any]]:
    return [message for message in await store.inbox(node) if message["t"] == "cancel"]


async def reply(
    store: TimedStore, node: NodeGrant, job: str, attempt: int = 1, **overrides: Any
) -> str:
    """Report this result: `ok`, or the code of the refusal."""
    defaults: dict[str, Any] = {"job": job, "attempt": attempt, "status": "ok"}
    (refused,) = await store.record_results(
        node.node, node.epoch, [NodeResult(**defaults | overrides)]
    )
    return refused.code if refused else "ok"


async def refusal(call: Awaitable[object]) -> Refused:
    with pytest.raises(Refused) as caught:
        await call
    return caught.value


async def code_of(call: Awaitable[object]) -> str:
    """`ok`, or the code of its refusal."""
    try:
        await call
    except Refused as refused:
        return refused.code
    return "ok"


async def logged(store: TimedStore, *types: str) -> list[Any]:
    """Events of the log, or those of the given types; their data is untyped."""
    return list(await store.log(*types))


async def last(store: TimedStore, kind: str) -> Any:
    """The data of the newest event of this type."""
    return (await store.log(kind))[-1].data


async def order_of_dispatch(store: TimedStore) -> list[str]:
    """`<session>/<utterance>` of every dispatch, oldest first."""
    order = []
    for event in await store.log("JobDispatched"):
        _, session, utterance, *_ = event.job.split(":")
        order.append(f"{session.partition('.')[2]}/{utterance}")
    return order


async def finish_one(store: TimedStore, node: NodeGrant) -> str:
    """The node ends the attempt that it has held for longest; returns the job key."""
    name = node.node.partition(".")[2]
    key = store.keys.leases(name, node.epoch)
    (job,) = await store.transport.command("ZRANGE", key, 0, 0, key=key)
    attempt = int((await job_record(store, job.decode()))["attempt"])
    assert await reply(store, node, job.decode(), attempt) == "ok"
    return str(job.decode())


async def take_dead_letters(store: TimedStore) -> list[dict[str, str]]:
    """The dead letters, oldest first; they are deleted."""
    entries = await store.read_range(store.keys.dead_letters, "-", "+", 100)
    await store.transport.command("DEL", store.keys.dead_letters, key=store.keys.dead_letters)
    return [
        {name: value.decode() for name, value in named_fields_of(fields).items()}
        for _, fields in entries
    ]
