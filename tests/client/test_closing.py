"""Closing without waiting, and arguments that are refused before anything is awaited."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest

import eventsched
from eventsched.client.client import Client
from tests.client.test_session import served
from tests.fixtures_store import TimedStore
from tests.outcomes import next_result
from tests.systems import SECOND, WITHIN_S, client_of, until


async def is_closed(store: TimedStore) -> bool:
    return "SessionClosed" in await store.types()


async def test_close_without_waiting_returns_and_results_still_arrive(
    client: Client, store: TimedStore
) -> None:
    async with client.session("acme", "en", ["es"]) as session:
        results = session.results()
        await session.append(SECOND)
        assert not await session.close(wait=False)
        assert not await is_closed(store)
        assert [event.type for event in await store.log("UtteranceFinalized")] != []
        with pytest.raises(eventsched.SessionClosedError):
            await session.append(SECOND)
    await store.dispatch()
    with anyio.fail_after(WITHIN_S):
        await served(store, session, 1)
        assert (await next_result(results)).text == "hola 0"
        with pytest.raises(StopAsyncIteration):
            await anext(results)
    assert await is_closed(store)


async def test_the_block_does_not_wait_after_a_close_without_waiting(
    client: Client, store: TimedStore
) -> None:
    with anyio.fail_after(WITHIN_S):
        async with client.session("acme", "en", ["es"]) as session:
            await session.append(SECOND)
            await session.close(wait=False)
    assert not await is_closed(store)
    store.tick(31_000)  # nobody serves the job: the session's wait ends
    await store.timers()
    await until("the session is closed", lambda: is_closed(store))


async def test_close_without_waiting_says_whether_the_session_is_closed(
    client: Client, store: TimedStore
) -> None:
    async with client.session("acme", "en", ["es"]) as session:
        assert await session.close()
        assert await session.close(wait=False)


async def test_a_close_without_waiting_may_be_followed_by_one_that_waits(
    client: Client, store: TimedStore
) -> None:
    async with client.session("acme", "en", ["es"]) as session:
        await session.close(wait=False)
        with anyio.fail_after(WITHIN_S):
            assert await session.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda: eventsched.connect("http://x"),
        lambda: eventsched.connect(cells=0),
        lambda: eventsched.connect(settings={"pause": 1}),
        lambda: eventsched.connect(resend_ms=-1),
    ],
    ids=["url", "cells", "settings", "resend_ms"],
)
def test_connect_refuses_an_argument_before_anything_is_awaited(
    call: Callable[[], AbstractAsyncContextManager[Client]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSCHED_URL", raising=False)
    with pytest.raises(eventsched.InvalidMessage):
        call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [{"source": "english"}, {"targets": ["auto"]}, {"priority": 9}, {"sample_rate": 1}],
    ids=lambda each: next(iter(each)),
)
async def test_a_session_refuses_an_argument_before_anything_is_awaited(
    client: Client, arguments: dict[str, Any]
) -> None:
    with pytest.raises(eventsched.InvalidMessage):
        client.session(**{"tenant": "acme", "source": "en", "targets": ["es"]} | arguments)
    with pytest.raises(eventsched.InvalidMessage):
        client.resume("no id", "no secret")


async def test_a_session_that_ends_after_its_client_ends_without_an_error(
    store: TimedStore,
) -> None:
    entering = client_of(store)
    es = await entering.__aenter__()
    opening = es.session("acme", "en", ["es"])
    session = await opening.__aenter__()
    results = session.results()
    await session.close(wait=False)
    await entering.__aexit__(None, None, None)
    await opening.__aexit__(None, None, None)
    with anyio.fail_after(WITHIN_S), pytest.raises(StopAsyncIteration):
        await anext(results)


async def test_a_session_that_is_closing_or_closed_is_resumed_for_its_outcomes(
    client: Client, store: TimedStore
) -> None:
    async with client.session("acme", "en", ["es"]) as session:
        await session.append(SECOND)
        session.detach()
        await session.close(wait=False)
    owned = session.id, session.resume_secret
    with pytest.raises(eventsched.SessionClosedError):
        async with client.resume(*owned):
            pass
    for arguments in ((session.id, "0" * 32), owned):
        tenant = "acme" if arguments != owned else "other"
        with pytest.raises(eventsched.SessionUnknown):
            async with client.resume(*arguments, tenant=tenant, also_closed=True):
                pass
    with anyio.fail_after(WITHIN_S):
        async with client.resume(*owned, also_closed=True) as closing:
            assert closing.next_seq == session.next_seq
            results = closing.results()
            await store.dispatch()
            await served(store, closing, 1)
            assert (await next_result(results)).text == "hola 0"
            with pytest.raises(StopAsyncIteration):
                await anext(results)
        assert await is_closed(store)
        async with client.resume(*owned, also_closed=True) as closed:
            results = closed.results()
            assert (await next_result(results)).text == "hola 0"
            with pytest.raises(StopAsyncIteration):
                await anext(results)
            with pytest.raises(eventsched.SessionClosedError):
                await closed.append(SECOND)
    assert await store.log("SessionResumed") == []
