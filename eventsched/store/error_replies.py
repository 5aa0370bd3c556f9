"""What an error reply of the server means, and the exception that it becomes.

Owns: the table of the error words of Redis 7 and 8 and of Valkey 8 and 9, the messages that begin
with ERR, the text of each exception, `translate_errors`.
Must not: retry, log, or know what a call was for.
Read next: needed_commands.py (the reasons), transport.py and client.py (the callers), retry.py.

The first word of an error reply names its kind. If redis-py has an exception class for the word, it
removes the word from the message and stores it as `status_code`. Errors that redis-py makes itself,
such as a lost connection, have no word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

from redis.exceptions import (
    AuthenticationError,
    DataError,
    InvalidResponse,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from eventsched.errors import (
    CommandRefused,
    ServerAway,
    ServerRefused,
    ServerUnavailable,
    UnexpectedReply,
)
from eventsched.store.needed_commands import reason_for


class Kind(Enum):
    """What an error means for the process that gets it."""

    AWAY = "the server cannot serve now"
    REFUSED = "the server refuses this user or this command"
    MISUSED = "the server or its keys are not what eventsched expects"
    OURS = "a defect of eventsched"


KINDS = {
    "LOADING": Kind.AWAY,  # the server reads its data after a start
    "BUSY": Kind.AWAY,  # a script or a module does not end
    "READONLY": Kind.AWAY,  # the primary has become a replica
    "MASTERDOWN": Kind.AWAY,  # a replica without its primary
    "REDIRECT": Kind.AWAY,  # Valkey: the primary has become a replica
    "UNBLOCKED": Kind.AWAY,  # CLIENT UNBLOCK, or the role of the server has changed
    "MISCONF": Kind.AWAY,  # the disk is full
    "NOREPLICAS": Kind.AWAY,  # fewer replicas than min-replicas-to-write
    "OOM": Kind.AWAY,  # the memory is full
    "CLUSTERDOWN": Kind.AWAY,
    "NOTREADY": Kind.AWAY,  # Redis 8: a cluster that has not formed yet
    "MOVED": Kind.AWAY,
    "ASK": Kind.AWAY,  # the slot of the key moves
    "TRYAGAIN": Kind.AWAY,  # the slot of the keys moves
    "NOGROUP": Kind.AWAY,  # the stream is not here: its slot moves, or the server was emptied
    "NOAUTH": Kind.REFUSED,
    "WRONGPASS": Kind.REFUSED,
    "NOPERM": Kind.REFUSED,
    "DENIED": Kind.REFUSED,  # protected mode
    "NOPROTO": Kind.REFUSED,
    "WRONGTYPE": Kind.MISUSED,
    "BUSYGROUP": Kind.MISUSED,
    "BUSYKEY": Kind.MISUSED,
    "INVALIDOBJ": Kind.MISUSED,
    "NOMASTERLINK": Kind.MISUSED,  # this and the next three: commands of replicas and Sentinels
    "NOQUORUM": Kind.MISUSED,
    "INPROG": Kind.MISUSED,
    "NOGOODSLAVE": Kind.MISUSED,
    "NOGOODPRIMARY": Kind.MISUSED,
    "CROSSSLOT": Kind.OURS,
    "NOSCRIPT": Kind.OURS,
    "EXECABORT": Kind.OURS,
    "NOTBUSY": Kind.OURS,
    "UNKILLABLE": Kind.OURS,
    "IOERR": Kind.OURS,
    "NOSUB": Kind.OURS,
}
"""Error word -> kind. The message decides about ERR; every other word is OURS."""
_MESSAGES = {
    "max number of clients": Kind.AWAY,
    "no such key": Kind.AWAY,  # of XINFO: the stream is not here, see NOGROUP
    "Function not found": Kind.AWAY,  # flushed between its load and its call
    "Script attempted to access a non local key": Kind.AWAY,  # the slot of the key moves
    "unknown command": Kind.REFUSED,
    "unknown subcommand": Kind.REFUSED,
    "Unknown Redis command called from script": Kind.REFUSED,
    "Unknown Valkey command called from script": Kind.REFUSED,
    "DB index": Kind.REFUSED,
    "SELECT is not allowed": Kind.REFUSED,
    "AUTH <password> called without any password": Kind.REFUSED,
    "Client sent AUTH": Kind.REFUSED,
    "invalid password": Kind.REFUSED,
    "ACL failure in script": Kind.REFUSED,
    "The user executing the script": Kind.REFUSED,  # Redis 7.0
    "This instance has cluster support disabled": Kind.MISUSED,
}
"""Begin of a message after ERR -> kind; every other message is OURS."""
_WORD = re.compile(r"[A-Z][A-Z0-9_]+(?= |$)")
_ROLE_WORDS = ("READONLY", "MASTERDOWN", "REDIRECT", "UNBLOCKED")
_LOGIN_WORDS = ("NOAUTH", "WRONGPASS")
_LOGIN_MESSAGES = ("AUTH <password>", "Client sent AUTH", "invalid password")
_LOGIN_REMEDY = "name them in the URL, as USER:PASSWORD@ before the host"
_ENABLE = "enable it in the server's configuration (rename-command), or use another server"
_GRANT = "grant it (ACL SETUSER), or name another user in the URL"
_GRANT_UNNAMED = (
    "grant ACL WHOAMI and ACL DRYRUN to the user (ACL SETUSER), and the error names what is missing"
)
_DATABASE_REMEDY = "name another database in the URL, or none"
_UNKNOWN = re.compile(r"unknown command [`'\"]?([\w|]+)", re.IGNORECASE)
_UNKNOWN_PART = re.compile(r"unknown subcommand [`'\"]?\w+[`'\"]?\. Try (\w+) HELP", re.IGNORECASE)
_FORBIDDEN = re.compile(r"no permissions to run the '([\w|]+)' command")
_FORBIDDEN_UNNAMED = "The user executing the script can't run this command"
"""Redis 7.0 does not name the command that a function may not call."""
_DATABASE = re.compile(r"DB index|SELECT is not allowed", re.IGNORECASE)
_ARGUMENTS = re.compile(r",? with args beginning with:.*", re.DOTALL)
"""A server's error repeats the arguments of an unknown command, for AUTH a password."""
_WRAPPERS = (RedisConnectionError, RedisClusterException)
CLIENT_ERRORS = (RedisError, RedisClusterException, OSError)
"""Every error that a call of redis-py raises because of the server or the connection."""


