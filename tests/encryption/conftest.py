"""`key_store`: a folder for keys."""

from pathlib import Path

import pytest

from eventsched.encryption.keystore import KeyFolder


@pytest.fixture
def key_store(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys")
