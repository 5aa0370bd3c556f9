"""A reading answers all requests of a second, and an error answers one."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from eventsched.gateway import reading_cache
from eventsched.gateway.reading_cache import ReadingCache


async def test_many_requests_of_a_second_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_cache, "VALID_S", 60.0)
    readings = 0

    async def read() -> int:
        nonlocal readings
        readings += 1
        await anyio.lowlevel.checkpoint()
        return readings

    cache = ReadingCache(read)
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(cache.value)
    assert (await cache.value(), readings) == (1, 1)
    monkeypatch.setattr(reading_cache, "VALID_S", 0.0)
    assert await cache.value() == 2


async def test_an_error_is_raised_and_not_stored() -> None:
    fails = True

    async def read() -> str:
        if fails:
            raise ValueError("away")
        return "there"

    cache = ReadingCache(read)
    with pytest.raises(ValueError, match="away"):
        await cache.value()
    fails = False
    assert await cache.value() == "there"