def word_of(error: BaseException) -> str:
    """Return the word that names the kind of an error reply; empty if no server sent the error."""
    return _split(error)[0]


def _split(error: BaseException) -> tuple[str, str]:
    """Return the word of an error and its message without the word.

    If a command fails in a function, the server puts ERR before the word of the command's error.
    """
    word, message = getattr(error, "status_code", None), str(error)
    if not isinstance(word, str):
        first = _WORD.match(message) if isinstance(error, ResponseError) else None
        if first is None:
            return "", message
        word, message = first[0], message[first.end() + 1 :]
    while word == "ERR":
        inner = _WORD.match(message)
        if inner is None or inner[0] not in ("ERR", *KINDS):
            break
        word, message = inner[0], message[inner.end() + 1 :]
    return word, message


def kind_of(error: BaseException) -> Kind:
    """Return the kind of one of CLIENT_ERRORS."""
    error = _source_of(error)
    if isinstance(error, InvalidResponse):  # not a server that speaks this protocol
        return Kind.MISUSED
    word, message = _split(error)
    if word in KINDS:
        return KINDS[word]
    for begin, kind in _MESSAGES.items():
        if message.casefold().startswith(begin.casefold()):
            return kind
    if isinstance(error, AuthenticationError):
        return Kind.REFUSED
    return Kind.OURS if word or isinstance(error, (ResponseError, DataError)) else Kind.AWAY


def has_other_role(error: BaseException) -> bool:
    """Whether the error says that the server of a connection is not the primary any more."""
    return word_of(error) in _ROLE_WORDS


