"""Asks a server whether its user may run the commands that calls need.

Owns: the check of an access list by ACL DRYRUN, the check that the server has each command, and the
messages about what is missing.
Must not: change users, or decide when to ask.
Read next: needed_commands.py, transport.py (which asks again after a refusal), connection.py.

A function runs with the permissions of its caller, and Redis rolls nothing back: a command that is
forbidden in the middle of a function leaves half of a decision. Therefore the access list is tested
before the first call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoPermissionError, ResponseError

from eventsched.errors import CommandRefused
from eventsched.logs import get_logger
from eventsched.schema.keys import LAYOUT
from eventsched.store.error_replies import refusal_of
from eventsched.store.needed_commands import all_commands, example_of, reason_for
from eventsched.store.replies import decode_text

log = get_logger("eventsched.store.access")


async def check_commands(client: Any, **options: Any) -> None:
    """Check that the server has every command that eventsched needs.

    If the server refuses COMMAND INFO, nothing is checked; a missing command is reported when it
    is called.

    Args:
        client: a client of the server.
        options: options of `execute_command`, such as the nodes of a cluster.

    Raises:
        CommandRefused: the server does not have one of the commands.
    """
    names = list(dict.fromkeys(command.partition("|")[0] for command in all_commands()))
    try:
        replies = await client.execute_command("COMMAND INFO", *names, **options)
    except ResponseError:
        return
    for name, reply in zip(names, replies, strict=False):
        if reply is None:
            raise refusal_of(name, "it does not have this command")


async def check_access(
    client: Redis | RedisCluster, key: str, commands: Iterable[str] | None = None
) -> bool:
    """Check that the user of the connection may run commands on a key.

    Args:
        client: a client of the server; of a cluster, each primary is asked.
        key: a key of the cell.
        commands: the commands; if left out, all that eventsched needs but FUNCTION LOAD, which is
            needed only if the server lacks the functions.

    Returns:
        False if the user may not ask, so that nothing is known.

    Raises:
        CommandRefused: the access list lacks some commands, or the key; one line names them all.
    """
    asked = sorted(set(all_commands()) - {"FUNCTION|LOAD"} if commands is None else commands)
    if isinstance(client, RedisCluster):
        return all([await _check_node(node, key, asked) for node in client.get_primaries()])
    return await _check_node(client, key, asked)


async def _check_node(server: Any, key: str, commands: Sequence[str]) -> bool:
    """Check one server, through its client or through its node of a cluster."""
    try:
        user = await server.execute_command("ACL", "WHOAMI")
        replies = await _dry_run(server, user, [example_of(command, key) for command in commands])
    except NoPermissionError as error:
        log.debug("access list not checked", error=str(error))
        return False
    refused = {
        command: decode_text(reply)
        for command, reply in zip(commands, replies, strict=True)
        if decode_text(reply) != "OK"
    }
    if refused:
        name = user.decode(errors="replace") if isinstance(user, bytes) else user
        raise _missing(name, refused)
    return True


async def _dry_run(
    server: Any, user: bytes | str, calls: Sequence[Sequence[str]]
) -> list[bytes | str]:
    """Return for each call `OK`, or why the user may not make it. A pipeline saves round trips."""
    if not isinstance(server, Redis):
        return [await server.execute_command("ACL", "DRYRUN", user, *call) for call in calls]
    async with server.pipeline(transaction=False) as pipeline:
        for call in calls:
            pipeline.execute_command("ACL", "DRYRUN", user, *call)
        return list(await pipeline.execute())


def _missing(user: str, refused: dict[str, str]) -> CommandRefused:
    """Return the error that names everything which an access list lacks.

    Args:
        user: the name of the user.
        refused: command -> the reply of ACL DRYRUN.
    """
    lacking = [command for command, reply in refused.items() if "' command" in reply]
    if not lacking:
        (_, reply), *_ = refused.items()
        return CommandRefused(
            f"the access list of the user {user} does not allow the keys of eventsched: {reply}; "
            f"run: ACL SETUSER {user} ~{LAYOUT}:*, or name another user in the URL"
        )
    names = ", ".join(command.replace("|", " ") for command in lacking)
    grants = " ".join(f"+{command.lower()}" for command in lacking)
    first = lacking[0]
    return CommandRefused(
        f"the access list of the user {user} lacks {names}; run: ACL SETUSER {user} {grants}, or "
        f"name another user in the URL; eventsched needs {first.replace('|', ' ')}, "
        f"because {reason_for(first)}"
    )
