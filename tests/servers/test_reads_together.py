"""Reads that are sent together: their order, and the errors of single reads."""

from __future__ import annotations

import pytest

from eventsched.errors import UnexpectedReply
from eventsched.store import cell_connection
from eventsched.store.client import Client
from tests.fixtures_store import TimedStore


async def test_the_replies_have_the_order_of_the_reads(
    store: TimedStore, redis: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_connection, "CALLS_MAX", 3)
    keys = [store.keys.session_index(f"s{number}") for number in range(10)]
    for number, key in enumerate(keys):
        await redis.rpush(key, *map(str, range(number + 1)))
    assert await store.read_many([("LLEN", key) for key in keys]) == list(range(1, 11))
    assert await store.read_many([]) == []


async def test_an_error_of_one_read_is_raised_in_its_public_form(store: TimedStore) -> None:
    with pytest.raises(UnexpectedReply, match="WRONGTYPE"):
        await store.read_many([("XLEN", store.keys.log), ("LLEN", store.keys.settings)])
    assert await store.read_many([("XLEN", store.keys.log)]) == [0]
