"""Pages of events, of dead letters and of a timeline have a bound of bytes, and go on after it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventsched.gateway import reading, timeline_picture
from eventsched.history import reader
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.server_kinds import Server

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
BYTES_MAX = 2_000
SESSIONS = 8


async def pages_of(system: GatewaySystem, path: str, name: str, **query: Any) -> list[list[Any]]:
    """The items of each page of a list."""
    pages, after, token = [], "", system.token("viewer")
    while True:
        page = await system.json(path, token, after=after, **query)
        pages.append(page[name])
        after = page["next"]
        if not after:
            return pages


def check(pages: list[list[Any]], whole: list[Any]) -> None:
    """Whether the pages have each item once, and end within the bound or with their last item."""
    assert [item for page in pages for item in page] == whole
    assert len(pages) > 2
    for page in pages:
        assert sum(len(msgspec.json.encode(item)) for item in page[:-1]) < BYTES_MAX


async def test_a_page_of_events_ends_after_some_bytes_and_the_next_one_goes_on(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway_system(server.url, cell, roles=()) as system:
        for _ in range(SESSIONS):
            async with system.es.session("acme", "en", ["es"]):
                pass
        (whole,) = await pages_of(system, "/v1/history", "events")
        assert len(whole) >= 2 * SESSIONS
        monkeypatch.setattr(reader, "PAGE_BYTES_MAX", BYTES_MAX)
        check(await pages_of(system, "/v1/history", "events"), whole)
        monkeypatch.setattr(reader, "PAGE_BYTES_MAX", 1)
        pages = await pages_of(system, "/v1/history", "events", session=whole[-1]["session"])
        assert [len(page) for page in pages if page] == [1] * sum(map(len, pages))


async def test_a_page_of_dead_letters_ends_after_some_bytes(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway_system(server.url, cell, roles=()) as system:
        store = system.es.stores[cell]
        for number in range(10):
            await store.transport.command(
                "XADD", store.keys.dead_letters, "*", "from", "dispatch", "id", f"{number}-1",
                "k", "fill", "d", "x" * 600, "reason", "test", key=store.keys.dead_letters,
            )  # fmt: skip
        (whole,) = await pages_of(system, "/v1/dead-letters", "dead_letters", cell=cell)
        assert len(whole) == 10
        monkeypatch.setattr(reading, "LETTERS_BYTES_MAX", 1_800)
        pages = await pages_of(system, "/v1/dead-letters", "dead_letters", cell=cell)
        assert [len(page) for page in pages] == [3, 3, 3, 1]
        assert [item for page in pages for item in page] == whole
        await store.transport.command("DEL", store.keys.dead_letters, key=store.keys.dead_letters)


async def test_a_timeline_ends_after_some_bytes_and_the_next_one_goes_on(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PAGE_BYTES_MAX", 1)
    async with gateway_system(server.url, cell, roles=()) as system:
        async with system.es.session("acme", "en", ["es"]) as session:
            await session.append(bytes(32_000))
            await session.finalize()
        path, token = f"/v1/sessions/{session.id}/scene", system.token("viewer")
        assert (await system.json(path, token))["next"] == ""
        monkeypatch.setattr(timeline_picture, "PICTURE_BYTES_MAX", 1)
        first = await system.json(path, token)
        assert first["next"]
        second = await system.json(path, token, after=first["next"])
        assert second["next"] != first["next"]
