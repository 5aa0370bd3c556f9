"""The log lines that peers of a gateway cause, bounded in number and in size.

Owns: how many lines each cause may write in a minute, the summary of those left out, their length,
which ends of a connection write none. Never does: decide what is worth a line.
Read next: logs.py, server.py (which bounds a gateway).

A peer without a token can send a bad request as fast as it likes, and the server library writes a
line for each. So each cause has LINES_MAX lines a minute, and one more that says how many were left
out. A cause is the fixed text of a line, so no peer can make further ones. The lines of the
libraries pass here, and those of the gateway that a peer can repeat.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.utils import ClientDisconnected

from eventsched.logs import get_logger

LINES_MAX = 10
"""Lines of one cause in a minute, beside the summary."""
MINUTE_S = 60.0
CAUSES_MAX = 100
"""Causes that are counted apart; further ones share a count."""
TEXT_MAX = 2_000
"""Characters of a line of a library."""
TRACEBACK_MAX = 8_000
"""Characters of a traceback; of a longer one the end is written, which names the error."""
GONE = (ClientDisconnect, ClientDisconnected, WebSocketDisconnect)
"""What is raised when a peer has gone while its request was served. It is no fault of anybody."""
_LIBRARIES = ("asyncio", "uvicorn.error")
_CAUSE_MAX = 80


class PeerLog(logging.Filter):
    """A log for lines that peers cause, and the filter of the lines of libraries.

    Args:
        clock_s: Seconds since any moment.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._log = get_logger("eventsched.gateway")
        self._clock_s = clock_s
        self._since_s = clock_s()
        self._lines: dict[str, int] = {}
        """Cause -> its lines since then, also those left out."""

    def warning(self, event: str, **values: Any) -> None:
        """Write a line, unless this minute has enough of them."""
        if self._admits(event):
            self._log.warning(event, **values)

    def failure(self, event: str, error: BaseException) -> None:
        """Write an error with its traceback, unless this minute has enough of them."""
        if self._admits(f"{event}: {type(error).__name__}"):
            text = "".join(traceback.format_exception(error))
            self._log.error(event, error=f"{error!r:.500}", exception=_end_of(text))

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line of a library is written; shorten it if it is long."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, GONE):
            return False
        text = record.getMessage()
        name = "" if error is None else f" {type(error).__name__}"
        cause = f"{record.name}: {text.partition(chr(10))[0] if not record.args else record.msg}"
        if not self._admits(f"{cause:.{_CAUSE_MAX}}{name}"):
            return False
        record.msg, record.args = f"{text:.{TEXT_MAX}}", ()
        if error is not None:
            record.exc_text = _end_of("".join(traceback.format_exception(error)))
            record.exc_info = None
        return True

    def summarize(self) -> None:
        """Begin a minute, and write how many lines of the last one were left out."""
        self._since_s = self._clock_s()
        lines, self._lines = self._lines, {}
        for cause, count in lines.items():
            if count > LINES_MAX:
                self._log.warning("similar lines left out", cause=cause, lines=count - LINES_MAX)

    async def run(self) -> None:
        """Summarize each minute, until cancelled."""
        while True:
            await anyio.sleep(MINUTE_S)
            self.summarize()

    @contextmanager
    def bounding_libraries(self) -> Iterator[None]:
        """Bound the lines of the libraries of a gateway during the block."""
        loggers = [logging.getLogger(name) for name in _LIBRARIES]
        for logger in loggers:
            logger.addFilter(self)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(self)
            self.summarize()

    def _admits(self, cause: str) -> bool:
        """Count a line; return whether it is written."""
        if self._clock_s() - self._since_s >= 2 * MINUTE_S:  # no gateway summarizes
            self.summarize()
        if cause not in self._lines and len(self._lines) >= CAUSES_MAX:
            cause = "others"
        count = self._lines[cause] = self._lines.get(cause, 0) + 1
        return count <= LINES_MAX


def _end_of(text: str) -> str:
    return text if len(text) <= TRACEBACK_MAX else f"[…]{text[-TRACEBACK_MAX:]}"


peer_log = PeerLog()
"""The log of all gateways of this process."""
