"""The library, the commands and the nodes find the same server; docs/settings.md has the order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog

import eventsched
from eventsched.cli.app import main
from eventsched.errors import EventschedError
from eventsched.server.choice import PRECEDENCE, choose_server

URLS = {"url": "http://from-argument", "EVENTSCHED_URL": "http://from-variable"}
"""Addresses of a kind that no process accepts: the message names the one that was chosen."""
FOLDERS = {
    "data": "folder-of-data",
    "EVENTSCHED_DATA": "folder-of-variable",
    "default": ".eventsched",
}
"""Files in place of the folders: the message names the one that was chosen."""
ORDER = ("url", "data", "EVENTSCHED_URL", "EVENTSCHED_DATA", "default")
"""The sources in the order of PRECEDENCE."""
PLACES = {**URLS, **FOLDERS}


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in FOLDERS.values():
        (tmp_path / name).write_text("")


def _set(monkeypatch: pytest.MonkeyPatch, *sources: str) -> dict[str, str]:
    """Set the variables among these sources; return the arguments among them."""
    for variable in ("EVENTSCHED_URL", "EVENTSCHED_DATA"):
        monkeypatch.setenv(variable, PLACES[variable] if variable in sources else "")
    return {name: PLACES[name] for name in ("url", "data") if name in sources}


def _library(arguments: dict[str, str], _: pytest.CaptureFixture[str]) -> str:
    """The error of `connect`."""

    async def connect() -> None:
        async with eventsched.connect(**arguments):  # type: ignore[arg-type]
            raise AssertionError("connected")

    with pytest.raises(EventschedError) as caught:
        anyio.run(connect)
    return str(caught.value)


def _command(
    *words: str,
) -> Callable[[dict[str, str], pytest.CaptureFixture[str]], str]:
    def run(arguments: dict[str, str], capsys: pytest.CaptureFixture[str]) -> str:
        options = [word for name, place in arguments.items() for word in (f"--{name}", place)]
        assert main([*options[:2], *words, *options[2:]]) == 1
        structlog.reset_defaults()
        return capsys.readouterr().err

    return run


CALLERS: dict[str, Any] = {
    "connect": _library,
    "status": _command("status"),
    "up": _command("up"),
    "stream": _command("stream", "-", "--target", "es"),
    "node": _command("node", "tests.cli.workers:echo"),
}


@pytest.mark.parametrize("order", range(len(PRECEDENCE)), ids=ORDER)
@pytest.mark.parametrize("caller", CALLERS)
def test_the_first_source_that_is_set_names_the_server(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caller: str,
    order: int,
) -> None:
    """With the sources of a row and of all later rows set, the row counts."""
    arguments = _set(monkeypatch, *ORDER[order:])
    message = CALLERS[caller](arguments, capsys)
    assert PLACES[ORDER[order]] in message
    assert not any(PLACES[later] in message for later in ORDER[order + 1 :])


def test_the_table_has_the_sources_of_this_test() -> None:
    commands = [source.command for source in PRECEDENCE]
    for name, command in zip(ORDER, commands, strict=True):
        assert {"url": "--url", "data": "--data", "default": "./.eventsched"}.get(
            name, name
        ) in command


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch)
    assert choose_server() == ("", Path(".eventsched"))


def test_a_program_uses_the_server_of_the_commands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program in another folder joins the server that EVENTSCHED_DATA names."""
    monkeypatch.delenv("EVENTSCHED_URL", raising=False)
    monkeypatch.setenv("EVENTSCHED_DATA", str(tmp_path / "shared"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    async def url_of(**arguments: Any) -> str:
        async with eventsched.connect(**arguments) as es:
            return es.url

    async def urls() -> tuple[str, str]:
        async with eventsched.connect() as es:  # the server runs as long as this block
            return es.url, await url_of(data=tmp_path / "shared")

    first, second = anyio.run(urls)
    assert first == second
    assert list(elsewhere.iterdir()) == []
