"""The end of a node's process whose handlers ignore signals, or end the event loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.programs import Program, program, write_wav

NODES = {"swallows": "es", "blocks": "fr", "sits": "de", "exits": "it", "stops": "pt"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running server with its roles."""
    folder = tmp_path_factory.mktemp("stubborn") / "data"
    with program(folder, "up", "--json") as up:
        up.first_json()
        yield folder


@contextmanager
def node_with_a_job(data: Path, name: str) -> Iterator[Program]:
    """Run a node that is registered, and stream one utterance for it."""
    speech = str(write_wav(data.parent / f"{name}.wav", 450))
    words = ("stream", speech, "--source", "en", "-t", NODES[name], "--json")
    with program(data, "node", f"tests.cli.stubborn:{name}") as node:
        node.wait_for_log('"serving"')
        with program(data, *words):
            yield node


@pytest.mark.parametrize("name", ["swallows", "blocks", "sits"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_node_whatever_its_handler_does(
    data: Path, name: str, number: signal.Signals
) -> None:
    with node_with_a_job(data, name) as node:
        node.wait_for_log("handler started")
        os.kill(node.pid, number)
        node.wait_for_log("1 handled" if name == "blocks" else '"draining"')
        os.kill(node.pid, number)
        assert node.ended() == 128 + number
        assert "Traceback" not in node.log.read_text()


def test_the_log_names_the_job_whose_handler_ignores_its_cancellation(data: Path) -> None:
    with node_with_a_job(data, "swallows") as node:
        node.wait_for_log("handler started")
        os.kill(node.pid, signal.SIGTERM)
        node.wait_for_log('"draining"')
        os.kill(node.pid, signal.SIGTERM)
        assert node.ended() == 143
        (line,) = [line for line in node.log.read_text().splitlines() if "abandoned" in line]
        assert ":translation:es:" in line


def test_a_third_signal_ends_the_node_at_once(data: Path) -> None:
    with node_with_a_job(data, "blocks") as node:
        node.wait_for_log("handler started")
        for count in (1, 2):
            os.kill(node.pid, signal.SIGTERM)
            node.wait_for_log(f"{count} handled")
        os.kill(node.pid, signal.SIGTERM)
        assert node.ended() == 143
        assert "did not end in time" not in node.log.read_text()


@pytest.mark.parametrize(("name", "message"), [("exits", "SystemExit"), ("stops", "stopped")])
def test_a_node_whose_event_loop_ends_fails_with_a_message(
    data: Path, name: str, message: str
) -> None:
    with node_with_a_job(data, name) as node:
        assert node.ended() == 1
        last = node.log.read_text().splitlines()[-1]
        assert last.startswith("eventsched: the event loop was ended by ")
        assert message in last
