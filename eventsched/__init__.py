"""Event-sourced scheduler on Redis Streams for real-time speech.

Owns: the list of the public names.
Never does: import projections; the roles load them by entry point.
Read next: client/client.py (connect), client/session.py (producers), node/node.py (nodes),
errors.py.

A public name is imported at its first use, since the command line imports this package at its
start. Type checkers and editors read `__init__.pyi`, which `make api` writes from the list here.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "audio.endpointing": ("Endpointing",),
    "audio.wav": ("read_wav",),
    "client.client": ("Client", "connect"),
    "client.results": (
        "Failed",
        "Missing",
        "NoSpeech",
        "Outcome",
        "Partial",
        "Result",
        "Truncated",
    ),
    "client.session": ("Session",),
    "demo.speech.samples": ("sample_wav",),
    "encryption.keystore": ("Key", "KeyFolder", "KeyStore"),
    "errors": (
        "ArchiveError",
        "Backpressure",
        "ChunkTooLarge",
        "EventschedError",
        "InvalidMessage",
        "JobUnknown",
        "KeyMissing",
        "KeyStoreError",
        "LeaseLost",
        "NodeSuperseded",
        "NodeUnknown",
        "NotFound",
        "Refused",
        "SeqGap",
        "ServerUnavailable",
        "SessionClosedError",
        "SessionSuperseded",
        "SessionUnknown",
    ),
    "history.reader": ("State",),
    "history.status": ("SystemStatus",),
    "node.batches": ("Batch",),
    "node.job": ("BlockingJob", "Job", "JobError", "NoSpeechError"),
    "node.node": ("Node",),
    "projection.fold": ("FailedEvent",),
    "schema.events": ("Event",),
    "store.session_commands": ("Receipt",),
}
"""Module -> the public names that it defines."""
_HOMES = dict(sorted((name, module) for module, names in _PUBLIC.items() for name in names))

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
