"""`processes=True`: what a handler does in its process, and what becomes of that process."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import eventsched
from eventsched.client.client import Client
from eventsched.node.job import BlockingJob
from eventsched.schema.events import JobFailed, ResultRecorded
from tests.client import process_handlers as handlers
from tests.client.test_node import has, never_silent, node_of, recorded, say
from tests.client.test_session import opened
from tests.fixtures_store import TimedStore
from tests.outcomes import next_result
from tests.systems import SECOND, serving, until


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """The log's lines, as structlog has them before they are written."""
    with structlog.testing.capture_logs() as captured:
        yield captured


def in_process(handler: Any, **given: Any) -> Any:
    return node_of(handler, processes=True, **given)


async def text_of(client: Client, store: TimedStore) -> str:
    """One utterance's result."""
    async with opened(client) as session:
        await session.append(SECOND, end_of_utterance=True)
        await store.dispatch()
        return (await next_result(session.results())).text or ""


def children() -> set[int]:
    """The processes that this one has started and that have not ended."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in listed.split() if is_alive(int(pid))}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- how jobs end -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (handlers.exits, "SystemExit: no model at process_handlers.py:"),
        (handlers.is_interrupted, "KeyboardInterrupt at process_handlers.py:"),
        (handlers.is_cancelled, "CancelledError at process_handlers.py:"),
        (handlers.raises_what_cannot_travel, "Unpicklable: code 7 at process_handlers.py:"),
        (handlers.returns_what_cannot_travel, "not lock"),
        (handlers.returns_too_much, "at most 65536 bytes"),
        (handlers.raises_a_mixed_group, "ZeroDivisionError"),
        (handlers.ends_with_code_3, "ended by exit code 3"),
        (handlers.crashes, "ended by signal SIGSEGV"),
        # Its socket is closed: the process exits, unless the node kills it first.
        (handlers.closes_all_descriptors, "ended by "),
    ],
)
async def test_a_failure_of_a_process_is_one_line_and_the_node_serves_on(
    client: Client,
    store: TimedStore,
    lines: list[Any],
    handler: Callable[[BlockingJob], Any],
    message: str,
) -> None:
    before = children()
    async with serving(client, in_process(handler)):
        session = await say(client, store)
        failed: JobFailed = await recorded(store, "JobFailed")
        assert (failed.code, failed.attempt) == ("HANDLER_ERROR", 4)
    assert children() <= before
    warnings = [line for line in lines if line["log_level"] in ("warning", "error")]
    assert [line["attempt"] for line in warnings] == [1, 2, 3, 4]
    for line in warnings:
        assert (line["event"], line["session"]) == ("handler failed", session)
        assert message in line["error"]


async def test_the_traceback_of_a_process_is_in_the_line(
    client: Client, store: TimedStore, lines: list[Any]
) -> None:
    async with serving(client, in_process(handlers.raises_what_cannot_travel)):
        await say(client, store)
        await recorded(store, "JobFailed")
    (line, *_) = [line for line in lines if line["event"] == "handler failed"]
    assert "process_handlers.py" in line["exception"]
    assert "raise Unpicklable" in line["exception"]


async def test_a_group_of_outcomes_counts_as_its_first(client: Client, store: TimedStore) -> None:
    async with serving(client, in_process(handlers.raises_a_group)):
        await say(client, store)
        event: ResultRecorded = await recorded(store)
    assert (event.status, event.code, event.attempt) == ("no_speech", "BLANK", 1)


@pytest.mark.parametrize("handler", [handlers.is_asynchronous, handlers.forks])
async def test_what_a_handler_may_do(client: Client, store: TimedStore, handler: Any) -> None:
    async with serving(client, in_process(handler)):
        for count in (1, 2):
            await say(client, store)
            event: ResultRecorded = await recorded(store, count=count)
            assert (event.status, event.attempt) == ("ok", 1)


# --- descriptors and log lines ----------------------------------------------------------------


async def test_standard_descriptors_belong_to_the_handler(
    client: Client, store: TimedStore, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving(client, in_process(handlers.uses_standard_streams)):
        assert await text_of(client, store) == "0 bytes read"
    out, err = capfd.readouterr()
    assert out == ""
    assert "loaded 12 layers\n" in err
    assert "printed\n" in err
    assert err.count("x" * 199 + "\n") == 1_500


async def test_log_lines_of_a_process_arrive_with_job_and_session(
    client: Client,
    store: TimedStore,
    lines: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(client, in_process(handlers.writes_lines)):
        session = await say(client, store)
        await recorded(store)
    named = {line["event"]: line for line in lines}
    by_structlog = named["by structlog"]
    assert (by_structlog["session"], by_structlog["attempt"]) == (session, 1)
    assert session in by_structlog["job"]
    assert (by_structlog["log_level"], by_structlog["model"]) == ("warning", "small")
    assert (by_structlog["big"], by_structlog["at"]) == (str(2**80), "PosixPath('model')")
    assert named["by a thread"]["session"] == session
    assert 1_000 < len(named["long"]["text"]) < 10_000
    assert "ZeroDivisionError" in named["with a traceback"]["exception"]
    records = {record.getMessage(): record for record in caplog.records}
    by_logging = vars(records["by logging"])
    assert (by_logging["name"], by_logging["levelname"]) == ("own", "WARNING")
    assert (by_logging["session"], by_logging["attempt"]) == (session, 1)
    assert "ZeroDivisionError" in (records["record with a traceback"].exc_text or "")


@pytest.mark.parametrize("plain", [False, True])
async def test_log_lines_of_handlers_in_the_loop_and_in_threads_name_job_and_session(
    client: Client, store: TimedStore, plain: bool
) -> None:
    seen: list[Any] = []

    def in_thread(_: Any) -> eventsched.Result:
        seen.append(structlog.contextvars.get_contextvars())
        return handlers.GOOD

    async def in_loop(_: eventsched.Job) -> eventsched.Result:
        return in_thread(_)

    async with serving(client, node_of(in_thread if plain else in_loop)):
        session = await say(client, store)
        await recorded(store)
    (about,) = seen
    assert (about["session"], about["attempt"]) == (session, 1)
    assert session in about["job"]
    assert structlog.contextvars.get_contextvars() == {}


# --- the life of a process --------------------------------------------------------------------


async def test_processes_are_used_again_and_end_with_the_node(
    client: Client, store: TimedStore
) -> None:
    async with serving(client, in_process(handlers.names_its_process)):
        first, second = await text_of(client, store), await text_of(client, store)
    assert first == second
    assert not is_alive(int(first))


async def test_a_process_that_dies_without_a_job_is_reported_and_replaced(
    client: Client, store: TimedStore, lines: list[Any]
) -> None:
    async with serving(client, in_process(handlers.names_its_process, slots=1)):
        first = int(await text_of(client, store))
        os.kill(first, signal.SIGKILL)
        await until("reported", lambda: any("pid" in line for line in lines))
        assert int(await text_of(client, store)) != first
    (line,) = [line for line in lines if line["event"] == "worker process ended"]
    assert (line["pid"], line["how"]) == (first, "signal SIGKILL")


async def test_a_cancelled_job_s_process_ends_with_the_programs_it_has_started(
    client: Client, store: TimedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    monkeypatch.setenv("FOR_EVER_PID", str(pids))
    await never_silent(store)
    async with serving(client, in_process(handlers.holds_another_program, slots=1)):
        await say(client, store)
        await until("started", lambda: pids.exists() and len(pids.read_text().split()) == 2)
        worker, other = map(int, pids.read_text().split())
        assert is_alive(other)
        store.tick(31_000)
        await store.timers()
        await until("ended", lambda: not is_alive(worker) and not is_alive(other))


async def test_programs_of_a_handler_can_be_ended_by_the_signals_that_it_ignores(
    client: Client, store: TimedStore
) -> None:
    async with serving(client, in_process(handlers.ends_another_program)):
        assert await text_of(client, store) == f"ended by {signal.SIGTERM}"


async def test_a_process_that_still_loads_is_kept_when_its_job_is_cancelled(
    client: Client, store: TimedStore, tmp_path: Path
) -> None:
    """Loading may take longer than a lease: killed each time, no job would ever be done."""
    gate = tmp_path / "gate"
    loads = Path(f"{gate}.loads")
    await never_silent(store)
    async with serving(client, in_process(handlers.Slow(str(gate)), slots=1)):
        first = int(await text_of(client, store))
        gate.touch()
        os.kill(first, signal.SIGKILL)
        await until("ended", lambda: not is_alive(first))
        await say(client, store)
        await until("loading", lambda: len(loads.read_text().split()) == 2)
        store.tick(31_000)
        await store.timers()
        await until("the second attempt", lambda: has(store, "JobDispatched", 3))
        gate.unlink()
        event: ResultRecorded = await recorded(store, count=2)
        loaded = len(loads.read_text().split())  # noqa: ASYNC240 - a small file
    assert (event.attempt, loaded) == (2, 2)


# --- what no process can load -----------------------------------------------------------------


async def async_handler(_: Any) -> Any: ...


def a_generator(_: Any) -> Any:
    yield handlers.GOOD


class Unpicklable:
    def __call__(self, _: Any) -> Any: ...
    def __reduce__(self) -> Any:
        raise TypeError("no way")


def local_function() -> Any:
    def inner(_: Any) -> Any: ...

    return inner


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (async_handler, "use def instead of async def"),
        (functools.partial(async_handler), "use def instead of async def"),
        (a_generator, "is a generator"),
        (lambda job: handlers.GOOD, "top level of a module"),
        (local_function(), "top level of a module"),
        (functools.partial(local_function()), "top level of a module"),
        (Unpicklable(), "no way"),
    ],
)
def test_what_no_process_can_load_is_refused_where_it_is_declared(
    handler: Any, message: str
) -> None:
    with pytest.raises(eventsched.InvalidMessage, match=message):
        in_process(handler)


async def test_what_a_module_holds_under_another_name_is_refused_before_any_job(
    client: Client, store: TimedStore
) -> None:
    """Known only once the module is complete: the name may be given to something else."""

    def _(job: BlockingJob) -> Any: ...

    _.__qualname__ = "local_function"
    with pytest.raises(eventsched.InvalidMessage, match="under a name of its own"):
        await in_process(_).run(client)
    assert await store.types() == []


async def test_what_cannot_be_loaded_over_there_is_refused_before_any_job(
    client: Client, store: TimedStore
) -> None:
    before = children()
    with pytest.raises(eventsched.InvalidMessage, match="No module named 'models'"):
        await in_process(handlers.NotLoaded()).run(client)
    assert await store.types() == []
    assert children() <= before


# --- programs that hold their handler themselves ----------------------------------------------

PROGRAM = """
import os, sys
import anyio
import eventsched
from eventsched.node.process_pool import process_pool
from eventsched.node.handler_checks import pickled

