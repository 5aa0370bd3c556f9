"""The data of `eventsched status`: consumer lag, waiting jobs with reasons, nodes."""

from __future__ import annotations

from eventsched.history.status import CellStatus, read_status
from eventsched.store.client import Client, check_server
from eventsched.store.connection import Connection
from tests.fixtures_store import TimedStore


async def cell_status(store: TimedStore, redis: Client) -> CellStatus:
    facts = await check_server(redis)
    connection = Connection("", facts, store.transport, {store.cell: store})  # type: ignore[arg-type]
    (cell,) = (await read_status(connection)).cells
    return cell


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
