"""Processes of a user's service read events as a consumer group: each event at least once."""

from __future__ import annotations

import re

import anyio.to_thread

from eventsched.server.testing import LocalServer
from eventsched.store.cell import Store
from eventsched.store.connection import open_connection
from tests.failures.programs import Program, Programs, ask
from tests.failures.test_consumers import opened
from tests.systems import until

MODULE, GROUP, CLAIM_MS = "tests.failures.event_reader", "billing", 1_000


def begun(program: Program) -> list[str]:
    """The ids of the events that the process has begun."""
    return re.findall(r"^\d+-\d+$", program.output, re.MULTILINE)


def reader(fleet: Programs, url: str, count: int = 0) -> Program:
    """A process that hangs after so many events; 0: never."""
    return fleet.start(MODULE, url, GROUP, str(count), str(CLAIM_MS))


async def ids_of(store: Store) -> list[str]:
    return [entry_id for entry_id, _ in await store.read_range(store.keys.log, "-", "+", 1_000)]


async def test_events_of_a_killed_or_suspended_process_are_processed_by_another_one(
    own_server: LocalServer, fleet: Programs
) -> None:
    async with open_connection(own_server.url) as connection:
        (store,) = connection.stores.values()
        for number in range(10):
            await opened(store, f"s{number}")
        ids = await ids_of(store)
        killed = reader(fleet, own_server.url, 3)
        await killed.wait_for(ids[3])
        killed.kill()
        suspended = reader(fleet, own_server.url, 2)
        await suspended.wait_for(ids[5])
        suspended.freeze()
        last = reader(fleet, own_server.url)
        await last.wait_for(ids[-1])
        assert begun(killed) == ids[:4]
        assert begun(suspended) == ids[3:6]
        assert begun(last) == ids[5:], "what the others had not finished, and nothing twice"

        async def is_finished() -> bool:
            log = store.keys.log
            summary = await store.transport.command("XPENDING", log, GROUP, key=log)
            count = summary["pending"] if isinstance(summary, dict) else summary[0]
            return int(count) == 0

        await until("all is acknowledged", is_finished)


async def test_events_go_on_after_a_restart_of_the_server_and_end_with_a_drop(
    own_server: LocalServer, fleet: Programs
) -> None:
    async with open_connection(own_server.url) as connection:
        (store,) = connection.stores.values()
        await opened(store, "s1")
        process = reader(fleet, own_server.url)
        await process.wait_for((await ids_of(store))[-1])
    await anyio.to_thread.run_sync(own_server.restart)
    async with open_connection(own_server.url) as connection:
        (store,) = connection.stores.values()
        await opened(store, "s2")
        ids = await ids_of(store)
        await process.wait_for(ids[-1])
        assert begun(process) == ids
        words = ("consumer-groups", "drop", GROUP, "--why", "the service is gone", "--by", "ann")
        done = await anyio.to_thread.run_sync(ask, own_server.url, *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "c0: billing: dropped\n"
        assert process.process.wait(20) == 1
        assert "NotFound: cell c0 has no consumer group billing: it was dropped" in process.output
        again = await anyio.to_thread.run_sync(ask, own_server.url, *words)
        assert (again.returncode, again.stdout) == (0, "c0: billing: there is no such group\n")
        listed = await anyio.to_thread.run_sync(ask, own_server.url, "history")
        shown = " ".join(listed.stdout.split())
        assert re.search(r"consumer group billing at \d+-\d+, by ann: the service is gone", shown)
