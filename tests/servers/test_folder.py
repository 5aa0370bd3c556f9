"""A data folder is used only if it is private to its owner; each refusal names the remedy."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from eventsched.errors import ServerUnavailable
from eventsched.private_files import (
    exchangeable_in,
    is_private_group,
    make_private_folder,
    open_private,
    replace_private,
)
from eventsched.server import watchdog
from eventsched.server.embedded import using
from eventsched.server.folder import PROGRAM, open_data_folder, short_path
from eventsched.server.launch import LOG, SERVER_LOCK
from tests.cli.programs import command, environment

NOBODY = 65_534
FILES = (PROGRAM, watchdog.ANNOUNCEMENT, SERVER_LOCK, LOG, watchdog.USERS, watchdog.ALIVE)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder of another user, with a program that leaves a mark if it is run."""
    if os.geteuid() != 0:
        return Path("/usr")
    folder = tmp_path / "foreign"
    folder.mkdir(mode=0o700)
    program = folder / "redis-server"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/it-ran\n")
    program.chmod(0o755)
    (folder / PROGRAM).write_text(str(program))
    for path in (folder, *folder.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    return folder


def refused(data: Path) -> str:
    with pytest.raises(ServerUnavailable) as error:
        using(data=data).__enter__()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folder_of_another_user_is_refused_and_nothing_in_it_is_run(
    foreign: Path, tmp_path: Path
) -> None:
    message = refused(foreign)
    assert f"belongs to user {foreign.stat().st_uid}" in message
    assert "--data" in message
    assert "--url" in message
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    "words", [("status",), ("verify",), ("history",), ("dead-letters",), ("up",)]
)
def test_commands_do_not_obey_a_folder_of_another_user(
    foreign: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / ".eventsched").symlink_to(foreign)
    for data in (str(foreign), ""):
        done = subprocess.run(
            command(*words), cwd=tmp_path, env=environment(Path(data)) | {"EVENTSCHED_DATA": data},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o701, 0o777, 0o1777])
def test_folder_that_others_may_open_is_refused_with_the_command_that_helps(
    data: Path, mode: int
) -> None:
    data.chmod(mode)
    message = refused(data)
    assert f"mode {mode:o}" in message
    assert f"chmod 700 {data}" in message
    data.chmod(0o700)
    with using(data=data):
        pass


def test_folder_that_is_a_link_is_refused_and_its_place_named(data: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(data)
    assert f"--data {data}" in refused(link)
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")
    assert "is a link" in refused(link)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("mode", "is_exchangeable"),
    [(0o700, False), (0o755, False), (0o777, True), (0o1777, False)],
)
def test_a_folder_that_another_user_may_exchange_is_a_warning(
    tmp_path: Path, mode: int, is_exchangeable: bool
) -> None:
    parent = tmp_path / "parent"
    data = parent / "below" / "data"
    data.mkdir(mode=0o700, parents=True)
    parent.chmod(mode)
    with capture_logs() as lines:
        for _ in range(2):
            open_data_folder(data)
    warnings = [(line["event"], line["kind"], line["writable"]) for line in lines]
    expected = ("another user may exchange a folder", "data folder", str(parent))
    assert warnings == [expected] * is_exchangeable


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, in which other users cannot exchange a folder."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize(
    ("mode", "is_used"), [(0o700, True), (0o755, False), (0o770, False), (0o1777, False)]
)
def test_a_short_path_leads_through_a_private_runtime_folder(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, mode: int, is_used: bool
) -> None:
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    runtime.chmod(mode)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with capture_logs() as lines:
        link = short_path(tmp_path / "data")
    assert os.readlink(link) == str(tmp_path / "data")
    assert link.parent.parent == (runtime if is_used else temporary)
    assert list(runtime.iterdir()) == [link.parent] * is_used
    assert lines == []


