"""`archived`: a fresh cell with an empty archive beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventsched.archive import verifier
from tests.archive.archives import CORE, Archived
from tests.fixtures_store import TimedStore


@pytest.fixture(autouse=True)
def _installed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not search the installed packages for the core set at each verification."""
    monkeypatch.setattr(verifier, "load_core", lambda: CORE)


@pytest.fixture
def archived(store: TimedStore, tmp_path: Path) -> Archived:
    return Archived(store, tmp_path / "archive")
