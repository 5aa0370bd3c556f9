"""The cell's settings: every limit in time and size that scripts decide by (rule 33).

Owns: names, defaults and bounds; reading `EVENTSCHED_*`. A cell keeps the settings it was created
with; a role that is started with others (`eventsched up`, `eventsched run`) changes them.
Never does: I/O with Redis. Read next: lua/configure_cell.lua.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated

import msgspec
import msgspec.inspect

from eventsched.errors import InvalidMessage

Ms = Annotated[int, msgspec.Meta(ge=1, le=86_400_000)]
Bytes = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
Entries = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
PREFIX = "EVENTSCHED_"
NEARLY = 0.8
"""So like a setting that it must be meant for one."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Milliseconds and bytes; `EVENTSCHED_PAUSE_MS` and so on set them from outside."""

    pause_ms: Ms = 3_000
    audio_ms_max: Ms = 10_000
    audio_bytes_max: Bytes = 512_000
    idle_ms: Ms = 60_000
    close_wait_ms: Ms = 30_000
    playback_ms: Ms = 30_000
    delivery_gap_timeout_ms: Ms = 30_000
    queue_timeout_ms: Ms = 10_000
    heartbeat_ms: Ms = 5_000
    node_lost_ms: Ms = 15_000
    suspend_ms: Ms = 60_000
    drain_ms: Ms = 60_000
    session_retention_ms: Ms = 3_600_000
    lease_base_ms: Ms = 30_000
    lease_factor_thousandths: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 500
    tenant_queue_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    memory_percent_max: Annotated[int, msgspec.Meta(ge=1, le=95)] = 80
    projection_lag_max: Entries = 50_000
    dispatch_queue_max: Entries = 10_000
    dead_letters_max: Entries = 10_000
    archive_lag_max: Entries = 1_000_000
    """Entries of the log that the archive does not hold yet, before producers are refused."""
    archive_entries_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 50_000
    """A segment of the archive ends with so many entries,"""
    archive_window_ms: Ms = 300_000
    """or where the window of time ends that its first entry lies in."""
    log_keep_ms: Annotated[int, msgspec.Meta(ge=0, le=10_000_000_000)] = 600_000
    """So long an entry stays in the log at least, though it is archived."""
    log_retention_ms: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000_000)] = 0
    """Without an archive: older entries go. 0 keeps them all."""


def chosen(environ: Mapping[str, str] | None = None, /, **given: int | None) -> dict[str, int]:
    """The settings that somebody set, by argument or environment, checked.

    Raises InvalidMessage naming the setting, its limit and the remedy.
    """
    wanted: dict[str, object] = _from(os.environ if environ is None else environ)
    wanted |= {name: value for name, value in given.items() if value is not None}
    return checked(wanted)


def _from(environ: Mapping[str, str]) -> dict[str, object]:
    """What the environment sets, misspelt settings too; other `EVENTSCHED_*` are not ours."""
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environ.items()
        if name.startswith(PREFIX) and value
    }
    return {
        name: value
        for name, value in given.items()
        if name in _BOUNDS or get_close_matches(name, _BOUNDS, 1, NEARLY)
    }


def checked(wanted: Mapping[str, object]) -> dict[str, int]:
    """These settings as numbers. Raises InvalidMessage for an unknown name or a bad value."""
    for name, value in wanted.items():
        if name not in _BOUNDS:
            near = get_close_matches(name, _BOUNDS, 1)
            remedy = f"did you mean {near[0]}?" if near else "leave it out"
            raise InvalidMessage.of("settings", f"{name!r:.80} is no setting", remedy)
        check(name, value)
    complete = msgspec.convert(wanted, Settings, strict=False)
    return {name: getattr(complete, name) for name in wanted}


def check(name: str, value: object) -> None:
    """Raises InvalidMessage unless the value is within the bounds of the setting."""
    try:
        msgspec.convert({name: value}, Settings, strict=False)
    except msgspec.ValidationError:
        least, most = _BOUNDS[name]
        raise InvalidMessage.of(
            name,
            f"a whole number from {least} to {most} expected, got {value!r:.80}",
            f"change it or unset {PREFIX}{name.upper()}",
        ) from None


def _bounds(field: msgspec.inspect.Field) -> tuple[int | None, int | None]:
    assert isinstance(field.type, msgspec.inspect.IntType)
    return field.type.ge, field.type.le


_SHAPE = msgspec.inspect.type_info(Settings)
assert isinstance(_SHAPE, msgspec.inspect.StructType)
_BOUNDS = {field.name: _bounds(field) for field in _SHAPE.fields}
