"""The embedded server ends with the last of its users, and its data stay."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import structlog
from structlog.testing import capture_logs

from eventsched.errors import InvalidMessage, ServerUnavailable
from eventsched.server import launch as launch_module
from eventsched.server import watchdog
from eventsched.server.discovery import find, in_wheel
from eventsched.server.embedded import Fsync, use, using
from eventsched.server.folder import PROGRAM
from eventsched.server.launch import (
    SERVER_LOCK,
    Announcement,
    announced_url,
    free_ports,
    is_free,
    launch,
    listen_in,
    listen_on_loopback,
    probe,
    read_announcement,
)
from eventsched.server.locks import FileLock
from eventsched.server.testing import LocalServer, wait_for
from tests.servers.processes import COUNTER, is_alive, users

GONE_S = 2.0


@pytest.fixture(autouse=True)
def _no_named_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVENTSCHED_URL", raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def assert_gone_in_time(data: Path, server_pid: int) -> None:
    """Wait up to two seconds until no process, no lock and no announcement exists."""
    wait_for("the server is gone", lambda: not is_alive(server_pid), within_s=GONE_S)
    wait_for("its lock is free", lambda: is_free(data / SERVER_LOCK), within_s=GONE_S)
    assert read_announcement(data) is None


def ask(url: str, *command: str) -> object:
    client = probe(url)
    try:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]
    finally:
        client.close()


def setting(url: str, name: str) -> str:
    client = probe(url)
    try:
        return str(client.config_get(name)[name])
    finally:
        client.close()


# --- where the server is ---------------------------------------------------------------------


async def test_named_server_is_used_as_it_is(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSCHED_URL", "rediss://env:1")
    with using("redis://given:1", data=data) as argument, using() as from_environment:
        assert (argument, from_environment) == ("redis://given:1", "rediss://env:1")
        async with use() as url:
            assert url == from_environment
    assert os.listdir(data.parent) == []


def test_url_of_another_kind_is_refused_by_name(data: Path) -> None:
    with pytest.raises(InvalidMessage, match=r"url: must start with redis://.*'http://x'"):
        using("http://x", data=data).__enter__()


async def test_default_folder_lies_where_the_program_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with use() as url:
        assert setting(url, "dir") == str(tmp_path / ".eventsched")
    assert (tmp_path / ".eventsched").stat().st_mode & 0o077 == 0


def test_a_start_is_logged_once_and_joining_is_not(data: Path) -> None:
    wrapper_class = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    try:
        with capture_logs() as entries, using(data=data), using(data=data):
            pass
    finally:
        structlog.configure(wrapper_class=wrapper_class)
    assert [entry["event"] for entry in entries] == ["starting a server"]
    assert entries[0]["data"] == str(data)


def test_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServerUnavailable, match="data folder cannot be used"):
        using(data=tmp_path / "file" / "data").__enter__()


# --- how it runs -----------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_server_keeps_every_write_and_evicts_nothing(data: Path, fsync: Fsync) -> None:
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with using(data=data, fsync=fsync) as url:
        assert setting(url, "appendonly") == "yes"
        assert setting(url, "appendfsync") == fsync
        assert setting(url, "maxmemory-policy") == "noeviction"
        assert int(setting(url, "maxmemory")) == machine_bytes // 2
        assert setting(url, "stream-node-max-bytes") == "8192"
        assert setting(url, "zset-max-listpack-entries") == "16"


def test_server_is_reached_by_a_socket_that_only_its_owner_can_open(data: Path) -> None:
    with using(data=data / "with a blank") as url:
        assert url.startswith("unix://")
        assert setting(url, "port") == "0"
        mode = (data / "with a blank" / "server.sock").stat().st_mode
        assert mode & 0o077 == 0


@pytest.mark.parametrize("name", ["a[b]", "*", "what?", 'a "quote"', "back\\slash", "new\nline"])
def test_data_folder_of_any_name_gets_the_configured_server(data: Path, name: str) -> None:
    """The server reads its configuration from standard input, so no path in it is a pattern."""
    with using(data=data / name) as url:
        settings = {name: setting(url, name) for name in ("dir", "port", "appendonly")}
        assert settings == {"dir": str(data / name), "port": "0", "appendonly": "yes"}
        assert ask(url, "SET", "saved", "yes")
    with using(data=data / name) as url:
        assert ask(url, "GET", "saved") == "yes"


def test_data_folder_whose_name_is_no_text_gets_a_server(data: Path) -> None:
    folder = data / os.fsdecode(b"\xff")
    with using(data=folder) as url, using(data=folder) as again:
        assert url == again
        assert ask(url, "PING")


def test_path_too_long_for_a_socket_gets_a_short_one_for_as_long_as_the_server(data: Path) -> None:
    long = data / ("x" * 100)
    with using(data=long) as url, using(data=long) as again:
        assert url == again
        link = Path(url.removeprefix("unix://")).parent
        assert link.samefile(long)
        assert link.parent.stat().st_mode & 0o077 == 0
        assert setting(url, "port") == "0"
    wait_for("the link is gone", lambda: not link.is_symlink(), within_s=GONE_S)


def test_short_path_that_was_removed_is_made_again_by_the_next_user(data: Path) -> None:
    long = data / ("x" * 100)
    with using(data=long) as url:
        Path(url.removeprefix("unix://")).parent.unlink()
        with using(data=long) as again:
            assert again == url
            assert ask(again, "PING")


def test_place_of_short_paths_that_is_not_private_is_not_used(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket there may be another user's, so the address is a loopback port with a password."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / f"eventsched-{os.geteuid()}").mkdir(mode=0o755)
    (tmp_path / f"eventsched-{os.geteuid()}").chmod(0o755)
    with using(data=data / ("x" * 100)) as url, using(data=data / ("x" * 100)) as again:
        assert url == again
        assert url.startswith("redis://:")
        assert setting(url, "bind") == "127.0.0.1"
        stranger = probe(f"redis://{url.rpartition('@')[2]}")
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_data_survive_the_end_of_their_server(data: Path) -> None:
    with using(data=data) as url:
        ask(url, "SET", "saved", "yes")
        first = read_announcement(data)
        assert first
    assert_gone_in_time(data, first.pid)
    with using(data=data) as url:
        assert ask(url, "GET", "saved") == "yes"


def test_data_stay_with_the_program_that_wrote_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = in_wheel()
    assert wheel
    monkeypatch.setenv("PATH", "")
    with using(data=data):
        pass
    newcomer = tmp_path / "bin" / "redis-server"
    newcomer.parent.mkdir()
    newcomer.symlink_to(wheel.path)
    monkeypatch.setenv("PATH", str(newcomer.parent))
    assert find().path == newcomer
    with using(data=data) as url:
        assert ask(url, "PING")
        assert (data / PROGRAM).read_text() == str(wheel.path)


def test_server_that_cannot_start_says_why(data: Path) -> None:
    with using(data=data) as url:
        ask(url, "SET", "a", "b")
    (manifest,) = (data / "appendonlydir").glob("*.manifest")
    manifest.write_text("not a manifest\n")
    with pytest.raises(ServerUnavailable, match=r"ended at once: .*manifest") as refused:
        using(data=data).__enter__()
    assert "\n" not in str(refused.value)


PROGRAM_THAT = """#!/bin/sh
if [ "$1" = --version ]; then exec {server} --version; fi
exec {server} {arguments}
"""


def put_program(folder: Path, arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put one server on PATH that starts with these arguments and ignores its options."""
    wheel = in_wheel()
    assert wheel
    program = folder / "bin" / "redis-server"
    program.parent.mkdir()
    program.write_text(PROGRAM_THAT.format(server=wheel.path, arguments=arguments))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("--appendonly no", r"appendonly 'no' instead of 'yes'"),
     ("--appendonly yes --bind 127.0.0.1 --port {port}", r"port '\d+' instead of '0'")],
    ids=["append mode", "port"],
)  # fmt: skip
def test_started_server_that_is_configured_otherwise_is_refused_and_ended(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    listens = f"--port 0 --unixsocket server.sock {arguments}".format(port=free_ports(1)[0])
    put_program(tmp_path, listens, monkeypatch)
    with pytest.raises(ServerUnavailable, match=message):
        using(data=data).__enter__()
    wait_for("nothing is left", lambda: _nothing_runs_in(data), within_s=GONE_S)


def test_started_server_that_listens_elsewhere_is_refused_and_ended(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_ports(1)[0]
    put_program(tmp_path, f"--bind 127.0.0.1 --port {port} --save ''", monkeypatch)
    monkeypatch.setattr(launch_module, "START_S", 2.0)
    with pytest.raises(ServerUnavailable, match="does not answer"), using(data=data):
        pass
    wait_for("nothing is left", lambda: _nothing_runs_in(data), within_s=GONE_S)
    with pytest.raises(redis.ConnectionError):
        ask(f"redis://127.0.0.1:{port}", "PING")


# --- users of one server ----------------------------------------------------------------------


def test_two_processes_meet_and_the_server_outlives_each_but_not_both(data: Path) -> None:
    with users(data) as [starter], users(data) as [second]:
        starter.wait_until_joined()
        second.wait_until_joined()
        assert starter.server_pid == second.server_pid
        assert starter.ask("incr") == 1
        starter.kill()
        assert second.ask("incr") == 2
        second.kill()
        assert_gone_in_time(data, second.server_pid)
    with using(data=data) as url:
        assert ask(url, "GET", COUNTER) == "2"


def test_last_user_that_leaves_in_order_sees_the_server_stopped(data: Path) -> None:
    with users(data, 2) as [first, last]:
        first.wait_until_joined()
        last.wait_until_joined()
        first.leave()
        assert last.ask("incr") == 1
        last.leave()
        assert not is_alive(last.server_pid)
    with using(data=data):
        assert not is_free(data / SERVER_LOCK)
    assert is_free(data / SERVER_LOCK)


def test_interrupt_of_the_starter_does_not_reach_the_server(data: Path) -> None:
    with users(data) as [starter], users(data) as [second]:
        starter.wait_until_joined()
        second.wait_until_joined()
        assert os.getsid(second.server_pid) != os.getsid(starter.pid)
        starter.interrupt_group()
        wait_for("the starter has ended", lambda: starter.has_ended)
        assert second.ask("incr") == 1
        assert is_alive(second.server_pid)


def test_many_starters_at_once_start_one_server(data: Path) -> None:
    with users(data, 8) as crowd:
        pids = {user.wait_until_joined().server_pid for user in crowd}
        assert len(pids) == 1
        assert sorted(user.ask("incr") for user in crowd) == list(range(1, 9))
        for user in crowd:
            user.kill()
        assert_gone_in_time(data, pids.pop())


def test_forked_child_that_outlives_a_killed_user_does_not_keep_the_server(data: Path) -> None:
    with users(data) as [user]:
        user.wait_until_joined()
        child = user.ask("fork")
        try:
            user.kill()
            assert_gone_in_time(data, user.server_pid)
            assert is_alive(child)
        finally:
            os.kill(child, signal.SIGKILL)


def test_forked_child_of_a_user_leaves_its_parent_a_user(data: Path) -> None:
    with users(data) as [user]:
        user.wait_until_joined()
        child = user.ask("fork")
        os.kill(child, signal.SIGKILL)
        assert user.ask("incr") == 1
        with users(data) as [second]:
            assert second.wait_until_joined().server_pid == user.server_pid
            second.leave()
        assert user.ask("incr") == 2


# --- killed in the middle --------------------------------------------------------------------


def test_starter_killed_before_there_is_a_watchdog_leaves_the_way_free(data: Path) -> None:
    """The kernel releases its locks, and a waiting user starts a server instead."""
    data.mkdir(mode=0o700)
    with users(data, role="starter") as [starter]:
        assert starter.read_number() == starter.pid
        with users(data) as [waiting]:
            starter.kill()
            waiting.wait_until_joined()
            assert waiting.ask("incr") == 1


def test_starter_killed_before_the_announcement_leaves_no_server(data: Path) -> None:
    """The watchdog still announces the server, finds no user, and stops it."""
    data.mkdir(mode=0o700)
    lock = FileLock(data / SERVER_LOCK)
    assert lock.try_exclusive()
    url, listening = listen_in(data)
    launch(data, lock, program=find().path, options=listening, url=url)
    wait_for("nothing is left", lambda: is_free(data / SERVER_LOCK), within_s=GONE_S)
    assert read_announcement(data) is None
    with using(data=data) as url:
        assert ask(url, "PING")


@pytest.mark.parametrize("delay_ms", range(0, 300, 20))
def test_starter_killed_at_any_moment_leaves_nothing_that_runs(data: Path, delay_ms: int) -> None:
    with users(data) as [starter]:
        time.sleep(delay_ms / 1_000)  # sleeps: the moment is what varies
        starter.kill()
    wait_for("nothing is left", lambda: _nothing_runs_in(data), within_s=GONE_S)
    with using(data=data) as url:
        assert ask(url, "PING")


def _nothing_runs_in(data: Path) -> bool:
    return not data.exists() or (is_free(data / SERVER_LOCK) and is_free(data / watchdog.USERS))


def test_killed_server_is_started_anew_with_its_data(data: Path) -> None:
    with users(data) as [user]:
        user.wait_until_joined()
        assert user.ask("incr") == 1
        wait_for("it is in the file", lambda: _is_written(user.url))
        os.kill(user.server_pid, signal.SIGKILL)
        with users(data) as [second]:
            assert second.wait_until_joined().server_pid != user.server_pid
            assert second.ask("incr") == 2


def _is_written(url: str) -> bool:
    """`everysec` may delay an acknowledged write while the disk is busy."""
    client = probe(url)
    try:
        return bool(client.info("persistence")["aof_buffer_length"] == 0)
    finally:
        client.close()


def test_killed_watchdog_takes_the_server_along_and_loses_no_data(data: Path) -> None:
    with users(data) as [user]:
        user.wait_until_joined()
        assert user.ask("incr") == 1
        os.kill(_parent_of(user.server_pid), signal.SIGKILL)
        wait_for("the server is gone", lambda: not is_alive(user.server_pid), within_s=GONE_S)
        with users(data) as [second]:
            second.wait_until_joined()
            assert second.ask("incr") == 2


def test_no_second_server_writes_while_one_without_watchdog_still_ends(data: Path) -> None:
    with users(data) as [user]:
        old_pid = user.wait_until_joined().server_pid
        user.ask("incr")
        os.kill(old_pid, signal.SIGSTOP)
        os.kill(_parent_of(old_pid), signal.SIGKILL)
        with users(data) as [newcomer]:
            with pytest.raises(TimeoutError):
                wait_for("a second server", lambda: _announced_pid(data) != old_pid, within_s=1.0)
            os.kill(old_pid, signal.SIGCONT)
            assert newcomer.wait_until_joined().server_pid != old_pid
            assert newcomer.ask("incr") == 2


def test_server_without_a_watchdog_makes_way_for_one_that_has(data: Path) -> None:
    """The case of a kernel that does not end a server together with its watchdog."""
    data.mkdir(mode=0o700)
    lock = FileLock(data / SERVER_LOCK)
    assert lock.try_exclusive()
    url, listening = listen_in(data)
    arguments = [word for name, value in listening.items() for word in (f"--{name}", value)]
    command = [str(find().path), *arguments, "--appendonly", "yes", "--appendfsync", "always"]
    with subprocess.Popen(command, cwd=data, pass_fds=[lock.fd]) as orphan:
        lock.release()
        (data / watchdog.ANNOUNCEMENT).write_text(json.dumps({"url": url, "pid": orphan.pid}))
        wait_for("it listens", lambda: _sets(url, COUNTER, "7"))
        with using(data=data) as joined:
            assert orphan.wait(GONE_S) == 0
            assert ask(joined, "INCR", COUNTER) == 8


def _sets(url: str, key: str, value: str) -> bool:
    try:
        return bool(ask(url, "SET", key, value))
    except redis.ConnectionError:
        return False


def _announced_pid(data: Path) -> int | None:
    announcement = read_announcement(data)
    return announcement.pid if announcement else None


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# --- left-overs ------------------------------------------------------------------------------


def test_announcement_from_before_a_power_loss_is_not_believed(data: Path) -> None:
    data.mkdir(mode=0o700)
    (data / watchdog.ANNOUNCEMENT).write_text('{"url": "redis://127.0.0.1:1", "pid": 1}')
    (data / "server.sock").touch()
    with using(data=data) as url:
        assert ask(url, "PING")


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[LocalServer]:
    """The server of another folder, on a loopback port with a password."""
    server = LocalServer(tmp_path / "stranger")
    server.url, listening = listen_on_loopback()
    server.options = listening | {"save": "", "appendonly": "no"}
    with server:
        yield server


def test_announcement_that_names_a_strangers_server_is_not_believed(
    data: Path, stranger: LocalServer, own_server: LocalServer
) -> None:
    data.mkdir(mode=0o700)
    for other in (stranger, own_server):
        (data / watchdog.ANNOUNCEMENT).write_text(json.dumps({"url": other.url, "pid": 1}))
        with using(data=data) as url:
            assert url != other.url
            assert setting(url, "dir") == str(data)


@pytest.mark.parametrize(
    "url",
    ["redis://h:1", "redis://:pw@h:1", "redis://127.0.0.1:1", "redis://:pw@127.0.0.1:x",
     "rediss://:pw@127.0.0.1:1", "http://:pw@127.0.0.1:1", ""],
)  # fmt: skip
def test_only_a_loopback_port_with_a_password_is_believed(data: Path, url: str) -> None:
    assert announced_url(data, Announcement(url, 1)) is None
    good = "redis://:pw@127.0.0.1:1"
    assert announced_url(data, Announcement(good, 1)) == good


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": "x"}', '{"url": "x", "pid": "many"}'])
def test_announcement_that_cannot_be_read_is_none(data: Path, content: str) -> None:
    data.mkdir(mode=0o700)
    (data / watchdog.ANNOUNCEMENT).write_text(content)
    assert read_announcement(data) is None
    with using(data=data) as url:
        assert ask(url, "PING")


def test_waiting_user_does_not_join_the_strangers_server_that_a_left_over_names(
    data: Path, stranger: LocalServer
) -> None:
    """Another user reads the old announcement before the starter has removed it."""
    data.mkdir(mode=0o700)
    left_over = f'{{"url": "{stranger.url}", "pid": 1}}'
    (data / watchdog.ANNOUNCEMENT).write_text(left_over)
    starter = FileLock(data / SERVER_LOCK)
    assert starter.try_exclusive()
    stranger.call("CONFIG", "RESETSTAT")
    with users(data) as [waiting]:
        wait_for("it looked", lambda: _was_looked_at(stranger))
        starter.release()
        assert waiting.wait_until_joined().url != stranger.url
        assert waiting.ask("incr") == 1
    assert stranger.call("EXISTS", COUNTER) == 0


def _was_looked_at(server: LocalServer) -> bool:
    """Whether a client has asked for its folder; only a user of the folder does."""
    return "cmdstat_config|get" in server.call("INFO", "commandstats")


def test_copied_folder_gets_a_server_of_its_own(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with using(data=data) as url:
        copy.mkdir(mode=0o700)
        announced = (data / watchdog.ANNOUNCEMENT).read_bytes()
        (copy / watchdog.ANNOUNCEMENT).write_bytes(announced)
        with using(data=copy) as other:
            assert other != url
            assert setting(other, "dir") == str(copy)


def test_folder_made_anew_under_a_running_server_gets_another_one(
    data: Path, tmp_path: Path
) -> None:
    """The end of the old server does not remove the announcement of the new server."""
    with users(data) as [old]:
        old.wait_until_joined()
        data.rename(tmp_path / "moved away")
        with using(data=data):
            new = read_announcement(data)
            assert new
            assert new.pid != old.server_pid
            old.kill()
            wait_for(
                "the old server has ended", lambda: not is_alive(old.server_pid), within_s=GONE_S
            )
            assert read_announcement(data) == new


# --- the end of a server and the start of the next --------------------------------------------


def test_newcomer_while_the_last_server_is_being_stopped_gets_a_new_one(data: Path) -> None:
    """The watchdog has the users lock and waits for a server that does not react yet."""
    with users(data) as [last]:
        last.wait_until_joined()
        last.ask("incr")
        os.kill(last.server_pid, signal.SIGSTOP)
        last.kill()
    wait_for("the watchdog has taken over", lambda: _is_locked_for_good(data))
    with users(data) as [newcomer]:
        os.kill(last.server_pid, signal.SIGCONT)
        assert newcomer.wait_until_joined().server_pid != last.server_pid
        assert newcomer.ask("incr") == 2


def _is_locked_for_good(data: Path) -> bool:
    trial = FileLock(data / watchdog.USERS)
    try:
        return not trial.try_shared()
    finally:
        trial.release()


def test_users_that_come_and_go_without_pause_lose_nothing(data: Path) -> None:
    for turn in range(1, 13):
        with users(data) as [user]:
            user.wait_until_joined()
            assert user.ask("incr") == turn
            user.kill()  # the next user starts while the watchdog checks for users


def test_server_that_does_not_stop_in_order_is_killed(data: Path) -> None:
    with users(data) as [user]:
        user.wait_until_joined()
        os.kill(user.server_pid, signal.SIGSTOP)
        user.kill()
    within_s = watchdog.STOP_S + GONE_S
    wait_for("it is gone", lambda: not is_alive(user.server_pid), within_s=within_s)


async def test_cancelled_start_leaves_no_user_behind(data: Path) -> None:
    async def stay() -> None:
        async with use(data=data):
            await asyncio.Event().wait()

    for delay_ms in range(0, 60, 10):
        task = asyncio.create_task(stay())
        await asyncio.sleep(delay_ms / 1_000)  # sleeps: the moment is what varies
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_for, "nothing is left", lambda: _nothing_runs_in(data), GONE_S)


def test_servers_of_a_killed_test_run_are_gone(data: Path) -> None:
    with users(data, role="tester") as [tester]:
        server_pid = tester.read_number()
        assert is_alive(server_pid)
        tester.kill()
        assert_gone_in_time(data, server_pid)
