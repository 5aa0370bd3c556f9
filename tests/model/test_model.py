"""Whatever is asked, in whatever order: the scripts do what the rules say, and nothing else.

Each example is a fresh cell. EXAMPLES=… asks for more of them, with new ones each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine
from tests.model.set_machine import SetMachine
from tests.model.wire import Sync, Wire, connect
from tests.server_kinds import Server

EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
PROFILE = settings(
    max_examples=EXAMPLES or 60,
    stateful_step_count=60,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
)


@pytest.fixture
def client(server: Server) -> Iterator[Sync]:
    with connect(server) as client:
        yield client


def test_scripts_reply_append_and_store_what_the_model_says(client: Sync) -> None:
    machine = type("Scripts", (Machine,), {"wire": Wire(client)})
    run_state_machine_as_test(machine, settings=PROFILE)


def test_scripts_of_projection_sets_reply_and_store_what_the_model_says(client: Sync) -> None:
    machine = type("ScriptsOfSets", (SetMachine,), {"wire": Wire(client)})
    profile = settings(PROFILE, max_examples=EXAMPLES or 20)
    with one_entry_a_node(client):
        run_state_machine_as_test(machine, settings=profile)


@contextmanager
def one_entry_a_node(client: Sync) -> Iterator[None]:
    """A trim lets go of whole nodes of the stream: so it is exact, and can be foretold."""
    option = "stream-node-max-entries"
    before: Any = client.config_get(option)[option]
    client.config_set(option, 1)
    try:
        yield
    finally:
        client.config_set(option, before)
