"""Event-sourced scheduler on Redis Streams for real-time speech.

Owns: the public names. Never does: import projections (roles load them by entry point).
Read next: client/client.py (connect), client/session.py (producing), node/node.py (serving),
errors.py.

A name is imported when it is first asked for: the command line starts by importing this package.
Type checkers and editors read `__init__.pyi`, which `make api` writes from the list here.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
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
    "encryption.keystore": ("Key", "KeyFolder", "KeyStore"),
    "errors": (
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
    "node.job": ("BlockingJob", "Job", "JobError", "NoSpeechError"),
    "node.node": ("Node",),
    "store.session_commands": ("Receipt",),
}
"""Every public name, by the module that defines it: the only list of them."""
_HOMES = dict(sorted((name, module) for module, names in _PUBLIC.items() for name in names))

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
