"""`/metrics` of a gateway: numbers that agree with the log, also after a rebuild."""

from __future__ import annotations

import re
from collections import Counter

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import eventsched
from eventsched.gateway import reading_cache
from eventsched.history.reader import EventFilter, Reader
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.roles.rebuild import Rebuild
from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import Event, JobDispatched, JobQueued, UtteranceFinalized
from eventsched.telemetry.catalog import CELL_METRICS, PREFIX, PROCESS_METRICS
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.server_kinds import Server
from tests.systems import serving, until

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@pytest.fixture(autouse=True)
def each_scrape_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape is not answered by a reading of the last second."""
    monkeypatch.setattr(reading_cache, "VALID_S", 0.0)


CHUNK = b"\x01\x00" * 1_600
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples_of(text: str) -> Samples:
    return {
        (sample.name.removeprefix(PREFIX), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


PART = re.compile(r"_(?:bucket|count|sum)$")


def is_rebuilt(name: str) -> bool:
    rebuilt = {metric.name for metric in CELL_METRICS if metric.source == "rebuilt"}
    return name in rebuilt or PART.sub("", name) in rebuilt


def rebuilt_of(numbers: Samples) -> Samples:
    return {key: value for key, value in numbers.items() if is_rebuilt(key[0])}


async def scrape(system: GatewaySystem) -> Samples:
    reply = await system.get("/metrics")
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    return samples_of(reply.text)


async def is_folded(system: GatewaySystem, cell: str) -> bool:
    numbers = await scrape(system)
    return numbers["group_lag_entries", (("cell", cell), ("group", "core"))] == 0


def flaky() -> eventsched.Node:
    """A node that fails at the first attempt of each job."""
    node = eventsched.Node("n1", sources=["en"], targets=["es", "fr"], slots=4)

    @node.job
    async def _(job: eventsched.Job) -> eventsched.Result:
        if job.attempt == 1:
            raise eventsched.JobError("BUSY", retryable=True)
        return eventsched.Result(text="hola")

    return node


async def talk(system: GatewaySystem, sessions: int, utterances: int) -> None:
    for _ in range(sessions):
        async with system.es.session(tenant="acme", source="en", targets=["es", "fr"]) as session:
            for _ in range(utterances):
                await session.append(CHUNK)
                await session.append(CHUNK, end_of_utterance=True)


async def events_of(system: GatewaySystem) -> list[Event]:
    reader = Reader(system.gateway.history_source())
    return [each async for each in reader.history(EventFilter()) if isinstance(each, Event)]


async def test_counters_agree_with_the_log_and_survive_a_rebuild(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system, serving(system.es, flaky()):
        await talk(system, sessions=3, utterances=2)
        await until("all is folded", lambda: is_folded(system, cell))
        numbers = await scrape(system)
        types = Counter(event.type for event in await events_of(system))
        for metric, type_ in (
            ("sessions_opened_total", "SessionOpened"),
            ("sessions_closed_total", "SessionClosing"),
            ("utterances_finalized_total", "UtteranceFinalized"),
            ("jobs_dispatched_total", "JobDispatched"),
            ("attempts_ended_total", "AttemptEnded"),
            ("results_recorded_total", "ResultRecorded"),
        ):
            found = sum(value for (name, _), value in numbers.items() if name == metric)
            assert found == types[type_] > 0, metric
        assert numbers["audio_seconds_total", (("cell", cell),)] == pytest.approx(6 * 0.2)
        assert numbers["sessions_open", (("cell", cell),)] == 0

        store = system.es.store_of(f"{cell}.x")
        views = ProjectionStore(store.transport, store.cell)
        await Rebuild(views, load_core(), ["metrics"]).run()
        rebuilt = await scrape(system)
        assert rebuilt_of(rebuilt) == rebuilt_of(numbers)


def slow(seconds: float) -> eventsched.Node:
    """A node with one slot."""
    node = eventsched.Node("n1", sources=["en"], targets=["es", "fr"], slots=1)

    @node.job
    async def _(_: eventsched.Job) -> eventsched.Result:
        await anyio.sleep(seconds)  # sleeps: the handler works
        return eventsched.Result(text="hola")

    return node


async def test_times_are_those_between_the_events_and_survive_a_rebuild(
    server: Server, cell: str
) -> None:
    """One of two jobs waits for the only slot."""
    async with gateway_system(server.url, cell) as system, serving(system.es, slow(0.05)):
        await talk(system, sessions=1, utterances=2)
        await until("all is folded", lambda: is_folded(system, cell))
        numbers = await scrape(system)
        events = await events_of(system)
        ms: dict[str, list[int]] = {"finalize_to_dispatch": [], "finalize_to_delivery": []}
        finalized = {
            (event.session, event.data.utterance): event.ms
            for event in events
            if isinstance(event.data, UtteranceFinalized)
        }
        queued = {event.job: event.ms for event in events if isinstance(event.data, JobQueued)}
        ms["queue_wait"] = []
        for event in events:
            if isinstance(event.data, JobDispatched):
                since = finalized[event.session, event.data.utterance]
                ms["finalize_to_dispatch"].append(event.ms - since)
                if event.data.rule == "fill":
                    ms["queue_wait"].append(event.ms - queued[event.job])
            if delivery := delivery_of(event.data):
                since = finalized[event.session, delivery.utterance]
                ms["finalize_to_delivery"].append(event.ms - since)
        for name, times in ms.items():
            labels = [("cell", cell)]
            labels += [("outcome", "result")] if name == "finalize_to_delivery" else []
            assert numbers[f"{name}_seconds_count", tuple(labels)] == len(times) > 0
            found = numbers[f"{name}_seconds_sum", tuple(labels)]
            assert found == pytest.approx(sum(times) / 1_000), name
            upto = tuple(sorted([*labels, ("le", "0.05")]))
            assert numbers[f"{name}_seconds_bucket", upto] == sum(each <= 50 for each in times)

        store = system.es.store_of(f"{cell}.x")
        views = ProjectionStore(store.transport, store.cell)
        await Rebuild(views, load_core(), ["metrics"]).run()
        assert rebuilt_of(await scrape(system)) == rebuilt_of(numbers)


async def test_every_metric_of_the_catalog_is_exposed_and_no_other(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell) as system, serving(system.es, flaky()):
        await talk(system, sessions=1, utterances=1)
        await until("all is folded", lambda: is_folded(system, cell))
        reply = await system.get("/metrics")
    families = {family.name for family in text_string_to_metric_families(reply.text)}
    own = {name.removeprefix(PREFIX) for name in families if name.startswith(PREFIX)}
    declared = [*CELL_METRICS, *PROCESS_METRICS]
    names = {metric.name.removesuffix("_total").removesuffix("_info") for metric in declared}
    created = {f"{name}_created" for name in names}  # of histograms, by prometheus-client
    assert own <= names | created | {"build_info"}
    assert {metric.name.removesuffix("_total") for metric in CELL_METRICS} <= own


async def test_a_scraper_on_another_machine_needs_a_token(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system:
        forwarded = {"x-forwarded-for": "192.0.2.1"}
        url = system.url + "/metrics"
        assert (await system.http.get(url, headers=forwarded)).status_code == 401
        for role, tenant, status in (("viewer", "*", 200), ("viewer", "acme", 403)):
            token = {"authorization": f"Bearer {system.token(role, tenant)}"}
            reply: httpx.Response = await system.http.get(url, headers=forwarded | token)
            assert reply.status_code == status, role
