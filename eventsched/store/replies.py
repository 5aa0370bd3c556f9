"""Decodes replies that several calls share.

Owns: the refusal of an item in a batch, the status word.
Must not: send a call. Read next: session_commands.py, node_commands.py.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from eventsched.errors import Refused, from_reply

Status: TypeAlias = Literal["ok", "duplicate"]
"""`duplicate`: the call had no effect, because an earlier one had it."""
_REFUSED = b"refused "


def refusal_in(item: bytes) -> Refused | None:
    """The refusal in the reply to an item of a batch; none if the item took effect."""
    if not item.startswith(_REFUSED):
        return None
    message = item[len(_REFUSED) :].decode(errors="replace")
    return from_reply(message) or Refused(message)
