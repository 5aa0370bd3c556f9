"""The load of a benchmark: nodes, sessions and finalized utterances in a cell.

Owns: creating them with the usual calls, many at a time.
Never does: measure. Read next: dispatch.py, jobs.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import anyio

from benchmarks.micro.figures import BenchFailed
from eventsched.store.cell import Store
from eventsched.store.node_commands import NodeGrant
from eventsched.store.session_commands import Chunk, Receipt, SessionGrant

CHUNK_MS = 20
PCM16_BYTES_PER_MS = 32
APPENDED_MAX = 8
AT_ONCE = 16
SLOTS_MAX = 256


async def register_nodes(
    store: Store,
    count: int,
    *,
    classes: int = 1,
    sources: Sequence[str] = ("en",),
    targets: Sequence[str] = ("es",),
) -> list[NodeGrant]:
    """Register nodes with the maximum number of slots in `classes` capability classes."""
    return [
        await store.register_node(
            node=store.keys.full(f"node-{number:04d}"),
            token=f"token-{number}",
            sources=sources,
            targets=targets,
            features=[f"class-{number % classes}"],
            slots=SLOTS_MAX,
            version="bench",
        )
        for number in range(count)
    ]


async def open_sessions(
    store: Store,
    count: int,
    pairs: Sequence[tuple[str, str]] = (("en", "es"),),
    *,
    prefix: str = "session",
) -> list[SessionGrant]:
    """Open sessions of one tenant; session i has the (i mod n)-th of the n language pairs."""
    grants: list[SessionGrant] = []

    async def open_some(numbers: Iterable[int]) -> None:
        for number in numbers:
            source, target = pairs[number % len(pairs)]
            grants.append(
                await store.open_session(
                    name=f"{prefix}-{number:05d}", token=f"token-{number}", secret_sha1="0" * 40,
                    tenant="bench",
                    source=source, targets=[target], features=[], features_hash="none",
                    encoding="pcm16", sample_rate=16_000, priority=1, room="",
                    listen_language="", traceparent="",
                )
            )  # fmt: skip

    async with anyio.create_task_group() as tasks:
        for first in range(AT_ONCE):
            tasks.start_soon(open_some, range(first, count, AT_ONCE))
    return sorted(grants, key=lambda grant: grant.session)


async def finalize_utterances(
    store: Store, sessions: Sequence[SessionGrant], numbers: Iterable[int]
) -> None:
    """Finalize these utterances of every session; each is one final chunk."""
    payload = bytes(CHUNK_MS * PCM16_BYTES_PER_MS)
    for number in numbers:
        for at in range(0, len(sessions), APPENDED_MAX):
            chunks = [
                Chunk(
                    session=grant.session, epoch=grant.epoch, seq=number, ms=CHUNK_MS,
                    payload=payload, end_of_utterance=True,
                )
                for grant in sessions[at : at + APPENDED_MAX]
            ]  # fmt: skip
            for receipt in await store.append_audio(chunks):
                if not isinstance(receipt, Receipt) or not receipt.finalized:
                    raise BenchFailed(f"an utterance was not finalized: {receipt}")
