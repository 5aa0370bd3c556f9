"""No process shows a secret in its arguments or imports modules of the current folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from eventsched.loadtest.rttm import SAMPLES
from eventsched.server.launch import listen_on_loopback
from eventsched.server.testing import LocalServer, wait_for
from eventsched.subprocesses import children
from tests.cli.programs import APPLICATION, program

MARK = "EVENTSCHED_TEST_MARK"
SHADOWED = (
    "typer", "redis", "anyio", "msgspec", "eventsched", "json", "signal", "structlog", "pickle",
    "runpy", "socket", "numpy", "uvloop", "fcntl", "subprocess", "importlib",
)  # fmt: skip
HANDLER = """
@node.job(processes=True)
def answer(job):
    return eventsched.Result(text=f"{len(job.audio())} bytes")
"""


def arguments_of(mark: str) -> dict[int, list[str]]:
    """The arguments of each process that inherited the mark, and of their child processes.

    A server writes its title over its environment, so the mark is not found in it.
    """
    marked, parents, words = set(), {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        try:
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            words[pid] = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parents[pid] = int(stat[1])
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                marked.add(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or another user's
    marked |= {pid for pid, parent in parents.items() if parent in marked}
    return {pid: words[pid] for pid in marked if pid in words}


SERVER = "-server"
"""The end of the name of each server program."""


class Processes:
    """All processes that were running at one of the checks."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.by_pid: dict[int, list[str]] = {}

    def names(self, *words: str) -> bool:
        """Whether each of these words was in the arguments of a process so far."""
        self.by_pid |= arguments_of(self.mark)
        arguments = [word for words in self.by_pid.values() for word in words]
        return all(any(word in argument for argument in arguments) for word in words)

    def assert_none_holds(self, secret: str) -> None:
        assert [words for words in self.by_pid.values() if secret in " ".join(words)] == []

    def children(self, of: int) -> list[list[str]]:
        return [words for pid, words in self.by_pid.items() if pid != of]


