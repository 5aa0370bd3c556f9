"""`check(store)`: what must be true of the nodes and jobs of a cell after any sequence of calls.

Owns: authoritative state of jobs, nodes, classes, slots and queues compared with the fold of the
log, and with each other. Never does: sessions and delivery.
"""

from __future__ import annotations

from typing import Any

from eventsched.schema.events import (
    Event,
    JobDispatched,
    JobQueued,
    UtteranceFinalized,
)
from eventsched.schema.keys import name_of
from eventsched.store.replies import fields_of
from projections.job import Job, Jobs
from projections.node import Node, Nodes
from tests.fixtures_store import TimedStore
from tests.job_record import job_record
from tests.scripts.snapshot import snapshot

CHARGE_MIN_MS = 1_000
_OUTCOMES = {"ok": "result", "no_speech": "no_speech", "failed": "failed", "missing": "missing"}


async def check(store: TimedStore, *, idle: bool = True) -> None:
    """`idle`: the dispatch queue is empty, so no job may wait for a slot that is free."""
    store = await snapshot(store)
    events = await store.log()
    jobs: dict[str, Job] = _fold(Jobs(), events)
    nodes: dict[str, Node] = _fold(Nodes(), events)
    waiting = {key: job for key, job in jobs.items() if job.status == "queued"}
    assert not [key for key, job in jobs.items() if job.status == "released"]
    for key, job in jobs.items():
        await _check_job(store, key, job)
    for name, node in nodes.items():
        await _check_node(store, name, node)
    await _check_slots(store, jobs, nodes)
    await _check_classes(store, nodes, waiting)
    await _check_queues(store, jobs, waiting)
    await _check_fair_share(store, events, jobs)
    await _check_timers(store, jobs, nodes)
    if idle:
        await _check_nobody_waits_for_a_free_slot(store, nodes, waiting)
    dead = await store.read_range(store.keys.dead_letters, "-", "+", 10)
    assert dead == []


def _fold(projection: Any, events: list[Event]) -> dict[str, Any]:
    views: dict[str, Any] = {}
    for event in events:
        _apply(projection, views, event)
    return views


def _apply(projection: Any, views: dict[str, Any], event: Event) -> None:
    for entity in projection.route(event):
        view = projection.apply(views.get(entity), event)
        if view is None:
            views.pop(entity, None)
        else:
            views[entity] = view


async def zset(store: TimedStore, key: str) -> dict[str, int]:
    """Members by score, in order."""
    flat = await store.transport.command("ZRANGE", key, 0, -1, "WITHSCORES", key=key)
    scores = dict(flat) if flat and isinstance(flat[0], (list, tuple)) else fields_of(flat)
    return {member.decode(): int(float(score)) for member, score in scores.items()}


async def members(store: TimedStore, key: str) -> set[str]:
    return {member.decode() for member in await store.transport.command("SMEMBERS", key, key=key)}


async def _check_job(store: TimedStore, key: str, job: Job) -> None:
    fields = await job_record(store, key)
    assert fields, f"no record of {key}"
    assert (fields["status"], int(fields["attempt"])) == (job.status, job.attempt), key
    if job.status == "running":
        assert store.keys.full(fields["node"]) == job.node
        assert int(fields["epoch"]) == job.epoch
        assert int(fields["dispatched"]) == job.dispatched_ms
        assert job.deadline_ms <= int(fields["deadline"]) <= job.dispatched_ms + 300_000
    if job.status == "queued":
        assert int(fields["priority"]) == job.priority
        assert (int(fields["tag"]), fields["member"]) == (job.tag, job.member)
        assert int(fields["deadline"]) == job.deadline_ms
        assert int(fields["dispatched"] or 0) == job.avoid_until_ms
    if job.status == "backoff":
        assert int(fields["dispatched"]) == job.not_before_ms
        assert int(fields["deadline"]) == job.avoid_until_ms
    if job.status == "ended":
        assert _OUTCOMES[fields["outcome"]] == job.outcome
        assert fields["code"] == job.code


async def _check_node(store: TimedStore, name: str, node: Node) -> None:
    fields = await store.read_hash(store.keys.node(name))
    assert (fields["status"], int(fields["epoch"])) == (node.status, node.epoch)
    assert (fields["class"], int(fields["slots"])) == (node.cls, node.slots)
    assert fields["suspended"] == ",".join(node.suspension_words)
    assert fields["sources"] == ",".join(node.sources)
    assert fields["targets"] == ",".join(node.targets)
    assert fields["features"] == ",".join(node.features)


