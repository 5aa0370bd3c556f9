"""The processes of a benchmark are forked: these tests are not about their start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

from eventsched.subprocesses import Children
from tests.forked import start_module


@pytest.fixture(autouse=True)
def _forked_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Children, "_spawn", _spawn)


def _spawn(children: Children, arguments: Sequence[str]) -> Any:
    read, write = os.pipe()
    with children._log.open("ab") as log, open(os.devnull, "rb") as nothing:
        streams = (nothing.fileno(), write, log.fileno())
        child: Any = start_module(arguments, streams, children._environment)
    os.close(write)
    child.stdout = open(read, "rb")  # noqa: SIM115 - closed by `Children.end`
    children._running.append(child)
    return child
