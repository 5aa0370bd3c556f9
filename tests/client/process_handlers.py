"""Handlers for worker processes: each does one thing that must do no harm to its node."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import structlog

import eventsched
from eventsched.node.job import BlockingJob

GOOD = eventsched.Result(text="hola")
log = structlog.get_logger("own")


class Unpicklable(Exception):
    """Neither its class's signature nor what it holds survives pickling."""

    def __init__(self, code: int, lock: Any) -> None:
        super().__init__(f"code {code}")
        self.lock = lock


def exits(_: BlockingJob) -> Any:
    sys.exit("no model")


def is_interrupted(_: BlockingJob) -> Any:
    raise KeyboardInterrupt


def is_cancelled(_: BlockingJob) -> Any:
    raise asyncio.CancelledError


def raises_what_cannot_travel(_: BlockingJob) -> Any:
    raise Unpicklable(7, threading.Lock())


def returns_what_cannot_travel(_: BlockingJob) -> Any:
    return threading.Lock()


def returns_too_much(_: BlockingJob) -> Any:
    return eventsched.Result(text="x" * 70_000)


def raises_a_mixed_group(_: BlockingJob) -> Any:
    raise ExceptionGroup("both", [eventsched.NoSpeechError(), ZeroDivisionError()])


def ends_with_code_3(_: BlockingJob) -> Any:
    os._exit(3)


def crashes(_: BlockingJob) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)  # sleeps: work that no cancel ends


def closes_all_descriptors(_: BlockingJob) -> Any:
    os.closerange(3, 256)
    return GOOD


def raises_a_group(_: BlockingJob) -> Any:
    raise ExceptionGroup("", [eventsched.NoSpeechError("BLANK"), eventsched.JobError("BAD_VOICE")])


def is_asynchronous(_: BlockingJob) -> Any:
    async def inside() -> eventsched.Result:
        await asyncio.sleep(0)  # sleeps: one turn of the event loop
        return GOOD

    return inside()


def uses_standard_streams(_: BlockingJob) -> Any:
    """As C libraries and other programs do, by descriptor."""
    read = subprocess.run(["cat"], timeout=10, capture_output=True, check=True).stdout
    subprocess.run(["echo", "loaded 12 layers"], check=True)
    sys.stdout.write("printed\n")
    for _n in range(1_500):
        os.write(2, b"x" * 199 + b"\n")
    return eventsched.Result(text=f"{len(read)} bytes read")


def forks(_: BlockingJob) -> Any:
    """A fork that logs and ends as a process, not as this worker."""
    child = os.fork()
    if not child:
        log.warning("from a fork")
        os._exit(0)
    os.waitpid(child, 0)
    return GOOD


def writes_lines(job: BlockingJob) -> Any:
    log.info("not for a log of warnings")
    log.warning("by structlog", model="small", big=2**80, at=Path("model"))
    logging.getLogger("own").warning("by %s", "logging")
    thread = threading.Thread(target=log.warning, args=["by a thread"])
    thread.start()
    thread.join()
    log.warning("long", text="x" * 1_000_000)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        log.exception("with a traceback")
        logging.getLogger("own").exception("record with a traceback")
    return GOOD


def holds_another_program(_: BlockingJob) -> Any:
    """Its own process and that of a program it has started, in the file that FOR_EVER_PID names."""
    other = subprocess.Popen(["sleep", "600"])
    Path(os.environ["FOR_EVER_PID"]).write_text(f"{os.getpid()} {other.pid}")
    other.wait()


def ends_another_program(_: BlockingJob) -> Any:
    """By SIGTERM: what the worker ignores, its programs do not."""
    other = subprocess.Popen(["sleep", "600"])
    other.terminate()
    return eventsched.Result(text=f"ended by {-other.wait(10)}")


def names_its_process(_: BlockingJob) -> Any:
    return eventsched.Result(text=str(os.getpid()))


class NotLoaded:
    """A handler that cannot be unpickled elsewhere."""

    def __reduce__(self) -> Any:
        return _refuse, (os.getpid(),)

    def __call__(self, _: BlockingJob) -> Any:
        raise AssertionError


def _refuse(pid: int) -> Any:
    if os.getpid() != pid:
        raise ModuleNotFoundError("No module named 'models'")
    return NotLoaded()


class Slow:
    """A handler that takes its time to be loaded, wherever a file says so."""

    def __init__(self, gate: str) -> None:
        self.gate = gate

    def __call__(self, _: BlockingJob) -> Any:
        return names_its_process(_)

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__dict__.update(state)
        with Path(f"{self.gate}.loads").open("a") as loads:
            loads.write(f"{os.getpid()}\n")
        while Path(self.gate).exists():
            time.sleep(0.01)  # sleeps: work in small steps
