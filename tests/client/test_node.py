"""The worker's side: what a handler is given, the ways to end, cancels, drains, registrations.

The clock of the cell is moved by hand; the nodes are real and run in the test's event loop.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from copy import copy
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis

import eventsched
from eventsched.client.client import Client
from eventsched.node.job import BlockingJob, Job
from eventsched.node.registration import RESULTS_MAX
from eventsched.schema.events import AttemptEnded, JobFailed, ResultRecorded, ResultRefused
from eventsched.schema.keys import name_of
from eventsched.store.operator_commands import Act
from tests.client import handlers
from tests.client.test_session import CHUNK, Cut, cut, opened
from tests.fixtures_store import TimedStore
from tests.job_record import falsify
from tests.outcomes import next_of, next_result
from tests.server_kinds import Server
from tests.systems import SECOND, serving, until

BEAT_MS = 30


def node_of(
    handler: Any,
    *,
    name: str = "gpu-1",
    processes: bool = False,
    batch: eventsched.Batch | None = None,
    **given: Any,
) -> Any:
    declared: dict[str, Any] = {"sources": ["en"], "targets": ["es"], "slots": 2} | given
    node = eventsched.Node(name, **declared)
    options: dict[str, Any] = {} if batch is None else {"batch": batch}
    node.job(processes=processes, **options)(handler)
    return node


async def beat_fast(store: TimedStore) -> None:
    await store.configure_cell({"heartbeat_ms": BEAT_MS}, overwrite=True)


async def never_silent(store: TimedStore) -> None:
    """However far time is moved, no node counts as lost."""
    await store.configure_cell({"node_lost_ms": 10_000_000}, overwrite=True)


async def has(store: TimedStore, kind: str, count: int = 1) -> bool:
    return len(await store.log(kind)) >= count


async def recorded(store: TimedStore, kind: str = "ResultRecorded", count: int = 1) -> Any:
    """The data of the newest such event, once there are `count`."""
    await until(kind, lambda: has(store, kind, count))
    return (await store.log(kind))[-1].data


async def say(client: Client, store: TimedStore, audio: bytes = SECOND, **given: Any) -> str:
    """One utterance is finalized and dispatched; the session's id."""
    async with opened(client, **given) as session:
        await session.append(audio, end_of_utterance=True)
        await store.dispatch()
    return session.id


# --- what a handler is given ----------------------------------------------------------------


async def test_a_job_has_its_facts_its_audio_and_its_padding(
    client: Client, store: TimedStore
) -> None:
    seen: list[Job] = []
    received: list[bytes] = []

    async def handler(job: Job) -> eventsched.Result:
        seen.append(job)
        received.append(await job.audio())
        return eventsched.Result(text="hola")

    async with serving(client, node_of(handler, features=["voice"])):
        pcm = bytes(range(256)) * 250
        session = await say(client, store, pcm, features=["voice"], priority=0)
        await recorded(store)
    (job,) = seen
    assert (job.session, job.utterance, job.turn, job.attempt) == (session, 0, 0, 1)
    assert (job.source, job.target, job.features) == ("en", "es", ("voice",))
    assert (job.encoding, job.sample_rate, job.ms, job.priority) == ("pcm16", 16_000, 2_000, 0)
    assert job.key.startswith(f"acme:{session}:0:translation:es:")
    assert job.context == []
    assert job.padding_ms == 280
    assert received == [pcm + bytes(280 * 32)]


