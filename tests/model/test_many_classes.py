"""Random fleets of many capability classes: the choice and its evidence equal those of the model,
which compares all nodes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from eventsched.schema import codec
from eventsched.schema.events import JobDispatched
from eventsched.store.node_commands import NodeGrant
from tests.model.machine import FEATURES, Machine
from tests.model.wire import Sync, Wire, connect, run
from tests.server_kinds import Server

STEPS = 150
TARGETS = (["es"], ["es"], ["fr", "es"])


@pytest.fixture
def client(server: Server) -> Iterator[Sync]:
    with connect(server) as client:
        yield client


class Fleet:
    """Random steps of a machine whose nodes are in many classes."""

    def __init__(self, machine: Machine, rng: random.Random) -> None:
        self.machine, self.rng = machine, rng

    def register(self) -> None:
        rng, machine = self.rng, self.machine
        features = {f"f{rng.randrange(30)}", *rng.choice(FEATURES)[0]}
        registration = machine.registration(
            node=f"n{rng.randrange(40)}", slots=rng.choice([1, 1, 2, 3]), sources=["en"],
            targets=sorted(rng.choice(TARGETS)), features=sorted(features),
        )  # fmt: skip
        grant = machine.both("register_node", **registration)
        if isinstance(grant, NodeGrant):
            machine.registered.append(grant)

    def open(self) -> None:
        rng = self.rng
        self.machine.open(
            rng.choice(["acme", "tiny"]), "en", rng.choice(TARGETS), rng.choice(FEATURES),
            rng.choice([0, 1, 2]), None, True, False, "",
        )  # fmt: skip

    def speak(self) -> None:
        self.machine.append(self.rng.randrange(8), 100, 2, True)

    def dispatch(self) -> None:
        self.machine.dispatch(self.rng.choice([0, 0, 60_000]))

    def end(self) -> None:
        """A result, a failure that another node tries again, or one that suspends the node."""
        which, kind = self.rng.randrange(40), self.rng.choice(["ok", "ok", "failed", "model"])
        if kind == "model":
            self.machine.report_a_missing_model(which, True)
        else:
            self.machine.say(which, status=kind, retryable=True)

    def drain(self) -> None:
        if self.machine.registered:
            within_ms = self.rng.choice([0, 60_000])
            self.machine.drain(self.rng.randrange(8), within_ms, self.rng.random() < 0.3)

    def pass_time(self) -> None:
        self.machine.tick(self.rng.choice([50, 2_000, 5_000]), 1)
        self.machine.all_beat()

    def steps(self) -> list[Callable[[], Any]]:
        often = [self.register] * 3 + [self.speak] * 5 + [self.dispatch] * 4 + [self.end] * 3
        return [*often, self.open, self.open, self.drain, self.pass_time]


@pytest.mark.parametrize("cache_live_state", [1, 0])
@settings(
    max_examples=3,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
    derandomize=True,
)
@given(seed=st.integers(0, 2**32))
def test_rule_17_the_choice_among_many_classes_is_the_models(
    client: Sync, seed: int, cache_live_state: int
) -> None:
    machine = type("Machine", (Machine,), {"wire": Wire(client)})()
    fleet = Fleet(machine, random.Random(seed))
    machine.cell_is_there({}, None, ["es"], cache_live_state)
    try:
        for _ in range(25):
            fleet.register()
        for _ in range(STEPS):
            fleet.rng.choice(fleet.steps())()
        entries = run(machine.store.read_range(machine.store.keys.log, "-", "+", 100_000))
        events = [codec.decode(entry_id, fields) for entry_id, fields in entries]
        seen = [event.data for event in events if isinstance(event.data, JobDispatched)]
        assert len([data for data in seen if len(data.classes) == 8 and data.other_classes]) > 2
        assert {"load", "fill"} <= {data.rule for data in seen}
    finally:
        machine.teardown()
