"""Event-sourced scheduler on Redis Streams for real-time speech.

Owns: the public names. Never does: import projections (roles load them by entry point).
Read next: client.py (connect), session.py (producing), node.py (serving), errors.py.
"""

from eventsched.client import Client, connect
from eventsched.errors import (
    Backpressure,
    ChunkTooLarge,
    EventschedError,
    InvalidMessage,
    JobUnknown,
    KeyMissing,
    KeyStoreUnusable,
    LeaseLost,
    NodeSuperseded,
    NodeUnknown,
    NotFound,
    Refused,
    SeqGap,
    ServerUnavailable,
    SessionIsClosed,
    SessionSuperseded,
    SessionUnknown,
)
from eventsched.job import BlockingJob, Job, JobError, NoText
from eventsched.logs import warn_on_stderr
from eventsched.node import Node
from eventsched.privacy.keystore import Key, KeyFolder, KeyStore
from eventsched.results import Delivered, Result
from eventsched.session import Session
from eventsched.store import Receipt
from eventsched.wav import read_wav

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
    "KeyStoreUnusable",
    "LeaseLost",
    "NoText",
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
    "SessionIsClosed",
    "SessionSuperseded",
    "SessionUnknown",
    "connect",
    "read_wav",
]

warn_on_stderr()
