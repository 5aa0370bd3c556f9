"""Rules 13 to 16, 18 and 20 to 25: the records of jobs and nodes after their events."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.schema.events import (
    AttemptEnded,
    JobDispatched,
    JobFailed,
    JobPromoted,
    JobQueued,
    JobsRetired,
    NodeDrained,
    NodeDraining,
    NodeLost,
    NodeRegistered,
    NodeResumed,
    NodeRetired,
    NodeSuspended,
    ResultMissing,
    ResultRecorded,
    ResultRefused,
    ResultReplaced,
    SessionRetired,
    SuspensionScope,
)
from projections.job import Job, Jobs, retired_jobs
from projections.node import Node, Nodes, Suspension
from tests.projections.folded_log import S1, FoldedLog, job_key

KEY = job_key(0)
N1, N2 = "c0.n1", "c0.n2"


class JobLog:
    """The same events, folded by the projections of jobs and of nodes."""

    def __init__(self) -> None:
        self.jobs, self.nodes = FoldedLog(Jobs()), FoldedLog(Nodes())

    def at(self, ms: int, data: Any, *, node: str = "", job: str = KEY) -> None:
        for folded_log in (self.jobs, self.nodes):
            folded_log.at(ms, data, session=S1 if job else "", job=job, node=node)

    def registered(self, ms: int, node: str = N1, *, epoch: int = 1) -> None:
        data = NodeRegistered(
            epoch=epoch, sources=["en"], targets=["es"], features=["tone"], slots=2, cls="k1"
        )
        self.at(ms, data, node=node, job="")

    def queued(self, ms: int, attempt: int = 1, **changes: Any) -> None:
        fields: dict[str, Any] = {
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
            **fields | changes,
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
def log() -> JobLog:
    log = JobLog()
    log.registered(500)
    return log


# --- jobs ----------------------------------------------------------------------------------


def test_rule_15_and_18_a_queued_job_has_its_place_and_its_reason(log: JobLog) -> None:
    log.queued(1_000)
    job = log.job
    assert (job.status, job.attempt, job.node, job.reason) == ("queued", 1, "", "NO_AVAILABLE_NODE")
    assert (job.priority, job.tag, job.deadline_ms) == (1, 7, 11_000)
    assert (job.session, job.source, job.features) == (S1, "en", ("tone",))


def test_rule_20_a_job_backs_off_then_avoids_its_last_node(log: JobLog) -> None:
    log.dispatched(1_000)
    log.ended(1_500, 1, "failed")
    backoff = {"reason": "retry_backoff", "not_before_ms": 1_600}
    log.queued(1_500, attempt=2, last="c0.n1", avoid_until_ms=3_600, **backoff)
    job = log.job
    assert (job.status, job.attempt, job.reason) == ("backoff", 2, "retry_backoff")
    assert (job.not_before_ms, job.avoid_until_ms) == (1_600, 3_600)
    log.queued(1_600, attempt=2, last="c0.n1", avoid_until_ms=3_600)
    job = log.job
    assert (job.status, job.not_before_ms, job.avoid_until_ms) == ("queued", 0, 3_600)
    log.queued(3_600, attempt=2)
    assert (log.job.status, log.job.avoid_until_ms) == ("queued", 0)
    log.dispatched(3_700, attempt=2)
    assert (log.job.status, log.job.not_before_ms, log.job.avoid_until_ms) == ("running", 0, 0)


def test_rule_18_promotion_changes_the_priority_alone(log: JobLog) -> None:
    log.queued(1_000)
    before = log.job
    promoted = JobPromoted(utterance=0, target="es", delivery_no=0, attempt=1, priority=0)
    log.at(6_000, promoted)
    assert log.job.priority == 0
    assert (log.job.reason, log.job.deadline_ms) == (before.reason, before.deadline_ms)


def test_rule_11_a_dispatched_job_runs_under_its_token(log: JobLog) -> None:
    log.dispatched(1_000)
    job = log.job
    assert (job.status, job.attempt, job.node, job.epoch) == ("running", 1, N1, 1)
    assert (job.created_ms, job.dispatched_ms, job.deadline_ms) == (1_000, 1_000, 32_000)


def test_rule_20_each_attempt_stays_in_the_record_with_its_end(log: JobLog) -> None:
    log.registered(600, N2)
    log.dispatched(1_000)
    log.ended(32_000, 1, "lease")
    assert (log.job.status, log.job.node) == ("released", "")
    log.dispatched(32_000, 2, node=N2)
    attempts = [(each.attempt, each.node, each.end, each.ended_ms) for each in log.job.attempts]
    assert attempts == [(1, N1, "lease", 32_000), (2, N2, "", 0)]
    assert (log.job.status, log.job.node, log.job.attempt) == ("running", N2, 2)


def test_rule_20_a_job_that_used_up_its_attempts_failed_with_the_code(log: JobLog) -> None:
    log.dispatched(1_000, 4)
    log.ended(2_000, 4, "node_lost")
    failed = JobFailed(utterance=0, target="es", delivery_no=0, attempt=4, code="NODE_LOST")
    log.at(2_000, failed)
    job = log.job
    assert (job.status, job.outcome, job.code, job.ended_ms) == (
        "ended", "failed", "NODE_LOST", 2_000,
    )  # fmt: skip


@pytest.mark.parametrize(("status", "outcome"), [("ok", "result"), ("no_speech", "no_speech")])
def test_rule_22_and_24_a_result_ends_the_job(log: JobLog, status: str, outcome: str) -> None:
    log.dispatched(1_000)
    log.recorded(1_800, status=status)
    assert (log.job.status, log.job.outcome, log.job.attempts[0].end) == (
        "ended", outcome, status,
    )  # fmt: skip


def test_rule_23_a_complete_result_replaces_an_empty_one(log: JobLog) -> None:
    log.dispatched(1_000)
    log.recorded(1_800, status="no_speech")
    replaced = ResultReplaced(
        utterance=0, target="es", delivery_no=0, attempt=1, epoch=1, status="ok"
    )
    log.at(1_900, replaced, node=N1)
    assert log.job.outcome == "result"
    assert log.job.attempts[0].end == "no_speech", "the attempt ended when the first result came"


def test_rule_21_and_23_a_refused_result_is_counted_and_changes_nothing_else(log: JobLog) -> None:
    log.dispatched(1_000)
    log.recorded(1_800)
    before = log.job
    refused = ResultRefused(attempt=1, epoch=1, what="result", code="DUPLICATE_RESULT")
    log.at(1_900, refused, node=N1)
    assert log.job.refused == 1
    assert (log.job.status, log.job.attempts) == (before.status, before.attempts)


def test_rule_25_a_live_attempt_is_cancelled_when_its_outcome_ends(log: JobLog) -> None:
    log.dispatched(1_000)
    missing = ResultMissing(utterance=0, target="es", delivery_no=0, reason="gap")
    log.at(31_000, missing)
    log.ended(31_000, 1, "cancelled")
    assert (log.job.status, log.job.outcome, log.job.attempts[0].end) == (
        "ended", "missing", "cancelled",
    )  # fmt: skip
    assert log.node().live == {}


def test_rule_25_a_waiting_job_ends_with_its_outcome(log: JobLog) -> None:
    log.queued(1_000)
    log.at(9_000, ResultMissing(utterance=0, target="es", delivery_no=0, reason="close"))
    assert (log.job.status, log.job.outcome) == ("ended", "missing")


def test_rule_25_a_missing_number_without_a_job_makes_no_job(log: JobLog) -> None:
    log.at(9_000, ResultMissing(utterance=0, target="es", delivery_no=0, reason="close"))
    assert log.jobs.views == {}


# --- nodes ---------------------------------------------------------------------------------


def test_rule_10_retired_jobs_have_no_record(log: JobLog) -> None:
    for utterance in range(3):
        log.dispatched(100, job=job_key(utterance))
    data = JobsRetired(tenant="acme", features_hash="none", first=0, last=1, targets=["es", "fr"])
    for at_ms in (200, 201):  # a call that failed is repeated, and appends the event again
        log.at(at_ms, data, job=KEY)
        assert list(log.jobs.views) == [job_key(2)]


def test_rule_10_an_event_retires_the_jobs_of_at_most_16_utterances(log: JobLog) -> None:
    """As a script does. A forged event does not keep a reader busy."""
    for utterance in (0, 15, 16):
        log.dispatched(100, job=job_key(utterance))
    data = JobsRetired(tenant="acme", features_hash="none", first=0, last=2**53 - 1, targets=["es"])
    log.at(200, data, job=KEY)
    assert list(log.jobs.views) == [job_key(16)]


def test_rule_10_the_end_of_a_session_retires_the_jobs_of_at_most_2048_utterances(
    log: JobLog,
) -> None:
    """The scripts leave fewer. A forged event does not keep a reader busy."""
    for utterance in (0, 2_047, 2_048):
        log.dispatched(100, job=job_key(utterance))
    targets = ["es", *(f"x{number}" for number in range(10_000))]
    data = SessionRetired(tenant="acme", utterances=2**53 - 1, targets=targets)
    log.at(200, data, job=KEY)
    assert list(log.jobs.views) == [job_key(2_048)]
    assert len(retired_jobs(S1, data)) == 2_048 * 64


def test_rule_13_a_registered_node_has_its_abilities_and_free_slots(log: JobLog) -> None:
    node = log.node()
    assert (node.node, node.epoch, node.status, node.slots, node.cls) == (N1, 1, "alive", 2, "k1")
    assert (node.sources, node.targets, node.features) == (("en",), ("es",), ("tone",))
    assert (node.live, node.suspensions) == ({}, ())


def test_rule_16_live_attempts_are_those_that_hold_slots(log: JobLog) -> None:
    log.dispatched(1_000)
    log.dispatched(1_100, job=job_key(1))
    assert set(log.node().live) == {KEY, job_key(1)}
    log.recorded(1_800)
    assert set(log.node().live) == {job_key(1)}
    assert (log.node().dispatches, log.node().results) == (2, 1)


def test_rule_16_only_the_same_attempt_releases_the_slot(log: JobLog) -> None:
    log.dispatched(1_000, 2)
    log.ended(1_500, 1, "lease")
    assert set(log.node().live) == {KEY}
    log.ended(1_600, 2, "lease", epoch=9)
    assert set(log.node().live) == {KEY}
    log.ended(1_700, 2, "lease")
    assert log.node().live == {}


def test_rule_13_a_new_registration_has_no_attempt_of_its_own(log: JobLog) -> None:
    log.dispatched(1_000)
    log.at(2_000, NodeLost(epoch=1, reason="superseded", leases=1), node=N1, job="")
    assert (log.node().status, log.node().reason) == ("gone", "superseded")
    log.registered(2_000, epoch=2)
    node = log.node()
    assert (node.status, node.epoch, node.reason) == ("alive", 2, "")
    assert [attempt.epoch for attempt in node.live.values()] == [1], "each ends by its own event"
    log.ended(2_000, 1, "superseded")
    assert log.node().live == {}


def test_rule_13_a_drained_node_is_gone(log: JobLog) -> None:
    log.at(1_000, NodeDraining(epoch=1), node=N1, job="")
    assert log.node().status == "draining"
    log.at(2_000, NodeDrained(epoch=1), node=N1, job="")
    assert (log.node().status, log.node().reason, log.node().gone_ms) == (
        "gone", "drained", 2_000,
    )  # fmt: skip


def test_rule_13_a_retired_node_has_no_record_until_it_registers_again(log: JobLog) -> None:
    log.dispatched(1_000)
    log.ended(1_100, 1, "drained")
    log.at(2_000, NodeDrained(epoch=1), node=N1, job="")
    log.at(3_000, NodeRetired(epoch=1), node=N1, job="")
    assert log.nodes.views == {}
    log.registered(4_000, epoch=2)
    assert (log.node().status, log.node().epoch, log.node().dispatches) == ("alive", 2, 0)


def suspended(
    scope: SuspensionScope = "feature", subject: str = "tone", until_ms: int = 61_000
) -> NodeSuspended:
    return NodeSuspended(
        epoch=1, scope=scope, subject=subject, reason="MODEL_NOT_AVAILABLE", until_ms=until_ms,
        cls="k2",
    )  # fmt: skip


def resumed(scope: SuspensionScope, subject: str) -> NodeResumed:
    return NodeResumed(epoch=1, scope=scope, subject=subject, reason="expired", cls="k1")


def test_rule_14_a_suspension_and_its_end_move_the_node_between_classes(log: JobLog) -> None:
    log.at(1_000, suspended(), node=N1, job="")
    assert log.node().suspensions == (Suspension("feature", "tone", 61_000, "MODEL_NOT_AVAILABLE"),)
    assert (log.node().suspended("feature"), log.node().cls) == (["tone"], "k2")
    log.at(61_000, resumed("feature", "tone"), node=N1, job="")
    assert (log.node().suspensions, log.node().cls) == ((), "k1")


def test_rule_14_a_later_suspension_of_the_same_subject_replaces_the_earlier(log: JobLog) -> None:
    log.at(1_000, suspended(), node=N1, job="")
    log.at(2_000, suspended(until_ms=62_000), node=N1, job="")
    assert [each.until_ms for each in log.node().suspensions] == [62_000]


def test_rule_14_suspensions_of_different_scopes_end_one_by_one(log: JobLog) -> None:
    log.at(1_000, suspended("node", ""), node=N1, job="")
    log.at(1_000, suspended("language_pair", "en>es"), node=N1, job="")
    log.at(1_000, suspended(), node=N1, job="")
    subjects = [(each.scope, each.subject) for each in log.node().suspensions]
    assert subjects == [("feature", "tone"), ("language_pair", "en>es"), ("node", "")]
    log.at(2_000, resumed("node", ""), node=N1, job="")
    assert log.node().suspended("node") == []
    assert log.node().suspended("language_pair") == ["en>es"]
    assert log.node().suspended("feature") == ["tone"]


def test_rule_14_a_new_registration_is_not_suspended(log: JobLog) -> None:
    log.at(1_000, suspended(), node=N1, job="")
    log.at(2_000, NodeLost(epoch=1, reason="silent"), node=N1, job="")
    assert log.node().suspensions == ()
    log.registered(3_000, epoch=2)
    assert (log.node().suspensions, log.node().cls) == ((), "k1")


def test_rule_1_events_of_a_node_that_never_registered_make_no_record(log: JobLog) -> None:
    log.dispatched(1_000, node=N2)
    assert set(log.nodes.views) == {"n1"}
