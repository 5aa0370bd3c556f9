"""Random sequences of calls: the scripts do what the rules say, and nothing else.

Each example is a fresh cell. EXAMPLES=… asks for more examples, with new ones each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from eventsched.store import library as lua_library
from tests.model.machine import Machine
from tests.model.set_machine import SetMachine
from tests.model.wire import Sync, Wire, connect
from tests.scripts.headers import source
from tests.server_kinds import Server

EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
PROFILE = settings(
    max_examples=EXAMPLES or 30,
    stateful_step_count=60,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
)

CALLED_BY_SETS = {
    "acquire_set_lease",
    "drop_revision",
    "drop_session_indexes",
    "abandon_archive",
    "read_archive",
    "record_seal",
    "save_views",
    "promote_revision",
    "start_rebuild",
    "trim_log",
    "trim_node_indexes",
}
RECORD_A_REPORT = {
    "renew_presence", "set_aside_archive", "set_tenant_backpressure", "set_tenant_lag",
}  # fmt: skip
"""They record what a process or an operator reports, which changes no other call but the refusal
for a lag. Their own tests are tests/roles/test_presence.py, tests/archive/test_set_aside.py and
tests/scripts/test_tenant_lag.py.
"""
OF_OTHERS = {"drop_consumer_group", "remove_idle_consumers"}
"""They concern the consumer groups of other programs, on which no other call depends. Their own
tests are tests/archive/test_consumer_groups.py and tests/client/test_events.py."""
REPAIR = {"repair_job", "repair_state", "repair_trim"}
"""They write the state that the fold of the log gives; tests/verify/test_repair.py checks it."""


def cannot_write(script: str) -> bool:
    """The server guarantees it: a function with this flag has no command that writes."""
    return source(script).startswith("#!lua flags=no-writes\n")


CALLED_BY_CELLS = {name for name in lua_library.names() if not cannot_write(name)}
CALLED_BY_CELLS -= CALLED_BY_SETS | RECORD_A_REPORT | REPAIR | OF_OTHERS
"""All others: what has no step yet is missed there."""


@pytest.fixture
def client(server: Server) -> Iterator[Sync]:
    with connect(server) as client:
        yield client


def test_scripts_reply_append_and_store_what_the_model_says(client: Sync) -> None:
    wire = Wire(client)
    assert_agree(Machine, wire, PROFILE, CALLED_BY_CELLS)
    if not EXAMPLES:
        assert wire.drained_max >= 8
        assert "ResultReplaced" in wire.event_types


def test_scripts_of_projection_sets_reply_and_store_what_the_model_says(client: Sync) -> None:
    profile = settings(PROFILE, max_examples=EXAMPLES or 20)
    with one_entry_a_node(client):
        assert_agree(SetMachine, Wire(client), profile, CALLED_BY_SETS)


def assert_agree(
    machine: type[RuleBasedStateMachine], wire: Wire, profile: settings, names: set[str]
) -> None:
    """Model and scripts agree, and each of these scripts was called."""
    run_state_machine_as_test(type(machine.__name__, (machine,), {"wire": wire}), settings=profile)
    if not EXAMPLES:  # few new sequences may not call every script
        assert sorted(names - wire.called) == [], "these have no step"


@contextmanager
def one_entry_a_node(client: Sync) -> Iterator[None]:
    """A trim removes whole nodes of the stream: with one entry a node it is exact."""
    option = "stream-node-max-entries"
    before: Any = client.config_get(option)[option]
    client.config_set(option, 1)
    try:
        yield
    finally:
        client.config_set(option, before)
