"""The settings of a cell: every limit in time and size that scripts use (rule 33, limits).

Owns: names, defaults and bounds of the settings; reading them from `EVENTSCHED_*` variables.
A cell stores the settings that it was created with. A role that is started with other values
(`eventsched up`, `eventsched run`) changes them for all processes.
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
LeaseMs = Annotated[int, msgspec.Meta(ge=10_000, le=60_000)]
"""A lease lasts 15 to 60 s whatever the settings say: other values would have no effect."""
BackoffMs = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
AvoidMs = Annotated[int, msgspec.Meta(ge=0, le=60_000)]
Bytes = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
OutboxBytes = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000_000)]
Entries = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
SegmentEntries = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Jobs = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Sessions = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Percent = Annotated[int, msgspec.Meta(ge=1, le=95)]
Thousandths = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
KeepMs = Annotated[int, msgspec.Meta(ge=0, le=10_000_000_000)]
Switch = Annotated[int, msgspec.Meta(ge=0, le=1)]
NodeRetentionMs = Annotated[int, msgspec.Meta(ge=1, le=10_000_000_000)]
RetentionMs = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000_000)]
PREFIX = "EVENTSCHED_"
SIMILARITY_MIN = 0.8
"""A variable whose name is this similar to a setting's is a misspelt setting."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings with their defaults. The variable `EVENTSCHED_PAUSE_MS` sets `pause_ms`.

    `python -m tools.pages` writes docs/settings.md from the description below each setting.
    """

    pause_ms: Ms = 3_000
    """A pause of this length between two chunks finalizes the utterance (rule 2, finalize
    reasons)."""
    audio_ms_max: Ms = 10_000
    """An utterance with this duration of audio is finalized; the turn continues (rule 2, finalize
    reasons)."""
    audio_bytes_max: Bytes = 512_000
    """An utterance with more buffered audio than this is finalized, as a guard (rule 2, finalize
    reasons)."""
    idle_ms: Ms = 60_000
    """A session without append, mark, resume or keepalive is closed after this time (rule 8, idle
    sessions)."""
    close_wait_ms: Ms = 30_000
    """The open outcomes of a closing session end as missing after this time (rule 6, two-step
    close)."""
    playback_ms: Ms = 30_000
    """A playback without an end mark counts as ended after this time (rule 5, no pause during
    playback)."""
    delivery_gap_timeout_ms: Ms = 30_000
    """An outcome ends as missing this long after a later one in the order was ready (rule 25,
    ordered delivery)."""
    queue_timeout_ms: Ms = 10_000
    """A waiting job fails after this time; after half of it, its priority is 0 (rule 18, fair
    waiting)."""
    heartbeat_ms: Ms = 5_000
    """Interval of a node's heartbeats; the reply to its registration carries it (rule 13, node
    registration)."""
    node_lost_ms: Ms = 15_000
    """A node without a heartbeat for this long is lost; its jobs are dispatched again (rule 13,
    node registration)."""
    node_retention_ms: NodeRetentionMs = 86_400_000
    """The record of a node that is gone is deleted this long after its last heartbeat; its events
    stay (rule 13, node registration)."""
    suspend_ms: Ms = 60_000
    """A node that reports a missing model is suspended for the feature, or for the language pair,
    for this long, a node with three unreadable results in this time for every job (rule 14,
    suspended nodes)."""
    retry_backoff_ms: BackoffMs = 100
    """A job backs off this long after a retryable failure that its node reports, then 4 and 16
    times as long, and up to a quarter more; 0 retries at once (rule 20, dispatching again). A
    handler may choose the time with `retry_in_ms`."""
    retry_avoid_ms: AvoidMs = 2_000
    """After its backoff, a job avoids the node that failed for this long while another node is able
    to serve it, free or full (rule 20, dispatching again)."""
    fast_failure_ms: Ms = 1_000
    """A retryable failure counts against its node if it comes within this time of the dispatch
    (rule 14, suspended nodes)."""
    failing_suspend_ms: Ms = 30_000
    """A node with five fast failures in a row, of at least two sessions, is suspended for this
    long, and twice as long for each further time until it succeeds (rule 14, suspended nodes)."""
    failing_suspend_ms_max: Ms = 300_000
    """A failing node is suspended for at most this long (rule 14, suspended nodes)."""
    session_retention_ms: Ms = 3_600_000
    """The records of a closed session are deleted after this time; its events stay (rule 10, job
    identity)."""
    outbox_retention_ms: Ms = 300_000
    """The results in the outbox of a closed session are deleted after this time; a listener that
    arrives later receives Truncated (rule 6, two-step close)."""
    lease_base_ms: LeaseMs = 30_000
    """The part of a lease's duration that does not depend on the audio (rule 19, lease
    duration). A lease lasts 15 to 60 s; a handler may have a time limit of its own."""
    lease_factor_thousandths: Thousandths = 500
    """A lease is longer by this many thousandths of the duration of the audio (rule 19, lease
    duration)."""
    tenant_queue_max: Jobs = 10_000
    """A tenant with this many waiting jobs in a cell is refused with BACKPRESSURE (rule 18, fair
    waiting). Outcomes of utterances in the dispatch queue count as waiting jobs, and so do jobs
    that back off."""
    tenant_outbox_bytes_max: OutboxBytes = 268_435_456
    """A tenant with so many bytes of outcomes and synthesised speech that wait to be read in a cell
    is refused with BACKPRESSURE (rule 33, limits). Each outcome counts 256 bytes beside its text
    and speech."""
    tenant_sessions_max: Sessions = 40_000
    """A tenant with this many sessions that are open, or closed and not retired yet, may open no
    further one in the cell: it is refused with BACKPRESSURE (rule 33, limits)."""
    tenant_lag_max: Entries = 10_000
    """A tenant with this many log entries that a projection set has not folded is refused with
    BACKPRESSURE (rule 33, limits)."""
    memory_percent_max: Percent = 80
    """Backpressure starts when the server uses this percentage of its maxmemory, if it has one."""
    projection_lag_max: Entries = 50_000
    """Backpressure starts when a projection set lags behind the log by this many entries."""
    dispatch_queue_max: Entries = 10_000
    """Backpressure starts when the dispatch queue has this many entries."""
    dead_letters_max: Entries = 10_000
    """Backpressure starts when a cell has this many dead letters."""
    archive_lag_max: Entries = 1_000_000
    """Backpressure starts when the archive lags behind the log by this many entries."""
    archive_entries_max: SegmentEntries = 50_000
    """A segment of the archive has at most this many entries."""
    archive_window_ms: Ms = 300_000
    """A segment of the archive has entries of one time window of this length."""
    log_keep_ms: KeepMs = 600_000
    """An archived entry stays in the log for at least this long."""
    log_retention_ms: RetentionMs = 0
    """Without an archive, entries older than this are trimmed from the log; 0 keeps all entries."""
    error_messages: Switch = 1
    """1: the log has the first line of an exception of a handler, beside its type and its place. 0:
    it is left out, because it may have personal data. Encrypted sessions store none of these."""
    cache_live_state: Switch = 1
    """1: scripts cache loads, queues and sessions between calls. 0: each call reads them."""
    eager_dispatch: Switch = 1
    """1: a call that finalizes an utterance assigns its jobs itself if a dispatcher is present and
    the dispatch queue is empty. 0: the dispatcher assigns all jobs."""


def chosen(environ: Mapping[str, str] | None = None, /, **arguments: int | None) -> dict[str, int]:
    """Return the valid settings that the environment or an argument sets; an argument wins.

    Raises InvalidMessage with the name of the setting, its bounds and the remedy.
    """
    values: dict[str, object] = _from(os.environ if environ is None else environ)
    values |= {name: value for name, value in arguments.items() if value is not None}
    return parse_settings(values)


def _from(environ: Mapping[str, str]) -> dict[str, object]:
    """Return the settings that the environment names, misspelt ones included.

    Any other `EVENTSCHED_*` variable is not a setting and is left out.
    """
    variables = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environ.items()
        if name.startswith(PREFIX) and value
    }
    return {
        name: value
        for name, value in variables.items()
        if name in _BOUNDS or get_close_matches(name, _BOUNDS, 1, SIMILARITY_MIN)
    }


def parse_settings(values: Mapping[str, object]) -> dict[str, int]:
    """Return the settings as numbers. Raises InvalidMessage for an unknown name or a bad value."""
    for name, value in values.items():
        if name not in _BOUNDS:
            similar = get_close_matches(name, _BOUNDS, 1)
            remedy = f"did you mean {similar[0]}?" if similar else "leave it out"
            raise InvalidMessage.of("settings", f"{name!r:.80} is not a setting", remedy)
        check(name, value)
    complete = msgspec.convert(values, Settings, strict=False)
    return {name: getattr(complete, name) for name in values}


def check(name: str, value: object) -> None:
    """Check that the value is within the bounds of the setting. Raises InvalidMessage."""
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
