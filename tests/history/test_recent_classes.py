"""Viewers share a reading of the nodes; the more nodes a cell has, the less often it is made."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from eventsched.history import node_status
from eventsched.history.node_status import ClassStatus, NodeStatus, RecentClasses
from tests.fixtures_store import TimedStore


def names(classes: Sequence[ClassStatus]) -> list[str]:
    return [node.node.partition(".")[2] for each in classes for node in each.nodes]


async def test_nodes_are_read_again_after_a_time_in_proportion_to_their_number(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_status, "VALID_MS_PER_NODE", 100)
    recent = RecentClasses()
    await store.join("n1")
    start_ms, classes = await recent.read(store, store.at_ms)
    assert (start_ms, names(classes)) == (store.at_ms, ["n1"])
    await store.join("n2")
    store.tick(199)  # one class and one node
    assert await recent.read(store, store.at_ms) == (start_ms, classes)
    store.tick(1)
    read_ms, classes = await recent.read(store, store.at_ms)
    assert (read_ms, names(classes)) == (store.at_ms, ["n1", "n2"])
    await store.join("n3")
    assert names((await recent.read(store, store.at_ms))[1]) == ["n1", "n2"]
    recent.forget()
    assert names((await recent.read(store, store.at_ms))[1]) == ["n1", "n2", "n3"]


def node(name: str, leases: int, status: str = "alive") -> NodeStatus:
    return NodeStatus(
        node=f"c0.{name}", status=status, slots=4, leases=leases, reported_load=0,
        heartbeat_age_ms=0, version="",
    )  # fmt: skip


def test_a_class_names_the_nodes_that_drain_then_the_busiest() -> None:
    nodes = [node("idle", 0), node("busy", 4), node("drains", 1, "draining"), node("half", 2)]
    whole = ClassStatus(
        id="a", sources=["en"], targets=["es"], features=[], suspended=[], nodes_total=4, slots=16,
        leases=7, nodes=nodes,
    )  # fmt: skip
    assert names([whole.with_nodes(3)]) == ["drains", "busy", "half"]
    assert whole.with_nodes(0).nodes == []
    assert whole.with_nodes(0).nodes_total == 4
