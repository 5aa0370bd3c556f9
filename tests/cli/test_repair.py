"""`eventsched repair`: the plan without a change, the reason, the repair with its event."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import pytest

from eventsched.cli import options
from eventsched.schema.events import FIELDS
from eventsched.server.testing import LocalServer
from eventsched.store.connection import open_connection
from tests.cli.programs import json_lines_of, json_of, run

SESSION = "es1:{c0}:session:s9"
WHY = "a key was restored by hand"


@pytest.fixture
async def empty(own_server: LocalServer) -> LocalServer:
    """A server with the settings of a cell."""
    async with open_connection(own_server.url):
        return own_server


@pytest.fixture
async def broken(empty: LocalServer) -> LocalServer:
    """A server with a session that its log does not have."""
    empty.call("HSET", SESSION, "status", "open")
    return empty


def test_without_apply_the_changes_are_printed_and_nothing_is_written(
    broken: LocalServer, tmp_path: Path
) -> None:
    log_length = broken.call("XLEN", "es1:{c0}:log")
    done = run(tmp_path, "--url", broken.url, "repair")
    assert done.returncode == 1
    assert b"1 change, nothing is written without --apply" in done.stdout
    assert b"delete the session" in done.stdout
    (plan,) = json_lines_of(run(tmp_path, "--url", broken.url, "--json", "repair"))
    assert plan["clean"] is False
    (change,) = plan["cells"][0]["changes"]
    assert (change["where"], change["what"]) == ("session:s9", "delete the session")
    assert broken.call("EXISTS", SESSION) == 1
    assert broken.call("XLEN", "es1:{c0}:log") == log_length


@pytest.mark.parametrize("why", [[], ["--why", " "], ["--why", "x" * 501]])
def test_a_repair_needs_a_reason(broken: LocalServer, tmp_path: Path, why: list[str]) -> None:
    done = run(tmp_path, "--url", broken.url, "repair", "--apply", *why)
    assert done.returncode == 1
    assert b"why" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert broken.call("EXISTS", SESSION) == 1


def test_a_repair_is_recorded_with_its_reason_and_its_operator(
    broken: LocalServer, tmp_path: Path
) -> None:
    url = ("--url", broken.url)
    done = json_of(run(tmp_path, *url, "--json", "repair", "--apply", "--why", WHY))
    assert (done["clean"], done["cells"][0]["left"]) == (True, [])
    assert broken.call("EXISTS", SESSION) == 0
    ((_, fields),) = broken.call("XRANGE", "es1:{c0}:log", "-", "+", "COUNT", 1)
    entry = str(fields)
    assert "CellRepaired" in entry
    assert WHY in entry
    assert options.operator_name() in entry
    assert run(tmp_path, *url, "verify").returncode == 0
    assert b"cell c0: clean" in run(tmp_path, *url, "repair").stdout


def test_verify_shows_repairs_and_the_violations_that_they_accept(
    empty: LocalServer, tmp_path: Path
) -> None:
    """A forged event with a forged acceptance is not plainly clean."""
    url = ("--url", empty.url)
    assert run(tmp_path, *url, "verify").returncode == 0
    forged = _append(empty, "SessionResumed", '{"epoch":77}', "c0.s9")
    broken = run(tmp_path, *url, "verify")
    assert broken.returncode == 1
    assert b"accepted" not in broken.stdout.splitlines()[0]
    data = f'{{"where":"log/{forged}","what":"accept","accepts":"{forged}","why":"x","by":"root"}}'
    repair = _append(empty, "CellRepaired", data)
    done = run(tmp_path, *url, "verify")
    accepted = json_of(run(tmp_path, *url, "--json", "verify"))["cells"][0]["accepted"]
    assert (done.returncode, accepted) == (0, 1)
    assert done.stdout.splitlines()[0] == b"cell c0: clean, 1 violation accepted"
    (line,) = [line for line in done.stdout.splitlines() if f"log/{repair}".encode() in line]
    assert line.split() == [
        f"log/{repair}".encode(), f"log/{forged}".encode(), f"log/{forged}".encode(), b"accept",
        b"root", b"x",
    ]  # fmt: skip


def _append(server: LocalServer, kind: str, data: str, session: str = "") -> str:
    """Append an event to the log by hand; return its id."""
    values = [kind, "1", session, "", "", "", "", data, ""]
    fields = [part for pair in zip(FIELDS, values, strict=True) for part in pair]
    entry_id = server.call("XADD", "es1:{c0}:log", "*", *fields)
    return entry_id.decode() if isinstance(entry_id, bytes) else str(entry_id)


def test_a_user_without_a_name_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Any:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", fails)
    assert options.operator_name().partition("@")[0].isdigit()
