"""What earlier versions of the schema wrote, brought into the form of the present one.

Owns: one pure function per (event type, version) whose data changed with the version after it.
Never does: I/O, meaning: a new meaning is a new type, a new field takes a default and needs no
version. Read next: codec.py (the only caller), events.py.

Version 1 is the only one so far, so the table is empty. What comes: raise `SCHEMA_VERSION` in
events.py and in lua/include/events.lua, enter here what turns the old data into the new, and begin
a corpus for the new version beside tests/golden/v1.jsonl; the old one must go on to decode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from eventsched.schema.events import SCHEMA_VERSION

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTERS: dict[tuple[str, int], Upcaster] = {}
"""(type, version) -> its data as the next version has it; without an entry it is the same."""


def upcast(kind: str, version: int, data: bytes) -> bytes:
    """The JSON of `data` in the present form. Raises ValueError when there is no way to it."""
    if not 1 <= version <= SCHEMA_VERSION:
        raise ValueError(f"version {version}, this program reads 1 to {SCHEMA_VERSION}")
    steps = [UPCASTERS[kind, v] for v in range(version, SCHEMA_VERSION) if (kind, v) in UPCASTERS]
    if not steps:
        return data
    told = msgspec.json.decode(data)
    try:
        for step in steps:
            told = step(told)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"version {version} has another form: {error!r}") from error
    return msgspec.json.encode(told)