async def test_a_handler_begins_before_the_node_asks_for_more(
    client: Client, store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sending the next read costs more than a handler's beginning: it would come in its way."""
    (own,) = client.stores.values()
    did: list[str] = []
    read_blocking = own.transport.read_blocking

    async def read(streams: Any, block_ms: int, count: int) -> Any:
        if own.keys.inbox("gpu-1") not in streams:
            return await read_blocking(streams, block_ms, count)
        did.append("reads")
        found = await read_blocking(streams, block_ms, count)
        did.extend("found" for _ in found)
        return found

    async def handler(_: Job) -> eventsched.Result:
        did.append("began")
        return eventsched.Result(text="hola")

    monkeypatch.setattr(own.transport, "read_blocking", read)
    async with serving(client, node_of(handler)):
        await say(client, store)
        await recorded(store)
    assert did[did.index("found") :][:3] == ["found", "began", "reads"]


async def test_a_long_utterance_is_read_whole(client: Client, store: TimedStore) -> None:
    received: list[bytes] = []

    async def handler(job: Job) -> eventsched.Result:
        received.append(await job.audio())
        return eventsched.Result(text="hola")

    pcm = bytes(range(250)) * (32 * 9_950 // 250)  # 100 chunks: more than one read
    async with serving(client, node_of(handler)):
        await say(client, store, pcm)
        await recorded(store)
    assert received[0][: len(pcm)] == pcm


async def test_an_opus_job_has_its_packets(client: Client, store: TimedStore) -> None:
    packets = [bytes([1 << 3]) + bytes([number] * 20) for number in range(8)]
    received: list[Any] = []

    async def handler(job: Job) -> eventsched.Result:
        received.append((await job.packets(), await job.audio()))
        return eventsched.Result(text="hola")

    async with serving(client, node_of(handler)), opened(client, encoding="opus") as session:
        await session.append(packets[:5])
        await session.append(packets[5:], end_of_utterance=True)
        await store.dispatch()
        await recorded(store)
    assert received == [(packets, eventsched.audio.chunks.join_opus(packets))]


async def test_audio_that_is_not_all_there_is_tried_elsewhere(
    client: Client, store: TimedStore, redis: Any
) -> None:
    async def handler(job: Job) -> eventsched.Result:
        return eventsched.Result(text=str(len(await job.audio())))

    async with opened(client) as session:
        await session.append(CHUNK)
        await session.append(CHUNK, end_of_utterance=True)
        audio = store.keys.audio(name_of(session.id))
        ((first, _), *_) = await store.read_range(audio, "-", "+", 1)
        await redis.xdel(audio, first)
        async with serving(client, node_of(handler)):
            await store.dispatch()
            ended: AttemptEnded = await recorded(store, "AttemptEnded")
    assert (ended.reason, ended.code) == ("failed", "AUDIO_INCOMPLETE")


async def test_partials_are_told_and_a_lease_grows(client: Client, store: TimedStore) -> None:
    deadlines: list[int] = []

    async def handler(job: Job) -> eventsched.Result:
        deadlines.append(job.deadline_ms)
        await job.partial("ho", source_text="hel")
        deadlines.append(await job.extend(120))
        deadlines.append(await job.extend(1_000))
        return eventsched.Result(text="hola")

    async with serving(client, node_of(handler)), opened(client) as session:
        await session.append(SECOND, end_of_utterance=True)
        await store.dispatch()
        results = session.results(partials=True)
        partial = await next_of(eventsched.Partial, results)
        result = await next_result(results)
    assert (partial.outcome, partial.text, partial.source_text) == ("partial", "ho", "hel")
    assert result.text == "hola"
    started = store.at_ms
    assert deadlines == [started + 31_000, started + 120_000, started + 300_000]


# --- the ways to end ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "status", "code"),
    [
        (eventsched.Result(text="hola", source_text="hello"), "ok", ""),
        (eventsched.Result(source_text="hello"), "ok", ""),  # the translation is missing
        (eventsched.Result(audio=b"RIFF"), "ok", ""),
        (eventsched.Result(text=" \n", source_text=""), "no_speech", "BLANK"),
        (eventsched.NoSpeech(), "no_speech", "ASR_EMPTY"),
        (eventsched.NoSpeech(code="NO_SPEECH"), "no_speech", "NO_SPEECH"),
        (eventsched.NoSpeechError(), "no_speech", "ASR_EMPTY"),
        (eventsched.NoSpeechError("NO_SPEECH"), "no_speech", "NO_SPEECH"),
    ],
)
@pytest.mark.parametrize("raised", [False, True])
async def test_rules_22_and_24_what_ends_a_job_well(
    client: Client, store: TimedStore, ending: Any, status: str, code: str, raised: bool
) -> None:
    async def handler(job: Job) -> Any:
        if raised and isinstance(ending, Exception):
            raise ending
        return ending

    async with serving(client, node_of(handler)):
        await say(client, store)
        event: ResultRecorded = await recorded(store)
    assert (event.status, event.code) == (status, code)


async def test_rule_22_synthesised_audio_is_named_by_length_and_digest(
    client: Client, store: TimedStore
) -> None:
    async def handler(job: Job) -> eventsched.Result:
        return eventsched.Result(text="hola", audio=b"abc")

    async with serving(client, node_of(handler)), opened(client) as session:
        await session.append(SECOND, end_of_utterance=True)
        await store.dispatch()
        assert (await next_result(session.results())).audio == b"abc"
    event: ResultRecorded = await recorded(store)
    assert event.audio_bytes == 3
    assert event.audio_sha256.startswith("ba7816bf")


async def test_a_failure_that_is_final_fails_the_job(client: Client, store: TimedStore) -> None:
    async def handler(job: Job) -> eventsched.Result:
        raise eventsched.JobError("BAD_VOICE")

    async with serving(client, node_of(handler)):
        await say(client, store)
        failed: JobFailed = await recorded(store, "JobFailed")
    assert failed.code == "BAD_VOICE"


async def fails(job: Job) -> Any:
    raise ZeroDivisionError("a fault of its own")


async def gives_nothing(job: Job) -> Any:
    return None


async def gives_too_much(job: Job) -> Any:
    return eventsched.Result(text="x" * 70_000)


async def lacks_what_nobody_asked_for(job: Job) -> Any:
    raise eventsched.JobError("MODEL_NOT_AVAILABLE", feature="voice")


@pytest.mark.parametrize(
    "handler", [fails, gives_nothing, gives_too_much, lacks_what_nobody_asked_for]
)
async def test_a_handler_that_goes_wrong_costs_an_attempt_and_not_the_node(
    client: Client, store: TimedStore, handler: Callable[[Job], Awaitable[Any]]
) -> None:
    async with serving(client, node_of(handler)):
        await say(client, store)
        failed: JobFailed = await recorded(store, "JobFailed")
        assert (failed.code, failed.attempt) == ("HANDLER_ERROR", 4)
        assert not await store.log("NodeLost")


async def test_rule_14_a_missing_model_marks_the_node(client: Client, store: TimedStore) -> None:
    async def handler(job: Job) -> eventsched.Result:
        raise eventsched.JobError("MODEL_NOT_AVAILABLE", feature="voice")

    async with serving(client, node_of(handler, features=["voice"])):
        await say(client, store, features=["voice"])
        suspended = await recorded(store, "NodeSuspended")
    assert (suspended.scope, suspended.subject) == ("feature", "voice")


async def test_a_retriable_failure_goes_to_another_node(client: Client, store: TimedStore) -> None:
    async def handler(job: Job) -> eventsched.Result:
        return eventsched.Result(text=f"attempt {job.attempt}")

    good = node_of(handler, name="b-good")
    bad = node_of(handlers.lacking, name="a-bad", slots=8)
    async with serving(client, bad, good), opened(client) as session:
        await session.append(SECOND, end_of_utterance=True)
        await store.dispatch()
        assert (await next_result(session.results())).text == "attempt 2"


def test_a_code_is_a_code() -> None:
    for kind in (eventsched.NoSpeech, eventsched.NoSpeechError, eventsched.JobError):
        with pytest.raises(eventsched.InvalidMessage, match="A-Z"):
            kind(code="not a code")


@pytest.mark.parametrize("retry_in_ms", [-1, 10_001, 1.5, True, "1"])
def test_a_backoff_is_a_whole_number_of_at_most_10_s(retry_in_ms: Any) -> None:
    with pytest.raises(eventsched.InvalidMessage, match="retry_in_ms"):
        eventsched.JobError("GPU_BUSY", retry_in_ms=retry_in_ms)


def test_an_error_with_a_backoff_is_retryable_and_can_be_copied() -> None:
    error = copy(eventsched.JobError("GPU_BUSY", retry_in_ms=0))
    assert (error.code, error.retryable, error.retry_in_ms) == ("GPU_BUSY", True, 0)
    assert eventsched.JobError("GPU_BUSY").retry_in_ms is None


@pytest.mark.parametrize("processes", [False, True])
async def test_rule_20_a_handler_chooses_the_backoff(
    client: Client, store: TimedStore, processes: bool
) -> None:
    async with serving(client, node_of(handlers.busy, processes=processes)):
        await say(client, store)
        queued = await recorded(store, "JobQueued")
    (event,) = await store.log("JobQueued")
    assert queued.reason == "retry_backoff"
    assert 700 <= queued.not_before_ms - event.ms < 875


async def test_rule_14_a_missing_model_without_a_feature_suspends_the_language_pair(
    client: Client, store: TimedStore
) -> None:
    async def handler(job: Job) -> eventsched.Result:
        raise eventsched.JobError("MODEL_NOT_AVAILABLE")

    async with serving(client, node_of(handler, features=["voice"])):
        await say(client, store, features=["voice"])
        suspended = await recorded(store, "NodeSuspended")
    assert (suspended.scope, suspended.subject) == ("language_pair", "en>es")


# --- threads and processes ------------------------------------------------------------------


async def test_a_plain_function_runs_in_a_thread_and_may_speak(
    client: Client, store: TimedStore
) -> None:
    threads: list[int] = []

    def handler(job: BlockingJob) -> eventsched.Result:
        threads.append(threading.get_ident())
        job.partial("ho")
        until_ms = job.extend(60)
        return eventsched.Result(text=f"{len(job.audio())} {until_ms == job.deadline_ms}")

    async with serving(client, node_of(handler)), opened(client) as session:
        await session.append(SECOND, end_of_utterance=True)
        await store.dispatch()
        results = session.results(partials=True)
        assert (await next_of(eventsched.Partial, results)).text == "ho"
        assert (await next_result(results)).text == f"{32_000 + 280 * 32} True"
    assert threads[0] != threading.get_ident()


async def test_a_function_in_a_process_has_its_audio(client: Client, store: TimedStore) -> None:
    async with (
        serving(client, node_of(handlers.in_process, processes=True)),
        opened(client) as session,
    ):
        await session.append(SECOND, end_of_utterance=True)
        await store.dispatch()
        result = await next_result(session.results())
    pid, size = (result.text or "").split()
    assert int(pid) != os.getpid()
    assert int(size) == 32_000 + 280 * 32


async def test_an_error_in_a_process_keeps_its_code(client: Client, store: TimedStore) -> None:
    async with serving(client, node_of(handlers.lacking, processes=True)):
        await say(client, store)
        ended: AttemptEnded = await recorded(store, "AttemptEnded")
    assert (ended.reason, ended.code) == ("failed", "GPU_LOST")


# --- losing attempts ------------------------------------------------------------------------


class Stuck:
    """A handler that waits until it is cancelled, and counts."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.go_on = anyio.Event()

    async def __call__(self, job: Job) -> eventsched.Result:
        self.started += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return eventsched.Result(text=f"attempt {job.attempt}")


def stuck_node(stuck: Stuck, **given: Any) -> eventsched.Node:
    async def handler(job: Job) -> eventsched.Result:
        return await stuck(job)

    node: eventsched.Node = node_of(handler, **given)
    return node


async def overrun(client: Client, store: TimedStore, stuck: Stuck) -> None:
    """The first attempt outlives its lease; the second one has begun when this returns."""
    await say(client, store)
    await until("started", lambda: stuck.started == 1)
    store.tick(31_000)
    await store.timers()
    await until("the second attempt", lambda: (stuck.cancelled, stuck.started) == (1, 2))


async def test_rule_20_a_handler_that_overruns_its_lease_is_stopped(
    client: Client, store: TimedStore
) -> None:
    await never_silent(store)
    stuck = Stuck()
    async with serving(client, stuck_node(stuck)):
        await overrun(client, store, stuck)
        stuck.go_on.set()
        event: ResultRecorded = await recorded(store)
    assert (event.attempt, event.epoch) == (2, 1)
    assert not await store.log("ResultRefused")


async def test_a_cancel_of_an_earlier_attempt_leaves_the_later_one_alone(
    client: Client, store: TimedStore, redis: Any
) -> None:
    await never_silent(store)
    stuck = Stuck()
    async with serving(client, stuck_node(stuck)):
        await overrun(client, store, stuck)
        inbox = store.keys.inbox("gpu-1")
        cancel = next(f for _, f in await redis.xrange(inbox) if f[b"t"] == b"cancel")
        # the first attempt's, late and once more
        await redis.xadd(inbox, cancel, id=f"{store.at_ms}-*")
        await say(client, store)
        await until("the entry behind it", lambda: stuck.started == 3)
        stuck.go_on.set()
        event: ResultRecorded = await recorded(store, count=2)
    assert stuck.cancelled == 1
    assert event.status == "ok"


async def test_entries_of_other_forms_in_the_inbox_are_skipped(
    client: Client, store: TimedStore, redis: Any
) -> None:
    """Any program that has the server's URL can write them."""
    await never_silent(store)
    stuck = Stuck()
    async with serving(client, stuck_node(stuck)):
        await say(client, store)
        await until("the first attempt", lambda: stuck.started == 1)
        deep = "[" * 5_000 + "]" * 5_000
        for fields in (
            {"a": "b"},
            {"t": "cancel", "j": "x", "d": "{", "b": ""},
            {"t": "cancel", "j": "x", "d": "[]", "b": ""},
            {"t": "cancel", "j": "x", "d": deep, "b": ""},
            {"t": "assign", "j": b"\xff", "d": "{}", "b": ""},
            {"t": "assign", "j": "x", "d": f'{{"x":{deep}}}', "b": ""},
        ):
            await redis.xadd(store.keys.inbox("gpu-1"), fields, id=f"{store.at_ms}-*")
        await say(client, store)
        await until("the entry behind them", lambda: stuck.started == 2)
        stuck.go_on.set()
        event: ResultRecorded = await recorded(store, count=2)
    assert event.status == "ok"


async def test_an_attempt_that_the_cancel_missed_is_stopped_by_the_heartbeat(
    client: Client, store: TimedStore, redis: Any
) -> None:
    await beat_fast(store)
    stuck = Stuck()
    async with serving(client, stuck_node(stuck)):
        session = await say(client, store)
        await until("started", lambda: stuck.started == 1)
        # As if the job had gone elsewhere and the message were lost.
        job_key = (await store.log("JobDispatched"))[0].job
        await falsify(redis, store, job_key, "attempt", 2)
        await until("stopped", lambda: stuck.cancelled == 1)
        assert session


async def test_a_partial_of_a_lost_attempt_stops_it(
    client: Client, store: TimedStore, redis: Any
) -> None:
    raised: list[Exception] = []

    async def handler(job: Job) -> eventsched.Result:
        await falsify(redis, store, job.key, "attempt", 2)
        try:
            await job.partial("ho")
        except eventsched.LeaseLost as error:
            raised.append(error)
            await anyio.sleep_forever()
        return eventsched.Result(text="hola")

    async with serving(client, node_of(handler)):
        await say(client, store)
        await recorded(store, "ResultRefused")
        await until("raised", lambda: len(raised) == 1)
    assert not await store.log("ResultRecorded")


async def test_rule_21_a_job_whose_lease_is_lost_asks_the_server_no_more(
    client: Client, store: TimedStore, redis: Any
) -> None:
    """A handler may send partial results on, and each would be refused and recorded."""
    refused: list[str] = []

    async def handler(job: Job) -> eventsched.Result:
        await falsify(redis, store, job.key, "attempt", 2)
        with anyio.CancelScope(shield=True):
            for call in (job.partial("ho"), job.partial("hol"), job.extend(10)):
                with pytest.raises(eventsched.LeaseLost) as lost:
                    await call
                refused.append(lost.value.code)
                await falsify(redis, store, job.key, "attempt", 1)
        await anyio.sleep_forever()
        return eventsched.Result()

    async with serving(client, node_of(handler)):
        session = await say(client, store)
        await until("refused", lambda: len(refused) == 3)
    assert refused == ["ATTEMPT_MISMATCH"] * 3
    assert await redis.xlen(store.keys.partials(name_of(session))) == 0
    (event,) = await store.log("ResultRefused")
    assert isinstance(event.data, ResultRefused)
    assert event.data.what == "partial"


async def test_a_thread_that_was_given_up_is_told(client: Client, store: TimedStore) -> None:
    await never_silent(store)
    cancellation_seen = threading.Event()
    started = threading.Event()

    def handler(job: BlockingJob) -> eventsched.Result:
        started.set()
        for _ in range(2_000):
            if job.is_cancelled:
                cancellation_seen.set()
                return eventsched.Result()
            threading.Event().wait(0.005)
        raise AssertionError("no line has the message")

    async with serving(client, node_of(handler, slots=1)):
        await say(client, store)
        await until("started", started.is_set)
        store.tick(31_000)
        await store.timers()
        await until("the thread sees its cancellation", cancellation_seen.is_set)


async def test_a_process_that_was_given_up_is_killed(
    client: Client, store: TimedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await never_silent(store)
    pid_file = tmp_path / "pid"
    monkeypatch.setenv("FOR_EVER_PID", str(pid_file))
    async with serving(client, node_of(handlers.for_ever, processes=True, slots=1)):
        await say(client, store)
        await until("its process", lambda: pid_file.exists() and bool(pid_file.read_text()))
        pid = int(pid_file.read_text())
        assert is_running(pid)
        await store.close_session((await store.log("SessionOpened"))[0].session, 1)
        store.tick(30_000)
        await store.timers()
        await until("gone", lambda: not is_running(pid))


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


# --- registrations --------------------------------------------------------------------------


async def test_rule_13_a_lost_node_registers_again_and_drops_what_it_held(
    client: Client, store: TimedStore
) -> None:
    await beat_fast(store)
    stuck = Stuck()
    async with serving(client, stuck_node(stuck)):
        await say(client, store)
        await until("started", lambda: stuck.started == 1)
        store.tick(15_000)
        await store.timers()
        await until("again", lambda: has(store, "NodeRegistered", 2))
        await until("dropped", lambda: stuck.cancelled == 1)
        await until("the second attempt", lambda: stuck.started == 2)
        stuck.go_on.set()
        event: ResultRecorded = await recorded(store)
    assert (event.attempt, event.epoch) == (2, 2)
    assert not await store.log("ResultRefused")


async def test_rule_13_a_superseded_node_stops_with_a_clear_error(
    client: Client, store: TimedStore
) -> None:
    await beat_fast(store)
    stuck = Stuck()
    node = stuck_node(stuck)
    raised: list[eventsched.NodeSuperseded] = []

    async def run() -> None:
        try:
            await node.run(client)
        except eventsched.NodeSuperseded as error:
            raised.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until("registered", lambda: has(store, "NodeRegistered"))
        await say(client, store)
        await until("started", lambda: stuck.started == 1)
        await store.join("gpu-1")
    assert raised[0].code == "NODE_SUPERSEDED"
    assert stuck.cancelled == 1


def refusals(server: Server) -> int:
    """How many calls this server has refused for backpressure."""
    with redis.Redis.from_url(server.url) as direct:
        counted = direct.info("errorstats").get("errorstat_BACKPRESSURE", {"count": 0})
    return int(counted["count"])


async def test_registering_waits_while_the_system_takes_no_more(
    client: Client, store: TimedStore, server: Server
) -> None:
    await store.set_backpressure("memory", is_active=True, seen=9, limit=8)
    before = refusals(server)
    node = stuck_node(Stuck())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, client)
        await until("it was refused twice", lambda: refusals(server) >= before + 2)
        assert not await store.log("NodeRegistered")
        await store.set_backpressure("memory", is_active=False, seen=1, limit=8)
        await until("registered", lambda: has(store, "NodeRegistered"))
        tasks.cancel_scope.cancel()


# --- draining -------------------------------------------------------------------------------


async def test_rule_13_a_draining_node_finishes_what_it_holds(
    client: Client, store: TimedStore
) -> None:
    stuck = Stuck()
    node = stuck_node(stuck)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, client)
        await until("registered", lambda: has(store, "NodeRegistered"))
        await say(client, store)
        await until("started", lambda: stuck.started == 1)
        node.drain()
        await until("draining", lambda: has(store, "NodeDraining"))
        await say(client, store)  # not for this node any more
        stuck.go_on.set()
    types = await store.types()
    assert types.count("JobDispatched") == types.count("ResultRecorded") == 1
    assert types.count("NodeDrained") == 1
    assert stuck.cancelled == 0


