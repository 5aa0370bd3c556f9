"""Decodes forms of replies that several calls share.

Owns: lists of names and values, the refusal of an item in a batch, the status word. redis-py
gives bytes or text and lists or dicts, depending on command and protocol version.
Must not: send a call.
Read next: transport.py (entries of a stream), session_commands.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from eventsched.errors import Refused, UnexpectedReply, from_reply

Status: TypeAlias = Literal["ok", "duplicate"]
"""`duplicate`: the call had no effect, because an earlier one had it."""
_REFUSED = b"refused "


def decode_text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def fields_of(reply: Sequence[bytes] | dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The values by name of a flat list [name, value, …], or of the dict made of it."""
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


def scores_of(reply: Sequence[Any]) -> list[tuple[bytes, Any]]:
    """The members of a sorted set with their scores, from a flat list or from pairs (RESP3)."""
    if reply and isinstance(reply[0], list | tuple):
        return [(member, score) for member, score in reply]
    return list(zip(reply[::2], reply[1::2], strict=True))


def named_fields_of(reply: Any) -> dict[str, Any]:
    """The same with names as text; values stay as they are."""
    return {decode_text(name): value for name, value in fields_of(reply).items()}


def stored_number(value: bytes | str, key: str) -> int:
    """The whole number in a key. Raises UnexpectedReply if there is another value."""
    try:
        return int(value)
    except ValueError:
        raise UnexpectedReply(
            f"{key}: {decode_lossy(value)!r:.80} in place of a whole number, so another program "
            "wrote it; correct or delete it"
        ) from None


def decode_lossy(value: bytes | str) -> str:
    """Text for a message; other bytes than those of UTF-8 are replaced."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def refusal_in(item: bytes) -> Refused | None:
    """The refusal in the reply to an item of a batch; none if the item took effect."""
    if not item.startswith(_REFUSED):
        return None
    message = item[len(_REFUSED) :].decode(errors="replace")
    return from_reply(message) or Refused(message)
