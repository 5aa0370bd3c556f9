"""What the producers of a chaos run are to speak, and the record of what they sent and received.

Owns: the plan, and the record: each chunk from the moment it was accepted, each outcome from the
moment it was received. Read next: producer.py, gateway_guests.py, judge.py.
"""

from __future__ import annotations

import msgspec

GUEST_CHUNKS = (2, 12)
"""Fewest and most chunks that a guest speaks."""


class Plan(msgspec.Struct, kw_only=True):
    """What the producers speak."""

    conversations: list[tuple[str, list[tuple[str, str, list[tuple[int, int]]]]]]
    """Name, then speakers: name, listen language, segments as (start_ms, ms)."""
    speed: float
    guests: int
    """Number of guests at a time."""
    gateway: str = ""
    """URL of the gateways; empty if no guest speaks through them."""
    token: str = ""
    gateway_guests: int = 0
    """Number of guests behind the gateways at a time."""
    guests_s: float
    """How long new guests come."""
    seed: int


class ReceivedOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One outcome at one listener."""

    session: str
    target: str
    utterance: int
    delivery_no: int
    outcome: str
    text: str


class Spoken(msgspec.Struct, kw_only=True):
    """One session in the record."""

    sizes: list[int] = []
    """Bytes of each chunk that the library accepted, by number."""
    acked: int = 0
    """Number of acknowledged chunks: their append returned, or a later append, or close."""
    received: list[ReceivedOutcome] = []
    truncated: int = 0
    results_ended: bool = False
    """The iteration of its results ended, so it has received every outcome."""
    is_guest: bool = False


class Record(msgspec.Struct, kw_only=True):
    """Everything that the producers saw."""

    sessions: dict[str, Spoken] = {}
    unavailable: int = 0
    """How often a call raised ServerUnavailable; the library keeps the audio that it accepted."""
    backpressure: int = 0
    resumed: int = 0
    broken: list[str] = []
    unfinished: int = 0
    """Guests whose session could not be opened, resumed or closed."""
