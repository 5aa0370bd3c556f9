"""The main job from the command line: `up` and `node` run, the other commands read.

The module has one system of real processes, with an embedded server in a folder of its own.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

import pytest
import redis

from eventsched.schema.ids import parse_id
from eventsched.schema.keys import Keys
from tests.cli.programs import json_lines_of, json_of, program, run, write_wav
from tests.unit.controls import NASTY, VISIBLE, hidden_in
from tests.unit.speech_recordings import record, sentences
from tests.unit.wavs import PCM, Encoding, fmt_body, wav_of


class System(NamedTuple):
    """The running system, and the output of two streamed sessions."""

    data: Path
    url: str
    sessions: list[str]
    output: list[dict[str, Any]]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("main-job")
    data = folder / "data"
    files = [str(write_wav(folder / f"{name}.wav", ms)) for name, ms in (("a", 450), ("b", 700))]
    with (
        program(data, "up", "--json", "--set", "session_retention_ms=60000000") as up,
        program(data, "node", "tests.cli.workers:echo") as node,
    ):
        url = up.first_json()["url"]
        node.wait_for_log("serving")
        done = run(data, "stream", *files, "--source", "en", "--target", "es", "--json")
        output = json_lines_of(done)
        assert done.returncode == 0, done.stderr.decode()
        sessions = [line["session"] for line in output if line["type"] == "session"]
        yield System(data, url, sessions, output)


def test_each_file_is_a_session_with_results(system: System) -> None:
    outcomes = {line["source"]: line for line in system.output if line["type"] == "outcome"}
    padding = 280 * 32
    assert outcomes["a"]["source_text"] == f"{450 * 32 + padding} bytes"
    assert outcomes["b"]["text"] == f"{700 * 32 + padding} octetos"
    assert system.output[-1] == {
        "type": "summary", "sessions": 2, "incomplete": [],
        "result": 2, "no_speech": 0, "failed": 0, "missing": 0,
    }  # fmt: skip


def test_history_is_every_event_in_order(system: System) -> None:
    lines = json_lines_of(run(system.data, "history", system.sessions[0], "--json"))
    ids = [parse_id(line["id"]) for line in lines]
    assert ids == sorted(ids)
    by_type = {line["type"]: line for line in lines}
    assert len(by_type) == len(lines)
    assert next(iter(by_type)) == "SessionOpened"
    assert list(by_type)[-1] == "SessionClosed"
    # The session may begin to close before or after the result arrives.
    assert [name for name in by_type if not name.startswith("Session")] == [
        "UtteranceFinalized", "JobDispatched", "ResultRecorded",
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


def test_list_shows_the_records_of_a_read_model_by_pages(system: System) -> None:
    """Other tests of this module may open further sessions."""
    lines = json_lines_of(run(system.data, "list", "session", "--json"))
    ids = [line["id"] for line in lines]
    assert ids == sorted(ids)
    assert set(system.sessions) <= set(ids)
    assert lines[0]["view"]["tenant"] == "default"
    (second,) = json_lines_of(run(
        system.data, "list", "session", "--after", ids[0], "--limit", "1", "--json"
    ))  # fmt: skip
    assert second["id"] == ids[1]
    table = run(system.data, "list", "session", "--limit", "1").stdout.decode()
    assert f"there may be more: --after {ids[0]}" in table
    assert "TENANT" in table
    refused = run(system.data, "list", "session", "--limit", "0")
    assert (refused.returncode, b"limit: 1 to 1,000" in refused.stderr) == (1, True)
    node = run(system.data, "list", "node").stdout.decode()
    assert "c0.echo-1" in node
    job = f"default:{system.sessions[0]}:0:translation:es:none"
    assert job in run(system.data, "list", "job").stdout.decode()


def test_status_names_consumers_nodes_and_their_load(system: System) -> None:
    (cell,) = json_of(run(system.data, "status", "--json"))["cells"]
    assert {(each["consumer"], each["is_running"]) for each in cell["consumers"]} >= {
        ("dispatch", True), ("core", True),
    }  # fmt: skip
    (node,) = cell["classes"][0]["nodes"]
    assert (node["node"], node["slots"], node["status"]) == ("c0.echo-1", 2, "alive")
    assert cell["backpressure"] == []


def test_the_id_of_a_session_may_be_shortened(system: System) -> None:
    """In `history`, `state` and `why`."""
    (first, *_) = json_lines_of(run(system.data, "history", "--type", "SessionOpened", "--json"))
    session = first["session"]
    short = session[: len("c0.") + 12]
    assert run(system.data, "history", short).stdout == run(system.data, "history", session).stdout
    assert json_of(run(system.data, "state", "session", short, "--json"))["id"] == session
    why = json_of(run(system.data, "why", f"{short}:0:es", "--json"))
    assert f":{session}:0:" in why["job"]


def test_rebuild_then_verify_is_clean_on_the_running_system(system: System) -> None:
    why = ("--why", "a test", "--by", "ann")
    rebuilds = json_of(run(system.data, "rebuild", "session", "group", "--json", *why))["rebuilds"]
    assert rebuilds[0]["revisions"].keys() == {"session", "group"}
    assert rebuilds[0]["entries"] > 0
    report = json_of(run(system.data, "verify", "--json"))
    assert report["clean"]
    assert report["cells"][0]["records"] > 0


def test_raw_pcm_comes_from_stdin(system: System) -> None:
    done = run(
        system.data, "stream", "-", "--no-endpointing", "-t", "es", "--json", stdin=bytes(32_001)
    )
    outcomes = [line for line in json_lines_of(done) if line["type"] == "outcome"]
    assert [line["source_text"] for line in outcomes] == [f"{32_000 + 280 * 32} bytes"]


@pytest.mark.parametrize("size", [None, 0, 0xFFFF_FFFF])
def test_a_wav_on_stdin_is_decoded_as_it_comes(system: System, size: int | None) -> None:
    fmt = fmt_body(Encoding(PCM, 16), 2, 48_000)
    wav = wav_of(fmt, bytes(48_000 * 4), riff_size=size, data_size=size)
    done = run(system.data, "stream", "-", "--no-endpointing", "-t", "es", "--json", stdin=wav)
    outcomes = [line for line in json_lines_of(done) if line["type"] == "outcome"]
    assert [line["source_text"] for line in outcomes] == [f"{32_000 + 280 * 32} bytes"]


def test_speech_on_stdin_ends_its_utterances_and_silence_is_left_out(system: System) -> None:
    spoken = record(sentences(2)[:2], (600, 800, 800), rate=16_000, noise=50)
    done = run(system.data, "stream", "-", "-t", "es", "--json", stdin=spoken.pcm)
    outcomes = [line for line in json_lines_of(done) if line["type"] == "outcome"]
    assert [line["utterance"] for line in outcomes] == [0, 1]
    assert done.returncode == 0


def test_stdin_without_speech_is_exit_code_1_with_the_remedy(system: System) -> None:
    done = run(system.data, "stream", "-", "-t", "es", "--json", stdin=bytes(96_000))
    assert done.returncode == 1
    assert b"--no-endpointing" in done.stderr
    assert [line["type"] for line in json_lines_of(done)] == ["session", "summary"]


@pytest.mark.parametrize("length", [100, 64_000])
def test_a_container_on_stdin_is_refused_by_name_and_files_beside_it_are_not(
    system: System, tmp_path: Path, length: int
) -> None:
    file = str(write_wav(tmp_path / "talk.wav", 450))
    ogg = b"OggS".ljust(length, b"\0")
    done = run(
        system.data, "stream", "-", "--no-endpointing", file, "-t", "es", "--json", stdin=ogg
    )
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("eventsched: INVALID_MESSAGE standard input: ")
    assert "got Ogg; decode it first: ffmpeg" in line
    lines = json_lines_of(done)
    assert [line["source"] for line in lines if line["type"] == "outcome"] == ["talk"]
    assert lines[-1] | {"result": 1, "incomplete": []} == lines[-1]


def test_files_of_the_same_name_are_labelled_by_their_paths(system: System, tmp_path: Path) -> None:
    files = [str(tmp_path / folder / "talk.wav") for folder in ("ann", "ben")]
    for file in files:
        Path(file).parent.mkdir()
        write_wav(Path(file), 100)
    done = run(system.data, "stream", *files, "-t", "es", "--json")
    outcomes = [line for line in json_lines_of(done) if line["type"] == "outcome"]
    assert sorted(line["source"] for line in outcomes) == files


def test_a_pause_on_stdin_ends_an_utterance_with_all_audio_before_it(system: System) -> None:
    """All audio is sent before the next read, since a pipe may be silent for a long time."""
    read, write = os.pipe()
    with program(
        system.data, "stream", "-", "--no-endpointing", "-t", "es", "--json", stdin=read
    ) as stream:
        os.write(write, bytes(32_000))
        assert stream.first_json()["type"] == "session"
        assert stream.first_json()["source_text"] == f"{32_000 + 220 * 32} bytes"
        os.close(write)
        assert stream.ended() == 0
    os.close(read)


def test_partials_are_printed_with_the_option(system: System) -> None:
    done = run(
        system.data,
        "stream",
        "-",
        "--no-endpointing",
        "-t",
        "es",
        "--json",
        "--partials",
        stdin=bytes(9_600),
    )
    assert [line["type"] for line in json_lines_of(done)] == [
        "session", "partial", "outcome", "summary",
    ]  # fmt: skip


def test_text_of_a_node_cannot_control_the_terminal(system: System, tmp_path: Path) -> None:
    def output(*words: str) -> str:
        done = run(system.data, *words)
        assert done.returncode == 0, done.stderr
        return (done.stdout + done.stderr).decode()

    words = ("node", "tests.cli.workers:hostile", "--url", system.url)
    with program(tmp_path / "data", *words) as node:
        node.wait_for_log("serving")
        speech = str(write_wav(tmp_path / f"{NASTY}.wav", 450))
        streamed = output("stream", speech, "-t", "it")
        lines = json_lines_of(run(system.data, "stream", speech, "-t", "it", "--json"))
    session, job = lines[0]["session"], f"{lines[0]['session']}:0:it"
    history = output("history", session)
    outputs = [streamed, history, *(output(*words) for words in (
        ("why", job), ("state", "job", job), ("state", "session", session), ("status",),
    ))]  # fmt: skip
    assert [hidden_in(text) for text in outputs] == [set()] * len(outputs)
    assert f"{VISIBLE} [red]a[/] → {VISIBLE}" in " ".join(streamed.split())
    assert VISIBLE in "".join(history.split())
    (outcome,) = [line for line in lines if line["type"] == "outcome"]
    assert outcome["text"] == NASTY
    events = json_lines_of(run(system.data, "history", session, "--json"))
    (recorded,) = [line for line in events if line["type"] == "ResultRecorded"]
    assert recorded["text"]["text"] == NASTY
    svg = tmp_path / "picture.svg"
    output("history", session, "--svg", str(svg))
    assert hidden_in("".join(ET.fromstring(svg.read_text()).itertext())) == set()


def test_a_failed_outcome_is_exit_code_1(system: System) -> None:
    done = run(system.data, "stream", "-", "--no-endpointing", "--target", "fr", stdin=bytes(9_600))
    assert done.returncode == 1
    assert "NO_FRENCH  ValueError: no model for French" in done.stdout.decode()


def test_dead_letters_are_listed_with_reasons_and_retried(system: System) -> None:
    keys = Keys("c0")
    origin = {"from": "dispatch", "id": "1-1", "k": "fill", "d": "echo-1"}
    with redis.Redis.from_url(system.url, decode_responses=True) as client:
        dead_id = str(client.xadd(keys.dead_letters, {**origin, "reason": "why", "partial": 1}))
        (line,) = json_lines_of(run(system.data, "dead-letters", "--json"))
        assert (line["id"], line["reason"], line["partial"]) == (f"c0/{dead_id}", "why", True)
        why = ("--why", "the slot is back", "--by", "ann")
        refused = run(system.data, "dead-letters", "retry", line["id"], *why)
        assert refused.returncode == 1
        assert b"--force" in refused.stderr
        retry = json_of(
            run(system.data, "dead-letters", "retry", line["id"], "--force", "--json", *why)
        )
        assert retry["outcome"] == "retried"
        assert client.xlen(keys.dead_letters) == 0
        done = run(system.data, "history", "--type", "DeadLettersRetried")
        history = " ".join(done.stdout.decode().split())
        assert f"1 dead letter, {dead_id} to {dead_id}, by ann: the slot is back" in history


def test_state_says_that_the_view_lacks_events(system: System) -> None:
    keys = Keys("c0")
    with redis.Redis.from_url(system.url, decode_responses=True) as client:
        revision = str(client.get(keys.active_revision("node")))
        for lacking in (revision, "0.1"):  # that of an earlier revision is not in the way
            context = json.dumps({"set": "core", "revisions": {"node": lacking}})
            letter = {"from": "core", "id": "1-1", "k": "NodeLost", "d": context, "reason": "why"}
            client.xadd(keys.dead_letters, letter)
        done = run(system.data, "state", "node", "echo-1")
        assert b"the read model node lacks 1 event that it could not fold" in done.stderr
        assert b"lacks" not in run(system.data, "state", "session", system.sessions[0]).stderr
        client.delete(keys.dead_letters)


def test_dead_letters_are_chosen_by_their_text_and_number(system: System) -> None:
    keys, why = Keys("c0"), ("--why", "known", "--json")
    letter = {"from": "log", "k": "SessionOpened", "d": "{}", "partial": 0}
    with redis.Redis.from_url(system.url, decode_responses=True) as client:
        for number, reason in enumerate(("KeyError: a", "ValueError: b", "KeyError: c")):
            client.xadd(keys.dead_letters, {**letter, "id": f"{number}-1", "reason": reason})
        named = ("dead-letters", "discard", "--match", "keyerror", "--limit", "1", *why)
        (first,) = json_lines_of(run(system.data, *named))
        assert first["outcome"] == "discarded"
        rest = json_lines_of(run(system.data, "dead-letters", "discard", "--limit", "5", *why))
        assert [each["outcome"] for each in rest] == ["discarded", "discarded"]
        assert client.xlen(keys.dead_letters) == 0
    none = run(system.data, "dead-letters", "discard", *why)
    assert none.returncode == 1
    assert b"--match TEXT or --limit N" in none.stderr
    done = run(system.data, "history", "--type", "DeadLettersDiscarded")
    history = " ".join(done.stdout.decode().split())
    assert "(match keyerror, limit 1), by" in history


@pytest.mark.parametrize(
    "words",
    [
        ("history", "c0.nobody"),
        ("state", "session", "c0.nobody"),
        ("state", "job", "no-key"),
        ("state", "node", "nobody"),
        ("history", "--node", "nobody"),
        ("history", "c0.nobody:0:es"),
        ("why", "c0.nobody:0:es"),
        ("dead-letters", "retry", "--why", "x", "c0/1-1"),
        ("drain", "--why", "x", "c0.nobody"),
    ],
)
def test_an_unknown_id_is_one_line_and_exit_code_1(system: System, words: tuple[str, ...]) -> None:
    done = run(system.data, *words)
    assert done.returncode == 1
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("eventsched: no ")
    assert words[-1] in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("history", "--since", "yesterday"), "--since: 'yesterday' is no position"),
        (("history", "--type", "JobFaild"), "did you mean JobFailed?"),
        (("history", "--svg", "x.svg"), "draws one session"),
        (("history", "--follow", "--until", "2030-01-01"), "not with --follow"),
        (("history", "--archive", "no-such"), "there is no folder no-such"),
        (("state", "session", "{s}", "--at", "2030-01-01"), "in the future"),
        (("state", "session", "{s}", "--at", "2020-01-01"), "at 2020-01-01: it begins at "),
        (("state", "session", "{s}", "--at", "1-2-3"), "--at: '1-2-3' is no position"),
        (("why",), "a job or --replay"),
        (("why", "{s}:0:es", "--since", "2020-01-01"), "with --replay only"),
    ],
)
def test_an_invalid_question_is_one_line_and_exit_code_1(
    system: System, words: tuple[str, ...], message: str
) -> None:
    done = run(system.data, *[word.format(s=system.sessions[0]) for word in words])
    assert done.returncode == 1
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert message in line


def test_history_of_everything_and_of_some(system: System) -> None:
    everything = json_lines_of(run(system.data, "history", "--json"))
    assert {line["session"] for line in everything} >= set(system.sessions)
    some = json_lines_of(
        run(system.data, "history", "--json", "--node", "echo-1", "--type", "JobDispatched")
    )
    assert {(line["type"], line["node"]) for line in some} == {("JobDispatched", "c0.echo-1")}
    late = json_lines_of(run(system.data, "history", "--json", "--since", some[-1]["id"]))
    assert late[0]["id"] == some[-1]["id"]
    lines = run(system.data, "history", "--tenant", "default").stdout.decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(system.sessions[0] in line for line in lines)


def test_follow_continues_until_it_is_interrupted(system: System) -> None:
    with program(system.data, "history", "--json", "--follow") as following:
        assert following.first_json()["type"] == "NodeRegistered"
        following.signal_group(signal.SIGINT)
        assert following.ended() == 130
        assert "Traceback" not in following.log.read_text()


def test_a_session_is_drawn(system: System, tmp_path: Path) -> None:
    file = tmp_path / "session.svg"
    done = run(system.data, "history", system.sessions[0], "--svg", str(file))
    assert (done.returncode, done.stdout) == (0, b"")
    assert "u0 es" in file.read_text()
    refused = run(system.data, "history", system.sessions[0], "--svg", str(tmp_path))
    assert refused.returncode == 1
    assert b"cannot write" in refused.stderr


def test_why_shows_the_rule_and_the_stages_and_replay_agrees(system: System) -> None:
    job = f"{system.sessions[0]}:0:es"
    explanation = json_of(run(system.data, "why", job, "--json"))
    assert [each["rule"] for each in explanation["decisions"]] == ["load"]
    assert [each["name"] for each in explanation["stages"]] == [
        "speech", "finalize", "dispatch", "attempt 1", "delivery",
    ]  # fmt: skip
    text = run(system.data, "why", job).stdout.decode()
    assert "c0.echo-1 by load" in text
    assert max(map(len, text.splitlines()[1:])) <= 80
    replayed = json_of(run(system.data, "why", "--replay", "--json"))
    assert replayed["agrees"]
    assert replayed["dispatches"] >= 2
    assert b"cell c0: agrees" in run(system.data, "why", "--replay").stdout


def test_a_decision_that_was_tampered_with_is_exit_code_1(system: System) -> None:
    keys = Keys("c0")
    with redis.Redis.from_url(system.url) as client:
        entries = client.xrange(keys.log)
        fields = next(f for _, f in entries if f[b"t"] == b"JobDispatched")
        forged = {**fields, b"d": fields[b"d"].replace(b'"load"', b'"last"', 1)}
        try:
            forged_id = client.xadd(keys.log, forged)
            done = run(system.data, "why", "--replay")
        finally:
            client.xdel(keys.log, forged_id)
    assert done.returncode == 1
    assert f"log/{forged_id.decode()}" in done.stdout.decode()


def test_state_at_a_moment(system: System) -> None:
    session = system.sessions[0]
    lines = json_lines_of(run(system.data, "history", session, "--json"))
    opened, finalized = lines[0]["id"], lines[1]["id"]

    def utterance(at: str) -> Any:
        return json_of(run(system.data, "state", "session", session, "--at", at, "--json"))

    assert utterance(opened)["view"].get("utterance", 0) == 0
    assert utterance(finalized)["view"]["utterance"] == 1
    assert utterance(lines[1]["time"])["at"] >= finalized


def test_logs_are_json_lines_where_stderr_is_no_terminal(system: System) -> None:
    (log,) = system.data.parent.glob("node-*.log")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (serving,) = [line for line in lines if line["event"] == "serving"]
    assert (serving["node"], serving["level"]) == ("c0.echo-1", "info")
