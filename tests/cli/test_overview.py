"""`status`, gathered: what is behind, what waits and why, who serves."""

from __future__ import annotations

from eventsched.history.status import CellStatus, read_status
from eventsched.store.client import Client, check_server
from eventsched.store.connection import Connection
from tests.fixtures_store import TimedStore


async def seen(store: TimedStore, redis: Client) -> CellStatus:
    facts = await check_server(redis)
    connection = Connection("", facts, store.transport, {store.cell: store})  # type: ignore[arg-type]
    (cell,) = (await read_status(connection)).cells
    return cell


async def test_what_waits_is_told_by_requirement_with_age_and_reason(
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
    told = {one.target: one for one in (await seen(store, redis)).waiting}
    assert (told["es"].jobs, told["es"].oldest_ms) == (3, 1_500)
    assert told["es"].reason == "NO_AVAILABLE_NODE"
    assert (told["pt"].jobs, told["pt"].reason) == (1, "NO_POOL_FOR_LANG_PAIR")


async def test_nodes_are_told_by_class_with_their_load(store: TimedStore, redis: Client) -> None:
    for name in ("n1", "n2"):
        await store.join(name)
    await store.join("n3", features=["voice"])
    await store.say(await store.open(), 0, end_of_utterance=True)
    await store.dispatch()
    classes = {tuple(one.features): one for one in (await seen(store, redis)).classes}
    assert [(one.node.partition(".")[2], one.live) for one in classes[()].nodes] == [
        ("n1", 1), ("n2", 0),
    ]  # fmt: skip
    assert [one.slots for one in classes["voice",].nodes] == [2]


async def test_how_far_behind_follows_from_the_checkpoint(store: TimedStore, redis: Client) -> None:
    await store.say(await store.open(), 0, end_of_utterance=True)
    store.tick(4_000)
    await store.open("s2")
    groups = {one.group: one for one in (await seen(store, redis)).groups}
    assert (groups["core"].entries, groups["core"].ms) == (3, 4_000)
    assert not groups["core"].is_held
    assert (groups["dispatch"].entries, groups["dispatch"].ms) == (1, 4_000)


async def test_pressure_and_what_is_dead_are_told(store: TimedStore, redis: Client) -> None:
    await store.set_backpressure("memory", raised=True, seen=9, limit=8)
    await redis.xadd(store.keys.dead_letters, {"reason": "broken", "from": "dispatch"})
    cell = await seen(store, redis)
    assert (cell.pressure, cell.dead, cell.dead_newest) == (["memory"], 1, "broken")
