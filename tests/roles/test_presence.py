"""The presence of roles: what `status` shows of processes that run, fail, end or go away."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from eventsched.history.roles import RoleStatus, read_roles
from eventsched.roles.presence import PresenceRenewer, Role
from eventsched.roles.supervisor import Supervisor
from eventsched.store.role_commands import PRESENCE_MS, RolePresence
from tests.fixtures_store import TimedStore
from tests.scripts.calls import call, code_of

DISPATCHER = RolePresence("dispatcher", "", "running")


async def roles(store: TimedStore) -> dict[str, RoleStatus]:
    return {each.name: each for each in await read_roles(store, store.at_ms)}


async def test_a_cell_without_roles_lists_what_it_needs_as_missing(store: TimedStore) -> None:
    found = await roles(store)
    assert set(found) == {"dispatcher", "projector core", "timer"}
    assert {each.running for each in found.values()} == {0}
    assert found["dispatcher"].problem == "none runs: jobs wait in the dispatch queue"


async def test_a_role_is_there_until_fifteen_seconds_without_a_renewal(store: TimedStore) -> None:
    since_ms = await store.renew_presence("p1", 0, [DISPATCHER])
    assert since_ms == store.at_ms
    store.tick(PRESENCE_MS - 1)
    assert await store.renew_presence("p1", since_ms, [DISPATCHER]) == since_ms
    await store.renew_presence("p2", 0, [DISPATCHER])
    store.tick(PRESENCE_MS)
    status = (await roles(store))["dispatcher"]
    assert (status.running, status.since_ms, status.problem) == (2, since_ms, "")
    seen_ms = store.at_ms - PRESENCE_MS
    store.tick(1)
    status = (await roles(store))["dispatcher"]
    assert (status.running, status.since_ms, status.seen_ms) == (0, 0, seen_ms)


async def test_a_failing_role_has_its_error(store: TimedStore) -> None:
    failing = RolePresence("dispatcher", "", "failing", "KeyError at a.py:1 | more")
    await store.renew_presence("p1", 0, [DISPATCHER])
    await store.renew_presence("p2", 0, [failing])
    status = (await roles(store))["dispatcher"]
    assert (status.running, status.failing) == (2, 1)
    assert status.problem == "1 of 2 failing: KeyError at a.py:1 | more"
    await store.renew_presence("p2", 5, [DISPATCHER])
    assert (await roles(store))["dispatcher"].problem == ""


async def test_a_role_that_has_ended_is_gone_at_once(store: TimedStore) -> None:
    async def loop() -> None:
        await anyio.sleep_forever()

    async def created() -> None:
        raise AssertionError("the cell is there")

    supervisor = Supervisor("dispatcher", store.cell, loop, store.transport)
    renewer = PresenceRenewer(store, "p1", [Role("dispatcher", "", [supervisor])], created)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(renewer.run)
        with anyio.fail_after(10):
            while not (await roles(store))["dispatcher"].running:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    status = (await roles(store))["dispatcher"]
    assert (status.running, status.seen_ms) == (0, store.at_ms)


async def test_the_owner_of_a_projection_set_and_its_standbys(store: TimedStore) -> None:
    projector = RolePresence("projector", "core", "running")
    for instance in ("p1", "p2", "p3"):
        await store.renew_presence(instance, 0, [projector])
    await call(store, "acquire_set_lease", "core", "p2", 1_500, "")
    status = (await roles(store))["projector core"]
    assert (status.running, status.owner, status.standbys) == (3, "p2", 2)


async def test_an_archiver_is_needed_once_the_cell_has_an_archive(store: TimedStore) -> None:
    assert "archiver" not in await roles(store)
    epoch = (await call(store, "acquire_set_lease", "archive", "p1", 15_000, "archive"))[1]
    await call(store, "record_seal", epoch, "0-0", "0-0", "key", 0, 0)
    assert (await roles(store))["archiver"].problem.startswith("none runs: the log is not archived")


async def test_a_gateway_is_listed_until_it_ends_in_order(store: TimedStore) -> None:
    assert "gateway" not in await roles(store)
    await store.renew_presence("p1", 0, [RolePresence("gateway", "", "running")])
    assert (await roles(store))["gateway"].problem == ""
    store.tick(PRESENCE_MS + 1)
    assert (await roles(store))["gateway"].problem == "none runs: no client connects through it"
    await store.renew_presence("p1", 1, [RolePresence("gateway", "", "ended")])
    assert "gateway" not in await roles(store)
    (asked,) = await read_roles(store, store.at_ms, ["gateway"])
    assert asked.problem == "none runs: no client connects through it"


async def test_processes_that_are_gone_for_an_hour_are_dropped_when_another_starts(
    store: TimedStore,
) -> None:
    await store.renew_presence("p1", 0, [DISPATCHER])
    store.tick(3_600_001)
    await store.renew_presence("p2", 0, [DISPATCHER])
    assert [each.instance for each in await store.read_presence()] == ["p2"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("a|b|c|d", "1|1|running|"), ("timer||p2", "x|1|running|"), ("timer||p2", "1|1|idle|")],
)
async def test_a_field_that_no_process_wrote_is_left_out(
    store: TimedStore, name: str, value: str
) -> None:
    await store.renew_presence("p1", 0, [DISPATCHER])
    key = store.keys.presence
    await store.transport.command("HSET", key, name, value, key=key)
    assert [each.instance for each in await store.read_presence()] == ["p1"]


async def test_a_cell_has_at_most_1024_roles(store: TimedStore) -> None:
    several = [RolePresence(f"r{number}", "", "running") for number in range(64)]
    for process in range(17):
        store.tick(1)
        await store.renew_presence(f"p{process}", 0, several)
    stored = await store.read_presence()
    assert len(stored) == 1_024
    assert {each.instance for each in stored} == {f"p{number}" for number in range(1, 17)}
    store.tick(1)
    await store.renew_presence("p0", 1, several)
    assert {each.instance for each in await store.read_presence()} == {
        f"p{number}" for number in (0, *range(2, 17))
    }


@pytest.mark.parametrize(
    ("args", "field"),
    [
        (("no name", 0, "timer", "", "running", ""), "instance"),
        (("p1", "x", "timer", "", "running", ""), "since"),
        (("p1", 0, "a|b", "", "running", ""), "name"),
        (("p1", 0, "timer", "a b", "running", ""), "subject"),
        (("p1", 0, "timer", "", "asleep", ""), "state"),
        (("p1", 0, "timer", "", "failing", "a\nb"), "error"),
        (("p1", 0, "timer", "", "failing", "x" * 1_025), "error"),
        (("p1", 0, "timer", ""), "roles"),
    ],
)
async def test_a_malformed_presence_is_refused(
    store: TimedStore, args: tuple[str | int, ...], field: str
) -> None:
    assert f" {field}: " in await code_of(store, "renew_presence", *args)
    assert await store.read_presence() == []


async def test_presence_is_not_an_event(store: TimedStore) -> None:
    await store.renew_presence("p1", 0, [DISPATCHER])
    assert await store.log() == []
