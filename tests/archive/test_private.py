"""Only the owner can read what the archiver writes, whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archive.archives import Archived
from tests.fixtures_store import TimedStore


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_open_umask")
async def test_folders_files_and_key_are_private(store: TimedStore, tmp_path: Path) -> None:
    top = tmp_path / "new" / "parent"
    archived = Archived(store, top / "archive")
    await archived.talk()
    await archived.seal()
    created = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    names = {path.suffix for path in created}
    assert {".pub", ".key", ".json", ".parquet"} <= names
    assert {path: path.stat().st_mode & 0o077 for path in created} == dict.fromkeys(created, 0)
