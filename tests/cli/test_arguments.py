"""No process shows a secret in its arguments or imports modules of the current folder."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventsched.loadtest.rttm import SAMPLES
from eventsched.server.launch import listen_on_loopback
from eventsched.server.testing import LocalServer, wait_for
from eventsched.subprocesses import children
from tests.cli.programs import program

MARK = "EVENTSCHED_TEST_MARK"
SHADOWED = ("typer", "redis", "anyio", "msgspec", "eventsched", "json", "signal")


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


@pytest.mark.parametrize("folder", ["data", "x" * 100], ids=["short path", "long path"])
def test_embedded_server_and_its_watchdog_show_no_secret(tmp_path: Path, folder: str) -> None:
    processes = Processes()
    data = tmp_path / folder
    with program(data, "up", "--json", env={MARK: processes.mark}) as up:
        output = up.first_json()
        wait_for(
            "the watchdog and the server run", lambda: processes.names("watchdog.py", "valkey")
        )
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
        wait_for(
            "the watchdog and the server run", lambda: processes.names("watchdog.py", "valkey")
        )
        announced = (data / "server.json").read_text()
        secret = announced.partition("redis://:")[2].partition("@")[0]
    assert len(secret) == 32
    processes.assert_none_holds(secret)
    assert secret not in up.log.read_text()


async def test_children_do_not_import_from_the_present_folder(
    tmp_path: Path, own_server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in SHADOWED:
        (here / f"{name}.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\n")
    monkeypatch.chdir(here)
    async with children(tmp_path / "log", own_server.url) as fleet:
        line = await fleet.start("eventsched.cli", "--quiet", "up")
    assert line.startswith("ready: ")
    assert not (tmp_path / "it-ran").exists()
