"""Real `eventsched` processes with a data folder of their own.

Owns: starting a process, waiting for its first line, its output as JSON; a WAV file to stream; the
source of an application.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import wave
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from eventsched.server.testing import wait_for
from tests import forked
from tests.forked import IS_MEASURED, Forked, run_forked

ROOT = Path(__file__).parents[2]
END_S = 30.0
LIMIT_S = 60.0
APPLICATION = """
import anyio, eventsched

node = eventsched.Node("n", sources=["en"], targets=["es"])

{handler}

async def main():
    async with eventsched.connect() as es, anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, es)
        async with es.session(tenant="acme", source="en", targets=["es"]) as session:
            await session.append(bytes(3_200), end_of_utterance=True)
            with anyio.fail_after(30):
                async for result in session.results():
                    print(result.outcome, result.text)
                    break
        tasks.cancel_scope.cancel()

if __name__ == "__main__":
    anyio.run(main)
"""
"""A program that speaks 100 ms, serves the job by `handler`, and prints the outcome."""
_INTERPRETER = {
    "LANG", "LC_ALL", "PYTHONCOERCECLOCALE", "PYTHONIOENCODING", "PYTHONPATH", "PYTHONUTF8"
}  # fmt: skip
"""Variables that Python reads at its start."""


class Program:
    """One running `eventsched …`."""

    def __init__(
        self,
        data: Path,
        *words: str,
        env: dict[str, str] | None = None,
        stdin: int | None = None,
    ) -> None:
        self.log = data.parent / f"{words[0]}-{len(list(data.parent.glob('*.log')))}.log"
        read, write = os.pipe()
        self._stdout = open(read, "rb")  # noqa: SIM115 - closed by `close`
        with self.log.open("wb") as log, open(os.devnull, "rb") as nothing:
            streams = (nothing.fileno() if stdin is None else stdin, write, log.fileno())
            self._process = _started(words, environment(data), env, streams)
        os.close(write)

    @property
    def pid(self) -> int:
        return self._process.pid

    def first_json(self) -> dict[str, Any]:
        """Wait for the first line of output and return it as JSON."""
        return json.loads(self.first_line())  # type: ignore[no-any-return]

    def first_line(self) -> str:
        line = self._stdout.readline()
        assert line, self.log.read_text()
        return line.decode()

    def wait_for_log(self, words: str) -> None:
        wait_for(f"{words!r} in {self.log}", lambda: words in self.log.read_text())

    def signal_group(self, number: int) -> None:
        """Send a signal to the process group, as Ctrl-C in a terminal does, unless it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def ended(self) -> int:
        """Wait for the end and return the exit code."""
        return self._process.wait(END_S)

    def output(self) -> bytes:
        """Wait for the end and return the rest of standard output."""
        output = self._stdout.read()
        self.ended()
        return output

    def stop_reading(self) -> None:
        """Close the pipe that the process writes to."""
        self._stdout.close()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(END_S)
        self._stdout.close()


def _started(
    words: Sequence[str],
    environ: dict[str, str],
    env: dict[str, str] | None,
    streams: tuple[int, int, int],
) -> subprocess.Popen[bytes] | Forked:
    """Start a command: in a new interpreter, which shows them in /proc, if it has variables."""
    if env is None and not IS_MEASURED:
        main = forked.command(words)
        return Forked(main, ROOT, environ, streams, start_new_session=True)
    stdin, stdout, stderr = streams
    return subprocess.Popen(
        command(*words),
        cwd=ROOT,
        env=environ | (env or {}),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


@contextmanager
def program(
    data: Path, *words: str, env: dict[str, str] | None = None, stdin: int | None = None
) -> Iterator[Program]:
    """Run a command at most until the block ends."""
    running = Program(data, *words, env=env, stdin=stdin)
    try:
        yield running
    finally:
        running.close()


def run(
    data: Path,
    *words: str,
    stdin: bytes = b"",
    env: dict[str, str] | None = None,
    stdout: int | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run one command and wait for its end: in a new interpreter if Python itself reads `env`.

    Args:
        stdout: A descriptor for the output, instead of the `stdout` of the result.
    """
    environ = environment(data) | (env or {})
    if IS_MEASURED or _INTERPRETER.intersection(env or {}):
        return subprocess.run(
            command(*words),
            cwd=ROOT,
            env=environ,
            input=stdin,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            timeout=LIMIT_S,
            check=False,
        )
    return run_forked(words, ROOT, environ, stdin, LIMIT_S, stdout=stdout)


def json_of(done: subprocess.CompletedProcess[bytes]) -> Any:
    """Return the only JSON object that a successful command printed."""
    (value,) = json_lines_of(done)
    assert done.returncode == 0, done.stderr.decode()
    return value


def json_lines_of(done: subprocess.CompletedProcess[bytes]) -> list[Any]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "eventsched.cli", *words]


def environment(data: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if "EVENTSCHED" not in name}
    return clean | {"EVENTSCHED_DATA": str(data), "COLUMNS": "80"}


def write_wav(path: Path, ms: int, *, rate: int = 16_000) -> Path:
    """Write a tone of this duration."""
    count = ms * rate // 1_000
    tone = array("h", (round(8_000 * math.sin(at / 9)) for at in range(count)))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(tone.tobytes())
    return path
