"""At their start, long-running commands wait for a server that is away, and end if it refuses."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventsched.server.testing import LocalServer
from tests.cli.programs import Program, program, run
from tests.failures.test_server_away import _reload

NODE = ("node", "tests.cli.workers:echo")
COMMANDS = [("run", "timer"), ("up",), NODE]


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[LocalServer]:
    """A server that does not run yet."""
    server = LocalServer(tmp_path / "own")
    yield server
    if server.is_running:
        server.stop()


def wait_until_ready(started: Program, words: tuple[str, ...]) -> None:
    if words == NODE:
        started.wait_for_log('"serving"')
    else:
        assert started.first_line().startswith("ready: ")


@pytest.mark.parametrize("words", COMMANDS, ids=[words[0] for words in COMMANDS])
def test_a_command_waits_for_a_server_that_is_away(
    tmp_path: Path, stopped: LocalServer, words: tuple[str, ...]
) -> None:
    with program(tmp_path / "data", *words, "--url", stopped.url) as started:
        started.wait_for_log("server away, trying again")
        stopped.start()
        wait_until_ready(started, words)
        assert started.log.read_text().count("server away") == 1
        started.signal_group(signal.SIGTERM)
        assert started.ended() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, (0, 0)), (signal.SIGINT, (130, 0))])
@pytest.mark.parametrize("words", [COMMANDS[0], NODE], ids=["run", "node"])
def test_a_signal_ends_the_wait(
    tmp_path: Path,
    stopped: LocalServer,
    words: tuple[str, ...],
    number: signal.Signals,
    code: tuple[int, int],
) -> None:
    """The exit codes are those of a role and of a node that end in order."""
    with program(tmp_path / "data", *words, "--url", stopped.url) as started:
        started.wait_for_log("server away, trying again")
        started.signal_group(number)
        assert started.ended() == code[words == NODE]


def test_a_command_waits_for_a_server_that_loads_its_data(tmp_path: Path) -> None:
    slowly = {"enable-debug-command": "yes", "loading-process-events-interval-bytes": "1024"}
    with LocalServer(tmp_path / "slow", durable=True, options=slowly) as server:
        server.call("DEBUG", "POPULATE", 60_000, "filling", 100)
        server.call("CONFIG", "SET", "key-load-delay", 1_000)  # microseconds for each key
        loading = _reload(server)
        with program(tmp_path / "data", "run", "timer", "--url", server.url) as started:
            started.wait_for_log("the server cannot answer now: LOADING")
            server.call("CONFIG", "SET", "key-load-delay", 0)
            assert started.first_line().startswith("ready: ")
        loading.join()


@pytest.mark.parametrize("words", COMMANDS, ids=[words[0] for words in COMMANDS])
@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("app:wrong", "refuses user or password"),
        ("app:pw", "the access list of the user app lacks XTRIM"),
    ],
    ids=["password", "permission"],
)
def test_a_server_that_refuses_ends_the_command_with_one_line(
    tmp_path: Path, own_server: LocalServer, words: tuple[str, ...], user: str, message: str
) -> None:
    own_server.call("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-xtrim")
    url = own_server.url.replace("://", f"://{user}@")
    done = run(tmp_path / "data", *words, "--url", url)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert message in line
    assert done.stdout == b""
