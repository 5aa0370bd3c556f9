"""Processes read from the group of the projector, or wake up in a read: the views are exact."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
import redis.asyncio

from eventsched.server.testing import LocalServer
from eventsched.store.cell import Store
from eventsched.store.replies import named_fields_of
from eventsched.store.session_commands import SessionGrant
from tests.failures.programs import Program, Programs
from tests.failures.test_consumers import (
    _connected,
    _epoch,
    _holding,
    _is_beyond,
    _is_folded,
    _speaking,
    _until_it_folds,
    _verify,
    opened,
    say,
)
from tests.systems import until


async def consumers_of(store: Store) -> set[str]:
    log = store.keys.log
    reply = await store.transport.command("XINFO", "CONSUMERS", log, "core", key=log)
    return {named_fields_of(consumer)["name"].decode() for consumer in reply}


async def group_of(store: Store) -> dict[str, object]:
    log = store.keys.log
    reply = await store.transport.command("XINFO", "GROUPS", log, key=log)
    (group,) = [each for each in map(named_fields_of, reply) if each["name"] == b"core"]
    return group


async def is_ahead(store: Store) -> bool:
    """Whether the group has delivered entries that no save has acknowledged."""
    checkpoint = store.keys.checkpoint("core")
    saved = await store.transport.command("GET", checkpoint, key=checkpoint)
    return bool((await group_of(store))["last-delivered-id"] != saved)


async def freeze_in_a_read(
    store: Store, program: Program, grant: SessionGrant, seqs: Sequence[int]
) -> int:
    """Suspend a projector that waits in a read, which then takes an entry. Return the next seq."""
    for seq in seqs:
        await until("all is folded", lambda: _is_folded(store))
        await until("the projector waits in a read", lambda: _has_blocked_read(store))
        program.freeze()
        await say(store, grant, seq)
        if await is_ahead(store):
            return seq + 1
        program.wake()  # its wait had just ended
    raise AssertionError(f"it never waited in a read: {program.output[-500:]}")


async def _has_blocked_read(store: Store) -> bool:
    """Whether a client of the server waits in XREADGROUP."""
    listed: bytes = await store.transport.command("CLIENT", "LIST", key=store.keys.log)
    return any(b" flags=b" in line and b" cmd=xreadgroup" in line for line in listed.splitlines())


async def assert_exact(store: Store, url: str) -> None:
    await until("all is folded", lambda: _is_folded(store))

    async def is_at_rest() -> bool:
        return (await group_of(store))["lag"] == 0 and not await is_ahead(store)

    await until("the group shows the checkpoint", is_at_rest)
    _verify(url)


async def test_a_projector_killed_between_read_and_save_is_continued(
    own_server: LocalServer, fleet: Programs
) -> None:
    async with _connected(own_server.url) as store:
        grant = await opened(store)
        active = await _holding(own_server.url, fleet, store)
        seq = await freeze_in_a_read(store, active, grant, range(100))
        before = await consumers_of(store)
        active.kill()
        await fleet.role(own_server.url, "projector")
        await say(store, grant, seq)
        await assert_exact(store, own_server.url)
        assert len(await consumers_of(store)) == 1
        assert not before & await consumers_of(store)


async def test_a_projector_suspended_in_a_blocked_read_takes_nothing_from_its_successor(
    own_server: LocalServer, fleet: Programs
) -> None:
    async with _connected(own_server.url) as store:
        grant = await opened(store)
        sleeper = await _holding(own_server.url, fleet, store)
        await fleet.role(own_server.url, "projector")
        epoch = await _epoch(store)
        seq = await freeze_in_a_read(store, sleeper, grant, range(100))
        await until("the other has the lease", lambda: _is_beyond(store, epoch))
        await _until_it_folds(store, "the other folds what the sleeper had read")
        await say(store, grant, seq)
        sleeper.wake()
        await until("the sleeper is fenced", lambda: "lease lost" in sleeper.output)
        await say(store, grant, seq + 1)
        await assert_exact(store, own_server.url)
        assert await _epoch(store) == epoch + 1


async def test_a_read_that_was_blocked_before_a_takeover_delays_the_owner_by_a_wait(
    own_server: LocalServer, fleet: Programs
) -> None:
    """The server serves a blocked client first, and keeps its read when its consumer is removed."""
    async with _connected(own_server.url) as store:
        grant = await opened(store)
        first = await _holding(own_server.url, fleet, store)
        taken: list[object] = []
        async with (
            redis.asyncio.Redis.from_url(
                own_server.url, client_name="zombie", socket_timeout=None
            ) as zombie,
            anyio.create_task_group() as tasks,
        ):

            async def block() -> None:
                reply = await zombie.xreadgroup(
                    "core", "zombie", {store.keys.log: ">"}, count=1, block=0, noack=True
                )
                taken.append(reply)

            await until("all is folded", lambda: _is_folded(store))
            tasks.start_soon(block)

            async def is_blocked() -> bool:
                clients = await store.transport.command("CLIENT", "LIST", key=store.keys.log)
                lines = clients.splitlines()
                return any(b" name=zombie " in line and b" flags=b" in line for line in lines)

            await until("it is blocked", is_blocked)
            epoch = await _epoch(store)
            first.kill()
            await fleet.role(own_server.url, "projector")
            await until("the other has the lease", lambda: _is_beyond(store, epoch))

            async def is_removed() -> bool:  # before Redis 7.2 it exists once it has read an entry
                return "zombie" not in await consumers_of(store)

            await until("its consumer is removed", is_removed)
            await say(store, grant, 0)
            await _until_it_folds(store, "the owner folds what the zombie took")
        assert taken
        await assert_exact(store, own_server.url)


@pytest.mark.parametrize("mode", ["noack", "ack"])
async def test_a_consumer_that_reads_in_a_loop_stops_no_projector(
    own_server: LocalServer, fleet: Programs, mode: str
) -> None:
    async with _connected(own_server.url) as store:
        grant = await opened(store, "s2")
        await _holding(own_server.url, fleet, store)
        log = store.keys.log
        module = "tests.failures.group_reader"
        reader = fleet.start(module, own_server.url, log, "core", "another-program", mode)
        await reader.wait_for("reads")
        async with _speaking(store):
            for seq in range(3):
                await say(store, grant, seq)
                await _until_it_folds(store, "views follow while the program reads")
        reader.kill()
        await say(store, grant, 3)
        await assert_exact(store, own_server.url)
