"""Where a process reports what it measures of itself.

Owns: the protocol of an observer, and the observer of this process.
Must not: import a library for metrics or traces: without an observer a report costs one comparison.
Read next: telemetry/process_metrics.py (an observer), store/transport.py, node/registration.py.
"""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Gets the measurements of this process. Its methods are called in the event loop."""

    def script_called(self, script: str, seconds: float) -> None:
        """A script has replied; the time includes the network, retries and waiting for a slot."""

    def handler_starts(self, seconds: float) -> None:
        """The handler of a first attempt starts, so long after its utterance was finalized."""

    def handler_ended(self, outcome: str, seconds: float) -> None:
        """A handler has ended with `ok`, `no_speech`, `failed` or `cancelled`."""


class Instruments:
    """The observer of a process; None without one."""

    def __init__(self) -> None:
        self.observer: Observer | None = None


instruments = Instruments()
"""Those of this process."""
