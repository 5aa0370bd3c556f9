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
SegmentEntries = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Jobs = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Percent = Annotated[int, msgspec.Meta(ge=1, le=95)]
Thousandths = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
KeepMs = Annotated[int, msgspec.Meta(ge=0, le=10_000_000_000)]
Switch = Annotated[int, msgspec.Meta(ge=0, le=1)]
RetentionMs = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000_000)]
PREFIX = "EVENTSCHED_"
NEARLY = 0.8
"""So like a setting that it must be meant for one."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Milliseconds and bytes; `EVENTSCHED_PAUSE_MS` and so on set them from outside.

    docs/settings.md is written from the text below each setting: `python -m tools.pages`.
    """

    pause_ms: Ms = 3_000
    """A pause of this length between two chunks ends the utterance (rule 2)."""
    audio_ms_max: Ms = 10_000
    """An utterance with this much audio is ended; the turn goes on (rule 2)."""
    audio_bytes_max: Bytes = 512_000
    """An utterance with more buffered audio than this is ended, as a guard (rule 2)."""
    idle_ms: Ms = 60_000
    """A session without append, mark, resume or keepalive for this long is closed (rule 8)."""
    close_wait_ms: Ms = 30_000
    """A closing session waits this long for its open outcomes; then they are missing (rule 6)."""
    playback_ms: Ms = 30_000
    """A playback without an end mark counts as ended after this time (rule 5)."""
    delivery_gap_timeout_ms: Ms = 30_000
    """A missing delivery number is given up this long after a later one was ready (rule 25)."""
    queue_timeout_ms: Ms = 10_000
    """A job waits this long for a slot, then fails. At half of it the priority is 0 (rule 18)."""
    heartbeat_ms: Ms = 5_000
    """A node sends a heartbeat at this interval; the registration's reply carries it (rule 13)."""
    node_lost_ms: Ms = 15_000
    """A node without a heartbeat for this long is lost; its jobs are dispatched again (rule 13)."""
    suspend_ms: Ms = 60_000
    """A node that lacks a model is not chosen for the feature for this long (rule 14)."""
    session_retention_ms: Ms = 3_600_000
    """The records of a closed session are deleted after this time; its events stay (rule 10)."""
    lease_base_ms: Ms = 30_000
    """The part of a lease that does not depend on the length of the audio (rule 19)."""
    lease_factor_thousandths: Thousandths = 500
    """A lease grows by this many thousandths of the length of the audio (rule 19)."""
    tenant_queue_max: Jobs = 10_000
    """A tenant with this many waiting jobs in a cell is refused with BACKPRESSURE (rule 18)."""
    memory_percent_max: Percent = 80
    """Backpressure starts at this part of the server's maxmemory; without maxmemory, never."""
    projection_lag_max: Entries = 50_000
    """Backpressure starts when a projection set has this many entries of the log to fold."""
    dispatch_queue_max: Entries = 10_000
    """Backpressure starts when this many entries wait for dispatch."""
    dead_letters_max: Entries = 10_000
    """Backpressure starts when this many entries could not be processed."""
    archive_lag_max: Entries = 1_000_000
    """Backpressure starts when this many entries of the log are not in the archive yet."""
    archive_entries_max: SegmentEntries = 50_000
    """A segment of the archive ends after this many entries, or by `archive_window_ms`."""
    archive_window_ms: Ms = 300_000
    """A segment of the archive ends with the window of this length that its first entry is in."""
    log_keep_ms: KeepMs = 600_000
    """An archived entry stays in the log for at least this long."""
    log_retention_ms: RetentionMs = 0
    """Without an archive, older entries are trimmed from the log; 0 keeps all of them."""
    cache_live_state: Switch = 1
    """1: scripts cache loads, queues and sessions from call to call. 0: each call reads them."""


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
