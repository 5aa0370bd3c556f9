"""Consumer groups of other programs on the log: what they hold up, and how they are dropped."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.archive.commands import ArchiveCommands
from eventsched.errors import InvalidMessage
from eventsched.history.consumer_groups import ConsumerGroupStatus, read_consumer_groups
from eventsched.history.problems import HELD_UP_MS, problems_of
from eventsched.schema.events import ConsumerGroupDropped
from eventsched.schema.ids import ms_of
from eventsched.store.client import Client
from eventsched.store.operator_commands import Act
from tests.archive.archives import Archived
from tests.cli.test_overview import shown, system_status
from tests.fixtures_store import TimedStore
from tests.scripts.headers import HeaderCheckingTransport


@pytest.fixture
def drops(store: TimedStore, redis: Client) -> TimedStore:
    """Each call is held to its script's header."""
    store.transport = HeaderCheckingTransport(redis, redis)
    return store


async def drop(store: TimedStore, group: str = "billing", request: str = "") -> str:
    act = Act.of("ann@host", "the service is gone", request)
    return await store.drop_consumer_group(group, act)


async def groups_of(store: TimedStore, redis: Any) -> list[bytes]:
    return [each["name"] for each in await redis.xinfo_groups(store.keys.log)]


# --- drop_consumer_group --------------------------------------------------------------------------


async def test_a_dropped_group_is_gone_and_an_event_says_what_it_had(
    drops: TimedStore, redis: Any
) -> None:
    store = drops
    for name in ("s1", "s2", "s3"):
        await store.open(name)
    await redis.xgroup_create(store.keys.log, "billing", "0")
    await redis.xreadgroup("billing", "b1", {store.keys.log: ">"}, count=2)
    log = await store.log()
    assert await drop(store) == "dropped"
    (event,) = await store.log("ConsumerGroupDropped")
    assert event.data == ConsumerGroupDropped(
        group="billing", position=log[1].id, pending=2, why="the service is gone", by="ann@host"
    )
    assert await groups_of(store, redis) == []


async def test_a_repeated_drop_appends_no_second_event(drops: TimedStore, redis: Any) -> None:
    await drops.open()
    await redis.xgroup_create(drops.keys.log, "billing", "0")
    assert [await drop(drops) for _ in range(3)] == ["dropped", "absent", "absent"]
    assert await drop(drops, "another") == "absent"
    assert len(await drops.log("ConsumerGroupDropped")) == 1


async def test_a_request_that_is_repeated_does_not_drop_a_later_group_of_this_name(
    drops: TimedStore, redis: Any
) -> None:
    await drops.open()
    await redis.xgroup_create(drops.keys.log, "billing", "0")
    assert await drop(drops, request="r1") == "dropped"
    await redis.xgroup_create(drops.keys.log, "billing", "0")
    assert await drop(drops, request="r1") == "dropped"
    assert await groups_of(drops, redis) == [b"billing"]
    assert len(await drops.log("ConsumerGroupDropped")) == 1
    with pytest.raises(InvalidMessage, match="request"):
        await drop(drops, "another", request="r1")


async def test_a_drop_in_a_cell_without_a_log_drops_nothing(drops: TimedStore) -> None:
    assert await drop(drops) == "absent"
    assert await drops.types() == []


async def test_groups_of_the_system_are_refused(archived: Archived, redis: Any) -> None:
    await archived.talk()
    await archived.project()
    await archived.seal()
    before = await groups_of(archived.store, redis)
    assert sorted(before) == [b"archive", b"core"]
    for group in ("archive", "core", "dispatch"):
        with pytest.raises(InvalidMessage, match="another program"):
            await drop(archived.store, group)
    assert await groups_of(archived.store, redis) == before
    assert await archived.store.log("ConsumerGroupDropped") == []


@pytest.mark.parametrize(
    "args",
    [
        ("", "r1", "why", "by"),
        ("g" * 256, "r1", "why", "by"),
        (b"\xff", "r1", "why", "by"),
        ("billing", "", "why", "by"),
        ("billing", "r1", "", "by"),
        ("billing", "r1", "w" * 501, "by"),
        ("billing", "r1", b"\xff", "by"),
        ("billing", "r1", "why", ""),
        ("billing", "r1", "why", "b" * 201),
    ],
)
async def test_malformed_arguments_are_refused_and_change_nothing(
    drops: TimedStore, redis: Any, args: tuple[str | bytes, ...]
) -> None:
    await drops.open()
    await redis.xgroup_create(drops.keys.log, "billing", "0")
    with pytest.raises(InvalidMessage):
        await drops.run("drop_consumer_group", *args)
    assert await groups_of(drops, redis) == [b"billing"]
    assert await drops.types() == ["SessionOpened"]


# --- what they hold up ----------------------------------------------------------------------------