async def _check_slots(store: TimedStore, jobs: dict[str, Job], nodes: dict[str, Node]) -> None:
    """The leases are the live attempts, and never more than the slots."""
    running = {key: job for key, job in jobs.items() if job.status == "running"}
    for name, node in nodes.items():
        for epoch in range(1, node.epoch + 1):
            leases = await zset(store, store.keys.leases(name, epoch))
            held = {
                key: job.dispatched_ms
                for key, job in running.items()
                if (job.node, job.epoch) == (node.node, epoch)
            }
            assert leases == held
        live = {key for key, job in running.items() if job.node == node.node}
        assert set(node.live) == live
        assert len([1 for job in node.live.values() if job.epoch == node.epoch]) <= node.slots


async def _check_classes(
    store: TimedStore, nodes: dict[str, Node], waiting: dict[str, Job]
) -> None:
    by_class: dict[str, dict[str, Node]] = {}
    for name, node in nodes.items():
        if node.status != "gone":
            by_class.setdefault(node.cls, {})[name] = node
    assert await members(store, store.keys.classes) == set(by_class)
    for class_id, inside in by_class.items():
        member = next(iter(inside.values()))
        assert all(signature(node) == signature(member) for node in inside.values())
        fields = await store.read_hash(store.keys.node_class(class_id))
        assert int(fields["draining"]) == len(
            [1 for n in inside.values() if n.status == "draining"]
        )
        assert await members(store, store.keys.members(class_id)) == set(inside)
        free = {
            name: 1000 * live_of(node) // node.slots
            for name, node in inside.items()
            if node.status == "alive" and live_of(node) < node.slots
        }
        assert await zset(store, store.keys.free(class_id)) == free
        listed = [
            f"{place}:{queue}"
            for queue, place in places_of(waiting).items()
            if serves(member, queue.partition("|")[0])
        ]
        assert list(await zset(store, store.keys.requirements_of(class_id))) == sorted(listed)
    await _check_pairs(store, nodes, by_class)
    await _check_no_class_is_left(store, nodes, by_class)


async def _check_pairs(
    store: TimedStore, nodes: dict[str, Node], by_class: dict[str, dict[str, Node]]
) -> None:
    for node in nodes.values():
        for source in node.sources:
            for target in node.targets:
                serving = {
                    class_id
                    for class_id, inside in by_class.items()
                    for node in inside.values()
                    if source in node.sources and target in node.targets
                }
                assert await members(store, store.keys.pair(source, target)) == serving


async def _check_no_class_is_left(
    store: TimedStore, nodes: dict[str, Node], by_class: dict[str, dict[str, Node]]
) -> None:
    for class_id in {node.cls for node in nodes.values()} - set(by_class):
        for key in (
            store.keys.node_class(class_id),
            store.keys.members(class_id),
            store.keys.free(class_id),
            store.keys.requirements_of(class_id),
        ):
            assert await store.transport.command("EXISTS", key, key=key) == 0, key


async def _check_queues(store: TimedStore, jobs: dict[str, Job], waiting: dict[str, Job]) -> None:
    assert await store.read_hash(store.keys.requirements) == places_of(waiting)
    for queue in {queue_of(job) for job in jobs.values()} | set(map(requirement_of, jobs.values())):
        for priority in (0, 1, 2):
            queued = {
                job.member: job.tag
                for job in waiting.values()
                if queue_of(job) == queue and job.priority == priority
            }
            assert await zset(store, store.keys.waiting(priority, queue)) == queued
    assert await zset(store, store.keys.backoffs) == {
        f"{requirement_of(job)} {key}": job.not_before_ms
        for key, job in jobs.items()
        if job.status == "backoff"
    }
    tenants: dict[str, int] = {}
    for key, job in jobs.items():
        if job.status in ("queued", "backoff"):
            tenant = key.partition(":")[0]
            tenants[tenant] = tenants.get(tenant, 0) + 1
    backlog = await store.read_hash(store.keys.tenant_queued)
    assert {tenant: int(count) for tenant, count in backlog.items()} == tenants


async def _check_fair_share(store: TimedStore, events: list[Event], jobs: dict[str, Job]) -> None:
    """Rule 18, fair waiting: V, F and every tag follow from the events."""
    virtual, finish, paid = 0, dict[str, int](), set[str]()
    folding, before = Jobs(), dict[str, Job]()

    def start() -> int:
        return min([virtual, *(job.tag for job in before.values() if job.status == "queued")])

    spoken: dict[tuple[str, int], int] = {}
    for event in events:
        match event.data:
            case UtteranceFinalized() as data:
                spoken[event.session, data.utterance] = data.ms
            case JobQueued() as data:
                if event.job not in paid:
                    paid.add(event.job)
                    tenant = event.job.partition(":")[0]
                    # A call drops a finish tag that is not above the virtual time.
                    finish_tag = finish.get(tenant, 0)
                    assert data.tag in (start(), max(start(), finish_tag))
                    charge = max(spoken[event.session, data.utterance], CHARGE_MIN_MS)
                    finish[tenant] = data.tag + charge
            case JobDispatched(winner=winner) if winner is not None:
                virtual = max(virtual, winner.tag)
        _apply(folding, before, event)
    cell = await store.read_hash(store.keys.counters)
    assert int(cell.get("virtual", "0")) == virtual
    assert int(cell.get("entry", "0")) == len(paid)
    tags = await zset(store, store.keys.tenant_finish_tag)
    assert {tenant: due for tenant, due in finish.items() if due > virtual}.items() <= tags.items()
    assert tags.items() <= finish.items()
    assert await zset(store, store.keys.waiting_tags) == {
        job.member: job.tag for job in jobs.values() if job.status == "queued"
    }


