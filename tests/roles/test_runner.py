"""Roles in one process: an error in one ends no other, and `status` shows it."""

from __future__ import annotations

from typing import Any

from structlog.testing import capture_logs

from eventsched.history.roles import RoleStatus, read_roles
from eventsched.roles import runner
from eventsched.roles.presence import PresenceRenewer
from eventsched.roles.runner import Loops, Process, running
from eventsched.schema.settings import Settings
from eventsched.server.testing import LocalServer
from eventsched.store.cell import Store
from eventsched.store.connection import open_connection
from tests.systems import until


async def role(store: Store, name: str) -> RoleStatus:
    listed = await read_roles(store, await store.read_now())
    return next(each for each in listed if each.name == name)


def broken(_: Store, __: Process) -> Loops:
    async def run() -> None:
        raise ZeroDivisionError("of a role")

    return {("", "broken"): run}


async def test_an_error_ends_one_role_and_no_other_and_status_shows_it(
    own_server: LocalServer, monkeypatch: Any
) -> None:
    monkeypatch.setitem(runner.ROLES, "broken", broken)
    with capture_logs() as lines:
        async with (
            open_connection(own_server.url) as connection,
            running(connection, ["dispatcher", "projector", "timer", "broken"]),
        ):
            store = connection.stores["c0"]

            async def is_shown() -> bool:
                names = [each.name for each in await read_roles(store, 0)]
                return "broken" in names and bool((await role(store, "broken")).failing)

            await until("it is shown as failing", is_shown)
            failing = await role(store, "broken")
            assert failing.problem.startswith("1 of 1 failing: ZeroDivisionError at test_runner.py")
            for name in ("dispatcher", "projector core", "timer"):
                assert (await role(store, name)).problem == ""
            assert (await role(store, "projector core")).owner
        async with open_connection(own_server.url) as connection:
            ended = await role(connection.stores["c0"], "dispatcher")
            assert ended.running == 0, "the roles ended in order"
    (line, *_) = [line for line in lines if line["event"] == "role failed, starting it again"]
    assert isinstance(line["exc_info"], ZeroDivisionError)
    assert (line["role"], line["cell"]) == ("broken", "c0")


async def test_an_error_of_the_presence_ends_no_role(
    own_server: LocalServer, monkeypatch: Any
) -> None:
    calls, renew = [0], PresenceRenewer.renew

    async def fails_once(renewer: PresenceRenewer) -> None:
        calls[0] += 1
        if calls[0] == 1:
            raise ZeroDivisionError
        await renew(renewer)

    monkeypatch.setattr(PresenceRenewer, "renew", fails_once)
    async with (
        open_connection(own_server.url) as connection,
        running(connection, ["dispatcher"]),
    ):
        store = connection.stores["c0"]

        async def is_shown() -> bool:
            return bool((await role(store, "dispatcher")).running)

        await until("the presence is renewed after the error", is_shown)
    assert calls[0] > 1


async def test_cells_that_the_server_has_lost_are_created_with_the_settings_of_the_start(
    own_server: LocalServer,
) -> None:
    async with (
        open_connection(own_server.url, cells=1, settings={"pause_ms": 777}) as connection,
        running(connection, ["dispatcher"]),
    ):
        store = connection.stores["c0"]
        before = await store.read_hash(store.keys.settings)
        own_server.call("FLUSHALL")

        async def is_configured() -> bool:
            return await store.read_hash(store.keys.settings) == before

        await until("the cell is configured again", is_configured)
        assert before["pause_ms"] == "777"
        assert len(before) == len(Settings.__struct_fields__)
        assert own_server.call("GET", "es1:cells") in (b"c0", "c0")


async def test_roles_wait_if_the_server_has_other_cells_now(own_server: LocalServer) -> None:
    with capture_logs() as lines:
        async with (
            open_connection(own_server.url) as connection,
            running(connection, ["dispatcher"]),
        ):
            own_server.call("FLUSHALL")
            own_server.call("SET", "es1:cells", "c0,c1")
            await until("it says so", lambda: any("other cells now" in str(line) for line in lines))
            assert own_server.call("EXISTS", "es1:{c0}:clock") == 0