async def test_rule_13_a_node_that_an_operator_drains_ends(
    client: Client, store: TimedStore
) -> None:
    """Its process ends as after a signal, and does not register again."""
    stuck = Stuck()
    node = stuck_node(stuck)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, client)
        await until("registered", lambda: has(store, "NodeRegistered"))
        await say(client, store)
        await until("started", lambda: stuck.started == 1)
        act = Act.of("ann@host", "new driver")
        drained = await store.request_drain(store.keys.full("gpu-1"), act, within_ms=60_000)
        assert drained.leases == 1
        stuck.go_on.set()
    types = await store.types()
    assert types.count("NodeRegistered") == types.count("NodeDrained") == 1
    assert stuck.cancelled == 0


async def test_rule_13_what_is_not_finished_in_time_is_handed_back(
    client: Client, store: TimedStore
) -> None:
    stuck, other = Stuck(), Stuck()
    node = stuck_node(stuck, name="a-first", slots=4)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, client)
        await until("registered", lambda: has(store, "NodeRegistered"))
        await say(client, store)
        await until("started", lambda: stuck.started == 1)
        tasks.start_soon(stuck_node(other, name="b-second").run, client)
        await until("both", lambda: has(store, "NodeRegistered", 2))
        node.drain(within_s=0.3)
        await until("handed back", lambda: other.started == 1)
        await until("gone", lambda: has(store, "NodeDrained"))
        other.go_on.set()
        event: ResultRecorded = await recorded(store)
        tasks.cancel_scope.cancel()
    ended = (await store.log("AttemptEnded"))[0].data
    assert getattr(ended, "reason", "") == "drained"
    assert event.attempt == 2
    assert stuck.cancelled == 1


