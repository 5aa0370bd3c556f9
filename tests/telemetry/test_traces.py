"""Traces: the spans of an utterance at a collector, whatever dies in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import set_tracer_provider

import eventsched
from eventsched.client.client import Client
from eventsched.projection.fold import decode_event
from eventsched.schema.codec import encode
from eventsched.schema.events import (
    AttemptEnded,
    Event,
    JobDispatched,
    ResultRecorded,
    UtteranceFinalized,
)
from eventsched.schema.ids import ms_of
from eventsched.schema.trace_context import attempt_spans, finalize_span
from eventsched.store.cell import Store
from eventsched.store.replies import named_fields_of
from eventsched.telemetry.otlp import OtlpCollector
from eventsched.telemetry.spans import Spans
from eventsched.telemetry.trace_exporter import GROUP, TraceExporter
from tests.fixtures_store import TimedStore
from tests.server_kinds import Server
from tests.systems import serving, system, until
from tests.telemetry import span_handlers
from tests.telemetry.collectors import (
    COLLECTORS,
    Collector,
    Received,
    exporter_of,
    http_collector,
)

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
CHUNK = b"\x01\x00" * 1_600
NS_PER_MS = 1_000_000
CLAIM_MS = 1_000


def store_of(es: Client) -> Store:
    return next(iter(es.stores.values()))


def flaky() -> eventsched.Node:
    """A node that fails at the first attempt of each job."""
    node = eventsched.Node("n1", sources=["en"], targets=["es"], slots=2)

    @node.job
    async def _(job: eventsched.Job) -> eventsched.Result:
        if job.attempt == 1:
            raise eventsched.JobError("BUSY", retryable=True, retry_in_ms=20)
        return eventsched.Result(text="hola")

    return node


@asynccontextmanager
async def exporting(
    store: Store, collector: Collector, name: str = "e1", timeout_s: float = 5.0
) -> AsyncIterator[None]:
    """An exporter of a process that dies at the end of the block."""
    to = OtlpCollector(collector.url, store.cell, timeout_s)
    exporter = TraceExporter(
        store, to, name, start="0", claim_ms=CLAIM_MS, pause_s_min=0.01, gather_s=0.01
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exporter.run)
        yield
        tasks.cancel_scope.cancel()


async def speak(es: Client, traceparent: str = TRACEPARENT, utterances: int = 1) -> str:
    """A session with its results; returns its id."""
    async with es.session(
        tenant="acme", source="en", targets=["es"], traceparent=traceparent
    ) as session:
        for _ in range(utterances):
            await session.append(CHUNK)
            await session.append(CHUNK, end_of_utterance=True)
    return session.id


async def events_of(store: Store) -> list[Event]:
    entries = await store.read_range(store.keys.log, "-", "+", 1_000)
    return [event for event in map(decode_event, entries) if isinstance(event, Event)]


def by_type(events: list[Event], kind: type) -> list[Event]:
    return [event for event in events if isinstance(event.data, kind)]


async def expected(store: Store) -> set[tuple[str, str, str, int, int]]:
    """Name, trace, id and times of the spans of the whole log, made in one go."""
    spans = Spans()
    return {
        (span.name, span.trace_id, span.span_id, span.start_ms, span.end_ms)
        for event in await events_of(store)
        for span in spans.of(event)
    }


def received(collector: Collector) -> set[tuple[str, str, str, int, int]]:
    return {
        (span.name, span.trace_id, span.span_id, span.start_ns // NS_PER_MS,
         span.end_ns // NS_PER_MS)
        for span in list(collector.spans)
    }  # fmt: skip


async def is_acknowledged(store: Store) -> bool:
    """Whether the exporters have acknowledged the whole log."""
    reply = await store.transport.command("XINFO", "GROUPS", store.keys.log, key=store.keys.log)
    groups = {fields["name"]: fields for fields in map(named_fields_of, reply)}
    group = groups.get(GROUP.encode())
    return group is not None and bool(group["pending"] == group["lag"] == 0)


FORGED = (
    JobDispatched(
        utterance=0, target="es", delivery_no=0, turn=0, source="en", attempt=1, epoch=1,
        audio_ms=1, deadline_ms=1, rule="fill", policy=1, age_ms=2**53 - 1,
    ),
    UtteranceFinalized(
        utterance=-1, turn=-1, first="0-1", first_seq=0, last="0-1", count=-1, bytes=-1, ms=-9,
        reason="final", targets=[],
    ),
)  # fmt: skip
"""Events that no script appends: one who may write to the log does."""


async def test_events_with_impossible_times_have_no_span_and_hold_nothing_up(
    server: Server, cell: str
) -> None:
    with http_collector() as collector:
        async with system(server.url, cell) as es, serving(es, flaky()):
            store = store_of(es)
            for data in FORGED:
                session, job = f"{cell}.x", f"acme:{cell}.x:0:translation:es:none"
                event = Event(id="", type=type(data).__name__, session=session, job=job, data=data)
                pairs = [part for pair in encode(event).items() for part in pair]
                await store.transport.command("XADD", store.keys.log, "*", *pairs, key=cell)
            await speak(es)
            async with exporting(store, collector):
                await until("all is exported", partial(is_acknowledged, store))
        assert {span.name for span in collector.spans} >= {"finalize", "process"}
        assert not [span for span in collector.spans if span.start_ns > span.end_ns]


@pytest.mark.parametrize("protocol", sorted(COLLECTORS))
async def test_the_spans_of_an_utterance_are_a_tree_with_the_times_of_its_events(
    server: Server, cell: str, protocol: str
) -> None:
    with COLLECTORS[protocol]() as collector:
        async with system(server.url, cell) as es, serving(es, flaky()):
            store = store_of(es)
            session = await speak(es)
            async with exporting(store, collector):
                await until("all is exported", partial(is_acknowledged, store))
            events = await events_of(store)
    (finalized,), (ended,) = by_type(events, UtteranceFinalized), by_type(events, AttemptEnded)
    first, second = by_type(events, JobDispatched)
    (recorded,) = by_type(events, ResultRecorded)
    assert isinstance(finalized.data, UtteranceFinalized)
    assert {span.trace_id for span in collector.spans} == {TRACE}
    job = first.job

    def span(name: str, number: int = 0) -> Received:
        return collector.named(name)[number]

    root = finalize_span(session, 0)
    tree = {
        "finalize": (root, PARENT, ms_of(finalized.data.last), finalized.ms),
        "dispatch": (attempt_spans(job, 1).dispatch, root, finalized.ms, first.ms),
        "process": (
            attempt_spans(job, 1).process, attempt_spans(job, 1).dispatch, first.ms, ended.ms
        ),
        "record_result": (
            attempt_spans(job, 2).record_result, attempt_spans(job, 2).process, recorded.ms,
            recorded.ms,
        ),
    }  # fmt: skip
    for name, (own, parent, start_ms, end_ms) in tree.items():
        found = span(name)
        assert (found.span_id, found.parent_id) == (own, parent), name
        times = (found.start_ns, found.end_ns)
        assert times == (start_ms * NS_PER_MS, end_ms * NS_PER_MS), name
    again, done = span("dispatch", 1), span("process", 1)
    assert (again.start_ns, again.end_ns) == (ended.ms * NS_PER_MS, second.ms * NS_PER_MS)
    assert again.links == ((TRACE, attempt_spans(job, 1).process),)
    assert (done.start_ns, done.end_ns) == (second.ms * NS_PER_MS, recorded.ms * NS_PER_MS)
    assert (span("deliver").parent_id, span("deliver").end_ns) == (root, recorded.ms * NS_PER_MS)
    assert (span("process").is_error, span("process").status, done.is_error) == (
        True,
        "BUSY",
        False,
    )
    kinds = {each.name: each.kind.removeprefix("SPAN_KIND_") for each in collector.spans}
    assert kinds == {
        "finalize": "PRODUCER", "dispatch": "INTERNAL", "process": "CONSUMER",
        "record_result": "INTERNAL", "deliver": "PRODUCER",
    }  # fmt: skip
    assert done.attribute("messaging.system") == "redis"
    assert done.attribute("messaging.operation.type") == "process"
    assert done.attribute("messaging.message.id") == job
    assert (done.attribute("eventsched.attempt"), done.attribute("eventsched.outcome")) == (2, "ok")
    assert done.attribute("eventsched.node") == f"{cell}.n1"
    assert not any(b"hola" in request for request in collector.requests)


async def test_exporters_that_die_send_the_same_spans_and_lose_none(
    server: Server, cell: str
) -> None:
    """The first one dies while a handler runs; the second while the collector is away."""
    goes_on, node = anyio.Event(), eventsched.Node("n1", sources=["en"], targets=["es"], slots=2)

    @node.job
    async def _(_: eventsched.Job) -> eventsched.Result:
        await goes_on.wait()
        return eventsched.Result(text="hola")

    with http_collector() as collector:
        async with system(server.url, cell) as es, serving(es, node):
            store = store_of(es)
            async with es.session(tenant="acme", source="en", targets=["es"]) as session:
                await session.append(CHUNK, end_of_utterance=True)
                async with exporting(store, collector, "e1"):
                    await until("dispatch", lambda: bool(collector.named("dispatch")))
                    await until("acknowledged", partial(is_acknowledged, store))
                goes_on.set()
            collector.is_away = True
            async with exporting(store, collector, "e2", timeout_s=0.1):
                await until("process", lambda: bool(collector.named("process")))
            assert not await is_acknowledged(store)
            before = len(collector.spans)
            collector.is_away = False
            async with exporting(store, collector, "e3"):
                await until("all is exported", partial(is_acknowledged, store))
            assert received(collector) == await expected(store)
    assert len(collector.spans) > before
    by_id = {(span.trace_id, span.span_id): span for span in collector.spans}
    assert collector.distinct == set(by_id.values())


async def test_a_lost_node_and_a_dead_exporter_in_between_leave_the_same_spans(
    store: TimedStore,
) -> None:
    """The node of the first attempt is lost while no exporter runs."""
    with http_collector() as collector:
        first = await store.join("n1")
        session = await store.open(traceparent=TRACEPARENT)
        await store.say(session, 0, end_of_utterance=True)
        await store.dispatch()
        async with exporting(store, collector, "e1"):
            await until("the dispatch is exported", partial(is_acknowledged, store))
        assert [span.name for span in collector.spans] == ["finalize", "dispatch"]
        second = await store.join("n2")
        store.tick(16_000)
        await store.heartbeat_node(second.node, second.epoch, load=0, attempts=[])
        await store.timers()
        (message,) = await store.inbox(second)
        await store.answer(second, message)
        async with exporting(store, collector, "e2"):
            await until("all is exported", partial(is_acknowledged, store))
        assert received(collector) == await expected(store)
    # Both may end in the same millisecond.
    lost, done = sorted(collector.named("process"), key=lambda span: span.start_ns)
    assert (lost.attribute("eventsched.node"), lost.status) == (first.node, "node_lost")
    assert (done.attribute("eventsched.node"), done.is_error) == (second.node, False)
    assert collector.named("dispatch")[1].links == ((TRACE, lost.span_id),)


async def test_an_exporter_waits_for_a_collector_that_is_away(server: Server, cell: str) -> None:
    with http_collector() as collector:
        collector.is_away = True
        async with system(server.url, cell) as es, serving(es, flaky()):
            store = store_of(es)
            async with exporting(store, collector, timeout_s=0.1):
                await speak(es, utterances=2)
                await until("tries", lambda: len(collector.requests) > 2)
                assert not await is_acknowledged(store)
                collector.is_away = False
                await until("all is exported", partial(is_acknowledged, store))
            assert received(collector) == await expected(store)


@pytest.mark.parametrize("protocol", sorted(COLLECTORS))
async def test_an_utterance_with_a_traceparent_of_its_own_is_a_tree_below_it(
    server: Server, cell: str, protocol: str
) -> None:
    """The others belong to the trace of the session."""
    own, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    given = f"00-{own}-{caller}-01"
    async with system(server.url, cell) as es, serving(es, flaky()):
        async with es.session(
            tenant="acme", source="en", targets=["es"], traceparent=TRACEPARENT
        ) as session:
            await session.append(CHUNK, end_of_utterance=True, traceparent=given)
            await session.append(CHUNK)
            await session.finalize(traceparent=given)
            await session.append(CHUNK, end_of_utterance=True)
        with COLLECTORS[protocol]() as collector:
            store = store_of(es)
            async with exporting(store, collector):
                await until("all is exported", partial(is_acknowledged, store))
            assert received(collector) == await expected(store)
    names = ["deliver", "dispatch", "dispatch", "finalize", "process", "process", "record_result"]
    by_id = {span.span_id: span for span in collector.distinct}
    for trace, parent, utterances in ((own, caller, [0, 1]), (TRACE, PARENT, [2])):
        spans = [span for span in collector.distinct if span.trace_id == trace]
        assert sorted(span.name for span in spans) == sorted(names * len(utterances))
        roots = {span.span_id for span in spans if span.parent_id == parent}
        assert roots == {finalize_span(session.id, number) for number in utterances}
        assert all(by_id[span.parent_id].trace_id == trace for span in spans
                   if span.span_id not in roots)  # fmt: skip
        assert all(trace == link for span in spans for link, _ in span.links)


async def test_without_a_traceparent_each_utterance_is_a_trace_and_unsampled_ones_are_none(
    server: Server, cell: str
) -> None:
    with http_collector() as collector:
        async with system(server.url, cell) as es, serving(es, flaky()):
            store = store_of(es)
            await speak(es, traceparent="", utterances=2)
            await speak(es, traceparent=f"00-{TRACE}-{PARENT}-00")
            async with exporting(store, collector):
                await until("all is exported", partial(is_acknowledged, store))
    assert [span.parent_id for span in collector.named("finalize")] == ["", ""]
    assert len({span.trace_id for span in collector.spans}) == 2
    assert TRACE not in {span.trace_id for span in collector.spans}


@pytest.mark.parametrize(
    ("handler", "processes"),
    [
        (span_handlers.in_event_loop, False),
        (span_handlers.in_thread, False),
        (span_handlers.in_thread, True),
    ],
    ids=["event loop", "thread", "process"],
)
async def test_the_span_process_is_the_current_one_in_a_handler_and_in_its_log_lines(
    server: Server, cell: str, handler: Any, processes: bool
) -> None:
    node = eventsched.Node("n1", sources=["en"], targets=["es"], slots=2)
    node.job(processes=processes)(handler)
    async with system(server.url, cell) as es, serving(es, node):
        for traceparent, has_span in ((TRACEPARENT, True), ("", False)):
            async with es.session(
                tenant="acme", source="en", targets=["es"], traceparent=traceparent
            ) as session:
                await session.append(CHUNK, end_of_utterance=True)
                outcome = await anext(session.results())
            assert isinstance(outcome, eventsched.Result)
            current, logged = str(outcome.text).split(" ")
            job = f"acme:{session.id}:0:translation:es:none"
            own = f"{TRACE}/{attempt_spans(job, 1).process}"
            none = f"{'0' * 32}/{'0' * 16}"
            assert (current, logged) == ((own, own) if has_span else (none, "None/None"))


@pytest.fixture(scope="module")
def provider() -> TracerProvider:
    """The provider of an application. OpenTelemetry lets a process set one only."""
    provider = TracerProvider()
    set_tracer_provider(provider)
    return provider


@pytest.mark.parametrize("protocol", sorted(COLLECTORS))
@pytest.mark.parametrize(
    "handler", [span_handlers.batch_in_event_loop, span_handlers.batch_in_thread],
    ids=["event loop", "thread"],
)  # fmt: skip
async def test_the_span_of_a_batch_links_the_span_of_each_of_its_jobs(
    server: Server, cell: str, provider: TracerProvider, protocol: str, handler: Any
) -> None:
    """Their sessions have a traceparent or none; the handler's own span is below that of the
    batch."""
    node = eventsched.Node("n1", sources=["en"], targets=["es", "fr"], slots=4)
    node.job(batch=eventsched.Batch(size=4, within_ms=10_000))(handler)
    with COLLECTORS[protocol]() as collector:
        own = SimpleSpanProcessor(exporter_of(collector.url, 5.0))
        provider.add_span_processor(own)
        async with system(server.url, cell) as es, serving(es, node):
            async with AsyncExitStack() as stack:
                for traceparent in (TRACEPARENT, ""):
                    session = await stack.enter_async_context(
                        es.session(
                            tenant="acme", source="en", targets=["es", "fr"],
                            traceparent=traceparent,
                        )
                    )  # fmt: skip
                    await session.append(CHUNK, end_of_utterance=True)
            store = store_of(es)
            async with exporting(store, collector):
                await until("all is exported", partial(is_acknowledged, store))
        own.shutdown()
    (batch,), (inner,) = collector.named("process batch"), collector.named("inference")
    jobs = collector.named("process")
    assert len(jobs) == 4
    assert set(batch.links) == {(span.trace_id, span.span_id) for span in jobs}
    assert (batch.parent_id, batch.kind) == ("", "SPAN_KIND_CONSUMER")
    assert batch.trace_id not in {span.trace_id for span in jobs}
    assert (inner.trace_id, inner.parent_id) == (batch.trace_id, batch.span_id)
    attributes = {name: batch.attribute(f"messaging.{name}") for name in (
        "system", "operation.type", "batch.message_count",
    )}  # fmt: skip
    assert attributes == {"system": "redis", "operation.type": "process", "batch.message_count": 4}
    assert not batch.is_error


async def test_the_span_of_a_batch_that_fails_has_the_kind_of_the_error_and_not_its_text(
    server: Server, cell: str, provider: TracerProvider
) -> None:
    node = eventsched.Node("n1", sources=["en"], targets=["es"], slots=2)
    node.job(batch=eventsched.Batch(size=2, within_ms=0))(span_handlers.failing_batch)
    spans = InMemorySpanExporter()
    own = SimpleSpanProcessor(spans)
    provider.add_span_processor(own)
    async with system(server.url, cell) as es, serving(es, node):
        await speak(es)
    own.shutdown()
    (span,) = spans.get_finished_spans()
    assert (span.status.is_ok, span.status.description) == (False, "JobError")
    assert span.events == ()


async def test_a_session_takes_the_current_span_of_its_application(
    server: Server, cell: str
) -> None:
    tracer = TracerProvider().get_tracer("application")
    async with system(server.url, cell) as es, serving(es, flaky()):
        with tracer.start_as_current_span("request") as span:
            await speak(es, traceparent="")
        (finalized,) = by_type(await events_of(store_of(es)), UtteranceFinalized)
    context = span.get_span_context()
    assert finalized.traceparent == f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
