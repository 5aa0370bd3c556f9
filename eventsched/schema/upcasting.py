"""Upcasting: event data of an earlier schema version is converted to the current form.

Owns: one pure function per (event type, version) whose data changed in the following version.
Never does: I/O; change the meaning of an event. A new meaning is a new type, and a new field takes
a default and needs no version. Read next: codec.py (the only caller), events.py.

Version 1 is the only version, so the table is empty. To add a version: increase `SCHEMA_VERSION`
here and in lua/include/events.lua, add an upcaster per changed type to `UPCASTERS`, and add a
corpus for the new version beside tests/golden/v1.jsonl, which must still decode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from eventsched.schema.events import SCHEMA_VERSION

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTERS: dict[tuple[str, int], Upcaster] = {}
"""(type, version) -> function that returns the data of the next version.

A type without an entry has the same data in both versions.
"""


def upcast(kind: str, version: int, data: bytes) -> bytes:
    """Return `data` as JSON of the current version. Raises ValueError if it cannot be converted."""
    if not 1 <= version <= SCHEMA_VERSION:
        raise ValueError(f"version {version}, this program reads 1 to {SCHEMA_VERSION}")
    steps = [UPCASTERS[kind, v] for v in range(version, SCHEMA_VERSION) if (kind, v) in UPCASTERS]
    if not steps:
        return data
    value = msgspec.json.decode(data)
    try:
        for step in steps:
            value = step(value)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"version {version} has another form: {error!r}") from error
    return msgspec.json.encode(value)