def _source_of(error: BaseException) -> BaseException:
    """Return the error reply for which redis-py could not connect; without one, the error."""
    source: BaseException | None = error
    while isinstance(source, _WRAPPERS) and not word_of(source):
        is_of_cluster = isinstance(source, RedisClusterException)
        source = source.__cause__ or (source.__context__ if is_of_cluster else None)
    return source if isinstance(source, RedisError | RedisClusterException) else error


def is_of_other_type(error: BaseException) -> bool:
    """Whether the error says that a key has another type than the command needs."""
    return word_of(_source_of(error)) == "WRONGTYPE"


def other_types(keys: Sequence[str]) -> UnexpectedReply:
    """Return the error for these keys of another type."""
    names = ", ".join(keys)
    return UnexpectedReply(
        f"{names}: of another type than eventsched writes (WRONGTYPE), so another program "
        "wrote it; delete it"
    )


def translate(error: BaseException, place: str = "") -> ServerUnavailable:
    """Return the exception of the public interface for one of CLIENT_ERRORS.

    Args:
        error: what redis-py or the operating system raised.
        place: the address of the server for the message, without secrets.
    """
    source = _source_of(error)
    server = f"the server at {place}" if place else "the server"
    match kind_of(source):
        case Kind.REFUSED:
            return _refusal(source, server)
        case Kind.AWAY if word_of(source):
            return ServerAway(f"{server} cannot answer now: {_text_of(source)}")
        case Kind.AWAY:
            silent = f"no server answers at {place}" if place else "no answer from the server"
            return ServerAway(f"{silent}: {_text_of(source)}")
        case Kind.MISUSED:
            return UnexpectedReply(
                f"{server} has other data or another configuration than eventsched expects: "
                f"{_text_of(source)}"
            )
    return UnexpectedReply(f"{server} reports a defect of eventsched: {_text_of(source)}")


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise ServerUnavailable, or the subclass for the kind, in place of CLIENT_ERRORS."""
    try:
        yield
    except CLIENT_ERRORS as error:
        raise translate(error) from None  # the original repeats arguments, such as a password


def _text_of(error: BaseException) -> str:
    """Return the message of an error with its word and without the arguments of a command."""
    word, message = _split(error)
    text = _ARGUMENTS.sub("", message).strip()
    return text if word in ("", "ERR") else f"{word} {text}".strip()


def _refusal(error: BaseException, server: str) -> ServerRefused:
    if _concerns_login(error):
        return ServerRefused(f"{server} refuses user or password; {_LOGIN_REMEDY}")
    text, word = _text_of(error).removeprefix("NOPERM "), word_of(error)
    command = refused_command(error)
    if command:
        is_forbidden = word == "NOPERM" or _FORBIDDEN.search(text) is not None
        return refusal_of(command, text, server=server, is_forbidden=is_forbidden)
    if word in ("DENIED", "NOPROTO"):
        return ServerRefused(f"{server} refuses this client: {text}")
    remedy = _GRANT_UNNAMED if text.startswith(_FORBIDDEN_UNNAMED) else _GRANT
    return CommandRefused(f"{server} refuses a command or a key: {text}; {remedy}")


def _concerns_login(error: BaseException) -> bool:
    return (
        isinstance(error, AuthenticationError)
        or word_of(error) in _LOGIN_WORDS
        or _split(error)[1].startswith(_LOGIN_MESSAGES)
    )


def refused_command(error: BaseException) -> str:
    """Return the command that a server refuses with this error; empty if it names none."""
    message = str(error)
    for pattern in (_UNKNOWN, _UNKNOWN_PART, _FORBIDDEN):
        match = pattern.search(message)
        if match:
            return match[1].replace("|", " ").upper()
    return "SELECT" if _DATABASE.search(message) else ""


def refusal_of(
    command: str, text: str, *, server: str = "the server", is_forbidden: bool = False
) -> CommandRefused:
    """Return the error for a command that the server does not have or that its user may not run."""
    remedy = _GRANT if is_forbidden else _ENABLE
    if command == "SELECT" and not is_forbidden:
        remedy = _DATABASE_REMEDY
    return CommandRefused(
        f"{server} refuses the command {command}: {text}; {remedy}; "
        f"eventsched needs {command}, because {reason_for(command)}"
    )
