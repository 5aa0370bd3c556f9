"""The scripts of deploy/ copy a running system; all is destroyed, and the copy is restored."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio.to_thread import run_sync

from eventsched.server.testing import LocalServer
from eventsched.store.cell import Store
from eventsched.store.connection import open_connection
from tests.cli.programs import write_wav
from tests.failures.programs import Program, Programs, ask
from tests.systems import until

DEPLOY = Path(__file__).parents[2] / "deploy"
ROLES = ("dispatcher", "timer", "projector", "archiver")


class Paths:
    """The folders of a system."""

    def __init__(self, folder: Path) -> None:
        self.server = folder / "server"
        self.archive = folder / "archive"
        self.archive_key = folder / "archive-key" / "archive.key"
        self.keys = folder / "keys"

    def all(self) -> list[str]:
        return [str(each) for each in (self.server, self.archive, self.archive_key, self.keys)]

    def destroy(self) -> None:
        for path in (self.server, self.archive, self.archive_key.parent, self.keys):
            shutil.rmtree(path)


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(DEPLOY / name), *arguments], capture_output=True, check=False, text=True
    )


async def asked(url: str, *arguments: str) -> Any:
    done = await run_sync(ask, url, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def started(fleet: Programs, url: str, paths: Paths) -> list[Program]:
    """Start all roles and a node that has the key store."""
    roles = fleet.start(
        "eventsched.cli", "--url", url, "run", *ROLES, "--archive", str(paths.archive),
        "--archive-key", str(paths.archive_key), "--set", "archive_entries_max=10",
    )  # fmt: skip
    await roles.wait_for("ready: ")
    node = fleet.start(
        "eventsched.cli", "--url", url, "node", "tests.cli.workers:echo", "--keys", str(paths.keys)
    )
    await node.wait_for("serving")
    return [roles, node]


async def speak(url: str, file: Path, paths: Paths) -> str:
    """Stream the file in an encrypted session, to its last outcome. Returns the session."""
    words = ("stream", str(file), "-s", "en", "-t", "es", "--encrypt", "--keys", str(paths.keys))
    lines = (await asked(url, "--json", *words)).splitlines()
    (session,) = {line["session"] for line in map(json.loads, lines) if "session" in line}
    return str(session)


async def history(url: str, session: str, paths: Paths) -> str:
    words = ("history", session, "--keys", str(paths.keys), "--archive", str(paths.archive))
    return str(await asked(url, *words))


async def is_archived(store: Store) -> bool:
    return bool(await store.read_hash(store.keys.archive))


async def test_a_running_system_is_copied_destroyed_and_restored(
    fleet: Programs, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir(mode=0o700)
    old, new = Paths(tmp_path / "old"), Paths(tmp_path / "new")
    file, copy = write_wav(tmp_path / "a.wav", 450), tmp_path / "copy"
    with LocalServer(old.server, durable=True) as server:
        programs = await started(fleet, server.url, old)
        session = await speak(server.url, file, old)
        async with open_connection(server.url, create=False) as connection:
            await until("sealed", partial(is_archived, connection.stores["c0"]), within_s=60)
        before = await history(server.url, session, old)
        done = await run_sync(partial(script, "backup.sh", *old.all(), str(copy)))
        assert done.returncode == 0, done.stderr
        for program in programs:
            program.kill()
        server.kill()
    old.destroy()

    done = script("restore.sh", str(copy), *new.all())
    assert done.returncode == 0, done.stderr
    with LocalServer(new.server, durable=True) as server:
        await asked(server.url, "verify", "--archive", str(new.archive))
        assert "octetos" in before
        assert await history(server.url, session, new) == before
        await asked("", "audit", "verify", str(new.archive))
        programs = await started(fleet, server.url, new)
        await speak(server.url, file, new)
        await asked(server.url, "verify", "--archive", str(new.archive))
        for program in programs:
            assert program.end() == 0


@pytest.mark.parametrize("place", range(4))
def test_nothing_that_exists_is_overwritten(tmp_path: Path, place: int) -> None:
    paths = Paths(tmp_path).all()
    existing = Path(paths[place])
    existing.mkdir(parents=True)
    refused = script("restore.sh", str(tmp_path / "copy"), *paths)
    assert refused.returncode == 1
    assert refused.stderr == f"{existing} exists already\n"
    refused = script("backup.sh", *paths, str(existing))
    assert (refused.returncode, refused.stderr) == (1, f"{existing} exists already\n")


def files_of(paths: Paths) -> None:
    """Make folders and files of the kinds that backup.sh copies."""
    for file in (
        paths.server / "appendonlydir" / "appendonly.aof.manifest",
        paths.archive / "segments" / "1.json",
        paths.archive_key,
        paths.keys / "c0.s.key",
    ):
        file.parent.mkdir(parents=True)
        file.write_text(file.name)


@pytest.mark.parametrize("place", ["archive/segments", "archive/segments/1.json", "keys/c0.s.key"])
def test_a_copy_is_not_of_links(tmp_path: Path, place: str) -> None:
    paths, link, copy = Paths(tmp_path / "old"), tmp_path / "old" / place, tmp_path / "copy"
    files_of(paths)
    moved = link.rename(tmp_path / "moved")
    link.symlink_to(moved)
    refused = script("backup.sh", *paths.all(), str(copy))
    assert refused.returncode == 1
    assert refused.stderr.startswith(str(link.parent))
    assert refused.stderr.endswith(f"{link.name} is a link: put what it points to in its place\n")
    assert not copy.exists()


def test_a_copy_of_folders_that_links_name_has_their_files(tmp_path: Path) -> None:
    paths, links, copy = Paths(tmp_path / "old"), Paths(tmp_path / "links"), tmp_path / "copy"
    files_of(paths)
    (tmp_path / "links" / "archive-key").mkdir(parents=True)
    for name, target in zip(links.all(), paths.all(), strict=True):
        Path(name).symlink_to(target)
    done = script("backup.sh", *links.all(), str(copy))
    assert done.returncode == 0, done.stderr
    restored = Paths(tmp_path / "new")
    done = script("restore.sh", str(copy), *restored.all())
    assert done.returncode == 0, done.stderr
    for name in ("archive/segments/1.json", "keys/c0.s.key", "archive-key/archive.key"):
        assert (tmp_path / "new" / name).read_text() == Path(name).name
