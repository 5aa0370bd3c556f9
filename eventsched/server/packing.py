"""Commands packed in C: redis-py's asynchronous connections do it argument by argument in Python.

Owns: a connection class that packs with hiredis, as redis-py's synchronous connections do.
Never does: I/O of its own. Read next: check.py (who opens clients).
"""

from __future__ import annotations

from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection


def packing_in_c(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """The same kind of connection; what it sends is the same, made in a fraction of the time."""

    class PackingConnection(kind):  # type: ignore[misc,valid-type]
        def pack_command(self, *args: Any) -> list[bytes]:
            """`CONFIG GET` and the like are sent as two words."""
            name, *rest = args
            words = name.encode().split() if isinstance(name, str) else name.split()
            return [hiredis.pack_command((*words, *rest))]

    return PackingConnection
