"""Only the owner can read what the archiver writes, whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.signing import SigningKey
from eventsched.errors import ArchiveError
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


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_a_signing_key_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "archive.key"
    SigningKey.generate().write(path)
    path.chmod(mode)
    with pytest.raises(ArchiveError, match=f"is open to others .mode {mode:o}.*chmod 600"):
        SigningKey.read(path)


def test_a_signing_key_that_is_a_link_is_refused(tmp_path: Path) -> None:
    SigningKey.generate().write(tmp_path / "real.key")
    (tmp_path / "archive.key").symlink_to(tmp_path / "real.key")
    with pytest.raises(ArchiveError, match="cannot read the key"):
        SigningKey.read(tmp_path / "archive.key")


def test_a_signing_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.key"
    if os.geteuid() == 0:
        SigningKey.generate().write(path)
        os.chown(path, 65_533, -1)
    else:
        path = Path("/etc/passwd")
    with pytest.raises(ArchiveError, match="not a regular file of this user"):
        SigningKey.read(path)


@pytest.mark.parametrize("mode", [0o770, 0o777])
def test_an_archive_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "archive"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(ArchiveError, match=f"others may write to .* .mode {mode:o}.*chmod go-w"):
        ArchiveFolder.open_or_create(path, None)
    path.chmod(0o700)
    ArchiveFolder.open_or_create(path, None)
    path.chmod(mode)
    with pytest.raises(ArchiveError, match="others may write to"):
        ArchiveFolder.open_or_create(path, None)
