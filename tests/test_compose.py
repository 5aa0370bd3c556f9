"""docker-compose.yml names roles and commands that exist."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from eventsched.node import Node
from eventsched.running import ROLES

FILE = Path(__file__).parents[1] / "docker-compose.yml"
COMMAND = re.compile(r'command: \["eventsched", "(\w+)", "([\w.:]+)"\]')


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
