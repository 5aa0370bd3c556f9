"""Rules 13-16, 18 and 20-25: what the records of jobs and nodes hold after their events."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.schema.events import (
    AttemptEnded,
    JobDispatched,
    JobFailed,
    JobPromoted,
    JobQueued,
    NodeDrained,
    NodeDraining,
    NodeLost,
    NodeRegistered,
    NodeResumed,
    NodeSuspended,
    ResultMissing,
    ResultRecorded,
    ResultRefused,
    ResultReplaced,
    SuspensionScope,
)
from projections.job import Job, Jobs
from projections.node import Node, Nodes, Suspension
from tests.projections.telling import S1, Story, job_key

KEY = job_key(0)
N1, N2 = "c0.n1", "c0.n2"


class Worked:
    """The same events, told to jobs and nodes alike."""

    def __init__(self) -> None:
        self.jobs, self.nodes = Story(Jobs()), Story(Nodes())

    def at(self, ms: int, data: Any, *, node: str = "", job: str = KEY) -> None:
        for told in (self.jobs, self.nodes):
            told.at(ms, data, session=S1 if job else "", job=job, node=node)

    def registered(self, ms: int, node: str = N1, *, epoch: int = 1) -> None:
        data = NodeRegistered(
            epoch=epoch, sources=["en"], targets=["es"], features=["tone"], slots=2, cls="k1"
        )
        self.at(ms, data, node=node, job="")

    def queued(self, ms: int, attempt: int = 1, **given: Any) -> None:
        asked: dict[str, Any] = {
            "reason": "NO_AVAILABLE_NODE",
            "priority": 1,
            "tag": 7,
            "member": f"0000000000000001:{KEY}",
            "deadline_ms": ms + 10_000,
        }
        data = JobQueued(
            utterance=0,
            target="es",
            delivery_no=0,
            source="en",
            features=["tone"],
            attempt=attempt,
            **asked | given,
        )
        self.at(ms, data)

    def dispatched(
        self, ms: int, attempt: int = 1, *, node: str = N1, epoch: int = 1, job: str = KEY
    ) -> None:
        data = JobDispatched(
            utterance=0,
            target="es",
            delivery_no=0,
            turn=0,
            source="en",
            features=["tone"],
            attempt=attempt,
            epoch=epoch,
            audio_ms=1_000,
            deadline_ms=ms + 31_000,
            rule="load",
            policy=1,
        )
        self.at(ms, data, node=node, job=job)

    def ended(self, ms: int, attempt: int, reason: Any, *, node: str = N1, epoch: int = 1) -> None:
        data = AttemptEnded(utterance=0, target="es", attempt=attempt, epoch=epoch, reason=reason)
        self.at(ms, data, node=node)

    def recorded(self, ms: int, attempt: int = 1, status: Any = "ok", *, epoch: int = 1) -> None:
        data = ResultRecorded(
            utterance=0, target="es", delivery_no=0, attempt=attempt, epoch=epoch, status=status
        )
        self.at(ms, data, node=N1)

    @property
    def job(self) -> Job:
        job: Job = self.jobs.views[KEY]
        return job

    def node(self, name: str = "n1") -> Node:
        node: Node = self.nodes.views[name]
        return node


@pytest.fixture
def told() -> Worked:
    told = Worked()
    told.registered(500)
    return told


# --- jobs ----------------------------------------------------------------------------------


def test_rule_15_and_18_a_queued_job_holds_its_place_and_why(told: Worked) -> None:
    told.queued(1_000)
    job = told.job
    assert (job.status, job.attempt, job.node, job.reason) == ("queued", 1, "", "NO_AVAILABLE_NODE")
    assert (job.priority, job.tag, job.deadline_ms) == (1, 7, 11_000)
    assert (job.session, job.source, job.features) == (S1, "en", ("tone",))


def test_rule_18_ageing_moves_the_priority_alone(told: Worked) -> None:
    told.queued(1_000)
    before = told.job
    promoted = JobPromoted(utterance=0, target="es", delivery_no=0, attempt=1, priority=0)
    told.at(6_000, promoted)
    assert told.job.priority == 0
    assert (told.job.reason, told.job.deadline_ms) == (before.reason, before.deadline_ms)


def test_rule_11_a_dispatched_job_runs_under_its_token(told: Worked) -> None:
    told.dispatched(1_000)
    job = told.job
    assert (job.status, job.attempt, job.node, job.epoch) == ("running", 1, N1, 1)
    assert (job.created_ms, job.dispatched_ms, job.deadline_ms) == (1_000, 1_000, 32_000)


def test_rule_20_each_attempt_stays_on_record_with_its_end(told: Worked) -> None:
    told.registered(600, N2)
    told.dispatched(1_000)
    told.ended(32_000, 1, "lease")
    assert (told.job.status, told.job.node) == ("released", "")
    told.dispatched(32_000, 2, node=N2)
    tries = [(one.attempt, one.node, one.end, one.ended_ms) for one in told.job.attempts]
    assert tries == [(1, N1, "lease", 32_000), (2, N2, "", 0)]
    assert (told.job.status, told.job.node, told.job.attempt) == ("running", N2, 2)


def test_rule_20_a_job_that_used_up_its_attempts_failed_with_the_code(told: Worked) -> None:
    told.dispatched(1_000, 4)
    told.ended(2_000, 4, "node_lost")
    failed = JobFailed(utterance=0, target="es", delivery_no=0, attempt=4, code="NODE_LOST")
    told.at(2_000, failed)
    job = told.job
    assert (job.status, job.outcome, job.code, job.ended_ms) == (
        "ended", "failed", "NODE_LOST", 2_000,
    )  # fmt: skip


@pytest.mark.parametrize(("status", "outcome"), [("ok", "result"), ("no_speech", "no_speech")])
def test_rule_22_and_24_a_result_ends_the_job(told: Worked, status: str, outcome: str) -> None:
    told.dispatched(1_000)
    told.recorded(1_800, status=status)
    assert (told.job.status, told.job.outcome, told.job.attempts[0].end) == (
        "ended", outcome, status,
    )  # fmt: skip


def test_rule_23_a_complete_result_replaces_an_empty_one(told: Worked) -> None:
    told.dispatched(1_000)
    told.recorded(1_800, status="no_speech")
    replaced = ResultReplaced(
        utterance=0, target="es", delivery_no=0, attempt=1, epoch=1, status="ok"
    )
    told.at(1_900, replaced, node=N1)
    assert told.job.outcome == "result"
    assert told.job.attempts[0].end == "no_speech", "the attempt ended when the first one came"


def test_rule_21_and_23_a_refused_result_is_counted_alone(told: Worked) -> None:
    told.dispatched(1_000)
    told.recorded(1_800)
    before = told.job
    refused = ResultRefused(attempt=1, epoch=1, what="result", code="DUPLICATE_RESULT")
    told.at(1_900, refused, node=N1)
    assert told.job.refused == 1
    assert (told.job.status, told.job.attempts) == (before.status, before.attempts)


def test_rule_25_a_live_attempt_is_cancelled_when_its_outcome_ends(told: Worked) -> None:
    told.dispatched(1_000)
    missing = ResultMissing(utterance=0, target="es", delivery_no=0, reason="gap")
    told.at(31_000, missing)
    told.ended(31_000, 1, "cancelled")
    assert (told.job.status, told.job.outcome, told.job.attempts[0].end) == (
        "ended", "missing", "cancelled",
    )  # fmt: skip
    assert told.node().live == {}


def test_rule_25_a_waiting_job_ends_with_its_outcome(told: Worked) -> None:
    told.queued(1_000)
    told.at(9_000, ResultMissing(utterance=0, target="es", delivery_no=0, reason="close"))
    assert (told.job.status, told.job.outcome) == ("ended", "missing")


def test_rule_25_a_number_given_up_before_its_job_was_created_makes_no_job(told: Worked) -> None:
    told.at(9_000, ResultMissing(utterance=0, target="es", delivery_no=0, reason="close"))
    assert told.jobs.views == {}


# --- nodes ---------------------------------------------------------------------------------


def test_rule_13_a_registered_node_has_its_abilities_and_free_slots(told: Worked) -> None:
    node = told.node()
    assert (node.node, node.epoch, node.status, node.slots, node.cls) == (N1, 1, "alive", 2, "k1")
    assert (node.sources, node.targets, node.features) == (("en",), ("es",), ("tone",))
    assert (node.live, node.suspensions) == ({}, ())


def test_rule_16_live_attempts_are_those_that_hold_slots(told: Worked) -> None:
    told.dispatched(1_000)
    told.dispatched(1_100, job=job_key(1))
    assert set(told.node().live) == {KEY, job_key(1)}
    told.recorded(1_800)
    assert set(told.node().live) == {job_key(1)}
    assert (told.node().dispatches, told.node().results) == (2, 1)


def test_rule_16_only_that_very_attempt_gives_its_slot_back(told: Worked) -> None:
    told.dispatched(1_000, 2)
    told.ended(1_500, 1, "lease")
    assert set(told.node().live) == {KEY}
    told.ended(1_600, 2, "lease", epoch=9)
    assert set(told.node().live) == {KEY}
    told.ended(1_700, 2, "lease")
    assert told.node().live == {}


def test_rule_13_a_newer_registration_holds_nothing_of_its_own_yet(told: Worked) -> None:
    told.dispatched(1_000)
    told.at(2_000, NodeLost(epoch=1, reason="superseded", leases=1), node=N1, job="")
    assert (told.node().status, told.node().reason) == ("gone", "superseded")
    told.registered(2_000, epoch=2)
    node = told.node()
    assert (node.status, node.epoch, node.reason) == ("alive", 2, "")
    assert [held.epoch for held in node.live.values()] == [1], "taken back one by one"
    told.ended(2_000, 1, "superseded")
    assert told.node().live == {}


def test_rule_13_a_drained_node_is_gone_by_its_own_wish(told: Worked) -> None:
    told.at(1_000, NodeDraining(epoch=1), node=N1, job="")
    assert told.node().status == "draining"
    told.at(2_000, NodeDrained(epoch=1), node=N1, job="")
    assert (told.node().status, told.node().reason, told.node().gone_ms) == (
        "gone", "drained", 2_000,
    )  # fmt: skip


def suspended(
    scope: SuspensionScope = "feature", subject: str = "tone", until_ms: int = 61_000
) -> NodeSuspended:
    return NodeSuspended(
        epoch=1, scope=scope, subject=subject, reason="MODEL_NOT_AVAILABLE", until_ms=until_ms,
        cls="k2",
    )  # fmt: skip


def resumed(scope: SuspensionScope, subject: str) -> NodeResumed:
    return NodeResumed(epoch=1, scope=scope, subject=subject, reason="expired", cls="k1")


def test_rule_14_a_suspension_and_its_end_move_the_node_between_classes(told: Worked) -> None:
    told.at(1_000, suspended(), node=N1, job="")
    assert told.node().suspensions == (
        Suspension("feature", "tone", 61_000, "MODEL_NOT_AVAILABLE"),
    )
    assert (told.node().suspended("feature"), told.node().cls) == (["tone"], "k2")
    told.at(61_000, resumed("feature", "tone"), node=N1, job="")
    assert (told.node().suspensions, told.node().cls) == ((), "k1")


def test_rule_14_a_later_suspension_of_the_same_subject_replaces_the_earlier(told: Worked) -> None:
    told.at(1_000, suspended(), node=N1, job="")
    told.at(2_000, suspended(until_ms=62_000), node=N1, job="")
    assert [one.until_ms for one in told.node().suspensions] == [62_000]


def test_rule_14_suspensions_of_different_scopes_end_one_by_one(told: Worked) -> None:
    told.at(1_000, suspended("node", ""), node=N1, job="")
    told.at(1_000, suspended("language_pair", "en>es"), node=N1, job="")
    told.at(1_000, suspended(), node=N1, job="")
    kept = [(one.scope, one.subject) for one in told.node().suspensions]
    assert kept == [("feature", "tone"), ("language_pair", "en>es"), ("node", "")]
    told.at(2_000, resumed("node", ""), node=N1, job="")
    assert told.node().suspended("node") == []
    assert told.node().suspended("language_pair") == ["en>es"]
    assert told.node().suspended("feature") == ["tone"]


def test_rule_14_a_new_registration_is_not_suspended(told: Worked) -> None:
    told.at(1_000, suspended(), node=N1, job="")
    told.at(2_000, NodeLost(epoch=1, reason="silent"), node=N1, job="")
    assert told.node().suspensions == ()
    told.registered(3_000, epoch=2)
    assert (told.node().suspensions, told.node().cls) == ((), "k1")


def test_rule_1_events_of_a_node_that_never_registered_make_no_record(told: Worked) -> None:
    told.dispatched(1_000, node=N2)
    assert set(told.nodes.views) == {"n1"}
