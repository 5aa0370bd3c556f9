"""A call that waits although no dispatcher or no node is there says so once."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from eventsched.client import channel
from eventsched.client.client import Client
from eventsched.client.wait_notice import (
    LOOK_AFTER_S,
    LOOK_EVERY_S,
    NO_DISPATCHER,
    NO_NODE,
    WaitNotice,
    missing_service,
)
from eventsched.errors import CommandRefused
from eventsched.store.role_commands import PRESENCE_MS, RolePresence, StoredPresence
from tests.fixtures_store import TimedStore
from tests.systems import WITHIN_S, until

DISPATCHER = RolePresence("dispatcher", "", "running")


def _warnings(logs: list[Any]) -> list[str]:
    return [line["event"] for line in logs if line["log_level"] == "warning"]


async def test_the_service_that_is_missing_is_named(store: TimedStore) -> None:
    await store.renew_presence("other", 0, [RolePresence("timer", "", "running")])
    assert await missing_service(store) == NO_DISPATCHER
    await store.renew_presence("one", 0, [DISPATCHER])
    assert await missing_service(store) == NO_NODE
    await store.join()
    assert await missing_service(store) == ""


async def test_a_dispatcher_that_ended_or_is_gone_counts_as_missing(store: TimedStore) -> None:
    await store.join()
    await store.renew_presence("one", 0, [RolePresence("dispatcher", "", "ended")])
    assert await missing_service(store) == NO_DISPATCHER
    await store.renew_presence("two", 0, [DISPATCHER])
    assert await missing_service(store) == ""
    store.tick(PRESENCE_MS + 1)
    await store.renew_presence("other", 0, [RolePresence("timer", "", "running")])
    assert await missing_service(store) == NO_DISPATCHER


async def test_the_notice_looks_after_five_seconds_and_every_minute_and_speaks_once(
    store: TimedStore,
) -> None:
    notice = WaitNotice(store)
    await store.renew_presence("one", 0, [DISPATCHER])
    await store.join()
    with capture_logs() as logs:
        await notice.look(LOOK_AFTER_S)
        store.tick(PRESENCE_MS + 1)
        await store.renew_presence("other", 0, [RolePresence("timer", "", "running")])
        for waited_s in range(LOOK_AFTER_S + LOOK_EVERY_S):
            if waited_s != LOOK_AFTER_S:
                await notice.look(waited_s)
        assert _warnings(logs) == []
        for _ in range(3):
            await notice.look(LOOK_AFTER_S + LOOK_EVERY_S)
    assert _warnings(logs) == [NO_DISPATCHER]


async def test_a_producer_that_may_not_read_the_roles_waits_without_a_line(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse() -> list[StoredPresence]:
        raise CommandRefused("HGETALL")

    monkeypatch.setattr(store, "read_presence", refuse)
    notice = WaitNotice(store)
    with capture_logs() as logs:
        await notice.look(LOOK_AFTER_S)
    assert _warnings(logs) == []


@pytest.mark.parametrize("waits_for", ["results", "close"])
async def test_a_call_that_waits_says_once_that_no_dispatcher_runs(
    client: Client, monkeypatch: pytest.MonkeyPatch, waits_for: str
) -> None:
    monkeypatch.setattr(channel, "TICK_S", 0.001)
    with capture_logs() as logs, anyio.fail_after(WITHIN_S):
        async with (
            client.session(tenant="acme", source="en", targets=["es"]) as session,
            anyio.create_task_group() as tasks,
        ):
            await session.append(bytes(3_200), end_of_utterance=True)

            async def wait() -> None:
                if waits_for == "close":
                    await session.close()
                else:
                    await anext(session.results())

            tasks.start_soon(wait)

            async def has_warned() -> bool:
                return bool(_warnings(logs))

            await until("the call says why it waits", has_warned)
            (line,) = [line for line in logs if line["event"] == NO_DISPATCHER]
            assert line["cell"] == client.cells[0]
            tasks.cancel_scope.cancel()
            session.detach()


async def test_a_session_that_nobody_waits_for_is_silent(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "TICK_S", 0.001)
    reader = client.channels[client.cells[0]].listener
    with capture_logs() as logs:
        async with client.session(tenant="acme", source="en", targets=["es"]) as session:
            results = session.results()
            with anyio.move_on_after(0):
                await anext(results)
            assert reader.count_second() == 0
            session.detach()
    assert _warnings(logs) == []
