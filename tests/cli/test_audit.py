"""`run archiver`, `audit` and `query`: their output, and one line for each error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytest_asyncio
from anyio.to_thread import run_sync

from eventsched.cli.app import main
from eventsched.schema.ids import padded_id
from tests.archive.archives import Archived
from tests.archive.test_sealing import sums
from tests.fixtures_store import TimedStore

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


class CommandRunner:
    """Runs commands and stores the output of the last one."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def run(self, *args: str | Path) -> int:
        self._capsys.readouterr()  # what the test itself has logged
        code = main([str(argument) for argument in args])
        self.out, self.err = self._capsys.readouterr()
        return code

    def refused(self, *args: str | Path) -> str:
        """Run a command that fails with an expected error and return its one line."""
        assert self.run(*args) == 1
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        return self.err


@pytest.fixture
def runner(capfd: pytest.CaptureFixture[str]) -> CommandRunner:
    return CommandRunner(capfd)


@pytest_asyncio.fixture
async def archive(store: TimedStore, tmp_path: Path) -> Archived:
    """An archive of three segments."""
    archived = Archived(store, tmp_path / "archive")
    await archived.set(archive_entries_max=8)
    await archived.talk("s1", 5)
    await archived.seal()
    return archived


async def run(runner: CommandRunner, *args: str | Path) -> int:
    """Run in a thread, since a command has an event loop of its own."""
    return await run_sync(runner.run, *args)


async def refused(runner: CommandRunner, *args: str | Path) -> str:
    return await run_sync(runner.refused, *args)


async def test_an_unchanged_archive_and_a_changed_one(
    archive: Archived, runner: CommandRunner, tmp_path: Path
) -> None:
    assert await run(runner, "audit", "verify", archive.path) == 0
    assert runner.out.startswith("consistent, key not checked: ")
    trusted = tmp_path / "trusted.pub"
    trusted.write_bytes((archive.path / "archive.pub").read_bytes())
    assert await run(runner, "audit", "verify", archive.path, "--key", trusted) == 0
    assert runner.out.startswith("unchanged: ")
    name = archive.folder.cell(archive.store.cell).records()[1].file("events").name
    path = archive.path / archive.store.cell / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert await run(runner, "audit", "verify", archive.path) == 1
    assert f"CHANGED  {archive.store.cell}/{name}: is not the file that was sealed" in runner.out
    assert await run(runner, "--json", "audit", "verify", archive.path) == 1
    report = json.loads(runner.out)
    assert report["clean"] is False
    assert report["problems"][0]["where"] == f"{archive.store.cell}/{name}"


