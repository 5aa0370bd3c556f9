"""`fleet`: starts processes of the program, which end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.failures.programs import Programs, programs


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Programs]:
    with programs(tmp_path) as started:
        yield started
