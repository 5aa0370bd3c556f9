"""The end of commands by Ctrl-C and SIGTERM, and the state that they leave."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from eventsched.server.launch import SERVER_LOCK, is_free
from eventsched.server.testing import wait_for
from tests.cli.programs import END_S, json_lines_of, json_of, program, run, write_wav


def test_ctrl_c_ends_up_and_leaves_nothing_running(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with program(data, "up", "--json") as up:
        output = up.first_json()
        assert output["ready"]
        assert output["roles"] == ["dispatcher", "projector", "timer", "gateway"]
        up.signal_group(signal.SIGINT)
        assert up.ended() == 130
        assert "Traceback" not in up.log.read_text()
    wait_for("the server has ended", lambda: is_free(data / SERVER_LOCK))


def test_sigterm_ends_up_with_exit_code_0(tmp_path: Path) -> None:
    with program(tmp_path / "data", "up", "--json") as up:
        up.first_json()
        os.kill(up.pid, signal.SIGTERM)
        assert up.ended() == 0


def test_what_ran_can_be_read_after_everything_has_stopped(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with program(data, "run", "dispatcher", "--json", "--cells", "2") as role:
        assert role.first_json()["cells"] == ["c0", "c1"]
        os.kill(role.pid, signal.SIGTERM)
        assert role.ended() == 0
    (status,) = json_lines_of(run(data, "status", "--json"))
    assert [cell["cell"] for cell in status["cells"]] == ["c0", "c1"]
    assert not any(
        each["is_running"] for each in status["cells"][0]["consumers"] if each["stream"] == "log"
    )


def test_sigterm_drains_a_node(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with program(data, "node", "tests.cli.workers:idle", "--name", "idle-9") as node:
        node.wait_for_log('"serving"')
        os.kill(node.pid, signal.SIGTERM)
        assert node.ended() == 0
        assert "drained" in node.log.read_text()
        assert "c0.idle-9" in node.log.read_text()


def test_ctrl_c_ends_the_audio_and_a_second_one_the_wait(tmp_path: Path) -> None:
    data, speech = tmp_path / "data", write_wav(tmp_path / "long.wav", 60_000)
    with program(data, "stream", str(speech), "-t", "es", "--realtime", "--json") as stream:
        stream.first_json()
        stream.signal_group(signal.SIGINT)
        stream.wait_for_log("no more audio")
        stream.signal_group(signal.SIGINT)
        assert stream.ended() == 130
        assert stream.log.read_text().count("no more audio") == 1
        assert "Traceback" not in stream.log.read_text()


def test_a_stream_without_audio_on_standard_input_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path / "data", "stream", "-", "--no-endpointing", "-t", "es", "--json")
    assert done.returncode == 1
    assert b"no audio came on standard input" in done.stderr


def test_ctrl_c_ends_a_stream_whose_microphone_is_silent(tmp_path: Path) -> None:
    read, write = os.pipe()
    with program(
        tmp_path / "data", "stream", "-", "--no-endpointing", "-t", "es", "--json", stdin=read
    ) as stream:
        os.write(write, bytes(3_200))
        stream.first_json()
        stream.signal_group(signal.SIGINT)
        stream.wait_for_log("no more audio")
        stream.signal_group(signal.SIGINT)
        assert stream.ended() == 130
        assert "Traceback" not in stream.log.read_text()
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("pause_ms", [0, 1, 3, 10, 40])
def test_any_number_of_ctrl_c_at_the_end_of_a_stream_is_no_traceback(
    tmp_path: Path, pause_ms: int
) -> None:
    data, speech = tmp_path / "data", write_wav(tmp_path / "long.wav", 60_000)
    with program(data, "stream", str(speech), "-t", "es", "--realtime", "--json") as stream:
        stream.first_json()
        deadline_s = time.monotonic() + END_S
        while not stream.has_ended() and time.monotonic() < deadline_s:
            stream.signal_group(signal.SIGINT)
            time.sleep(pause_ms / 1_000)  # sleeps: the moment of the next signal is what varies
        # In its last instant Python has no handlers any more; a shell shows both as 130.
        assert stream.ended() in (130, -signal.SIGINT)
        assert "Traceback" not in stream.log.read_text()


@pytest.mark.parametrize(
    "imported",
    ["typer", "rich", "anyio", "eventsched.cli.app", "redis", "eventsched.client.client"],
)
def test_ctrl_c_while_python_still_imports_is_no_traceback(tmp_path: Path, imported: str) -> None:
    """The signal follows the line of `-X importtime` about the module."""
    speech = str(write_wav(tmp_path / "a.wav", 60_000))
    env = {"PYTHONPROFILEIMPORTTIME": "1"}
    with program(tmp_path / "data", "stream", speech, "-t", "es", "--realtime", env=env) as stream:
        stream.wait_for_log(f" {imported}\n")
        stream.signal_group(signal.SIGINT)
        assert stream.ended() == 130
        assert "Traceback" not in stream.log.read_text()


def test_a_lost_archive_is_abandoned_by_its_key_and_with_yes(tmp_path: Path) -> None:
    data, archive = tmp_path / "data", tmp_path / "archive"
    with program(data, "up", "--archive", str(archive), "--json") as up:
        up.wait_for_log('"archiving"')
        running = run(data, "audit", "abandon")
        key = re.search(r"c0 has ([0-9a-f]+);", running.stderr.decode())
        assert key, running.stderr
        words = ("audit", "abandon", key[1], "--yes", "--why", "the disk is lost")
        assert b"--why" in run(data, *words[:4]).stderr
        held = run(data, *words)
        assert (held.returncode, held.stdout) == (1, b"")
        assert b"one that no archiver has a lease on" in held.stderr
        os.kill(up.pid, signal.SIGTERM)
        assert up.ended() == 0
    shutil.rmtree(archive)
    asked = run(data, "audit", "abandon", key[1])
    assert asked.returncode == 1
    assert asked.stdout.startswith(b"c0: the archive up to ")
    assert asked.stderr == (b"eventsched: nothing was changed; add --yes and --why to abandon it\n")
    output = json_of(run(data, *words, "--json"))
    assert (output["key"], output["abandoned"]) == (key[1], True)
    again = run(data, *words)
    assert again.returncode == 1
    assert b"c0 has none" in again.stderr
    done = run(data, "history", "--type", "ArchiveAbandoned", "--json")
    (event,) = (line["data"] for line in json_lines_of(done))
    assert (event["of"], event["why"]) == (key[1], "the disk is lost")
