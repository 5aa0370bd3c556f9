"""The test kit runs a handler as a node does, and records what it sends."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

import eventsched
from eventsched import testing
from eventsched.errors import InvalidMessage, UnreadableRecord
from eventsched.schema.events import Event, SessionOpened, SessionResumed
from tests.client import life_handlers
from tests.docs.test_docs import ROOT, SNIPPET

OPUS = b"\x08" + bytes(40)
"""A packet of 20 ms."""


def node_of(handler: Any, **options: Any) -> eventsched.Node:
    node = eventsched.Node("n", sources=["en"], targets=["es"], slots=2)
    node.job(**options)(handler)
    return node


async def test_a_job_has_the_facts_that_the_test_gives() -> None:
    job = testing.job(
        audio=bytes(3_200), context=[("one", "uno")], features=["tts"], padding_ms=100, attempt=2
    )
    assert (job.ms, job.source, job.target, job.features) == (100, "en", "es", ("tts",))
    assert (job.attempt, job.context) == (2, [("one", "uno")])
    assert await job.audio() == bytes(6_400)


async def test_opus_is_given_as_packets() -> None:
    job = testing.job(audio=[OPUS, OPUS], encoding="opus")
    assert job.ms == 40
    assert await job.packets() == [OPUS, OPUS]


async def test_partials_and_extensions_are_recorded() -> None:
    async def handler(job: eventsched.Job) -> eventsched.Result:
        await job.partial("ho", source_text="he")
        assert await job.extend(200) == job.deadline_ms == 200_000
        return eventsched.Result(text="hola")

    job = testing.job()
    assert isinstance(await testing.run_handler(handler, job), eventsched.Result)
    assert (job.partials, job.extended_s) == ([("ho", "he")], [200])


async def test_a_lost_lease_is_raised_by_each_call() -> None:
    async def handler(job: eventsched.Job) -> eventsched.Result:
        await job.partial("ho")
        raise AssertionError

    job = testing.job()
    job.lose_lease()
    with pytest.raises(eventsched.LeaseLost):
        await testing.run_handler(handler, job)


@pytest.mark.parametrize(
    ("returned", "kind", "code"),
    [
        (eventsched.Result(text=" "), eventsched.NoSpeech, "BLANK"),
        (eventsched.NoSpeech(), eventsched.NoSpeech, "ASR_EMPTY"),
        (eventsched.NoSpeechError("NOISE"), eventsched.NoSpeech, "NOISE"),
        (eventsched.JobError("NO_MODEL", retryable=True), eventsched.JobError, "NO_MODEL"),
    ],
)
@pytest.mark.parametrize("raises", [False, True])
async def test_the_outcome_is_what_a_node_reports(
    returned: Any, kind: type, code: str, raises: bool
) -> None:
    if raises and not isinstance(returned, BaseException):
        return

    async def handler(job: eventsched.Job) -> Any:
        if raises:
            raise returned
        return returned

    outcome = await testing.run_handler(node_of(handler), testing.job())
    assert isinstance(outcome, kind)
    assert outcome.code == code  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("returned", "error"),
    [("text", TypeError), (eventsched.Result(text="x" * 70_000), eventsched.InvalidMessage)],
)
async def test_what_a_node_could_not_report_is_raised(
    returned: Any, error: type[Exception]
) -> None:
    async def handler(job: eventsched.Job) -> Any:
        return returned

    with pytest.raises(error):
        await testing.run_handler(handler, testing.job())


async def test_an_exception_of_the_handler_comes_out_unchanged() -> None:
    def handler(job: eventsched.BlockingJob) -> eventsched.Result:
        raise KeyError("model")

    with pytest.raises(KeyError, match="model"):
        await testing.run_handler(node_of(handler), testing.job())


async def test_a_plain_handler_runs_in_a_thread_between_the_hooks() -> None:
    calls: list[str] = []

    def handler(job: eventsched.BlockingJob) -> eventsched.Result:
        calls.append("main" if threading.current_thread() is threading.main_thread() else "thread")
        job.partial("ho")
        return eventsched.Result(text=f"{len(job.audio())}")

    node = node_of(handler)
    node.startup(lambda: calls.append("startup"))
    node.shutdown(lambda: calls.append("shutdown"))
    job = testing.job(audio=bytes(640))
    outcome = await testing.run_handler(node, job)
    assert isinstance(outcome, eventsched.Result)
    assert outcome.text == "640"
    assert calls == ["startup", "thread", "shutdown"]
    assert job.partials == [("ho", "")]


async def test_a_handler_in_a_process_reaches_the_job_of_the_test() -> None:
    job = testing.job()
    outcome = await testing.run_handler(node_of(life_handlers.send_and_extend, processes=True), job)
    assert isinstance(outcome, eventsched.Result)
    assert outcome.text == "True True"
    assert (job.partials, job.extended_s) == ([("ho", "he")], [200])
    job.lose_lease()
    lost = await testing.run_handler(node_of(life_handlers.lose_the_lease, processes=True), job)
    assert isinstance(lost, eventsched.Result)
    assert lost.text == "LEASE_LOST"


async def test_a_test_of_one_job_runs_startup_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    monkeypatch.setenv(life_handlers.PROCESSES_VARIABLE, str(started))
    node = node_of(life_handlers.say_where_it_started, processes=True)
    node.startup(life_handlers.note_process)
    await testing.run_handler(node, testing.job())
    assert len(started.read_text().split()) == 1


async def test_several_jobs_run_in_one_batch() -> None:
    sizes: list[int] = []

    async def handler(jobs: list[eventsched.Job]) -> list[eventsched.Result]:
        sizes.append(len(jobs))
        return [eventsched.Result(text="hola") for _ in jobs]

    node = node_of(handler, batch=eventsched.Batch(size=2, within_ms=10_000))
    async with testing.running_handler(node) as run, anyio.create_task_group() as tasks:
        tasks.start_soon(run, testing.job())
        tasks.start_soon(run, testing.job(utterance=1))
    assert sizes == [2]


async def test_a_node_without_a_handler_is_refused() -> None:
    node = eventsched.Node("n", sources=["en"], targets=["es"])
    with pytest.raises(eventsched.InvalidMessage, match="no handler"):
        await testing.run_handler(node, testing.job())


@pytest.mark.parametrize("name", ["docs/testing.md", "docs/nodes.md"])
async def test_the_snippets_of_the_page_run(name: str) -> None:
    for snippet in SNIPPET.findall((ROOT / name).read_text()):
        names: dict[str, Any] = {}
        exec(compile(snippet, name, "exec"), names)
        tests = [value for key, value in names.items() if key.startswith("test_")]
        for each in tests:
            await each()
        if not tests:
            outcome = await testing.run_handler(names["node"], testing.job(audio=bytes(640)))
            assert isinstance(outcome, eventsched.Result)
            assert outcome.text in ("hola", "640 bytes")


class Kept(msgspec.Struct, frozen=True):
    """A record that is read as it was stored."""

    tenants: tuple[str, ...] = ()


class Changed(msgspec.Struct, frozen=True):
    """A record with a field that is not stored as its type says."""

    tenants: object = ()


class Tenants:
    name = "tenants"
    version = 1
    handles = frozenset({"SessionOpened"})

    def __init__(self, view: Any) -> None:
        self.view = view

    def initial(self) -> Any:
        return self.view()

    def route(self, event: Event) -> list[str]:
        return ["all"]

    def apply(self, view: Any, event: Event) -> Any:
        tenant = event.data.tenant  # type: ignore[union-attr]
        return None if tenant == "drop" else self.view((*view.tenants, tenant))


def opened(*tenants: str) -> list[Event]:
    return [testing.event(SessionOpened(tenant=each, source="en")) for each in tenants]


def test_events_are_folded_as_a_projector_does() -> None:
    events = [*opened("a", "b"), testing.event(SessionResumed(epoch=2))]
    assert testing.fold(Tenants(Kept), events) == {"all": Kept(("a", "b"))}
    assert testing.fold(Tenants(Kept), opened("a", "drop")) == {}
    assert testing.fold(Tenants(Kept), opened("a", "drop", "b")) == {"all": Kept(("b",))}


def test_a_record_that_is_not_read_as_it_was_stored_is_found() -> None:
    with pytest.raises(UnreadableRecord, match="it is read as Changed"):
        testing.fold(Tenants(Changed), opened("a"))
    with pytest.raises(InvalidMessage, match="is no read model"):
        testing.fold(object(), [])  # type: ignore[arg-type]