async def test_a_checkpoint_shows_removed_segments(
    archive: Archived, runner: CommandRunner, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    assert await run(runner, "audit", "checkpoint", archive.path, "--out", checkpoint) == 0
    assert await run(runner, "audit", "verify", archive.path, "--checkpoint", checkpoint) == 0
    assert runner.out.startswith("unchanged: ")
    last = archive.folder.cell(archive.store.cell).records()[-1]
    for path in (archive.path / archive.store.cell).glob(f"*_*{padded_id(last.last)}*"):
        path.unlink()
    assert await run(runner, "audit", "verify", archive.path) == 0
    assert await run(runner, "audit", "verify", archive.path, "--checkpoint", checkpoint) == 1
    assert "segments, the archive" in runner.out


async def test_a_proof_is_small_and_valid_without_the_archive(
    archive: Archived, runner: CommandRunner, tmp_path: Path
) -> None:
    proof, key = tmp_path / "proof", archive.path / "archive.pub"
    for event in await archive.store.log():
        assert (
            await run(runner, "audit", "prove", event.id, "--archive", archive.path, "--out", proof)
            == 0
        )
        assert proof.stat().st_size < 2_000
        assert await run(runner, "audit", "check-proof", proof, "--key", key) == 0
        assert runner.out.startswith(f"valid: {event.type} {event.id} of cell")
    assert await run(runner, "--json", "audit", "check-proof", proof, "--key", key) == 0
    assert json.loads(runner.out)["valid"] is True


async def test_a_proof_without_a_trusted_key_proves_nothing(
    archive: Archived, runner: CommandRunner, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    event = (await archive.store.log())[5]
    await run(runner, "audit", "prove", event.id, "--archive", archive.path, "--out", proof)
    assert await run(runner, "audit", "check-proof", proof) == 1
    assert runner.out.startswith(f"consistent, key not checked: {event.type} {event.id} of cell")
    assert "does not prove who signed it" in runner.out
    assert await run(runner, "--json", "audit", "check-proof", proof) == 1
    checked = json.loads(runner.out)
    assert (checked["valid"], checked["key_checked"]) == (False, False)
    other = Archived(archive.store, tmp_path / "other").path / "archive.pub"
    assert "not signed by key" in await refused(
        runner, "audit", "check-proof", proof, "--key", other
    )


async def test_a_changed_proof_is_not_valid(
    archive: Archived, runner: CommandRunner, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    event = (await archive.store.log())[5]
    await run(runner, "audit", "prove", event.id, "--archive", archive.path, "--out", proof)
    content = proof.read_bytes()
    for at in range(0, len(content), 11):
        changed = bytearray(content)
        changed[at] ^= 1
        proof.write_bytes(bytes(changed))
        assert "proof" in await refused(runner, "audit", "check-proof", proof)


async def test_bad_input_is_one_line_and_changes_nothing(
    archive: Archived, runner: CommandRunner, tmp_path: Path
) -> None:
    other = Archived(archive.store, tmp_path / "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    before = sums(tmp_path)
    pub = other.path / "archive.pub"
    prove = ("audit", "prove", "--archive", archive.path)
    assert "no folder" in await refused(runner, "audit", "verify", tmp_path / "nowhere")
    assert "is no archive" in await refused(runner, "audit", "verify", tmp_path / "mine")
    assert "no segment yet" in await refused(runner, "audit", "checkpoint", other.path)
    assert "is no entry id" in await refused(runner, *prove, "yesterday")
    assert "no event 5-0" in await refused(runner, *prove, "5-0")
    assert "cannot read" in await refused(runner, "audit", "check-proof", tmp_path / "none")
    letter = tmp_path / "mine" / "letter"
    assert "cannot be read" in await refused(runner, "audit", "check-proof", letter)
    assert "no public key" in await refused(runner, "audit", "check-proof", letter, "--key", letter)
    assert "--archive" in await refused(runner, "query", "SELECT 1")
    assert "is no archive" in await refused(runner, "query", "SELECT 1", "--archive", letter.parent)
    assert "add --archive DIR" in await refused(runner, "run", "archiver")
    mine = ("run", "archiver", "--archive", tmp_path / "mine")
    assert "no archive and not empty" in await refused(runner, *mine)
    key = ("--archive-key", tmp_path / "other.key")
    foreign = await refused(runner, "run", "archiver", "--archive", archive.path, *key)
    assert "is not the key of" in foreign
    assert await run(runner, "audit", "verify", archive.path, "--key", pub) == 1
    assert "is key" in runner.out
    assert sums(tmp_path) == before


async def test_a_query_ends_at_its_limits_with_one_line(
    archive: Archived, runner: CommandRunner
) -> None:
    where = ("--archive", archive.path)
    assert await run(runner, "query", "SELECT count(*) FROM events", *where, "--rows", "1") == 0
    many = await run(runner, "query", "SELECT * FROM events", *where, "--rows", "3")
    assert (many, runner.err.count("\n")) == (1, 1)
    assert "more than 3 rows" in runner.err
    sql = (
        "SELECT count(*) FROM range(1000000000) a, range(1000) b WHERE (a.range * b.range) % 7 = 3"
    )
    assert "took more than 0.1 s" in await refused(runner, "query", sql, *where, "--timeout", "0.1")
    sql = "SELECT list(range) FROM range(100000000)"
    late = await refused(runner, "query", sql, *where, "--memory-mb", "64")
    assert "more than 64 MB of memory" in late


async def test_a_query_of_a_changed_archive_is_refused(
    archive: Archived, runner: CommandRunner
) -> None:
    name = archive.folder.cell(archive.store.cell).records()[1].file("events").name
    path = archive.path / archive.store.cell / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    sql = ("query", "SELECT count(*) FROM events", "--archive", archive.path)
    assert "is not the file that was sealed" in await refused(runner, *sql)


async def test_the_id_of_an_archived_session_may_be_shortened(
    store: TimedStore, tmp_path: Path, runner: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every command that reads an archive, without a server."""
    monkeypatch.chdir(tmp_path)
    archived = Archived(store, tmp_path / "archive")
    await archived.talk("8a1b2c3d", 1)
    await archived.seal()
    full, short = store.keys.full("8a1b2c3d"), "8a1b2"
    for words in (
        ("history", "--json"), ("why", "--json"), ("state", "--json", "session"),
        ("state", "--json", "job"), ("report", "-o", "page.html"),
        ("query", "SELECT DISTINCT session FROM events", "--session"),
    ):  # fmt: skip
        what = f"{short}:0:es" if words[0] == "why" or words[-1] == "job" else short
        assert await run(runner, *words, what, "--archive", archived.path) == 0, runner.err
        assert full in runner.out
