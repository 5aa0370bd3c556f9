"""docker-compose.yml names roles and commands that exist."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from eventsched.cli.app import COMMANDS
from eventsched.node.node import Node
from eventsched.roles.runner import ROLES
from eventsched.schema.settings import PREFIX, Settings
from eventsched.server.embedded import ENCODING_OPTIONS

FILE = Path(__file__).parents[1] / "docker-compose.yml"
COMMAND = re.compile(r'command: \["eventsched", "(\w+)", "([\w.:]+)"\]')
SERVICE = re.compile(r"^  ([\w-]+):\n((?:    .*\n)+)", re.MULTILINE)
HERE = {"URL", "DATA", "ARCHIVE"}
"""What the environment may say beside settings."""


def test_each_role_and_two_nodes_are_there() -> None:
    commands = COMMAND.findall(FILE.read_text())
    assert {what for how, what in commands if how == "run"} == set(ROLES)
    assert len([what for how, what in commands if how == "node"]) == 2


def test_its_node_can_be_imported() -> None:
    for how, what in COMMAND.findall(FILE.read_text()):
        if how == "node":
            module, _, name = what.partition(":")
            assert isinstance(getattr(import_module(module), name), Node)


def test_redis_keeps_and_never_evicts() -> None:
    text = FILE.read_text()
    for option in ("--appendonly", "--maxmemory-policy", "noeviction", "--maxmemory"):
        assert option in text
    for name, value in ENCODING_OPTIONS.items():
        assert f'--{name}\n      - "{value}"' in text


def test_every_setting_that_it_names_exists() -> None:
    named = set(re.findall(rf"^\s+{PREFIX}(\w+):", FILE.read_text(), re.MULTILINE))
    assert named
    assert named <= HERE | {name.upper() for name in Settings.__struct_fields__}


def test_every_service_is_asked_how_it_does_by_a_command_that_exists() -> None:
    features = dict(SERVICE.findall(FILE.read_text().partition("\nservices:\n")[2]))
    assert {"redis", "node-1", "node-2", *ROLES} <= set(features)
    assert [name for name, text in features.items() if "healthcheck:" not in text] == []
    roles = re.findall(r'"status", "--check", "--role", "(\w+)"', FILE.read_text())
    assert sorted(roles) == sorted(ROLES)
    asked = re.findall(r"eventsched[\", ]+--json[\", ]+(\w+)", FILE.read_text())
    assert asked
    assert set(asked) <= set(COMMANDS)
