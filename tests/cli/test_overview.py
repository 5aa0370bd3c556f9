"""The data of `eventsched status`: consumer lag, waiting jobs with reasons, nodes."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any

import msgspec
import pytest
from rich.console import Console

from eventsched.cli.status_view import CLASSES_MAX, NODES_MAX, REQUIREMENTS_MAX, panel
from eventsched.history import waiting
from eventsched.history.node_status import ClassStatus
from eventsched.history.problems import NAMES_MAX, problems_of
from eventsched.history.status import CellStatus, SystemStatus, read_status
from eventsched.store import cell_connection
from eventsched.store.cell import Store
from eventsched.store.client import Client, check_server
from eventsched.store.connection import Connection
from eventsched.store.transport import Arg, RedisTransport
from tests.fixtures_store import TimedStore
from tests.scripts.jobs_of import assigned, reply


async def system_status(store: Store, redis: Client) -> SystemStatus:
    facts = await check_server(redis)
    connection = Connection("", facts, store.transport, {store.cell: store})  # type: ignore[arg-type]
    return await read_status(connection)


async def cell_status(store: Store, redis: Client) -> CellStatus:
    (cell,) = (await system_status(store, redis)).cells
    return cell


class Counting(RedisTransport):
    """A transport that counts round trips."""

    round_trips = 0

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        self.round_trips += 1
        return await super().run(script, keys, args)

    async def command(self, *parts: Arg, key: str) -> Any:
        self.round_trips += 1
        return await super().command(*parts, key=key)

    async def commands(self, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        self.round_trips += 1
        return await super().commands(calls)


async def crowd(store: TimedStore, count: int) -> None:
    """So many nodes of as many capability classes, and a waiting job that none of them serves."""
    for number in range(count):
        letters = chr(ord("a") + number // 26) + chr(ord("a") + number % 26)
        await store.join(f"crowd-{letters}", targets=[f"x{letters}"])
        session = await store.open(f"late-{letters}", targets=[f"z{letters}"])
        await store.say(session, 0, end_of_utterance=True)
    await store.dispatch()


async def test_the_round_trips_do_not_grow_with_nodes_classes_and_requirements(
    store: TimedStore, redis: Client
) -> None:
    counting = Counting(redis, redis)
    observer = Store(counting, store.cell, now_ms=lambda: store.at_ms)
    await crowd(store, 1)
    await cell_status(observer, redis)
    few = counting.round_trips
    await crowd(store, 30)
    cell = await cell_status(observer, redis)
    assert counting.round_trips == 2 * few
    assert len([node for each in cell.classes for node in each.nodes]) == 30
    assert len(cell.waiting) == 30


async def test_a_status_that_is_read_in_many_parts_is_the_same(
    store: TimedStore, redis: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("n1", "n2"):
        await store.join(name)
    await crowd(store, 5)
    store.tick(1_500)
    await store.timers()
    status = await cell_status(store, redis)
    assert {each.oldest_ms for each in status.waiting} == {1_500}
    monkeypatch.setattr(cell_connection, "CALLS_MAX", 2)
    monkeypatch.setattr(waiting, "MEMBERS_MAX", 1)
    assert await cell_status(store, redis) == status


async def test_a_cell_that_is_not_configured_has_a_status(redis: Client, cell: str) -> None:
    status = await cell_status(Store(RedisTransport(redis, redis), cell), redis)
    assert (status.log_entries, status.log_retention_ms) == (0, 0)
    assert (status.classes, status.waiting, status.outboxes) == ([], [], [])


async def test_the_text_of_a_status_is_bounded(store: TimedStore, redis: Client) -> None:
    await store.join("n1")
    session = await store.open("late", targets=["pt"])
    await store.say(session, 0, end_of_utterance=True)
    await store.dispatch()
    system = await system_status(store, redis)
    (cell,) = system.cells
    (each,), (late,) = cell.classes, cell.waiting
    many = msgspec.structs.replace(each, nodes=each.nodes * (NODES_MAX + 3), suspended=["voice"])
    busy = msgspec.structs.replace(
        cell, classes=[many] * (CLASSES_MAX + 7), waiting=[late] * (REQUIREMENTS_MAX + 9)
    )
    lines = shown(msgspec.structs.replace(system, cells=[busy]))
    assert sum(line.startswith("  and 3 more") for line in lines) == CLASSES_MAX
    assert sum("and 7 more classes" in line for line in lines) == 1
    assert sum("and 9 more" in line for line in lines) == 1
    assert sum("NO_POOL_FOR_LANG_PAIR" in line for line in lines) == REQUIREMENTS_MAX
    (suspended,) = suspensions(system, many)
    assert suspended.count(each.nodes[0].node) == NAMES_MAX
    assert suspended.endswith(f" and {NODES_MAX + 3 - NAMES_MAX} more")


def shown(system: SystemStatus) -> list[str]:
    console = Console(width=200, record=True, file=StringIO())
    console.print(panel(system))
    return console.export_text().splitlines()


def suspensions(system: SystemStatus, each: ClassStatus) -> list[str]:
    (cell,) = system.cells
    busy = msgspec.structs.replace(cell, classes=[each])
    lines = problems_of(msgspec.structs.replace(system, cells=[busy]))
    return [line for line in lines if "suspended for voice" in line]


async def test_waiting_jobs_are_listed_by_requirement_with_age_and_reason(
    store: TimedStore, redis: Client
) -> None:
    await store.join(slots=1)
    for name in ("s1", "s2", "s3"):
        await store.say(await store.open(name), 0, end_of_utterance=True)
    await store.say(await store.open("s4", targets=["pt"]), 0, end_of_utterance=True)
    await store.dispatch()
    store.tick(1_500)
    await store.say(await store.open("s5"), 0, end_of_utterance=True)
    await store.dispatch()
    waiting = {each.target: each for each in (await cell_status(store, redis)).waiting}
    assert (waiting["es"].jobs, waiting["es"].oldest_ms) == (3, 1_500)
    assert waiting["es"].reason == "NO_AVAILABLE_NODE"
    assert (waiting["pt"].jobs, waiting["pt"].reason) == (1, "NO_POOL_FOR_LANG_PAIR")


async def test_jobs_that_back_off_or_avoid_a_node_are_listed(
    store: TimedStore, redis: Client
) -> None:
    """Those that avoid a node wait with the others of their requirement."""
    await store.configure_cell({"idle_ms": 600_000}, overwrite=True)
    broken = await store.join("n1", slots=3)
    for name in ("s1", "s2", "s3"):
        await store.say(await store.open(name), 0, end_of_utterance=True)
    await store.dispatch()
    await store.join("n2", slots=1)
    await store.say(await store.open("s4"), 0, end_of_utterance=True)
    await store.dispatch()
    messages = await assigned(store, broken)
    failed: dict[str, Any] = {"status": "failed", "code": "BROKEN", "retryable": True}
    for message, retry_in_ms in zip(messages, (100, 5_000, 5_000), strict=True):
        await reply(store, broken, message["j"], retry_in_ms=retry_in_ms, **failed)
    store.tick(125)
    await store.timers()
    rows = (await cell_status(store, redis)).waiting
    assert [(row.jobs, row.reason, row.oldest_ms) for row in rows] == [
        (1, "NO_AVAILABLE_NODE", 0), (2, "retry_backoff", 0),
    ]  # fmt: skip
    store.tick(9_000)
    await store.dispatch()  # no timer role runs
    (row,) = [each for each in (await cell_status(store, redis)).waiting if each.jobs == 2]
    assert 9_125 - 6_250 <= row.oldest_ms <= 9_125 - 5_000
    assert (row.source, row.target, row.features) == ("en", "es", [])


async def test_nodes_are_listed_by_class_with_their_load(store: TimedStore, redis: Client) -> None:
    for name in ("n1", "n2"):
        await store.join(name)
    await store.join("n3", features=["voice"])
    await store.say(await store.open(), 0, end_of_utterance=True)
    await store.dispatch()
    classes = {tuple(each.features): each for each in (await cell_status(store, redis)).classes}
    assert [(node.node.partition(".")[2], node.leases) for node in classes[()].nodes] == [
        ("n1", 1), ("n2", 0),
    ]  # fmt: skip
    assert [node.slots for node in classes["voice",].nodes] == [2]


async def test_lag_follows_from_the_checkpoint(store: TimedStore, redis: Client) -> None:
    await store.say(await store.open(), 0, end_of_utterance=True)
    store.tick(4_000)
    await store.open("s2")
    consumers = {each.consumer: each for each in (await cell_status(store, redis)).consumers}
    assert (consumers["core"].lag, consumers["core"].oldest_ms) == (3, 4_000)
    assert not consumers["core"].is_running
    assert (consumers["dispatch"].lag, consumers["dispatch"].oldest_ms) == (1, 4_000)


async def test_backpressure_and_dead_letters_are_shown(store: TimedStore, redis: Client) -> None:
    await store.set_backpressure("memory", is_active=True, seen=9, limit=8)
    await redis.xadd(store.keys.dead_letters, {"reason": "broken", "from": "dispatch"})
    cell = await cell_status(store, redis)
    assert cell.backpressure == ["memory"]
    assert (cell.dead_letters, cell.newest_dead_letter) == (1, "broken")
