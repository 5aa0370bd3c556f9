"""Bad input: one line on stderr without a traceback; exit code 1, or 2 for a bad command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
import structlog

from eventsched.cli.app import COMMANDS, main, module_of
from eventsched.cli.options import command_of
from eventsched.schema.settings import chosen
from eventsched.server.testing import LocalServer
from tests.cli.programs import write_wav
from tests.unit.controls import NASTY, hidden_in


@pytest.fixture(autouse=True)
def _restore(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.delenv("EVENTSCHED_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    structlog.reset_defaults()


def failed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run a command that fails; return its exit code and the one line on stderr."""
    code = main(words)
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("eventsched: ")
    return code, line


@pytest.mark.parametrize("words", [("up",), ("run", "projector")])
def test_a_projector_with_an_unknown_read_model_does_not_become_ready(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: tuple[str, ...],
) -> None:
    monkeypatch.setenv("EVENTSCHED_PROJECTIONS", "no-such-model")
    code, line = failed(capsys, *words, "--data", str(tmp_path / "data"))
    assert code == 1
    assert "no installed package has the projection 'no-such-model'" in line
    assert not (tmp_path / "data").exists(), "before a server is started"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("up", "--set", "pause_ms=soon"), "pause_ms"),
        (("up", "--set", "pause_ms=0"), "pause_ms"),
        (("up", "--set", "pause=500"), "did you mean pause_ms?"),
        (("up", "--set", "pause_ms"), "NAME=VALUE"),
        (("up", "--cells", "0"), "1 to 64"),
        (("up", "--cells", "many"), "--cells"),
        (("run", "conductor"), "choose of dispatcher, projector, timer"),
        (("node", "workers"), "MODULE:NODE"),
        (("node", "no_such_module:node"), "cannot import no_such_module"),
        (("node", "tests.cli.workers:missing"), "missing in tests.cli.workers is missing"),
        (("node", "tests.cli.workers:not_a_node"), "is a str"),
        (("node", "tests.cli.workers:bare", "--quiet"), "bare-1 has no handler; declare one"),
        (("stream", "missing.wav", "-t", "es"), "missing.wav"),
        (("stream", "ok.wav"), "--target"),
        (("stream", "-", "-"), "only once"),
        (("stream", "ok.wav", "--source", "x", "-t", "es"), "source"),
        (("stream", "ok.wav", "--target", "auto"), "targets"),
        (("stream", "ok.wav", "--priority", "3"), "--priority"),
        (("rebuild", "everything"), "choose of session, group, job, node"),
        (("rebuild", "session"), "--why: no reason is given"),
        (("drain", "echo-1"), "--why: no reason is given"),
        (("drain", "echo-1", "--why", "x", "--within", "301"), "--within"),
        (("dead-letters", "retry", "c0/1-1"), "--why: no reason is given"),
        (("dead-letters", "discard", "c0/1-1", "--why", " "), "--why: no reason is given"),
        (("status", "--url", "http://localhost"), "redis://"),
        (("status", "--url", "redis://127.0.0.1:1"), "no server answers"),
        (("status", "--url", "redis://127.0.0.1:port"), "url"),
        (("status", "--url", "redis://127.0.0.1?soket_timeout=1"), "url"),
        (("loadtest", "missing.rttm"), "missing.rttm"),
        (("loadtest", "ok.rttm", "--speed", "0"), "0.1 to 1000"),
        (("loadtest", "ok.rttm", "--speed", "nan"), "0.1 to 1000"),
        (("loadtest", "ok.rttm", "--nodes", "0"), "1 to 64"),
        (("loadtest", "ok.rttm", "--slots", "257"), "1 to 256"),
        (("loadtest", "ok.rttm", "--rtf", "-1"), "0 to 10"),
        (("loadtest", "ok.rttm", "--langs", "en,,es"), "langs"),
        (("demo", "--nodes", "0"), "1 to 16"),
        (("demo", "--speed", "99"), "0.1 to 20"),
    ],
)
def test_a_bad_value_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    write_wav(tmp_path / "ok.wav", 100)
    (tmp_path / "ok.rttm").write_text("SPEAKER t 1 0 1 <NA> <NA> a <NA> <NA>\n")
    code, line = failed(capsys, *words)
    assert code == 1
    assert message in line


def test_control_characters_in_an_error_are_visible(capsys: pytest.CaptureFixture[str]) -> None:
    commands = ("loadtest", f"{NASTY}.rttm"), ("stream", f"{NASTY}.wav", "-t", "es"), (NASTY,)
    for arguments in commands:
        line = failed(capsys, *arguments)[1]
        assert hidden_in(line) == set()
        assert "title" in line


def test_lines_of_a_recording_that_are_not_used_are_counted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    speaker = "SPEAKER t 1 0 {} <NA> <NA> a <NA> <NA>\n"
    (tmp_path / "talk.rttm").write_text(speaker.format(0) + speaker.format(1) + "LEXEME t 1 0 1\n")
    words = ("loadtest", "talk.rttm", "--url", "redis://127.0.0.1:1")
    assert main(words) == 1
    assert capsys.readouterr().err.splitlines()[0] == (
        "talk.rttm: 2 of 3 lines not used: 1 SPEAKER of 0 s, 1 LEXEME"
    )
    assert failed(capsys, *words, "--quiet")[0] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("statsu",), "Did you mean"),
        (("up", "--speed"), "No such option"),
        (("state", "session"), "ID"),
    ],
)
def test_a_line_that_cannot_be_read_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    code, line = failed(capsys, *words)
    assert code == 2
    assert message in line


