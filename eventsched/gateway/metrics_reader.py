"""The text that `/metrics` of a gateway replies.

Owns: that the server is read at most once a second for it, whatever the number of scrapers.
Never does: count. Read next: telemetry/cell_metrics.py, telemetry/process_metrics.py.
"""

from __future__ import annotations

import time

import anyio

from eventsched.errors import require_packages
from eventsched.store.connection import Connection

FRESH_S = 1.0
"""A reading is served again for so long: several scrapers cost the server as much as one."""


class MetricsReader:
    """Reads the metrics of all cells, and serves a reading for FRESH_S."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = anyio.Lock()
        self._text = b""
        self._at_s = -FRESH_S

    async def text(self) -> bytes:
        """Return the metrics of the cells, at most FRESH_S old, and those of this process.

        Raises ServerUnavailable; MissingDependencyError without the extra `telemetry`.
        """
        require_packages("prometheus_client", extra="telemetry")
        from eventsched.telemetry.cell_metrics import cell_metrics
        from eventsched.telemetry.process_metrics import measure_process

        async with self._lock:
            if time.monotonic() - self._at_s >= FRESH_S:
                self._text = await cell_metrics(self._connection)
                self._at_s = time.monotonic()
            return self._text + measure_process().text()
