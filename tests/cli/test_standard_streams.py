"""Closed pipes, full disks, unusual encodings, closed descriptors: a silent end or one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from eventsched.cli.standard_streams import OutputFailed
from tests.cli.interpreter import run_all
from tests.cli.programs import (
    END_S,
    ROOT,
    command,
    environment,
    json_lines_of,
    program,
    run,
    write_wav,
)

ASCII = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LANG": ""}
LATIN = {"PYTHONIOENCODING": "latin-1"}


@dataclass(frozen=True)
class System:
    """A data folder with one finished session; the roles and a node are running."""

    data: Path
    speech: Path
    session: str
    job: str

    def words(self, name: str) -> list[str]:
        """Return the arguments of a command that prints something, by its name in this module."""
        speech, session = str(self.speech), self.session
        return {
            "help": ["--help"],
            "stream": ["stream", speech, speech, "-t", "es"],
            "stream json": ["stream", speech, speech, "-t", "es", "--json"],
            "history": ["history"],
            "history json": ["history", "--json"],
            "state": ["state", "session", session],
            "why": ["why", self.job],
            "status": ["status"],
            "verify": ["verify"],
            "watch": ["status", "--watch", "--every", "0.1"],
            "watch json": ["status", "--watch", "--every", "0.1", "--json"],
        }[name]


COMMANDS = ("help", "stream", "stream json", "history", "history json", "state", "why", "status",
            "verify", "watch", "watch json")  # fmt: skip
SHORT = ("help", "history", "history json", "state", "why", "status", "verify")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("streams")
    data, speech = folder / "data", write_wav(folder / "a.wav", 300)
    with (
        program(data, "up", "--json") as up,
        program(data, "node", "tests.cli.workers:echo") as node,
    ):
        up.first_json()
        node.wait_for_log('"serving"')
        lines = json_lines_of(run(data, "stream", str(speech), "-t", "es", "--json"))
        session = lines[0]["session"]
        jobs = json_lines_of(run(data, "history", "--type", "JobDispatched", "--json"))
        yield System(data, speech, session, jobs[0]["job"])


@pytest.mark.parametrize("name", COMMANDS)
def test_reader_that_is_gone_ends_a_command_quietly(system: System, name: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run(system.data, *system.words(name), stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("name", ["stream", "stream json", "watch", "watch json"])
def test_reader_that_goes_after_the_first_line_ends_a_command_quietly(
    system: System, name: str
) -> None:
    with program(system.data, *system.words(name)) as process:
        assert process.first_line()
        process.stop_reading()
        assert (process.ended(), process.log.read_text()) == (1, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_full_disk_is_one_line(system: System, name: str) -> None:
    with open("/dev/full", "wb") as full:
        done = run(system.data, *system.words(name), stdout=full.fileno())
    line = b"eventsched: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, line)


@pytest.mark.parametrize("env", [LATIN, ASCII], ids=["latin-1", "ASCII"])
def test_character_that_the_encoding_lacks_is_replaced_but_json_is_exact(
    system: System, env: dict[str, str]
) -> None:
    words = system.words("history json")
    # Timers close sessions of other tests meanwhile.
    last = json_lines_of(run(system.data, *words))[-1]["id"]
    words = [*words, "--until", last]
    *short, history = run_all(system.data, [*map(system.words, SHORT), words], env=env)
    for name, done in zip(SHORT, short, strict=True):
        assert (done.returncode, done.stderr) == (0, b""), name
        text = done.stdout.decode("latin-1" if env is LATIN else "ascii")
        if name == "status":
            assert "en -> es, fr" in text
    assert history.stdout == run(system.data, *words).stdout
    assert json_lines_of(history)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_descriptor_that_is_closed_ends_no_command(system: System, closed: str) -> None:
    names = ("status", "history json", "stream")
    commands = [system.words(name) for name in names]
    for name, done in zip(names, run_all(system.data, commands, redirected=closed), strict=True):
        assert done.returncode == 0, name
        assert done.stderr == b"", name
        assert bool(done.stdout) == (">&-" not in closed.replace("2>&-", "")), name


def test_standard_input_that_is_closed_or_unreadable_is_one_line(system: System) -> None:
    for redirected, message in (("<&-", "no audio came"), ("0>/dev/null", "Bad file descriptor")):
        words = command("stream", "-", "-t", "es", "--json")
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {redirected}', "sh", *words],
            cwd=ROOT, env=environment(system.data), capture_output=True, timeout=END_S, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        (line,) = done.stderr.decode().splitlines()
        assert message in line


def test_service_whose_log_cannot_be_written_goes_on(system: System) -> None:
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            command("run", "timer", "--json", "-vv"), cwd=ROOT, env=environment(system.data),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=full,
        )  # fmt: skip
        assert process.stdout
        with process.stdout:
            assert json.loads(process.stdout.readline())["ready"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(END_S) == 0


def test_pipe_that_does_not_block_gets_all_of_the_output() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    code = (
        "import sys\n"
        "from eventsched.cli.standard_streams import open_standard_streams\n"
        "open_standard_streams()\n"
        "sys.stdout.write('x' * 1_000_000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=write, cwd=ROOT) as process:
        os.close(write)
        with open(read, "rb") as pipe:
            assert pipe.read() == b"x" * 1_000_000
        assert process.wait(END_S) == 0


def test_file_whose_name_is_no_text_is_streamed_and_named(system: System) -> None:
    name = os.fsdecode(bytes(system.speech.parent) + b"/\xff.wav")
    os.link(system.speech, name)
    for words, as_shown in (((), "\\udcff"), (("--json",), '"\\udcff"')):
        done = run(system.data, "stream", name, "-t", "es", *words)
        assert (done.returncode, done.stderr) == (0, b"")
        assert as_shown in done.stdout.decode()
    missing = run(system.data, "stream", name + ".none", "-t", "es")
    assert len(missing.stderr.splitlines()) == 1


def test_output_that_fails_in_another_thread_raises_in_the_main_one() -> None:
    """The thread must not print a traceback of its own."""
    code = (
        "import sys, threading\n"
        "from eventsched.cli.standard_streams import OutputFailed, open_standard_streams\n"
        "open_standard_streams()\n"
        "def draw():\n"
        "    sys.stdout.write('x' * 100_000)\n"
        "    sys.stdout.flush()\n"
        "thread = threading.Thread(target=draw); thread.start(); thread.join()\n"
        "try:\n"
        "    sys.stdout.write('y'); sys.stdout.flush()\n"
        "except OutputFailed as error:\n"
        "    sys.stderr.write(f'{error.is_closed}')\n"
    )
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, timeout=END_S,
            check=True, cwd=ROOT,
        )  # fmt: skip
    assert done.stderr == b"False"


def test_only_a_closed_pipe_is_quiet() -> None:
    assert OutputFailed.of(BrokenPipeError(32, "Broken pipe")).is_closed
    failed = OutputFailed.of(OSError(28, "No space left on device"))
    assert not failed.is_closed
    assert str(failed) == "cannot write to standard output: No space left on device"