async def test_a_node_that_drains_before_it_runs_does_not_run(
    client: Client, store: TimedStore
) -> None:
    node = stuck_node(Stuck())
    node.drain()
    await node.run(client)
    assert await store.types() == []


# --- the server away ------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", ["before", "after"])
async def test_a_result_whose_reply_was_lost_counts_once(
    client: Client, store: TimedStore, cuts: str
) -> None:
    transport: Cut = cut(store)
    transport.of = "record_results"
    texts: list[str] = []

    async def handler(job: Job) -> eventsched.Result:
        setattr(transport, cuts, 3)
        return eventsched.Result(text="hola")

    async with serving(client, node_of(handler)), opened(client) as session:
        await session.append(SECOND, end_of_utterance=True)
        await store.dispatch()
        texts = [(await next_result(session.results())).text or ""]
        await until("all tries made", lambda: not getattr(transport, cuts))
        await until("free", lambda: is_free(store))
    assert texts == ["hola"]
    assert len(await store.log("ResultRecorded")) == 1


async def is_free(store: TimedStore) -> bool:
    leases = await store.transport.command(
        "ZCARD", store.keys.leases("gpu-1", 1), key=store.keys.leases("gpu-1", 1)
    )
    return int(leases) == 0


async def test_results_of_one_turn_share_a_call(client: Client, store: TimedStore) -> None:
    transport: Cut = cut(store)
    stuck = Stuck()
    async with serving(client, stuck_node(stuck, slots=16)):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(say, client, store)
        await until("started", lambda: stuck.started == 10)
        stuck.go_on.set()
        await recorded(store, count=10)
    assert transport.scripts.count("record_results") == -(-10 // RESULTS_MAX)
