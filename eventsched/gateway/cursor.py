"""A position in the logs of several cells, as text: `c0=1764085603123-4,c1=1764085603200-0`.

Owns: its form. Never does: I/O. Read next: reading.py, event_stream.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventsched.errors import InvalidMessage
from eventsched.schema.ids import is_id


def format_cursor(positions: Mapping[str, str]) -> str:
    """Return the text of a position: `cell=id` of each cell, joined by `,`."""
    return ",".join(f"{cell}={position}" for cell, position in sorted(positions.items()))


def parse_cursor(field: str, text: str, cells: Sequence[str]) -> dict[str, str]:
    """Return the position of each cell that the text names. Raises InvalidMessage.

    Args:
        field: Name of the field in messages.
        text: The text; empty names no cell.
        cells: The cells of the server.
    """
    positions: dict[str, str] = {}
    for part in text.split(",") if text else ():
        cell, _, position = part.partition("=")
        if cell not in cells or not is_id(position):
            raise InvalidMessage.of(
                field, f"cell=id joined by , expected, got {text!r:.80}", "use the id of a reply"
            )
        positions[cell] = position
    return positions
