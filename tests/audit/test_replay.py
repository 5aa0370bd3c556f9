"""`why --replay` computes every decision again and reports those that differ from the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

import eventsched
from eventsched.audit.replay import Replay, ReplayReport
from eventsched.audit.scheduler_state import SchedulerState
from eventsched.audit.service import replay
from eventsched.history.position import parse_position
from eventsched.schema.events import (
    Affinity,
    Event,
    JobDispatched,
    JobQueued,
    OtherClasses,
    Rank,
)
from eventsched.store.client import Client
from tests.fixtures_store import TimedStore
from tests.random_history import random_log, source_of, with_data
from tests.scripts.jobs_of import assigned, reply, speak
from tests.server_kinds import Server
from tests.systems import SECOND, serving, system


def replayed(log: Sequence[Event]) -> ReplayReport:
    result = Replay(SchedulerState.empty())
    for event in log:
        result.add(event)
    return result.report


@pytest.mark.parametrize("seed", range(4))
async def test_every_decision_of_a_random_play_is_computed_again_as_it_was(
    store: TimedStore, seed: int
) -> None:
    """The simulation replays every seed as well; here suspensions and many classes are frequent."""
    log = await random_log(store, seed, 150)
    report = replayed(log)
    assert report.differences == []
    assert report.dispatches > 10
    assert report.queued > 10
    assert {"load", "fill"} <= report.by_rule.keys()


async def test_a_range_is_judged_by_what_was_before_it(store: TimedStore, redis: Client) -> None:
    log = await random_log(store, 1, 150)
    source, middle = await source_of(store, redis), parse_position(log[len(log) // 2].id, "since")
    whole = await replay(source, store.cell, None, None, lambda _: None)
    late = await replay(source, store.cell, middle, None, lambda _: None)
    early = await replay(source, store.cell, None, middle, lambda _: None)
    assert whole.agrees and late.agrees and early.agrees
    assert whole.events == len(log)
    assert (early.last, late.first) == (middle.first, middle.first)
    assert early.dispatches + late.dispatches - whole.dispatches <= 1


async def test_any_number_of_waiting_requirements_is_judged_by_their_heads(
    store: TimedStore,
) -> None:
    languages = [a + b for a in "abcdefgh" for b in "klmnopqrs"]
    for at, target in enumerate(languages):
        await speak(store, f"s{at}", targets=[target])
    await store.dispatch()
    await store.join("n1", targets=languages[:64], slots=2)
    await store.join("n2", targets=languages[8:], slots=2)
    log = await store.log()
    report = replayed(log)
    assert (report.by_rule["fill"], report.differences) == (4, [])
    index = next(at for at, event in enumerate(log) if event.type == "JobDispatched")
    nobody = Rank(priority=0, tag=0, member=f"{1:016d}:{log[index].job}")
    changed = replayed([*log[:index], with_data(log[index], runner_up=nobody), *log[index + 1 :]])
    assert "runner_up" in {difference.field for difference in changed.differences}


# --- tampered logs -----------------------------------------------------------------


async def eventful(store: TimedStore) -> Sequence[Event]:
    """A log with a choice by load, by turn, of a second attempt, by fill, and a wait."""
    a, b = await store.join("a", slots=2), await store.join("b", slots=4)
    session = await speak(store, "s1")
    await store.dispatch()
    await store.say(session, 1, end_of_utterance=True)
    await store.dispatch()
    failed: dict[str, Any] = {"status": "failed", "code": "BROKEN", "retryable": True}
    failed["retry_in_ms"] = 0
    (job, *_) = [message["j"] for message in await assigned(store, a)]
    await reply(store, a, job, **failed)
    await speak(store, "s2", count=5)
    await speak(store, "s3", tenant="tiny", priority=0)
    await store.dispatch()
    await reply(store, b, (await assigned(store, b))[-1]["j"])
    log = await store.log()
    assert replayed(log).agrees
    return log


def index_of(log: Sequence[Event], fits: Callable[[Any], bool]) -> int:
    return next(at for at, event in enumerate(log) if fits(event.data))


def by(rule: str) -> Callable[[Any], bool]:
    return lambda data: isinstance(data, JobDispatched) and data.rule == rule


def is_queued(data: Any) -> bool:
    return isinstance(data, JobQueued)


def is_second(data: Any) -> bool:
    return isinstance(data, JobDispatched) and data.attempt == 2 and bool(data.last)


def heavier(data: JobDispatched) -> dict[str, Any]:
    first, *rest = data.classes
    return {"classes": [msgspec.structs.replace(first, load=first.load + 1), *rest]}


def with_others(_: JobDispatched) -> dict[str, Any]:
    return {"other_classes": OtherClasses(classes=1, full=1)}


CHANGES: list[tuple[str, Callable[[Any], bool], Callable[[Any], dict[str, Any]]]] = [
    ("classes", by("load"), heavier),
    ("other_classes", by("load"), with_others),
    ("rule", by("session"), lambda _: {"rule": "load"}),
    ("affinity", by("session"), lambda _: {"affinity": None}),
    ("affinity", by("load"), lambda _: {"affinity": Affinity(node="x.y", why="gone")}),
    ("last", is_second, lambda _: {"last": ""}),
    ("compared", by("fill"), lambda data: {"compared": data.compared + 1}),
    ("winner", by("fill"), lambda data: {"winner": msgspec.structs.replace(data.winner, tag=7)}),
    ("runner_up", by("fill"), lambda _: {"runner_up": Rank(priority=2, tag=9, member="z")}),
    ("policy", by("load"), lambda _: {"policy": 2}),
    ("reason", is_queued, lambda _: {"reason": "NO_POOL_FOR_LANG_PAIR"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "fits", "change"), CHANGES, ids=[change[0] for change in CHANGES]
)
async def test_tampered_evidence_is_reported(
    store: TimedStore,
    field: str,
    fits: Callable[[Any], bool],
    change: Callable[[Any], dict[str, Any]],
) -> None:
    log = list(await eventful(store))
    index = index_of(log, fits)
    log[index] = with_data(log[index], **change(log[index].data))
    differences = replayed(log).differences
    assert field in {each.field for each in differences if each.id == log[index].id}
    assert f"log/{log[index].id}" in str(differences[0])


@pytest.mark.parametrize("rule", ["load", "session", "fill"])
async def test_a_node_that_the_rule_does_not_choose_is_reported(
    store: TimedStore, rule: str
) -> None:
    log = list(await eventful(store))
    index = index_of(log, by(rule))
    event = log[index]
    other = store.keys.full("b" if event.node.endswith(".a") else "a")
    log[index] = msgspec.structs.replace(event, node=other)
    assert event.id in {difference.id for difference in replayed(log).differences}


async def test_a_removed_dispatch_is_reported_by_later_ones(store: TimedStore) -> None:
    log = list(await eventful(store))
    del log[index_of(log, by("load"))]
    assert not replayed(log).agrees


async def test_a_job_that_waited_although_a_node_was_free_is_reported(store: TimedStore) -> None:
    log = list(await eventful(store))
    queued = index_of(log, is_queued)
    first = index_of(log, lambda data: isinstance(data, JobDispatched))
    log.insert(first, msgspec.structs.replace(log[queued], id=log[first].id))
    difference = replayed(log).differences[0]
    assert (difference.field, difference.recorded) == ("node", "")


async def many_classes(store: TimedStore) -> Sequence[Event]:
    """A log whose dispatches name eight of eleven classes; the last is a second attempt."""
    nodes = [await store.join(f"n{no:02d}", features=[f"f{no}"], slots=2) for no in range(11)]
    await speak(store, "s1")
    await speak(store, "s2")
    await store.dispatch()
    (message,) = await assigned(store, nodes[0])
    await reply(
        store, nodes[0], message["j"], status="failed", code="BROKEN", retryable=True, retry_in_ms=0
    )
    log = await store.log()
    assert replayed(log).differences == []
    return log


def by_evidence(log: Sequence[Event], index: int, **changes: Any) -> set[str]:
    """The fields in which the changed dispatch contradicts its own evidence."""
    changed = [*log[:index], with_data(log[index], **changes), *log[index + 1 :]]
    differences = replayed(changed).differences
    assert {each.basis for each in differences} >= {"fold"}
    return {each.field for each in differences if each.basis == "evidence"}


async def test_evidence_that_cannot_name_the_first_classes_is_reported(store: TimedStore) -> None:
    """A swapped order, one class too many, a class without a free node, free nodes left out."""
    log = await many_classes(store)
    index = index_of(log, is_second)
    data = log[index].data
    assert isinstance(data, JobDispatched)
    first, second, third, *rest = data.classes
    assert len(rest) == 5
    assert data.other_classes == OtherClasses(classes=3, free=3)
    full = msgspec.structs.replace(rest[-1], head="", free=0, full=1)
    assert by_evidence(log, index, classes=[first, third, second, *rest]) == {"classes"}
    assert by_evidence(log, index, classes=[second, first, third, *rest]) == {"classes"}
    assert by_evidence(log, index, classes=[*data.classes, rest[-1]]) == {"classes"}
    assert by_evidence(log, index, classes=[*data.classes[:7], full]) == {"classes"}
    assert by_evidence(log, index, classes=data.classes[:7]) == {"other_classes"}


async def test_a_less_loaded_class_that_the_evidence_hides_is_reported_by_the_fold(
    store: TimedStore,
) -> None:
    """The named classes agree with the choice; only the state before it shows the hidden class."""
    log = await many_classes(store)
    index = index_of(log, lambda data: isinstance(data, JobDispatched))
    event, data = log[index], log[index].data
    assert isinstance(data, JobDispatched)
    *_, eighth = data.classes
    ninth = msgspec.structs.replace(eighth, id="x", head=f"{eighth.head}x")
    named = [*data.classes[1:], ninth]
    changed = msgspec.structs.replace(with_data(event, classes=named), node=data.classes[1].head)
    differences = replayed([*log[:index], changed]).differences
    assert {each.basis for each in differences} == {"fold"}
    assert {"node", "classes"} <= {each.field for each in differences}


# --- a real run -----------------------------------------------------------------------------


async def test_a_real_run_agrees(server: Server, cell: str) -> None:
    """Roles and nodes in real time, a node that goes amid its work; read by another connection."""
    nodes = [eventsched.Node(f"n{at}", sources=["en"], targets=["es"], slots=2) for at in range(2)]

    async def repeat(job: eventsched.Job) -> eventsched.Result:
        if job.attempt == 1 and job.utterance % 3 == 0:
            raise eventsched.JobError("AGAIN", retryable=True)
        return eventsched.Result(text=str(len(await job.audio())))

    for node in nodes:
        node.job(repeat)
    async with system(server.url, cell) as es:
        async with serving(es, *nodes), AsyncExitStack() as stack:
            for _ in range(4):
                session = await stack.enter_async_context(
                    es.session(tenant="acme", source="en", targets=["es"])
                )
                for _ in range(6):
                    await session.append(SECOND)
                    await session.finalize()
        store = es.stores[cell]
        entries = await store.read_range(store.keys.log, "-", "+", 100_000)
    log = [eventsched.schema.codec.decode(entry_id, fields) for entry_id, fields in entries]
    report = replayed(log)
    assert report.differences == []
    assert report.dispatches >= 24
