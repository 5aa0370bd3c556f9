"""How many slots each capability class needs."""

from __future__ import annotations

from eventsched.history.node_status import ClassStatus, NodeStatus
from eventsched.history.waiting import WaitingJobs
from eventsched.telemetry.slots_wanted import slots_wanted


def nodes(slots: int, leases: int) -> list[NodeStatus]:
    return [
        NodeStatus(
            node="c0.n", status="alive", slots=slots, leases=leases, reported_load=0,
            heartbeat_age_ms=0, version="",
        )
    ]  # fmt: skip


def a_class(id_: str, targets: list[str], slots: int, leases: int, *suspended: str) -> ClassStatus:
    return ClassStatus(
        id=id_, sources=["en"], targets=targets, features=["tone"], suspended=list(suspended),
        nodes_total=1, slots=slots, leases=leases, nodes=nodes(slots, leases),
    )  # fmt: skip


def waiting(target: str, jobs: int, *features: str) -> WaitingJobs:
    return WaitingJobs(
        source="en", target=target, features=list(features), jobs=jobs, oldest_ms=0, reason=""
    )


def test_the_work_is_wanted() -> None:
    classes = [a_class("a", ["es"], 8, 8), a_class("b", ["fr"], 4, 0)]
    assert slots_wanted(classes, [waiting("es", 12)]) == {"a": 20, "b": 0}


def test_jobs_of_several_classes_count_in_proportion_to_their_slots() -> None:
    classes = [a_class("a", ["es"], 30, 0), a_class("b", ["es", "fr"], 10, 0)]
    assert slots_wanted(classes, [waiting("es", 40)]) == {"a": 30, "b": 10}


def test_a_class_without_slots_is_wanted_for_its_jobs() -> None:
    """An autoscaler can start its first node."""
    assert slots_wanted([a_class("a", ["es"], 0, 0)], [waiting("es", 10)]) == {"a": 10}


def test_a_class_that_cannot_serve_a_job_is_not_wanted_for_it() -> None:
    suspended = a_class("a", ["es"], 8, 1, "tone")
    assert slots_wanted([suspended], [waiting("es", 5, "tone")]) == {"a": 1}
    assert slots_wanted([a_class("a", ["es"], 8, 0, "*")], [waiting("es", 5)]) == {"a": 0}
    assert slots_wanted([a_class("a", ["es"], 8, 0, "en>es")], [waiting("es", 5)]) == {"a": 0}
    assert slots_wanted([a_class("a", ["es"], 8, 0)], [waiting("de", 5)]) == {"a": 0}
