"""Worker processes of a node: signals to all of them, and their end with the node."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eventsched.server.testing import wait_for
from tests.cli.programs import Program, program, write_wav


class Running(NamedTuple):
    node: Program
    stream: Program
    release: Path
    started: dict[str, Any]
    """The log line of the handler that runs."""


@contextmanager
def running(folder: Path) -> Iterator[Running]:
    """Run a server with its roles, a node with one running job, and a stream that waits for it."""
    data, release = folder / "data", folder / "release"
    speech = str(write_wav(folder / "a.wav", 450))
    words = ("stream", speech, "--source", "en", "-t", "es", "--json")
    env = {"RELEASE": str(release)}
    with (
        program(data, "up", "--json") as up,
        program(data, "node", "tests.cli.worker_nodes:waits", env=env) as node,
    ):
        up.first_json()
        node.wait_for_log('"serving"')
        with program(data, *words) as stream:
            node.wait_for_log("handler started")
            yield Running(node, stream, release, line_of(node, "handler started"))


def line_of(node: Program, event: str) -> dict[str, Any]:
    (line,) = [line for line in node.log.read_text().splitlines() if f'"{event}"' in line]
    return json.loads(line)  # type: ignore[no-any-return]


def workers_of(node: Program) -> list[int]:
    return [int(pid) for pid in children_of(node.pid)]


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("reach", ["group", "every process"])
def test_a_drain_by_a_signal_to_all_processes_finishes_the_running_job(
    tmp_path: Path, number: signal.Signals, reach: str
) -> None:
    """Ctrl-C in a terminal signals the group; a service manager signals every process."""
    with running(tmp_path) as (node, stream, release, started):
        workers = workers_of(node)
        assert started["worker"] in workers
        if reach == "group":
            node.signal_group(number)
        else:
            for pid in (*workers, node.pid):
                os.kill(pid, number)
        node.wait_for_log('"draining"')
        assert not is_gone(started["worker"])
        release.touch()
        assert node.ended() == 0
        assert b'"finished"' in stream.output()
        assert all(is_gone(pid) for pid in workers)
        assert "Traceback" not in node.log.read_text()


def test_workers_end_with_a_node_that_is_killed(tmp_path: Path) -> None:
    with running(tmp_path) as (node, _, _, started):
        workers = workers_of(node)
        os.kill(node.pid, signal.SIGKILL)
        assert started["worker"] in workers
        wait_for("its workers have ended", lambda: all(is_gone(pid) for pid in workers))


def test_a_second_signal_ends_the_workers_with_the_node(tmp_path: Path) -> None:
    with running(tmp_path) as (node, _, _, _):
        workers = workers_of(node)
        node.signal_group(signal.SIGTERM)
        node.wait_for_log('"draining"')
        node.signal_group(signal.SIGTERM)
        assert node.ended() == 143
        wait_for("its workers have ended", lambda: all(is_gone(pid) for pid in workers))


def test_the_node_s_log_has_a_handler_s_output_with_job_and_session(tmp_path: Path) -> None:
    with running(tmp_path) as (node, _, release, started):
        node.wait_for_log("printed by the handler\n")
        release.touch()
        warned = line_of(node, "its library warns")
    assert (started["level"], warned["level"], warned["logger"]) == ("info", "warning", "library")
    for line in (started, warned):
        assert line["session"] in line["job"]
        assert line["attempt"] == 1
