"""`archived`: a fresh cell with an empty archive beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.archive.archives import Archived
from tests.fixtures_store import TimedStore


@pytest.fixture
def archived(store: TimedStore, tmp_path: Path) -> Archived:
    return Archived(store, tmp_path / "archive")