async def _check_timers(store: TimedStore, jobs: dict[str, Job], nodes: dict[str, Node]) -> None:
    due = await zset(store, store.keys.timers)
    await _check_lease_timers(store, jobs, due)
    expected = {f"wait|{key}" for key, job in jobs.items() if job.status == "queued"}
    assert {member for member in due if member.startswith("wait|")} == expected
    backoffs = {
        f"backoff|{key}": job.not_before_ms for key, job in jobs.items() if job.status == "backoff"
    }
    assert {timer: ms for timer, ms in due.items() if timer.startswith("backoff|")} == backoffs
    avoidances = {
        f"avoid|{key}": job.avoid_until_ms
        for key, job in jobs.items()
        if job.status == "queued" and job.avoid_until_ms
    }
    assert {timer: ms for timer, ms in due.items() if timer.startswith("avoid|")} == avoidances
    alive = {f"node|{name}" for name, node in nodes.items() if node.status != "gone"}
    assert {member for member in due if member.startswith("node|")} == alive
    assert {f"gone|{name}" for name, node in nodes.items() if node.status == "gone"} <= due.keys()
    marks = {
        f"suspension|{name}|{suspension.subject or '*'}": suspension.until_ms
        for name, node in nodes.items()
        for suspension in node.suspensions
    }
    assert marks.items() <= due.items()


async def _check_lease_timers(store: TimedStore, jobs: dict[str, Job], due: dict[str, int]) -> None:
    """Each registration with live leases has one timer, due by the end of its first lease; a timer
    that is left from earlier leases is due within 15 s as well.
    """
    for key, job in jobs.items():
        if job.status == "running":
            ends_ms = int((await job_record(store, key))["deadline"])
            assert due[f"leases|{name_of(job.node)}|{job.epoch}"] <= ends_ms
    left = [ms for member, ms in due.items() if member.startswith("leases|")]
    assert max(left, default=0) <= store.at_ms + 15_000


async def _check_nobody_waits_for_a_free_slot(
    store: TimedStore, nodes: dict[str, Node], waiting: dict[str, Job]
) -> None:
    assert await store.transport.command("XLEN", store.keys.dispatch, key=store.keys.dispatch) == 0
    for node in nodes.values():
        if node.status == "alive" and live_of(node) < node.slots:
            stuck = [
                key
                for key, job in waiting.items()
                if serves(node, requirement_of(job)) and not avoids(job, node)
            ]
            assert not stuck, f"{node.node} is free for {stuck}"


def live_of(node: Node) -> int:
    return len([1 for held in node.live.values() if held.epoch == node.epoch])


def requirement_of(job: Job) -> str:
    return f"{job.source}:{job.target}:{','.join(job.features)}"


def avoids(job: Job, node: Node) -> bool:
    return job.avoid_until_ms > 0 and job.attempts[-1].node == node.node


def queue_of(job: Job) -> str:
    """The queue in which the job waits: its requirement, and the node that it avoids."""
    name = requirement_of(job)
    return f"{name}|{name_of(job.attempts[-1].node)}" if job.avoid_until_ms else name


def places_of(waiting: dict[str, Job]) -> dict[str, str]:
    """The place of the next job of each queue."""
    places: dict[str, str] = {}
    for job in waiting.values():
        place = f"{job.priority}:{job.tag:016d}:{job.member[:16]}"
        queue = queue_of(job)
        places[queue] = min(place, places.get(queue, place))
    return places


def serves(node: Node, requirement: str) -> bool:
    source, target, features = requirement.split(":")
    required = set(features.split(",")) - {""}
    usable = set(node.features) - set(node.suspended("feature"))
    if node.suspended("node") or f"{source}>{target}" in node.suspended("language_pair"):
        return False
    return source in node.sources and target in node.targets and required <= usable


def signature(node: Node) -> tuple[object, ...]:
    return (node.sources, node.targets, node.features, tuple(node.suspension_words))
