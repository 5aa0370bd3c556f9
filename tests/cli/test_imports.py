"""What a command imports: modules that take long are imported only for what needs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from eventsched.server.testing import LocalServer
from eventsched.store.connection import open_connection

LARGE = {"attr", "pydantic", "pydantic_core", "rich.markdown", "rich.traceback", "structlog"}
"""Modules without which every command does its work."""
STYLED = {"eventsched.tables", "pygments", "rich"}
"""Modules of tables and colors."""
SESSION = "c0.talk"
RUN = """
import json, sys
from eventsched.cli.app import main
code = main(sys.argv[1:])
sys.stderr.write(json.dumps([code, *sys.modules]))
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with one session."""
    with LocalServer(tmp_path_factory.mktemp("imports") / "server") as server:
        anyio.run(_open_session, server.url)
        yield server.url


async def _open_session(url: str) -> None:
    async with open_connection(url) as connection:
        (store,) = connection.stores.values()
        await store.open_session(
            name="talk", token="t", secret_sha1="0" * 40, tenant="acme", source="en",
            targets=["es"], features=[], features_hash="none", encoding="pcm16",
            sample_rate=16_000, priority=1, room="", listen_language="", traceparent="",
        )  # fmt: skip


def imported_by(folder: Path, *words: str) -> set[str]:
    """Run a command in a new interpreter; return the modules that are imported at its end."""
    hidden = ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    environ = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words], cwd=folder, env=environ, capture_output=True,
        check=False,
    )  # fmt: skip
    code, *modules = json.loads(done.stderr)
    assert code == 0, done.stdout
    return set(modules)


def test_the_version_needs_no_large_module(tmp_path: Path) -> None:
    modules = imported_by(tmp_path, "--version")
    assert modules & (LARGE | STYLED | {"asyncio", "redis"}) == set()


def test_a_history_in_a_pipe_needs_no_large_module(tmp_path: Path, url: str) -> None:
    words = ("history", SESSION, "--type", "SessionOpened", "--data", str(tmp_path / "unused"))
    modules = imported_by(tmp_path, *words, "--url", url)
    assert "eventsched.cli.timeline" in modules
    assert modules & (LARGE | STYLED) == set()


def test_a_status_needs_no_large_module_but_its_tables(tmp_path: Path, url: str) -> None:
    modules = imported_by(tmp_path, "status", "--url", url)
    assert "eventsched.tables" in modules
    assert modules & (LARGE - {"attr"}) == set()  # rich imports attr if it is installed


def test_a_status_for_programs_needs_no_table(tmp_path: Path, url: str) -> None:
    modules = imported_by(tmp_path, "status", "--json", "--url", url)
    assert "eventsched.history.status" in modules
    assert modules & (LARGE | STYLED) == set()


def test_a_value_that_needs_a_conversion_is_converted(tmp_path: Path, url: str) -> None:
    words = ("list", "session", "--limit", "1", "--json", "--url", url)
    assert "pydantic" in imported_by(tmp_path, *words)
