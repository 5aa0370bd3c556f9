"""How a record becomes the fields of a hash, and a record again.

Owns: the form of those projections that do not say one of their own.
Never does: I/O. Read next: protocol.py (WithForm), fold.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from eventsched.projection.protocol import Projection, WithForm


class Whole:
    """All of a record in one field."""

    def __init__(self, view: Any) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(view).decode

    def stored(self, view: Any, _: Any) -> Mapping[str, bytes]:
        return {"v": self._encode(view)}

    def restored(self, fields: Mapping[str, bytes]) -> Any:
        return self._decode(fields.get("v", b""))


def form_of(projection: Projection) -> WithForm:
    """How its records are stored."""
    return projection if isinstance(projection, WithForm) else Whole(projection.view)
