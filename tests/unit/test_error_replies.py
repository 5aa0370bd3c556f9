"""Each error reply of a server has one kind and becomes one exception, also of servers not here."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from redis._parsers.base import NO_AUTH_SET_ERROR, BaseParser
from redis.exceptions import (
    AuthenticationError,
    ClusterError,
    DataError,
    InvalidResponse,
    MaxConnectionsError,
    RedisClusterException,
    SlotNotCoveredError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from eventsched.errors import (
    CommandRefused,
    ServerAway,
    ServerRefused,
    ServerUnavailable,
    UnexpectedReply,
)
from eventsched.store.error_replies import KINDS, Kind, kind_of, translate, word_of

(NO_PASSWORD_SET, *_) = NO_AUTH_SET_ERROR
AWAY = [
    "LOADING Redis is loading the dataset in memory",
    "LOADING Valkey is loading the dataset in memory",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "BUSY Valkey is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "READONLY You can't write against a read only replica.",
    "READONLY Can not run script with write flag on readonly replica",
    "REDIRECT 10.0.0.1:6379",
    "MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk.",
    "NOREPLICAS Not enough good replicas to write.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'",
    "CLUSTERDOWN The cluster is down",
    "CLUSTERDOWN Hash slot not served",
    "NOTREADY The cluster is not ready",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "ASK 3999 127.0.0.1:6381",
    "MOVED 3999 127.0.0.1:6381",
    "UNBLOCKED client unblocked via CLIENT UNBLOCK",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "NOGROUP No such consumer group 'dispatch' for key name 'es1:{c0}:dispatch'",
    "ERR max number of clients reached",
    "ERR max number of clients + cluster connections reached",
    "ERR Function not found",
    "ERR Script attempted to access a non local key in a cluster node script: dispatch_jobs",
    "ERR ERR Script attempted to access a non local key in a cluster node script: dispatch_jobs",
    "ERR NOGROUP No such key 'es1:{c0}:dispatch' or consumer group 'dispatch' in XGROUP command",
]
REFUSED = [
    "NOAUTH Authentication required.",
    "NOAUTH HELLO must be called with the client already authenticated, otherwise use AUTH",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOPERM this user has no permissions to run the 'xtrim' command",
    "NOPERM User app has no permissions to run the 'function|load' command",
    "NOPERM No permissions to access a key",
    "NOPERM this user has no permissions to access one of the keys used as arguments",
    "NOPERM No permissions to access database",
    "DENIED Redis is running in protected mode because protected mode is enabled",
    "NOPROTO unsupported protocol version",
    # redis-py has a class for this exact text.
    f"ERR {NO_PASSWORD_SET}",
    "ERR AUTH <password> called without any password configured",
    "ERR unknown command 'FCALL', with args beginning with: 'f' '1' 'key'",
    "ERR unknown subcommand 'LOAD'. Try FUNCTION HELP.",
    "ERR DB index is out of range",
    "ERR SELECT is not allowed in cluster mode",
    "ERR The user executing the script can't run this command or subcommand script: trim_log",
    "ERR ACL failure in script: User app has no permissions to run the 'xtrim' command script: t",
    "ERR Unknown Redis command called from script script: trim_log",
    "ERR ERR ACL failure in script: User app has no permissions to run the 'xtrim' command",
    "ERR NOPERM No permissions to access a key script: trim_log",
]
MISUSED = [
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "ERR WRONGTYPE Operation against a key holding the wrong kind of value script: trim_log",
    "BUSYGROUP Consumer Group name already exists",
    "BUSYKEY Target key name already exists.",
    "INVALIDOBJ the object is not valid",
    "NOMASTERLINK Can't SYNC while not connected with my master",
    "NOQUORUM 1 usable Sentinels.",
    "INPROG Failover already in progress",
    "NOGOODSLAVE No suitable replica to promote",
    "NOGOODPRIMARY No such primary",
    "ERR This instance has cluster support disabled",
]
OURS = [
    "CROSSSLOT Keys in request don't hash to the same slot",
    "NOSCRIPT No matching script. Please use EVAL.",
    "EXECABORT Transaction discarded because of previous errors.",
    "NOTBUSY No scripts in execution right now.",
    "UNKILLABLE Sorry the script already executed write commands against the dataset.",
    "IOERR error or timeout connecting to the client",
    "NOSUB 'SUNSUBSCRIBE' command executed not in subscribed mode",
    "ERR user_function:12: attempt to index a nil value script: dispatch_jobs",
    "ERR value is not an integer or out of range",
    "ERR wrong number of arguments for 'xadd' command",
    "ERR syntax error",
    "ERR",
    "SOMETHINGNEW that no release has today",
    "a reply without a word",
]
parse: Callable[[str], Exception] = BaseParser.parse_error
"""What redis-py makes of a reply."""
CLASSES = {Kind.AWAY: ServerAway, Kind.REFUSED: ServerRefused}
_CASES = [
    *((reply, Kind.AWAY) for reply in AWAY),
    *((reply, Kind.REFUSED) for reply in REFUSED),
    *((reply, Kind.MISUSED) for reply in MISUSED),
    *((reply, Kind.OURS) for reply in OURS),
]


@pytest.mark.parametrize(("reply", "kind"), _CASES, ids=[reply[:60] for reply, _ in _CASES])
def test_each_reply_has_its_kind_and_its_exception(reply: str, kind: Kind) -> None:
    error = parse(reply)
    assert kind_of(error) is kind
    translated = translate(error)
    assert isinstance(translated, CLASSES.get(kind, UnexpectedReply))
    assert "\n" not in str(translated)


def test_every_word_of_the_table_is_in_a_case() -> None:
    words = {reply.partition(" ")[0] for reply, _ in _CASES}
    assert words >= KINDS.keys()


def test_every_word_that_redis_py_has_a_class_for_is_in_the_table() -> None:
    assert BaseParser.EXCEPTION_CLASSES.keys() - {"ERR"} <= KINDS.keys()


@pytest.mark.parametrize("word", sorted(KINDS))
def test_the_message_about_a_server_that_does_not_refuse_names_the_word(word: str) -> None:
    reply = next(reply for reply, _ in _CASES if reply.startswith(f"{word} "))
    error = parse(reply)
    assert word_of(error) == word
    if KINDS[word] is not Kind.REFUSED:
        assert re.search(rf"\b{word} ", str(translate(error)))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RedisConnectionError("Error 111 connecting to h:1. Connection refused."), Kind.AWAY),
        (RedisTimeoutError("Timeout reading from h:1"), Kind.AWAY),
        (MaxConnectionsError(), Kind.AWAY),
        (ConnectionResetError(104, "Connection reset by peer"), Kind.AWAY),
        (ClusterError("TTL exhausted."), Kind.AWAY),
        (SlotNotCoveredError('Slot "1" is not covered by the cluster.'), Kind.AWAY),
        (RedisClusterException("All slots are not covered"), Kind.AWAY),
        (AuthenticationError("Invalid Username or Password"), Kind.REFUSED),
        (InvalidResponse("Protocol Error: b'HTTP/1.1'"), Kind.MISUSED),
        (DataError("Invalid input of type: 'NoneType'."), Kind.OURS),
    ],
)
def test_an_error_that_no_server_sent_has_a_kind(error: Exception, kind: Kind) -> None:
    assert word_of(error) == ""
    assert kind_of(error) is kind


def test_the_reason_for_which_no_server_of_a_cluster_was_reached_decides() -> None:
    reason = parse("WRONGPASS invalid username-password pair")
    error = RedisClusterException(f"Redis Cluster cannot be connected: {reason}")
    error.__cause__ = reason
    assert isinstance(translate(error), ServerRefused)
    outer = RedisClusterException("Redis Cluster cannot be connected: not enabled")
    outer.__cause__ = RedisClusterException("Cluster mode is not enabled on this node")
    outer.__cause__.__context__ = parse(
        "NOPERM User app has no permissions to run the 'cluster|slots' command"
    )
    translated = translate(outer)
    assert isinstance(translated, CommandRefused)
    assert "CLUSTER SLOTS" in str(translated)


def test_the_reason_for_which_a_connection_could_not_be_opened_decides() -> None:
    error = RedisConnectionError("invalid username-password pair or user is disabled.")
    error.__cause__ = parse("WRONGPASS invalid username-password pair")
    assert isinstance(translate(error), ServerRefused)
    error = RedisConnectionError("Error 2 connecting to unix socket")
    error.__cause__ = FileNotFoundError(2, "No such file or directory")
    assert str(translate(error)) == "no answer from the server: Error 2 connecting to unix socket"


def test_the_arguments_of_a_command_are_not_repeated() -> None:
    reply = "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'me' 'hunter2' "
    assert "hunter2" not in str(translate(parse(reply)))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("WRONGPASS invalid", "the server at h:1 refuses user or password"),
        ("NOPERM User a has no permissions to run the 'get' command", "refuses the command GET: "),
        ("NOPERM No permissions to access a key", "refuses a command or a key: No permissions"),
        ("ERR unknown command 'XREAD'", "refuses the command XREAD: "),
        ("DENIED Redis is running in protected mode", "refuses this client: DENIED Redis"),
        ("LOADING Redis is loading", "the server at h:1 cannot answer now: LOADING Redis is"),
        ("WRONGTYPE Operation", "expects: WRONGTYPE Operation"),
        ("ERR something", "reports a defect of eventsched: something"),
    ],
)
def test_the_message_names_the_server_and_its_reply(reply: str, message: str) -> None:
    assert message in str(translate(parse(reply), "h:1"))


@pytest.mark.parametrize(
    ("reply", "remedy"),
    [
        ("NOPERM User a has no permissions to run the 'get' command", "; grant it (ACL SETUSER)"),
        (
            "ERR ACL failure in script: User a has no permissions to run the 'hget' command",
            "; grant it (ACL SETUSER)",
        ),
        (
            "ERR The user executing the script can't run this command or subcommand script: f",
            "; grant ACL WHOAMI and ACL DRYRUN to the user",
        ),
        ("ERR unknown command 'XREAD'", "; enable it in the server's configuration"),
    ],
)
def test_the_message_about_a_refused_command_has_the_remedy(reply: str, remedy: str) -> None:
    assert remedy in str(translate(parse(reply)))


def test_every_exception_for_a_server_is_one_that_callers_catch() -> None:
    classes = (ServerAway, ServerRefused, CommandRefused, UnexpectedReply)
    assert all(issubclass(each, ServerUnavailable) for each in classes)
