"""A key of another type, or a value that is no number, ends a command with the name of the key."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.errors import UnexpectedReply
from eventsched.history.status import read_status
from eventsched.schema import keys
from eventsched.schema.keys import SINGLE_TYPES
from eventsched.store.client import check_server
from eventsched.store.connection import Connection
from tests.fixtures_store import TimedStore
from tests.verify import test_verify
from tests.verify.test_repair import planned
from tests.verify.test_verify import BusyCell, verified

busy = test_verify.busy
NOT_READ = {
    "erased", "tenant_finish_tag", "node_index_starts", "session_index_ends", "operator_requests",
    "tenant_refused",
}  # fmt: skip
"""Keys that neither `status` nor `verify` reads."""


async def status_of(store: TimedStore, redis: Any) -> object:
    facts = await check_server(redis)
    connection = Connection("", facts, store.transport, {store.cell: store})  # type: ignore[arg-type]
    return await read_status(connection)


@pytest.mark.parametrize("name", SINGLE_TYPES)
async def test_a_key_of_another_type_is_named(busy: BusyCell, redis: Any, name: str) -> None:
    """By each command that needs it; those that do not, go on."""
    store = busy.store
    key = store.keys.log.removesuffix("log") + name
    await redis.delete(key)
    if SINGLE_TYPES[name] == "string":
        await redis.rpush(key, "1")
    else:
        await redis.set(key, "1")
    named = 0
    for command in (status_of(store, redis), verified(store), planned(store)):
        try:
            await command
        except UnexpectedReply as error:
            assert key in str(error)
            assert "another type" in str(error)
            named += 1
    await redis.delete(key)
    assert named or name in NOT_READ


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("settings", "pause_ms"), ("tenant_outbox", "acme"), ("tenant_lag", "acme"),
        ("tenant_queued", "acme"), ("tenant_undispatched", "acme"),
        ("lease:core", "until"), ("lease:core", "passed"), ("node:n1", "slots"),
        ("node:n1", "epoch"),
    ],
)  # fmt: skip
async def test_a_value_that_is_no_number_is_named(
    busy: BusyCell, redis: Any, name: str, field: str
) -> None:
    key = busy.store.keys.log.removesuffix("log") + name
    await redis.hset(key, field, "many")
    with pytest.raises(UnexpectedReply) as named:
        await status_of(busy.store, redis)
    assert name.partition(":")[0] in str(named.value)


def test_the_types_are_those_of_the_list_of_keys() -> None:
    words = [line.split() for line in (keys.__doc__ or "").splitlines() if line[:4] == "    "]
    listed = {line[0]: line[1] for line in words if len(line) > 1}
    for name, kind in SINGLE_TYPES.items():
        assert listed[name.replace(":core", ":<set>")] == kind
