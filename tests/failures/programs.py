"""Real processes of the program, for tests that kill, suspend and resume them.

Owns: starting `eventsched …`, its output, its end. No process started here outlives its test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio

from tests.cli.programs import run
from tests.forked import start_module

READY_S = 20.0


class Program:
    """One process; `output` has what it wrote on either stream."""

    def __init__(self, log: Path, arguments: Sequence[str]) -> None:
        self._log = log
        with log.open("ab") as output, open(os.devnull, "rb") as nothing:
            streams = (nothing.fileno(), output.fileno(), output.fileno())
            self.process = start_module(arguments, streams)

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    async def wait_for(self, words: str, within_s: float = READY_S) -> None:
        """Return as soon as the output contains these words."""
        ends_at = time.monotonic() + within_s
        while words not in self.output:
            assert self.process.poll() is None, f"ended: {self.output[-2_000:]}"
            assert time.monotonic() < ends_at, f"no {words!r} in: {self.output[-2_000:]}"
            await anyio.sleep(0.01)  # sleeps: asks again, within a bound

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> int:
        """Its exit code after SIGTERM."""
        if self.process.poll() is None:
            self.wake()
            self.process.terminate()
        return self.process.wait(20)


class Programs:
    """Starts them; `python -m ARGUMENTS`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[Program] = []

    def start(self, *arguments: str) -> Program:
        program = Program(self._folder / f"program-{len(self.started)}.log", arguments)
        self.started.append(program)
        return program

    async def role(self, url: str, *roles: str) -> Program:
        """`eventsched run ROLE…`, ready."""
        program = self.start("eventsched.cli", "--url", url, "run", *roles)
        await program.wait_for("ready: ")
        return program


@contextmanager
def programs(folder: Path) -> Iterator[Programs]:
    fleet = Programs(folder)
    try:
        yield fleet
    finally:
        for program in fleet.started:
            program.wake()
            program.kill()


def ask(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`eventsched …` to its end."""
    done = run(Path(os.devnull), "--url", url, *arguments)
    stdout, stderr = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, stdout, stderr)
