"""The access lists of docs/operations.md allow each user its commands and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import redis

import eventsched
from eventsched.roles.runner import ROLES, running
from eventsched.server.testing import LocalServer
from eventsched.store.connection import open_connection
from tests.failures.programs import ask
from tools.pages import ROOT

LIST = re.compile(r"^ACL SETUSER (\w+) +(.+)$", re.MULTILINE)
LISTS = dict(LIST.findall((ROOT / "docs/operations.md").read_text(encoding="utf-8")))


@pytest.fixture(
    params=[
        pytest.param(False, id="standalone"),
        pytest.param(True, id="cluster", marks=pytest.mark.cluster),
    ]
)
def listed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalServer]:
    """Start a server with the users of the access lists; `deploy` has loaded the functions."""
    with LocalServer(tmp_path / "own", is_cluster=request.param, durable=True) as server:
        for user, rules in LISTS.items():
            server.call("ACL", "SETUSER", user, "reset", *rules.replace("PASSWORD", user).split())
        anyio.run(_connect, _url(server, "deploy"))
        yield server


def _url(server: LocalServer, user: str) -> str:
    scheme, _, place = server.url.partition("://")
    return f"{scheme}://{user}:{user}@{place.rpartition('@')[2]}"


async def _connect(url: str) -> None:
    """As docs/operations.md says for a new server."""
    async with eventsched.connect(url):
        pass


def _node() -> eventsched.Node:
    node = eventsched.Node("n1", sources=["en"], targets=["es"], slots=1)

    @node.job
    async def answer(job: eventsched.Job) -> eventsched.Result:
        return eventsched.Result(source_text="one", text="uno")

    return node


async def _one_utterance(url: str, callers_url: str = "") -> str:
    """Roles at `url` serve an utterance of a session and a node at `callers_url`, or `url`.

    Returns the id of the session.
    """
    async with (
        open_connection(url) as connection,
        running(connection, [role for role in ROLES if role != "archiver"]),
        eventsched.connect(callers_url or url) as es,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_node().run, es)
        async with es.session(tenant="acme", source="en", targets=["es"]) as session:
            await session.append(bytes(3_200))
            await session.finalize()
            async for result in session.results():
                assert result.outcome == "result"
                break
        tasks.cancel_scope.cancel()
    return session.id


async def test_the_system_runs_with_the_commands_that_calls_need(listed: LocalServer) -> None:
    with anyio.fail_after(60):
        await _one_utterance(_url(listed, "minimal"))


async def test_nodes_and_producers_need_no_right_to_load_functions(listed: LocalServer) -> None:
    with anyio.fail_after(60):
        await _one_utterance(_url(listed, "scheduler"), _url(listed, "minimal"))


async def test_the_system_runs_and_the_auditor_reads(listed: LocalServer) -> None:
    with anyio.fail_after(60):
        session = await _one_utterance(_url(listed, "scheduler"))
    for user, *words in [
        ("scheduler", "verify"),
        ("auditor", "status"),
        ("auditor", "history"),
        ("auditor", "history", session),
        ("auditor", "history", "--node", "n1"),
        ("auditor", "why", f"{session}:0:es"),
        ("auditor", "why", "--replay"),
    ]:
        done = await anyio.to_thread.run_sync(ask, _url(listed, user), *words)
        assert (done.returncode, done.stderr) == (0, ""), words


REFUSED = [
    ("scheduler", "FLUSHALL"),
    ("scheduler", "CONFIG GET dir"),
    ("scheduler", "FUNCTION FLUSH"),
    ("scheduler", "FUNCTION LOAD REPLACE code"),
    ("eraser", "FUNCTION LOAD REPLACE code"),
    ("minimal", "FUNCTION LOAD REPLACE code"),
    ("auditor", "FUNCTION LOAD REPLACE code"),
    ("deploy", "FUNCTION DELETE any"),
    ("scheduler", "SET other 1"),
    ("scheduler", "BGREWRITEAOF"),
    ("auditor", "SET es1:{c0}:settings 1"),
    ("auditor", "XADD es1:{c0}:log * t x"),
    ("auditor", "GET other"),
    ("auditor", "FCALL any 1 es1:{c0}:log"),
    ("auditor", "KEYS *"),
    ("auditor", "CLIENT LIST"),
    ("auditor", "CLIENT PAUSE 1 ALL"),
    ("scheduler", "CLIENT KILL USER auditor"),
    ("minimal", "FUNCTION LOAD code"),
    ("minimal", "FUNCTION DELETE library"),
    ("minimal", "CONFIG GET dir"),
    ("minimal", "FLUSHALL"),
    ("minimal", "GET other"),
]
DANGEROUS = {"bgrewriteaof", "cluster|info", "cluster|shards", "cluster|slots"}
"""Commands of the categories `admin` and `dangerous` that an access list may have."""
DANGEROUS |= {"acl|dryrun", "acl|whoami", "function|list", "info"}


def test_a_user_may_do_no_more(listed: LocalServer) -> None:
    for user, command in REFUSED:
        client = redis.Redis.from_url(_url(listed, user))
        with client, pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command.split())  # type: ignore[no-untyped-call]
    with redis.Redis.from_url(_url(listed, "eraser")) as client:
        assert client.execute_command("BGREWRITEAOF")


async def test_only_the_user_deploy_loads_the_functions_of_a_release(listed: LocalServer) -> None:
    listed.call("FUNCTION", "FLUSH")
    with pytest.raises(eventsched.errors.CommandRefused, match=r"\+function\|load"):
        await _connect(_url(listed, "scheduler"))
    for user in ("deploy", "scheduler"):
        await _connect(_url(listed, user))


def test_no_user_may_disturb_the_server_or_other_users(listed: LocalServer) -> None:
    connection = set(listed.call("ACL", "CAT", "connection"))
    risky = {each for each in connection if each.startswith("client|")} - {"client|setname"}
    for category in ("admin", "dangerous"):
        risky |= set(listed.call("ACL", "CAT", category))
    risky.add("function|load")  # of the category `write`
    for user in LISTS:
        allowed = {command for command in risky - DANGEROUS if _may_run(listed, user, command)}
        assert allowed == ({"function|load"} if user == "deploy" else set()), user


def test_the_auditor_may_run_the_commands_of_its_line_alone(listed: LocalServer) -> None:
    """A category would have the commands of later servers as well, such as CLUSTERSCAN."""
    names = [name for name in listed.call("COMMAND LIST") if "|" not in name]
    single = [name for name in names if not _has_subcommands(listed, name)]
    allowed = {name for name in single if _may_run(listed, "auditor", name)}
    listed_names = {word[1:] for word in LISTS["auditor"].split()}
    assert allowed - {"quit", "reset"} == listed_names & {*single}  # no list can forbid these two
    assert not allowed & {"scan", "clusterscan", "keys", "randomkey", "dbsize"}


def _has_subcommands(server: LocalServer, command: str) -> bool:
    (details,) = server.call("COMMAND INFO", command)
    return bool(details[9])


def _may_run(server: LocalServer, user: str, command: str) -> bool:
    """Whether the user may run the command, with as many arguments as it needs."""
    (details,) = server.call("COMMAND INFO", command)
    words = command.split("|")
    arguments = ["1"] * (abs(details[1]) - len(words))
    reply = server.call("ACL", "DRYRUN", user, *words, *arguments)
    return "no permissions to run" not in str(reply)
