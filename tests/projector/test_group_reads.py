"""A projector is a consumer of its group, and the views are exact whatever else the group does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventsched.archive.commands import ArchiveCommands
from eventsched.projection.store import Changes, Save, SetLease
from eventsched.roles.projector import LEASE_MS, Projector, StepResult
from eventsched.schema.ids import parse_id
from eventsched.store.replies import named_fields_of
from eventsched.store.transport import Entry
from tests.fixtures_store import TimedStore
from tests.projector.counts import COUNTS
from tests.projector.test_projector import (
    CORE,
    Cut,
    Cutting,
    Picky,
    fold_all,
    group_of,
    projector_of,
    records,
    talk,
    view_of,
    views_of,
)

OTHER = "another-program"


async def consumers_of(store: TimedStore, name: str = "core") -> set[str]:
    key = store.keys.log
    reply = await store.transport.command("XINFO", "CONSUMERS", key, name, key=key)
    return {named_fields_of(consumer)["name"].decode() for consumer in reply}


async def read_as(store: TimedStore, consumer: str, count: int = 3) -> list[Entry]:
    """Another process reads from the group."""
    log = store.keys.log
    return await store.transport.read_group(log, "core", consumer, block_ms=0, count=count)


async def assert_exact(store: TimedStore) -> None:
    """The views are those of the log, each event once, and the group shows the checkpoint."""
    log = await store.log()
    assert (await view_of(store, "s1")).results == 2
    assert await views_of(store).checkpoint("core") == log[-1].id
    await assert_lag(store, 0)
    index = store.keys.session_index("s1")
    ids = await store.transport.command("LRANGE", index, 0, -1, key=index)
    full = store.keys.full("s1")
    assert [raw.decode() for raw in ids] == [event.id for event in log if event.session == full]


async def assert_lag(store: TimedStore, lag: int) -> None:
    group = await group_of(store, "core")
    entries = len(await store.log())
    assert group["last-delivered-id"].decode() == await views_of(store).checkpoint("core")
    assert (group["lag"], group["entries-read"], group["pending"]) == (lag, entries - lag, 0)


class OnRead(Cutting):
    """A transport whose process is paused before or after each read of the group."""

    def __init__(
        self, store: TimedStore, meanwhile: Callable[[], Awaitable[Any]], *, before: bool
    ) -> None:
        super().__init__(store, "", after=False)
        self._meanwhile, self._before = meanwhile, before

    async def read_group(
        self, key: str, group: str, consumer: str, *, block_ms: int, count: int, noack: bool = True
    ) -> list[Entry]:
        if self._before:
            await self._meanwhile()
        read = await super().read_group(key, group, consumer, block_ms=block_ms, count=count)
        if not self._before:
            await self._meanwhile()
        return read


# --- what tools see -------------------------------------------------------------------------------


async def test_the_owner_is_the_only_consumer_and_its_lag_is_that_of_the_views(
    store: TimedStore,
) -> None:
    await talk(store, 2)
    projector = projector_of(store, owner="me", batch_max=4)
    await projector.step()
    assert await consumers_of(store) == {"me"}
    await assert_lag(store, len(await store.log()) - 4)
    await fold_all(projector)
    await assert_exact(store)
    await projector.release()
    assert await consumers_of(store) == set()


async def test_the_next_owner_replaces_the_consumer(store: TimedStore) -> None:
    await projector_of(store, owner="first").step()
    store.tick(LEASE_MS)
    await projector_of(store, owner="second").step()
    assert await consumers_of(store) == {"second"}


async def test_a_new_set_of_a_trimmed_log_has_the_right_lag_at_once(store: TimedStore) -> None:
    await talk(store, 2)
    log = store.keys.log
    await store.configure_cell({"log_retention_ms": 1, "log_keep_ms": 0}, overwrite=True)
    store.tick(1_000)
    trimmed = await store.transport.command("XTRIM", log, "MAXLEN", 5, key=log)
    assert trimmed
    lease = await views_of(store).acquire(COUNTS, "me", LEASE_MS)
    assert isinstance(lease, SetLease)
    group = await group_of(store, COUNTS.name)
    assert (group["lag"], group["entries-read"]) == (5, trimmed)
    await fold_all(projector_of(store, of=COUNTS, owner="me"))
    group = await group_of(store, COUNTS.name)
    assert (group["lag"], group["entries-read"]) == (0, trimmed + 5)


async def test_after_a_part_of_a_batch_the_group_is_at_the_checkpoint(store: TimedStore) -> None:
    await talk(store, 2)
    of = type(CORE)("core", (Picky(), *CORE.projections[1:]), CORE.sessions)
    projector = projector_of(store, of=of)
    first = await projector.step()
    assert 0 < first.count < len(await store.log())
    await assert_lag(store, len(await store.log()) - first.count)
    assert (await projector.step()).state == "retry"
    await assert_lag(store, len(await store.log()) - first.count)


# --- other readers of the group -------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False], ids=["before the read", "after the read"])
async def test_entries_that_another_consumer_has_read_are_folded(
    store: TimedStore, before: bool
) -> None:
    await talk(store, 2)
    reads = [1]

    async def steal() -> None:
        if reads:
            await read_as(store, OTHER, reads.pop())

    projector = projector_of(store, OnRead(store, steal, before=before), batch_max=4)
    state = (await projector.step()).state
    assert state == ("moved" if before else "folded")
    await fold_all(projector)
    await assert_exact(store)
    assert (OTHER in await consumers_of(store)) == (not before)


@pytest.mark.parametrize("before", [True, False], ids=["before each read", "after each read"])
@pytest.mark.parametrize("count", [1, 100])
async def test_a_consumer_that_reads_in_a_loop_does_not_stop_the_projector(
    store: TimedStore, before: bool, count: int
) -> None:
    await talk(store, 2)

    async def steal() -> None:
        await read_as(store, OTHER, count)

    projector = projector_of(store, OnRead(store, steal, before=before), batch_max=2)
    steps = 0
    while await views_of(store).checkpoint("core") != (await store.log())[-1].id:
        assert (await projector.step()).state in ("folded", "moved")
        steps += 1
    assert steps <= len(await store.log())
    await fold_all(projector)
    await assert_exact(store)


async def test_an_entry_that_another_consumer_takes_from_a_waiting_projector_is_folded(
    store: TimedStore,
) -> None:
    """No later entry shows that one is missing."""
    await talk(store, 2)
    projector = projector_of(store)
    await fold_all(projector)
    await store.open("s2")
    assert len(await read_as(store, OTHER)) == 1
    assert (await projector.step()).state == "moved"
    assert (await projector.step()).count == 1
    await assert_exact(store)


async def test_a_read_whose_reply_is_lost_is_repeated(store: TimedStore) -> None:
    await talk(store, 2)

    async def lose() -> None:
        cutting._meanwhile = keep
        raise Cut("the reply of a read")

    async def keep() -> None:
        pass

    cutting = OnRead(store, lose, before=False)
    projector = projector_of(store, cutting)
    with pytest.raises(Cut):
        await projector.step()
    assert (await group_of(store, "core"))["lag"] == 0
    await fold_all(projector)
    await assert_exact(store)


async def test_a_projector_that_dies_between_read_and_save_is_replaced(store: TimedStore) -> None:
    await talk(store, 2)
    with pytest.raises(Cut):
        await projector_of(store, Cutting(store, "save_views", after=False)).step()
    assert (await group_of(store, "core"))["lag"] == 0
    store.tick(LEASE_MS)
    lease = await views_of(store).acquire(CORE, "next", LEASE_MS)
    assert isinstance(lease, SetLease)
    assert lease.is_moved
    await assert_lag(store, len(await store.log()))
    await fold_all(projector_of(store, owner="next"))
    await assert_exact(store)


async def take_over(store: TimedStore) -> Projector:
    """The lease of the present owner ends and another projector has it."""
    store.tick(LEASE_MS)
    live = projector_of(store, owner="live", batch_max=3)
    await live.step()
    return live


async def test_a_zombie_that_reads_between_the_batches_of_its_successor_changes_nothing(
    store: TimedStore,
) -> None:
    await talk(store, 2)
    zombie = projector_of(store, owner="zombie", batch_max=2)
    await zombie.step()
    live = await take_over(store)
    assert await zombie.step() == StepResult("lease_lost", detail="fenced")
    assert (await live.step()).state == "moved"
    await fold_all(live)
    await assert_exact(store)
    assert await consumers_of(store) == {"live"}


async def test_a_zombie_that_reads_after_the_last_batch_of_its_successor_changes_nothing(
    store: TimedStore,
) -> None:
    await talk(store, 2)
    zombie = projector_of(store, owner="zombie", batch_max=2)
    await zombie.step()
    await fold_all(await take_over(store))
    assert await zombie.step() == StepResult("lease_lost", detail="fenced")
    await assert_exact(store)


# --- changes by hand ------------------------------------------------------------------------------


async def log_id(store: TimedStore, at: int) -> str:
    return (await store.log())[at].id


async def back(store: TimedStore) -> tuple[str, ...]:
    return "SETID", store.keys.log, "core", await log_id(store, 0)


async def ahead(store: TimedStore) -> tuple[str, ...]:
    return "SETID", store.keys.log, "core", await log_id(store, -1)


async def ahead_unseen(store: TimedStore) -> tuple[str, ...]:
    """With the number of entries that the group has read before, which is wrong."""
    read = (await group_of(store, "core"))["entries-read"]
    return "SETID", store.keys.log, "core", await log_id(store, -3), "ENTRIESREAD", str(read)


async def back_unseen(store: TimedStore) -> tuple[str, ...]:
    read = (await group_of(store, "core"))["entries-read"]
    return "SETID", store.keys.log, "core", await log_id(store, 1), "ENTRIESREAD", str(read)


async def same_place(store: TimedStore) -> tuple[str, ...]:
    """Without a number of entries, so that the lag is unknown."""
    return "SETID", store.keys.log, "core", await views_of(store).checkpoint("core")


async def remove_consumer(store: TimedStore) -> tuple[str, ...]:
    return "DELCONSUMER", store.keys.log, "core", "me"


@pytest.mark.parametrize(
    "change", [back, ahead, ahead_unseen, back_unseen, same_place, remove_consumer]
)
@pytest.mark.parametrize("folded", [4, 100], ids=["amid the log", "at its end"])
async def test_a_group_that_is_changed_by_hand_changes_no_view(
    store: TimedStore,
    change: Callable[[TimedStore], Awaitable[tuple[str, ...]]],
    folded: int,
) -> None:
    await talk(store, 2)
    projector = projector_of(store, owner="me", batch_max=folded)
    await projector.step()
    before = await records(store, "session")
    parts = await change(store)
    await store.transport.command("XGROUP", *parts, key=store.keys.log)
    if folded == 4:
        assert await records(store, "session") == before
    await fold_all(projector)
    await assert_exact(store)


async def test_an_acknowledgement_by_hand_changes_nothing(store: TimedStore, redis: Any) -> None:
    """Another program reads with acknowledgement, and acknowledges some of the entries."""
    await talk(store, 2)
    projector = projector_of(store, owner="me", batch_max=4)
    await projector.step()
    log = store.keys.log
    reply = await redis.xreadgroup("core", OTHER, {log: ">"}, count=3)
    assert reply
    await redis.xack(log, "core", await log_id(store, 4))
    await fold_all(projector)
    await assert_exact(store)


async def test_entries_that_a_program_left_pending_in_the_group_do_not_hold_up_trimming(
    store: TimedStore, redis: Any
) -> None:
    """The checkpoint of the set acknowledges them."""
    await talk(store, 2)
    log = store.keys.log

    async def read_with_ack() -> None:
        await redis.xreadgroup("core", OTHER, {log: ">"}, count=2)

    lease = await views_of(store).acquire(CORE, "me", LEASE_MS)
    assert isinstance(lease, SetLease)
    await fold_all(projector_of(store, OnRead(store, read_with_ack, before=False), owner="me"))
    await store.open("s2")
    await read_with_ack()
    save = Save(
        projection_set="core", group="core", epoch=lease.epoch,
        start=await views_of(store).checkpoint("core"), first=await log_id(store, -1),
        to=await log_id(store, -1), count=1, lease_ms=LEASE_MS,
        changes=[
            Changes(projection.name, revision)
            for projection, revision in zip(CORE.projections, lease.revisions, strict=True)
        ],
    )  # fmt: skip
    assert await views_of(store).save(save) == "saved"
    assert (await group_of(store, "core"))["pending"] == 1
    await store.configure_cell({"log_retention_ms": 1, "log_keep_ms": 0}, overwrite=True)
    store.tick(1_000)
    last = await log_id(store, -1)
    trimmed = await ArchiveCommands(views_of(store)).trim()
    assert parse_id(trimmed.before) > parse_id(last)