async def status_of(archived: Archived) -> list[ConsumerGroupStatus]:
    return await read_consumer_groups(archived.store, archived.store.at_ms)


async def busy(archived: Archived, redis: Any) -> list[str]:
    """The ids of a log of which the system needs the last entries only; `billing` has read none."""
    await archived.set(log_keep_ms=0, log_retention_ms=1)
    await archived.talk("s1", 20)
    await archived.project()
    await redis.xgroup_create(archived.store.keys.log, "billing", "0")
    archived.store.tick(5_000)
    return [entry_id for entry_id, _ in await archived.log()]


async def test_a_group_that_has_read_nothing_holds_up_all_that_the_system_does_not_need(
    archived: Archived, redis: Any
) -> None:
    ids = await busy(archived, redis)
    assert await archived.trim() == 0
    (status,) = await status_of(archived)
    assert status == ConsumerGroupStatus(
        group="billing",
        position="0-0",
        lag=len(ids),
        pending=0,
        consumers=0,
        idle_ms=None,
        keeps_from=ids[0],
        holds_up_ms=ms_of(ids[-1]) - ms_of(ids[0]),
    )
    assert await drop(archived.store) == "dropped"
    assert await status_of(archived) == []
    assert await archived.trim() > 0


async def test_entries_that_a_group_has_not_acknowledged_are_kept(
    archived: Archived, redis: Any
) -> None:
    ids, log = await busy(archived, redis), archived.store.keys.log
    await redis.xreadgroup("billing", "b1", {log: ">"}, count=1_000)
    await redis.xack(log, "billing", *ids[:10])
    (status,) = await status_of(archived)
    assert (status.position, status.lag, status.pending) == (ids[-1], 0, len(ids) - 10)
    assert (status.consumers, status.keeps_from) == (1, ids[10])
    assert status.idle_ms is not None
    assert status.holds_up_ms == ms_of(ids[-1]) - ms_of(ids[10])
    assert (await ArchiveCommands(archived.views).trim()).before == ids[10]


async def test_a_group_that_has_read_everything_holds_up_nothing(
    archived: Archived, redis: Any
) -> None:
    ids, log = await busy(archived, redis), archived.store.keys.log
    await redis.xreadgroup("billing", "b1", {log: ">"}, count=1_000, noack=True)
    (status,) = await status_of(archived)
    assert (status.position, status.lag, status.pending) == (ids[-1], 0, 0)
    assert (status.keeps_from, status.holds_up_ms) == ("", 0)


async def test_a_group_holds_up_nothing_that_the_system_needs(
    archived: Archived, redis: Any
) -> None:
    ids = await busy(archived, redis)
    saved = archived.store.keys.checkpoint("core")
    await redis.set(saved, ids[10])
    (status,) = await status_of(archived)
    assert status.holds_up_ms == ms_of(ids[10]) - ms_of(ids[0])
    await archived.set(log_retention_ms=0)
    (status,) = await status_of(archived)
    assert status.holds_up_ms == 0, "nothing is trimmed without an archive or a retention"


async def test_the_end_of_the_archive_is_what_the_log_may_lose(
    archived: Archived, redis: Any
) -> None:
    ids = await busy(archived, redis)
    await archived.seal()
    await archived.talk("s1", 3)
    await archived.project()
    (status,) = await status_of(archived)
    assert status.holds_up_ms == ms_of(ids[-1]) - ms_of(ids[0])


async def test_two_idle_groups_are_each_shown_with_what_they_keep(
    archived: Archived, redis: Any
) -> None:
    ids = await busy(archived, redis)
    await redis.xgroup_create(archived.store.keys.log, "audit-export", "0")
    held = ms_of(ids[-1]) - ms_of(ids[0])
    assert [(each.group, each.holds_up_ms) for each in await status_of(archived)] == [
        ("audit-export", held),
        ("billing", held),
    ]


async def test_the_status_shows_groups_and_a_person_is_told_of_an_idle_one(
    archived: Archived, redis: Any
) -> None:
    await busy(archived, redis)
    status = await system_status(archived.store, redis)
    (line,) = [line for line in shown(status) if line.startswith("billing")]
    assert line.split()[:2] == ["billing", "0-0"]
    assert not [line for line in problems_of(status) if "billing" in line]
    archived.store.tick(HELD_UP_MS)
    await archived.talk("s1", 3)
    await archived.project()
    archived.store.tick(5_000)
    await archived.store.timers()
    (line,) = [
        line
        for line in problems_of(await system_status(archived.store, redis))
        if "billing" in line
    ]
    assert "consumer group billing is idle and keeps 1 h" in line


async def test_groups_of_the_system_are_no_groups_of_others(archived: Archived, redis: Any) -> None:
    await archived.talk()
    await archived.project()
    await archived.seal()
    assert await status_of(archived) == []
