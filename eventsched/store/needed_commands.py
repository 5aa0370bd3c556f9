"""The server commands that eventsched needs, and the reason for each.

Owns: the commands that the library sends itself; the commands of each function, read from its Lua
source; an example of each command, with which an access list can be tested.
Must not: call a server. Read next: access.py (which tests an access list), library.py.
"""

from __future__ import annotations

import re
from functools import cache

from eventsched.store import library as lua_library

_FUNCTIONS = "the functions that make every decision call it"
SENT = {
    "INFO": "it tells the server's version, role and memory limit",
    "FUNCTION|LOAD": "it loads the functions that make every decision",
    "FUNCTION|LIST": "it compares the loaded functions with its own",
    "FCALL": "it calls the functions that make every decision",
    "XREAD": "it waits for events, jobs and results",
    "XREADGROUP": "roles read with it as consumers of their groups",
    "XACK": "consumers of `Client.events` acknowledge with it",
    "XAUTOCLAIM": "consumers of `Client.events` claim with it what others have left",
    "GET": "it reads which cells the server has",
    "SET": "it names the cells of a new server",
    "EXISTS": "it asks whether the server has cells",
    "HGET": "roles measure the lag of consumers with it",
    "HGETALL": "roles and producers read settings with it",
    "LRANGE": "it reads the history of a session or a node",
    "TIME": "it reads the server's clock",
    "XINFO|GROUPS": "roles measure the lag of consumers with it",
    "XINFO|STREAM": "roles measure the lag of consumers with it",
    "XLEN": "roles measure the lag of consumers with it",
    "XRANGE": "it reads the log and the audio of utterances",
    "XREVRANGE": "it reads the end of the log",
}
"""Command, or command|subcommand, that the library sends itself -> why it needs it."""
_OTHER_REASONS = {
    "SELECT": "the URL names a database",
    "HELLO": "it opens each connection",
    "AUTH": "the URL names a user or a password",
    "CLUSTER": "it tells which server of a cluster holds a key",
    "BGREWRITEAOF": "it removes from the append-only file what was erased",
}
_CONTAINERS = ("XGROUP", "XINFO")
_READ = re.compile(r"\bredis\.call\(\s*'([A-Z]+)'(?:, '([A-Z]+)')?")
_WRITE = re.compile(r"\b(?:write|write_stable)(?:\(\s*|, )'([A-Z]+)'(?:, '([A-Z]+)')?")
_AFTER_KEY = {
    "HDEL": "f", "HEXISTS": "f", "HGET": "f", "HINCRBY": "f 1", "HMGET": "f", "HSET": "f v",
    "LINDEX": "0", "LRANGE": "0 0", "LTRIM": "0 0", "RPUSH": "v", "SADD": "m", "SET": "v",
    "SISMEMBER": "m", "SREM": "m", "XACK": "g 0-1", "XADD": "* f v", "XAUTOCLAIM": "g c 0 0",
    "XDEL": "0-1", "XGROUP|CREATE": "g 0",
    "XGROUP|CREATECONSUMER": "g c", "XGROUP|DELCONSUMER": "g c", "XGROUP|DESTROY": "g",
    "XGROUP|SETID": "g 0", "XINFO|CONSUMERS": "g", "XPENDING": "g", "XRANGE": "- +",
    "XREVRANGE": "+ -", "XTRIM": "MAXLEN 1", "ZADD": "1 m", "ZRANGE": "0 0",
    "ZRANGEBYSCORE": "0 0", "ZREM": "m", "ZREMRANGEBYRANK": "0 0",
    "ZREMRANGEBYSCORE": "0 0", "ZSCORE": "m",
}  # fmt: skip
"""The arguments of an example after its key; none for a command that is not listed."""
_WITHOUT_KEY = {"INFO": "", "TIME": "", "SCAN": "0", "FUNCTION|LIST": "", "FUNCTION|LOAD": "code"}


@cache
def commands_of(script: str) -> frozenset[str]:
    """Return the commands that the function of a script and its modules may call.

    A function that is declared to write nothing calls only commands that read.
    """
    texts = lua_library.sources_of(script)
    patterns = [_READ] if "no-writes" in texts[0].partition("\n")[0] else [_READ, _WRITE]
    called = (_called(text, pattern) for text in texts for pattern in patterns)
    return frozenset().union(*called)


@cache
def _called(text: str, pattern: re.Pattern[str]) -> frozenset[str]:
    """The commands in a source. Most modules belong to many scripts."""
    pairs = pattern.findall(text)
    return frozenset(f"{name}|{part}" if name in _CONTAINERS else name for name, part in pairs)


@cache
def all_commands() -> tuple[str, ...]:
    """Return every command that a producer, a node or a role needs, in alphabetical order."""
    return tuple(sorted(frozenset(SENT).union(*map(commands_of, lua_library.names()))))


def example_of(command: str, key: str) -> list[str]:
    """Return a complete call of a command on a key."""
    name, *part = command.split("|")
    if command == "FCALL":
        return ["FCALL", "function", "1", key]
    if command == "XREAD":
        return ["XREAD", "STREAMS", key, "0"]
    if command == "XREADGROUP":
        return ["XREADGROUP", "GROUP", "g", "c", "STREAMS", key, ">"]
    if command in _WITHOUT_KEY:
        return [name, *part, *_WITHOUT_KEY[command].split()]
    return [name, *part, key, *_AFTER_KEY.get(command, "").split()]


def reason_for(command: str) -> str:
    """Return why eventsched needs a command, as the end of a sentence with `because`."""
    name = command.replace(" ", "|").upper()
    if name in SENT:
        return SENT[name]
    container = name.partition("|")[0]
    for sent, reason in SENT.items():
        if sent.partition("|")[0] == container:
            return reason
    if container in {each.partition("|")[0] for each in all_commands()}:
        return _FUNCTIONS
    return _OTHER_REASONS.get(container, "this call uses it")
