"""The server commands that eventsched needs, and the error for a server that refuses one.

Owns: the table of commands with the reason for each, the check whether a server has all of them,
the message about a refused command.
Never does: change a server's settings or users. Read next: store/client.py.
"""

from __future__ import annotations

import re
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from eventsched.errors import CommandRefused

_SCRIPTS = "the functions that make every decision call it"
_SCRIPT_COMMANDS = (
    "DEL", "EXISTS", "GET", "HDEL", "HEXISTS", "HGET", "HGETALL", "HINCRBY", "HKEYS", "HLEN",
    "HMGET", "HSET", "LINDEX", "LRANGE", "RPUSH", "SADD", "SCAN", "SCARD", "SET", "SISMEMBER",
    "SMEMBERS", "SREM", "TIME", "UNLINK", "XADD", "XDEL", "XGROUP", "XINFO", "XLEN", "XPENDING",
    "XRANGE", "XREVRANGE", "XTRIM", "ZADD", "ZCARD", "ZRANGE", "ZRANGEBYSCORE", "ZREM",
    "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE", "ZSCORE",
)  # fmt: skip
NEEDED = {
    "INFO": "it tells the server's version, role and memory limit",
    "FUNCTION": "it loads the functions that make every decision",
    "FCALL": "it calls the functions that make every decision",
    "XREAD": "it waits for events, jobs and results",
    **dict.fromkeys(_SCRIPT_COMMANDS, _SCRIPTS),
}
"""Command -> why a running system needs it; error messages contain the reason."""
_REASONS = NEEDED | {
    "SELECT": "the URL names a database",
    "HELLO": "it opens each connection",
    "AUTH": "the URL names a user or a password",
    "CLUSTER": "it tells which server of a cluster holds a key",
    "BGREWRITEAOF": "it removes from the append-only file what was erased",
}
_REMEDIES = {
    "SELECT": "name another database in the URL, or none",
}
_ENABLE = "enable it in the server's configuration (rename-command), or use another server"
_UNKNOWN = re.compile(r"unknown command [`'\"]?([\w|]+)", re.IGNORECASE)
_UNKNOWN_PART = re.compile(r"unknown subcommand [`'\"]?\w+[`'\"]?\. Try (\w+) HELP", re.IGNORECASE)
_FORBIDDEN = re.compile(r"no permissions to run the '([\w|]+)' command")
_DATABASE = re.compile(r"DB index|SELECT is not allowed", re.IGNORECASE)
_ARGUMENTS = re.compile(r",? with args beginning with:.*", re.DOTALL)
"""A server's error repeats the arguments of an unknown command, for AUTH a password."""


def without_arguments(error: Exception) -> str:
    """Return the message of a server's error without the arguments of a command."""
    return _ARGUMENTS.sub("", str(error)).strip()


def refused_command(error: Exception) -> str:
    """Return the command that a server refuses with this error; empty for any other error."""
    message = str(error)
    for pattern in (_UNKNOWN, _UNKNOWN_PART, _FORBIDDEN):
        match = pattern.search(message)
        if match:
            return match[1].replace("|", " ").upper()
    return "SELECT" if _DATABASE.search(message) else ""


def refusal_of(error: Exception, server: str = "the server") -> CommandRefused | None:
    """Return the error for a server that refuses a command; None for any other error."""
    command = refused_command(error)
    if not command:
        return None
    remedy = _REMEDIES.get(command, _ENABLE)
    if isinstance(error, NoPermissionError):
        remedy = "grant it (ACL SETUSER), or name another user in the URL"
    return _refusal(server, command, without_arguments(error), remedy)


def _refusal(server: str, command: str, message: str, remedy: str) -> CommandRefused:
    reason = _REASONS.get(command.partition(" ")[0], "this call uses it")
    return CommandRefused(
        f"{server} refuses the command {command}: {message}; {remedy}; "
        f"eventsched needs {command}, because {reason}"
    )


async def check_commands(client: Any, **options: Any) -> None:
    """Check that the server has every command of NEEDED.

    If the server refuses COMMAND INFO, nothing is checked; a missing command is reported when it
    is called.

    Args:
        client: a client of the server.
        options: options of `execute_command`, such as the nodes of a cluster.

    Raises:
        CommandRefused: the server does not have one of the commands.
    """
    try:
        replies = await client.execute_command("COMMAND INFO", *NEEDED, **options)
    except ResponseError:
        return
    for command, reply in zip(NEEDED, replies, strict=False):
        if reply is None:
            raise _refusal("the server", command, "it does not have this command", _ENABLE)