@pytest.mark.parametrize("kind", ["foreign", "link", "file", "missing", "unset"])
def test_a_runtime_folder_that_is_not_of_this_user_is_not_used(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A command that runs as root may have the variable of the user who called it."""
    runtime, own = tmp_path / "runtime", tmp_path / "own"
    own.mkdir(mode=0o700)
    if kind == "foreign":
        runtime.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(runtime, NOBODY, NOBODY)
        else:  # the folder is that of another user
            own_id = os.geteuid()
            monkeypatch.setattr(os, "geteuid", lambda: own_id + 1)
    elif kind == "link":
        runtime.symlink_to(own)
    elif kind == "file":
        runtime.write_bytes(b"")
        runtime.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "" if kind == "unset" else str(runtime))
    if kind == "foreign" and os.geteuid() != os.getuid():
        with pytest.raises(PermissionError):
            short_path(tmp_path / "data")
        assert list(runtime.iterdir()) == []
        return
    assert short_path(tmp_path / "data").parent.parent == temporary
    assert list(own.iterdir()) == []


def test_a_short_path_that_another_user_may_exchange_is_a_warning(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    temporary.chmod(0o777)  # not sticky: each user may move the entries of others
    with capture_logs() as lines:
        short_path(tmp_path / "data")
    (line,) = lines
    assert (line["kind"], line["writable"]) == (
        "folder of the short path to the socket", str(temporary),
    )  # fmt: skip


USERS_GROUP = 100
"""The primary group of all users on some systems."""


@pytest.mark.parametrize(
    ("group", "members", "others", "is_exchangeable"),
    [
        ("ann", ["ann"], [], False),
        ("ann", ["ann"], ["ann"], False),
        ("ann", ["ann", "bob"], [], True),
        ("ann", ["ann"], ["bob"], True),
        ("users", ["ann", "bob"], [], True),
        ("users", ["ann"], [], True),
        ("root", [], [], True),
    ],
)
def test_a_folder_that_the_primary_group_of_others_may_write_is_exchangeable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, members: list[str],
    others: list[str], is_exchangeable: bool,
) -> None:  # fmt: skip
    """A folder for which only the user's own group has the right is not. The user is `ann`; for
    `members` the group is the primary one, `others` are in it as well.
    """
    (tmp_path / "data").mkdir()
    group_id = tmp_path.stat().st_gid

    def user(name: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", os.geteuid(), group_id, "", "/", "/bin/sh"))

    monkeypatch.setattr(pwd, "getpwuid", lambda _: user("ann"))
    monkeypatch.setattr(pwd, "getpwall", lambda: [user(name) for name in members])
    entry = grp.struct_group((group, "x", group_id, others))
    monkeypatch.setattr(grp, "getgrgid", lambda _: entry)
    is_private_group.cache_clear()
    tmp_path.chmod(0o775)
    found = exchangeable_in(tmp_path / "data")
    is_private_group.cache_clear()
    assert (found == tmp_path) == is_exchangeable


@pytest.mark.parametrize("mode", [0o770, 0o775, 0o1775])
def test_a_folder_that_a_shared_group_may_write_is_exchangeable_unless_it_is_sticky(
    tmp_path: Path, mode: int
) -> None:
    (tmp_path / "data").mkdir()
    if os.geteuid() == 0:
        os.chown(tmp_path, -1, USERS_GROUP)
    tmp_path.chmod(mode)
    expected = None if mode & stat.S_ISVTX or is_private_group(tmp_path.stat().st_gid) else tmp_path
    assert exchangeable_in(tmp_path / "data") == expected
    assert not is_private_group(USERS_GROUP)


def test_a_folder_in_a_folder_of_another_user_is_exchangeable(foreign: Path) -> None:
    if os.geteuid() == 0:
        os.chown(foreign, NOBODY - 1, -1)
        assert exchangeable_in(foreign / "data") == foreign
    else:  # /usr belongs to root, who may do anything
        assert exchangeable_in(foreign / "data") is None


def test_folder_below_a_link_is_used(data: Path, tmp_path: Path) -> None:
    (tmp_path / "parent").symlink_to(data)
    with using(data=tmp_path / "parent" / "data") as url:
        assert url == f"unix://{data}/data/server.sock"


@pytest.mark.parametrize("name", [*FILES, "appendonlydir", "appendonlydir/x.aof"])
def test_link_in_the_folder_is_refused_and_not_followed(
    data: Path, tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (data / name).parent.mkdir(exist_ok=True)
    (data / name).symlink_to(victim)
    assert f"{data / name} is a link" in refused(data)
    assert victim.read_text() == "precious"
    with pytest.raises(OSError, match=r"symbolic link"):
        open_private(data / name, os.O_RDWR | os.O_CREAT)


@pytest.mark.parametrize("name", ["x", "bash", "redis-server"])
def test_program_that_is_no_known_server_is_not_run(data: Path, tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/it-ran\n")
    program.chmod(0o755)
    (data / PROGRAM).write_text(str(program))
    message = refused(data)
    assert f"{program}, which is no redis-server or valkey-server on PATH" in message
    assert "PATH, or remove" in message
    assert not (tmp_path / "it-ran").exists()


def test_program_in_the_present_folder_is_not_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "redis-server").write_text(f"#!/bin/sh\ntouch {tmp_path}/it-ran\n")
    (tmp_path / "redis-server").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f":.:{os.environ['PATH']}")
    with using(data=data):
        pass
    assert not (tmp_path / "it-ran").exists()


def test_what_is_made_is_private_whatever_the_umask(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from eventsched.server.embedded import using\n"
        "os.umask(0)\n"
        "with using(data=Path(sys.argv[1])): pass\n"
    )
    data = tmp_path / "deep" / "er" / "data"
    subprocess.run([sys.executable, "-c", code, data], check=True, timeout=60, cwd=tmp_path,
                   env=environment(data), stdout=subprocess.DEVNULL)  # fmt: skip
    paths = [tmp_path / "deep", *(tmp_path / "deep").rglob("*")]
    assert data / "appendonlydir" in paths
    assert data / LOG in paths
    assert {path: path.stat().st_mode & 0o077 for path in paths} == dict.fromkeys(paths, 0)


def test_private_file_is_made_for_its_owner_and_opened_only_as_a_regular_file(
    tmp_path: Path,
) -> None:
    before = os.umask(0)
    try:
        replace_private(tmp_path / "file", b"content")
        make_private_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    for folder in ("a", "a/b"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        open_private(tmp_path / "fifo", os.O_RDWR)
    with pytest.raises(FileExistsError):
        make_private_folder(tmp_path / "file")


def test_file_of_another_user_in_the_folder_is_refused(data: Path, foreign: Path) -> None:
    if os.geteuid() == 0:
        (data / LOG).touch()
        os.chown(data / LOG, NOBODY, NOBODY)
        assert f"the file {data / LOG} belongs to user {NOBODY}" in refused(data)
    else:
        assert f"belongs to user {foreign.stat().st_uid}" in refused(foreign)


def test_folder_is_made_where_there_is_none(tmp_path: Path) -> None:
    folder = open_data_folder(tmp_path / "x" / "y")
    assert folder == (tmp_path / "x" / "y").resolve()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