@pytest.fixture
def secret_server(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The URL of a server with a password, and the password."""
    server = LocalServer(tmp_path / "secret")
    server.url, listening = listen_on_loopback()
    server.options = listening | {"save": "", "appendonly": "no"}
    with server:
        yield server.url, listening["requirepass"]


def test_children_of_a_replay_get_the_url_by_their_environment(
    tmp_path: Path, secret_server: tuple[str, str]
) -> None:
    url, secret = secret_server
    processes = Processes()
    env = {"EVENTSCHED_URL": url, MARK: processes.mark}
    words = ("loadtest", str(SAMPLES / "standup.rttm"), "--nodes", "1", "--json")
    with program(tmp_path / "data", *words, env=env) as trace:
        wait_for(
            "its processes run", lambda: processes.names("loadtest.worker", "eventsched.cli", "up")
        )
        os.kill(trace.pid, signal.SIGINT)
        trace.ended()
        children = processes.children(of=trace.pid)
    processes.assert_none_holds(secret)
    assert all("-P" in words for words in children if "-m" in words)
    assert sum("-m" in words for words in children) == 2


def test_worker_processes_of_a_node_show_no_password(
    tmp_path: Path, secret_server: tuple[str, str]
) -> None:
    url, secret = secret_server
    processes = Processes()
    env = {"EVENTSCHED_URL": url, MARK: processes.mark}
    with (
        program(tmp_path / "data", "up", "--json", env=env) as up,
        program(tmp_path / "data", "node", "tests.cli.worker_nodes:waits", env=env) as node,
    ):
        up.first_line()
        wait_for("its workers run", lambda: processes.names("process_worker"))
        workers = [words for words in processes.children(of=node.pid) if "-c" in words]
    assert workers
    assert all("-P" in words for words in workers)
    processes.assert_none_holds(secret)


def test_processes_of_a_demo_show_no_password(
    tmp_path: Path, secret_server: tuple[str, str]
) -> None:
    url, secret = secret_server
    processes = Processes()
    env = {"EVENTSCHED_URL": url, MARK: processes.mark}
    with program(tmp_path / "data", "demo", "--nodes", "2", "--json", env=env) as demo:
        wait_for("its nodes run", lambda: processes.names("demo.speech.worker"))
        os.kill(demo.pid, signal.SIGINT)
        demo.ended()
        children = processes.children(of=demo.pid)
    assert all("-P" in words for words in children if "-m" in words)
    processes.assert_none_holds(secret)


@pytest.mark.parametrize("folder", ["data", "x" * 100], ids=["short path", "long path"])
def test_embedded_server_and_its_watchdog_show_no_secret(tmp_path: Path, folder: str) -> None:
    processes = Processes()
    data = tmp_path / folder
    with program(data, "up", "--json", env={MARK: processes.mark}) as up:
        output = up.first_json()
        wait_for("the watchdog and the server run", lambda: processes.names("watchdog.py", SERVER))
        announced = (data / "server.json").read_text()
    assert output["url"].startswith("unix://")
    assert "redis://" not in announced  # so there is no password at all
    assert not any("redis://" in word for words in processes.by_pid.values() for word in words)


def test_embedded_server_on_loopback_shows_no_password(tmp_path: Path) -> None:
    """No socket can be made: the folder's path is too long, and so is the one of short paths."""
    processes = Processes()
    data, runtime = tmp_path / ("x" * 100), tmp_path / ("y" * 100)
    runtime.mkdir(mode=0o700)
    env = {MARK: processes.mark, "XDG_RUNTIME_DIR": str(runtime)}
    with program(data, "up", "--json", env=env) as up:
        assert up.first_json()["url"].startswith("redis://127.0.0.1:")
        wait_for("the watchdog and the server run", lambda: processes.names("watchdog.py", SERVER))
        announced = (data / "server.json").read_text()
        secret = announced.partition("redis://:")[2].partition("@")[0]
    assert len(secret) == 32
    processes.assert_none_holds(secret)
    assert secret not in up.log.read_text()


@pytest.fixture
def hostile_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with modules that leave a mark when they are imported; no test may import one."""
    here = tmp_path / "here"
    here.mkdir()
    for name in SHADOWED:
        (here / f"{name}.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\n")
    yield here
    assert not (tmp_path / "it-ran").exists()


async def test_children_do_not_import_from_the_present_folder(
    tmp_path: Path,
    own_server: LocalServer,
    hostile_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the children of commands, nor the worker processes of a node."""
    (tmp_path / "own_program.py").write_text(APPLICATION.format(handler=HANDLER))
    monkeypatch.chdir(hostile_folder)
    async with children(tmp_path / "log", own_server.url) as fleet:
        line = await fleet.start("eventsched.cli", "--quiet", "up")
        assert line.startswith("ready: ")
        done = await anyio.run_process(
            [sys.executable, str(tmp_path / "own_program.py")],
            cwd=hostile_folder,
            env=os.environ | {"EVENTSCHED_URL": own_server.url},
            stderr=None,
        )
    assert done.stdout == b"result 12160 bytes\n"


def test_the_watchdog_does_not_import_from_the_present_folder_or_the_data_folder(
    tmp_path: Path, hostile_folder: Path
) -> None:
    """The working directory of the watchdog is the data folder."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    for module in hostile_folder.iterdir():
        (data / module.name).write_bytes(module.read_bytes())
        (data / module.name).chmod(0o600)
    command = [sys.executable, "-P", "-m", "eventsched.cli", "--data", str(data), "up", "--json"]
    with subprocess.Popen(
        command, cwd=hostile_folder, stdout=subprocess.PIPE, env=without_url()
    ) as up:
        assert up.stdout is not None
        assert b'"url"' in up.stdout.readline()
        up.terminate()


def without_url() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "EVENTSCHED_URL"}
