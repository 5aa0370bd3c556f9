"""Event-sourced scheduler on Redis Streams for real-time speech.

Owns: the public names. Never does: import projections (roles load them by entry point).
Read next: client/client.py (connect), client/session.py (producing), node/node.py (serving),
errors.py.

A name is imported when it is first asked for: the command line starts by importing this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventsched.audio.wav import read_wav
    from eventsched.client.client import Client, connect
    from eventsched.client.results import Delivered, Result
    from eventsched.client.session import Session
    from eventsched.encryption.keystore import Key, KeyFolder, KeyStore
    from eventsched.errors import (
        Backpressure,
        ChunkTooLarge,
        EventschedError,
        InvalidMessage,
        JobUnknown,
        KeyMissing,
        KeyStoreError,
        LeaseLost,
        NodeSuperseded,
        NodeUnknown,
        NotFound,
        Refused,
        SeqGap,
        ServerUnavailable,
        SessionClosedError,
        SessionSuperseded,
        SessionUnknown,
    )
    from eventsched.node.job import BlockingJob, Job, JobError, NoSpeech
    from eventsched.node.node import Node
    from eventsched.store.cell import Receipt

__all__ = [
    "Backpressure",
    "BlockingJob",
    "ChunkTooLarge",
    "Client",
    "Delivered",
    "EventschedError",
    "InvalidMessage",
    "Job",
    "JobError",
    "JobUnknown",
    "Key",
    "KeyFolder",
    "KeyMissing",
    "KeyStore",
    "KeyStoreError",
    "LeaseLost",
    "NoSpeech",
    "Node",
    "NodeSuperseded",
    "NodeUnknown",
    "NotFound",
    "Receipt",
    "Refused",
    "Result",
    "SeqGap",
    "ServerUnavailable",
    "Session",
    "SessionClosedError",
    "SessionSuperseded",
    "SessionUnknown",
    "connect",
    "read_wav",
]
_HOMES = {
    "Backpressure": "errors",
    "BlockingJob": "node.job",
    "ChunkTooLarge": "errors",
    "Client": "client.client",
    "Delivered": "client.results",
    "EventschedError": "errors",
    "InvalidMessage": "errors",
    "Job": "node.job",
    "JobError": "node.job",
    "JobUnknown": "errors",
    "Key": "encryption.keystore",
    "KeyFolder": "encryption.keystore",
    "KeyMissing": "errors",
    "KeyStore": "encryption.keystore",
    "KeyStoreError": "errors",
    "LeaseLost": "errors",
    "NoSpeech": "node.job",
    "Node": "node.node",
    "NodeSuperseded": "errors",
    "NodeUnknown": "errors",
    "NotFound": "errors",
    "Receipt": "store.cell",
    "Refused": "errors",
    "Result": "client.results",
    "SeqGap": "errors",
    "ServerUnavailable": "errors",
    "Session": "client.session",
    "SessionClosedError": "errors",
    "SessionSuperseded": "errors",
    "SessionUnknown": "errors",
    "connect": "client.client",
    "read_wav": "audio.wav",
}
"""Name -> the module that has it."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
