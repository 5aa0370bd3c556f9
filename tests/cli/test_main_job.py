"""The main job from the command line: `up` and `node` run, the other commands look at it.

Real processes, one system for the module: an embedded server in a folder of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from eventsched.keys import Keys
from tests.cli.programs import json_lines_of, json_of, program, run, write_wav


class System(NamedTuple):
    """What runs, and two sessions that went through it."""

    data: Path
    url: str
    sessions: list[str]
    heard: list[dict[str, Any]]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("main-job")
    data = folder / "data"
    files = [str(write_wav(folder / f"{name}.wav", ms)) for name, ms in (("a", 450), ("b", 700))]
    with (
        program(data, "up", "--json", "--set", "retire_ms=60000000") as up,
        program(data, "node", "tests.cli.workers:echo") as node,
    ):
        url = up.first_json()["url"]
        node.wait_for_log("serving")
        done = run(data, "stream", *files, "--source", "en", "--target", "es", "--json")
        heard = json_lines_of(done)
        assert done.returncode == 0, done.stderr.decode()
        sessions = [one["session"] for one in heard if one["type"] == "session"]
        yield System(data, url, sessions, heard)


def test_each_file_is_a_session_and_its_results_come(system: System) -> None:
    outcomes = {one["source"]: one for one in system.heard if one["type"] == "outcome"}
    padding = 280 * 32
    assert outcomes["a"]["source_text"] == f"{450 * 32 + padding} bytes"
    assert outcomes["b"]["text"] == f"{700 * 32 + padding} octetos"
    assert system.heard[-1] == {
        "type": "summary", "sessions": 2, "unseen": [],
        "result": 2, "no_text": 0, "failed": 0, "missing": 0,
    }  # fmt: skip


def test_history_is_every_event_in_order(system: System) -> None:
    found = json_lines_of(run(system.data, "history", system.sessions[0], "--json"))
    ids = [tuple(map(int, one["id"].split("-"))) for one in found]
    assert ids == sorted(ids)
    by_type = {one["type"]: one for one in found}
    assert len(by_type) == len(found)
    assert next(iter(by_type)) == "SessionOpened"
    assert list(by_type)[-1] == "SessionClosed"
    # The close may be asked for before or after the result comes.
    assert [name for name in by_type if not name.startswith("Session")] == [
        "UtteranceFinalized", "JobDispatched", "ResultRecorded", "ResultDelivered",
    ]  # fmt: skip
    assert by_type["ResultRecorded"]["text"]["text"].endswith("octetos")
    assert by_type["JobDispatched"]["cause"] == f"log/{by_type['UtteranceFinalized']['id']}"


def test_history_for_people_fits_80_columns(system: System) -> None:
    done = run(system.data, "history", system.sessions[1])
    lines = done.stdout.decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert "octetos" in done.stdout.decode()


def test_state_of_session_group_job_and_node(system: System) -> None:
    session = system.sessions[0]

    def view(*words: str) -> Any:
        return json_of(run(system.data, "state", *words, "--json"))["view"]

    assert view("session", session)["status"] == "closed"
    assert view("group", session)["targets"]["es"]["next_index"] == 1
    job = view("job", f"default:{session}:0:translation:es:none")
    assert job["outcome"] == "result"
    assert job["attempts"][0]["node"] == "c0.echo-1"
    assert view("node", "echo-1")["slots"] == 2


def test_status_names_groups_nodes_and_their_load(system: System) -> None:
    (cell,) = json_of(run(system.data, "status", "--json"))["cells"]
    assert {(one["group"], one["is_held"]) for one in cell["groups"]} >= {
        ("dispatch", True), ("core", True),
    }  # fmt: skip
    (node,) = cell["classes"][0]["nodes"]
    assert (node["node"], node["slots"], node["status"]) == ("c0.echo-1", 2, "alive")
    assert cell["pressure"] == []


def test_rebuild_then_verify_is_clean_on_the_running_system(system: System) -> None:
    rebuilt = json_of(run(system.data, "rebuild", "session", "group", "--json"))["rebuilt"]
    assert rebuilt[0]["builds"].keys() == {"session", "group"}
    assert rebuilt[0]["entries"] > 0
    report = json_of(run(system.data, "verify", "--json"))
    assert report["clean"]
    assert report["cells"][0]["records"] > 0


def test_raw_pcm_comes_from_stdin(system: System) -> None:
    done = run(system.data, "stream", "-", "-t", "es", "--json", stdin=bytes(32_001))
    outcomes = [one for one in json_lines_of(done) if one["type"] == "outcome"]
    assert [one["source_text"] for one in outcomes] == [f"{32_000 + 280 * 32} bytes"]


def test_partials_come_when_asked_for(system: System) -> None:
    done = run(system.data, "stream", "-", "-t", "es", "--json", "--partials", stdin=bytes(9_600))
    assert [one["type"] for one in json_lines_of(done)] == [
        "session", "partial", "outcome", "summary",
    ]  # fmt: skip


def test_a_failed_outcome_is_exit_code_1(system: System) -> None:
    done = run(system.data, "stream", "-", "--target", "fr", stdin=bytes(9_600))
    assert done.returncode == 1
    assert "NO_FRENCH" in done.stdout.decode()


def test_dead_lists_reasons_and_retry_puts_back(system: System) -> None:
    kept = Keys("c0")
    origin = {"from": "work", "id": "1-1", "k": "fill", "d": "echo-1"}
    with redis.Redis.from_url(system.url, decode_responses=True) as client:
        dead_id = str(client.xadd(kept.dead, {**origin, "reason": "why", "partial": 1}))
        (one,) = json_lines_of(run(system.data, "dead", "--json"))
        assert (one["id"], one["reason"], one["partial"]) == (f"c0/{dead_id}", "why", True)
        refused = run(system.data, "dead", "retry", one["id"])
        assert refused.returncode == 1
        assert b"--force" in refused.stderr
        told = json_of(run(system.data, "dead", "retry", one["id"], "--force", "--json"))
        assert told["word"] == "retried"
        assert client.xlen(kept.dead) == 0


@pytest.mark.parametrize(
    "words",
    [
        ("history", "c0.nobody"),
        ("state", "session", "c0.nobody"),
        ("state", "job", "no-key"),
        ("state", "node", "nobody"),
        ("dead", "retry", "c0/1-1"),
    ],
)
def test_an_unknown_id_is_one_line_and_exit_code_1(system: System, words: tuple[str, ...]) -> None:
    done = run(system.data, *words)
    assert done.returncode == 1
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("eventsched: no ")
    assert words[-1] in line


def test_logs_are_json_lines_where_stderr_is_no_terminal(system: System) -> None:
    (log,) = system.data.parent.glob("node-*.log")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (serving,) = [line for line in lines if line["event"] == "serving"]
    assert (serving["node"], serving["level"]) == ("c0.echo-1", "info")
