"""Rows of the benchmark `growth` about sessions: finalize, close, one call, a flood.

Owns: the cost of a finalize beside open outcomes, of the calls that close a session, of one append.
Never does: compare sizes (growth.py). Read next: lua/include/delivery.lua.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.micro.figures import BenchFailed
from benchmarks.micro.growth_row import Row, cpu_of_calls, cpu_us
from benchmarks.micro.stage import Stage
from eventsched.store.cell import Store
from eventsched.store.session_commands import Chunk, Receipt, SessionGrant

CHUNK_MS = 20
PAYLOAD = bytes(CHUNK_MS * 32)
CALLS = 32
MEMBERS = 32
LANGUAGES = tuple(first + second for first in "abcd" for second in "abcdefgh")


async def finalize_beside(stage: Stage, outcomes: int) -> float:
    """Microseconds of a finalizing append of a session with so many open outcomes."""
    return await _finalize_beside(stage, outcomes, {})


async def finalize_without_cache(stage: Stage, outcomes: int) -> float:
    """The same if no call finds the session in the cache."""
    return await _finalize_beside(stage, outcomes, {"cache_live_state": 0})


async def _finalize_beside(stage: Stage, outcomes: int, settings: Mapping[str, int]) -> float:
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        await store.configure_cell(settings, overwrite=True)
        session = await _open(store, "speaker")
        await _finalize_many(store, session, 0, outcomes)
        before = await cpu_us(stage.redis)
        for number in range(outcomes, outcomes + CALLS):
            await _append(store, [_final(session, number)])
        return (await cpu_us(stage.redis) - before) / CALLS


async def closing_calls(stage: Stage, outcomes: int) -> list[float]:
    """Microseconds of each call that ends the open outcomes of a closing session."""
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        await store.configure_cell({"close_wait_ms": 1}, overwrite=True)
        session = await _open(store, "speaker")
        await _finalize_many(store, session, 0, outcomes)
        while (await store.dispatch_jobs()).left:
            pass
        await store.close_session(session.session, 1)

        async def fire() -> bool:
            await store.fire_timers()
            status = await stage.redis.hget(store.keys.session("speaker"), "status")
            return bool(status != b"closed")

        return await cpu_of_calls(stage.redis, fire)


async def append_in_a_room(stage: Stage, utterances: int) -> list[float]:
    """Microseconds of one append that completes so many utterances in a room of 32 languages."""
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        members = [await _open(store, language, room="full") for language in LANGUAGES]

        async def append() -> bool:
            await store.append_audio([_final(members[0], number) for number in range(utterances)])
            return False

        return await cpu_of_calls(stage.redis, append)


async def dispatches_in_a_room(stage: Stage, utterances: int) -> list[float]:
    """Microseconds of each dispatch of so many utterances with 31 targets each."""
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        members = [await _open(store, language, room="full") for language in LANGUAGES]
        for number in range(utterances):
            await _append(store, [_final(members[0], number)])

        async def dispatch() -> bool:
            return (await store.dispatch_jobs()).left > 0

        return await cpu_of_calls(stage.redis, dispatch)


async def _open(store: Store, name: str, room: str = "") -> SessionGrant:
    return await store.open_session(
        name=name, token="token", secret_sha1="0" * 40, tenant="bench", source="en",
        targets=[] if room else ["es"], features=[], features_hash="none", encoding="pcm16",
        sample_rate=16_000, priority=1, room=store.keys.full(f"bench/{room}") if room else "",
        listen_language=name if room else "", traceparent="",
    )  # fmt: skip


def _final(session: SessionGrant, number: int) -> Chunk:
    return Chunk(
        session=session.session, epoch=session.epoch, seq=number, ms=CHUNK_MS, payload=PAYLOAD,
        end_of_utterance=True,
    )  # fmt: skip


async def _finalize_many(store: Store, session: SessionGrant, first: int, count: int) -> None:
    for at in range(first, first + count, 8):
        upto = min(at + 8, first + count)
        await _append(store, [_final(session, number) for number in range(at, upto)])


async def _append(store: Store, chunks: list[Chunk]) -> None:
    for reply in await store.append_audio(chunks):
        if not isinstance(reply, Receipt) or not reply.finalized:
            raise BenchFailed(f"an utterance was not finalized: {reply}")


SESSION_ROWS = (
    Row(
        "finalize, by open outcomes of the session", "us of the server",
        (16, 128, 960), 0.25, finalize_beside,
        before="330 / 480 / 1,400",
    ),
    Row(
        "finalize without the cache, by open outcomes", "us of the server",
        (16, 128, 960), 0.25, finalize_without_cache,
        before="290 / 470 / 3,600",
    ),
    Row(
        "long call of a close, by open outcomes", "us of the server",
        (32, 160, 960), 0.3, closing_calls,
        before="3,000 / 6,400 / 10,200",
    ),
    Row(
        "one append in a room of 32, by utterances", "us of the server",
        (8, 16, 32), 0.3, append_in_a_room,
        before="7,700 / 18,300 / 48,300",
    ),
    Row(
        "long dispatch in a room of 32, by utterances", "us of the server",
        (4, 16, 32), 0.3, dispatches_in_a_room,
        before="7,000 / 16,800 / 31,100",
    ),
)  # fmt: skip