def handler(job):
    return eventsched.Result(text=f"{job} {os.getpid() != job}")

async def main():
    async with process_pool(pickled(handler, None, None), size=1) as pool:
        job = eventsched.BlockingJob.__new__(eventsched.BlockingJob)
        job.session = job.key = "c0.s"
        job.attempt, job.traceparent = 1, ""
        result = await pool.run(job, None)
        with open(sys.argv[1], "w") as file:
            file.write(result.text)
"""


@pytest.mark.parametrize("closed", ["", "<&-", "<&- >&- 2>&-"])
def test_a_program_s_own_handler_is_loaded_also_without_standard_descriptors(
    tmp_path: Path, closed: str
) -> None:
    script, output = tmp_path / "serve.py", tmp_path / "output"
    script.write_text(PROGRAM + "\nif __name__ == '__main__':\n    anyio.run(main)\n")
    command = f"exec {sys.executable} {script} {output} {closed}"
    done = subprocess.run(["sh", "-c", command], timeout=60, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert output.read_text().endswith("True")


def test_a_program_that_would_start_its_node_in_each_worker_is_told_the_remedy(
    tmp_path: Path,
) -> None:
    script = tmp_path / "serve.py"
    script.write_text(PROGRAM + "\nanyio.run(main)\n")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "output")],
        timeout=60,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 1
    assert b"if __name__ == '__main__'" in done.stderr


def test_what_was_typed_in_is_refused(tmp_path: Path) -> None:
    typed = "import eventsched; node = eventsched.Node('n', sources=['en'], targets=['es'])\n"
    typed += "@node.job(processes=True)\ndef handler(job): ...\n"
    done = subprocess.run(
        [sys.executable, "-c", typed], timeout=60, check=False, capture_output=True
    )
    assert done.returncode == 1
    assert b"write it into a module" in done.stderr
