"""A key of another type, or a value that is no number, ends a command with the name of the key."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from eventsched.cli.status_view import panel
from eventsched.errors import REPAIR, StateDamaged, UnexpectedReply
from eventsched.gateway.replies import error_of
from eventsched.history.problems import problems_of
from eventsched.history.status import SystemStatus, read_status
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


async def status_of(store: TimedStore, redis: Any) -> SystemStatus:
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
        ("lease:core", "until"), ("lease:core", "passed"),
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


async def test_a_node_with_a_damaged_record_is_shown_with_the_command_that_mends_it(
    busy: BusyCell, redis: Any
) -> None:
    """Its heartbeat is refused with the same command, also behind a gateway."""
    store = busy.store
    node = store.keys.node("n1")
    await redis.hdel(node, "class", "suspended")
    await redis.hset(node, "slots", "many")
    status = await status_of(store, redis)
    (damaged,) = [each for part in status.cells[0].classes for each in part.nodes if each.damaged]
    assert damaged.node == store.keys.full("n1")
    assert damaged.damaged == ["class", "slots", "suspended"]
    assert any(REPAIR in line and damaged.node in line for line in problems_of(status))
    shown = io.StringIO()
    Console(file=shown, width=200).print(panel(status))
    assert f"damaged: class, slots, suspended; {REPAIR} mends it" in shown.getvalue()
    with pytest.raises(StateDamaged, match=re.escape(REPAIR)) as refused:
        await store.heartbeat_node(damaged.node, 1, load=0, attempts=[])
    assert "node:n1" in str(refused.value)
    code, reply = error_of(refused.value)
    assert (code, reply.code) == (503, "STATE_DAMAGED")
    assert REPAIR in reply.remedy
    assert "n1" not in reply.message + reply.remedy


def test_the_types_are_those_of_the_list_of_keys() -> None:
    words = [line.split() for line in (keys.__doc__ or "").splitlines() if line[:4] == "    "]
    listed = {line[0]: line[1] for line in words if len(line) > 1}
    for name, kind in SINGLE_TYPES.items():
        assert listed[name.replace(":core", ":<set>")] == kind
