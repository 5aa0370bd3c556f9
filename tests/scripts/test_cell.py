"""configure_cell: a cell is created once; its settings are whole numbers, or none of them is
stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventsched.errors import CellUnknown, InvalidMessage, UnexpectedReply
from eventsched.schema.settings import Settings
from eventsched.store.cell import Store
from eventsched.store.client import Client
from eventsched.store.library import names
from eventsched.store.transport import RedisTransport
from tests.fixtures_store import TimedStore


@pytest.fixture(name="fresh")
def _fresh(redis: Client, cells: Callable[[], str]) -> Store:
    return Store(RedisTransport(redis, redis), cells())


async def settings_of(store: Store) -> dict[str, str]:
    return dict(await store.read_hash(store.keys.settings))


async def test_a_new_cell_has_its_settings_and_the_group_that_dispatches(fresh: Store) -> None:
    assert await fresh.configure_cell({"pause_ms": 500}, overwrite=False) == "created"
    assert await settings_of(fresh) == {"pause_ms": "500"}
    groups = await fresh.transport.command(
        "XINFO", "GROUPS", fresh.keys.dispatch, key=fresh.keys.dispatch
    )
    assert len(groups) == 1


async def test_a_cell_that_exists_keeps_what_it_has_and_gets_what_it_lacks(fresh: Store) -> None:
    await fresh.configure_cell({"pause_ms": 500}, overwrite=False)
    for _ in range(2):
        assert (
            await fresh.configure_cell(
                {"pause_ms": 1, "delivery_gap_timeout_ms": 2}, overwrite=False
            )
            == "kept"
        )
        assert await settings_of(fresh) == {"pause_ms": "500", "delivery_gap_timeout_ms": "2"}


async def test_a_cell_without_settings_is_there_all_the_same(fresh: Store) -> None:
    assert await fresh.configure_cell({}, overwrite=False) == "created"
    assert await fresh.configure_cell({}, overwrite=False) == "kept"
    assert await fresh.configure_cell({}, overwrite=True) == "changed"
    assert await fresh.configure_cell({"delivery_gap_timeout_ms": 2}, overwrite=False) == "kept"
    assert await settings_of(fresh) == {"delivery_gap_timeout_ms": "2"}


async def test_a_setting_that_the_cell_does_not_store_has_its_default(fresh: Store) -> None:
    with pytest.raises(CellUnknown, match="does not have this cell"):
        await fresh.read_settings()
    await fresh.configure_cell({}, overwrite=False)
    assert await fresh.read_settings() == Settings()
    await fresh.configure_cell({"pause_ms": 500}, overwrite=False)
    assert await fresh.read_settings() == Settings(pause_ms=500)


async def test_a_cell_that_lost_its_group_gets_it_again(fresh: Store) -> None:
    await fresh.configure_cell({}, overwrite=False)
    key = fresh.keys.dispatch
    await fresh.transport.command("DEL", key, key=key)
    assert await fresh.configure_cell({}, overwrite=False) == "kept"
    assert len(await fresh.transport.command("XINFO", "GROUPS", key, key=key)) == 1


async def test_a_key_of_another_kind_in_place_of_the_dispatch_queue_is_an_error(
    fresh: Store,
) -> None:
    key = fresh.keys.dispatch
    await fresh.transport.command("SET", key, "x", key=key)
    with pytest.raises(UnexpectedReply, match="WRONGTYPE"):
        await fresh.configure_cell({"pause_ms": 500}, overwrite=False)
    assert await settings_of(fresh) == {}
    await fresh.transport.command("DEL", key, key=key)


async def test_settings_are_replaced_where_that_is_asked_for(fresh: Store) -> None:
    await fresh.configure_cell({"pause_ms": 500, "delivery_gap_timeout_ms": 2}, overwrite=False)
    for _ in range(2):
        assert await fresh.configure_cell({"pause_ms": 1}, overwrite=True) == "changed"
        assert await settings_of(fresh) == {"pause_ms": "1", "delivery_gap_timeout_ms": "2"}


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("server", "no json"), ("server", "7"), ("server", "[1]"), ("server", '{"a": 1.5}'),
        ("server", '{"a": "1"}'), ("server", '{"a": 1, "b": 1e14}'), ("server", '{"a:b": 1}'),
        ("server", '{"a": null}'), ("sundial", "{}"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("exists", [False, True])
async def test_malformed_settings_change_nothing(
    fresh: Store, mode: str, message: str, exists: bool
) -> None:
    if exists:
        await fresh.configure_cell({"pause_ms": 500}, overwrite=False)
    args: list[Any] = ["", mode, 1, message]
    with pytest.raises(InvalidMessage):
        await fresh.transport.run("configure_cell", fresh.keys.declared, args)
    assert await settings_of(fresh) == ({"pause_ms": "500"} if exists else {})


async def test_two_cells_of_a_server_have_their_own(fresh: Store, store: TimedStore) -> None:
    await fresh.configure_cell({"pause_ms": 77}, overwrite=False)
    assert (await settings_of(store))["pause_ms"] != "77"


@pytest.mark.parametrize("script", [name for name in names() if name != "configure_cell"])
async def test_no_script_writes_to_a_cell_that_is_not_configured(
    fresh: Store, redis: Client, script: str
) -> None:
    with pytest.raises(CellUnknown, match=f"CELL_UNKNOWN cell={fresh.cell}; "):
        await fresh.run(script)
    assert [key async for key in redis.scan_iter(match=f"{fresh.keys.prefix}*")] == []
