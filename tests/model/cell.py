"""The cell: `decide` of its creation and of new settings.

Owns: configure_cell as a function of the state of the model.
Never does: check the bounds of a setting; eventsched/schema/settings.py does, before a call is
made.
Read next: machine.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from eventsched.schema.settings import Settings
from tests.model.world import World, invalid

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
BELOW = 10**14


def configure_cell(
    w: World, settings: Mapping[str, Any], *, overwrite: bool, manual_clock: bool = False
) -> Literal["created", "changed", "kept"]:
    """All settings are stored, or none; without `overwrite` only those that the cell lacks."""
    if not all(_NAME.fullmatch(name) and _is_whole(value) for name, value in settings.items()):
        raise invalid("settings")
    is_new = w.stored_settings is None
    before = w.stored_settings or {}
    stored = {name: int(value) for name, value in settings.items()}
    w.stored_settings = before | stored if overwrite else stored | before
    known = {k: v for k, v in w.stored_settings.items() if k in Settings.__struct_fields__}
    w.settings = msgspec.structs.replace(w.settings, **known)
    if is_new:
        return "created"
    return "changed" if overwrite else "kept"


def _is_whole(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and value % 1 == 0 and abs(value) < BELOW
