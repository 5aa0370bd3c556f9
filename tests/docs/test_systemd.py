"""The systemd units: systemd accepts them, and each starts a command of eventsched that exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eventsched.cli.app import COMMANDS
from eventsched.cli.run import GATEWAY
from eventsched.roles.runner import ROLES

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNITS = sorted(path.name for path in FOLDER.iterdir() if path.suffix != ".env")
SERVICES = [name for name in UNITS if name.endswith(".service")]
PROGRAM = "/opt/eventsched/bin/eventsched"
SERVICES_THAT_RUN = [name for name in SERVICES if name != "eventsched-check.service"]


def settings_of(name: str) -> dict[str, list[str]]:
    """The values of each setting of a unit; systemd reads a file of sections and `NAME=VALUE`."""
    settings: dict[str, list[str]] = {}
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            setting, equals, value = line.partition("=")
            assert equals, line
            settings.setdefault(setting, []).append(value)
    return settings


def program_of(name: str) -> list[str]:
    """The words of the program that a service starts."""
    (program,) = settings_of(name)["ExecStart"]
    words = program.split(" ")
    assert words[0] == PROGRAM
    return words[1:]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_starts_a_command_of_eventsched_as_an_ordinary_user(name: str) -> None:
    command, *words = program_of(name)
    assert command in COMMANDS
    if command == "run":
        assert words[0] in {*ROLES, GATEWAY, "%i"}
    settings = settings_of(name)
    (user,) = settings["User"]
    assert user.startswith("eventsched")
    assert settings["NoNewPrivileges"] == ["yes"]
    (environment,) = settings["EnvironmentFile"]
    assert "PASSWORD" not in " ".join(settings.get("Environment", []))
    assert environment.startswith("/etc/eventsched/")


@pytest.mark.parametrize("name", SERVICES_THAT_RUN)
def test_a_service_that_is_stopped_has_time_to_end_in_order(name: str) -> None:
    """A node drains for 60 s; a node that an operator drains is not started again."""
    settings = settings_of(name)
    (seconds,) = settings["TimeoutStopSec"]
    is_node = program_of(name)[0] == "node"
    assert int(seconds) > (60 if is_node else 5)
    assert settings["Restart"] == ["on-failure" if is_node else "always"]


def test_the_archive_and_its_key_are_in_different_folders() -> None:
    settings = settings_of("eventsched-archiver.service")
    variables = dict(each.split("=", 1) for each in settings["Environment"])
    archive, key = Path(variables["EVENTSCHED_ARCHIVE"]), Path(variables["EVENTSCHED_ARCHIVE_KEY"])
    folders = {f"/var/lib/{name}" for name in settings["StateDirectory"][0].split(" ")}
    assert {str(archive.parent), str(key.parent)} == folders
    assert len(folders) == 2


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """Where systemd is installed. It looks for the program, so the copies name one that exists."""
    for name in UNITS:
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert re.match(r"(#.*\n)*\[Unit\]\n", text), name
        (tmp_path / name).write_text(text.replace(PROGRAM, sys.executable), encoding="utf-8")
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    names = [name.replace("@.", "@x.") for name in UNITS]
    for template in ("eventsched@", "eventsched-node@"):
        (tmp_path / f"{template}x.service").symlink_to(tmp_path / f"{template}.service")
    done = subprocess.run(
        [analyze, "verify", "--man=no", *(str(tmp_path / name) for name in names)],
        capture_output=True,
        check=False,
        text=True,
    )
    about_units = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert about_units == []
    assert done.returncode == 0, done.stderr