@pytest.mark.parametrize(
    ("forbidden", "words"),
    [("function", ("up",)), ("info", ("status",)), ("exists", ("up",)), ("get", ("status",))],
)
def test_a_command_that_the_server_refuses_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    own_server: LocalServer,
    forbidden: str,
    words: tuple[str, ...],
) -> None:
    own_server.call("ACL", "SETUSER", "bob", "on", ">b", "~*", "&*", "+@all", f"-{forbidden}")
    url = own_server.url.replace("://", "://bob:b@")
    code, line = failed(capsys, *words, "--url", url)
    assert code == 2
    assert f"'{forbidden}" in line or f"lacks {forbidden.upper()}" in line
    assert "eventsched needs" in line


def test_a_database_that_the_server_does_not_have_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], own_server: LocalServer
) -> None:
    code, line = failed(capsys, "status", "--url", f"{own_server.url}?db=99")
    assert code == 2
    assert "SELECT" in line


@pytest.mark.parametrize(
    ("name", "value", "messages"),
    [
        ("EVENTSCHED_DELIVERY_GAP_TIMEOUT_MS", "-5",
         ("EVENTSCHED_DELIVERY_GAP_TIMEOUT_MS",
          "a whole number from 1 to 86400000 expected, got '-5'")),
        ("EVENTSCHED_PAUSEMS", "500", ("'pausems' is not a setting", "did you mean pause_ms?")),
    ],
    ids=["bad", "misspelt"],
)  # fmt: skip
def test_a_bad_setting_in_the_environment_stops_the_start(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    value: str,
    messages: tuple[str, ...],
) -> None:
    monkeypatch.setenv(name, value)
    code, line = failed(capsys, "up")
    assert code == 1
    for message in messages:
        assert message in line
    assert list(tmp_path.iterdir()) == []


def test_other_variables_are_not_settings() -> None:
    others = ("URL", "DATA", "KEYS", "RETENTION", "ARCHIVE", "ARCHIVE_AUDIO", "ARCHIVE_KEY",
              "TEST_SERVERS", "TEST_IMAGE")  # fmt: skip
    assert chosen({f"EVENTSCHED_{name}": "x" for name in others}) == {}


@pytest.mark.parametrize(
    "words",
    [("history", "c0.x"), ("state", "session", "c0.x"), ("status",), ("verify",), ("dead-letters",),
     ("rebuild", "session", "--why", "x")],
)  # fmt: skip
def test_reading_a_folder_without_data_creates_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    code, line = failed(capsys, *words, "--data", "elsewhere")
    assert code == 1
    assert "eventsched up" in line
    assert list(tmp_path.iterdir()) == []


def test_options_may_stand_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "elsewhere" in failed(capsys, "--data", "elsewhere", "status")[1]


def test_options_take_precedence_over_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTSCHED_DATA", "from-outside")
    assert "from-outside" in failed(capsys, "status")[1]
    assert "elsewhere" in failed(capsys, "--data", "elsewhere", "status")[1]
    assert "elsewhere" in failed(capsys, "status", "--data", "elsewhere")[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_is_there(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main([name, "--help"]) == 0
    assert f"eventsched {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_package", "No module named 'no_such_package' at broken.py:1; install the"),
        ("\n\nraise ValueError('no GPU\\nmore')", "ValueError: no GPU at broken.py:3; mend the"),
        ("def", "SyntaxError: invalid syntax at broken.py:1; mend the module"),
        ("raise SystemExit(3)", "SystemExit: 3 at broken.py:1"),
        ("from eventsched import no_such", "ImportError: cannot import name 'no_such'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line_with_the_cause(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, source: str, message: str
) -> None:
    (tmp_path / "broken.py").write_text(source)
    code, line = failed(capsys, "node", "broken:node")
    sys.modules.pop("broken", None)
    assert code == 1
    assert "cannot import broken: " in line
    assert message in line


def _all_help(name: str) -> list[list[str]]:
    """The words of the help of a command, or of each of its commands."""
    command = command_of(import_module(module_of(name)), name)
    parts = getattr(command, "commands", {})
    return [[name, part, "--help"] for part in parts] or [[name, "--help"]]


@pytest.mark.parametrize("words", [[], *(words for name in COMMANDS for words in _all_help(name))])
def test_help_shows_no_type_for_an_option_without_a_value(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "--help" in output
    assert "<bool>" not in output


@pytest.mark.parametrize("words", [["--version"], ["--version", "status"]])
def test_the_version_is_shown(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 0
    name, number, *_ = capsys.readouterr().out.split()
    assert (name, number.rstrip(",")) == ("eventsched", version("eventsched"))


@pytest.mark.parametrize("group", ["token", "audit", "consumer-groups"])
def test_a_group_without_a_command_lists_its_commands_and_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], group: str
) -> None:
    assert main([group]) == 2
    out, err = capsys.readouterr()
    assert "Commands" in out
    assert err == "eventsched: a command is needed (see eventsched --help)\n"


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in COMMANDS)
