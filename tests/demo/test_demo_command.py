"""`eventsched demo` as users run it: a server, roles, worker processes; nothing stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from eventsched.demo.scoreboard import ACCURACY_MIN
from eventsched.demo.speech.samples import samples
from eventsched.server.testing import wait_for

MARK = "EVENTSCHED_TEST_MARK"
PATIENCE = "EVENTSCHED_QUEUE_TIMEOUT_MS"
"""On a busy machine recognising takes longer; jobs wait for it here instead of expiring."""
ENDED_S = 20.0


class Demo:
    """One run, told from all others by a mark that its processes inherit."""

    def __init__(self, data: Path, *arguments: str, **environ: str) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", "eventsched.cli", "--data", str(data), "demo", *arguments],
            env={**os.environ, "EVENTSCHED_URL": "", PATIENCE: "60000", MARK: self.mark, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def left_running(self) -> list[str]:
        """Commands of this run's processes that still run."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # ended meanwhile, a zombie, or somebody else's
        return found

    def read_until(self, word: str) -> str:
        """The first line of its output with this word."""
        assert self.process.stdout
        for line in self.process.stdout:
            if word in line:
                return line
        raise AssertionError(f"ended before it said {word!r}")

    def end(self) -> None:
        """Whatever is left is killed: after a failed test alone."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=ENDED_S)


@pytest.fixture
def demos(tmp_path: Path) -> Iterator[list[Demo]]:
    started: list[Demo] = []
    yield started
    for one in started:
        one.end()


def start(demos: list[Demo], data: Path, *arguments: str, **environ: str) -> Demo:
    demos.append(Demo(data, *arguments, **environ))
    return demos[-1]


def test_every_word_comes_through_and_nothing_stays(demos: list[Demo], tmp_path: Path) -> None:
    demo = start(demos, tmp_path, "--speed", "3", "--nodes", "2", "--json")
    out, err = demo.process.communicate(timeout=100)
    report = json.loads(out)
    assert (demo.process.returncode, report["problems"], err) == (0, [], "")
    assert report["word_accuracy"] >= ACCURACY_MIN
    transcripts = {job["transcript"] for job in report["jobs"]}
    assert transcripts == {u.text for sample in samples() for u in sample.utterances}
    assert len(report["jobs"]) == 15
    assert report["results"] == 18
    wait_for("its processes to end", lambda: not demo.left_running(), ENDED_S)


def test_ctrl_c_ends_everything_in_order(demos: list[Demo], tmp_path: Path) -> None:
    demo = start(demos, tmp_path, "--nodes", "2")
    demo.read_until("working")
    os.killpg(demo.process.pid, signal.SIGINT)
    _, err = demo.process.communicate(timeout=ENDED_S)
    assert (demo.process.returncode, err) == (130, "")
    wait_for("its processes to end", lambda: not demo.left_running(), ENDED_S)


def test_the_console_is_served_and_ends_with_the_demo(demos: list[Demo], tmp_path: Path) -> None:
    demo = start(demos, tmp_path, "--nodes", "1", "--console")
    line = demo.read_until("console: ")
    address = re.fullmatch(r"console: (http://[^/]+)/(?:console/#|v1/login\?)code=\S+\n", line)
    assert address, line
    assert httpx.get(f"{address[1]}/readyz", trust_env=False).status_code == 200
    os.killpg(demo.process.pid, signal.SIGINT)
    _, err = demo.process.communicate(timeout=ENDED_S)
    assert (demo.process.returncode, err) == (130, "")
    wait_for("its processes to end", lambda: not demo.left_running(), ENDED_S)


def test_killed_demo_leaves_nothing_running(demos: list[Demo], tmp_path: Path) -> None:
    demo = start(demos, tmp_path, "--nodes", "2")
    demo.read_until("working")
    assert len(demo.left_running()) > 4
    demo.process.kill()
    wait_for("its processes to end", lambda: not demo.left_running(), ENDED_S)


def test_without_the_recogniser_one_line_names_the_extra(demos: list[Demo], tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "pocketsphinx.py").write_text("raise ModuleNotFoundError('pocketsphinx')\n")
    demo = start(demos, tmp_path / "data", PYTHONPATH=str(hidden))
    out, err = demo.process.communicate(timeout=ENDED_S)
    assert (demo.process.returncode, out) == (1, "")
    assert err.count("\n") == 1
    assert "pip install 'eventsched[speech]'" in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("wrong", [("--nodes", "0"), ("--nodes", "17"), ("--speed", "0")])
def test_settings_out_of_range_are_refused_with_their_limit(
    demos: list[Demo], tmp_path: Path, wrong: tuple[str, str]
) -> None:
    demo = start(demos, tmp_path, *wrong)
    _, err = demo.process.communicate(timeout=ENDED_S)
    assert demo.process.returncode == 1
    assert wrong[0] in err
    assert " to " in err
