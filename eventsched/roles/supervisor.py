"""Supervises a loop of a role: an error ends this loop alone, and the loop is started again.

Owns: the restart with backoff after an unforeseen error, the log lines about it, and the state that
the role's presence reports.
Must not: do the work of a role; retry calls while the server is unavailable, which the loops do
themselves.
Read next: runner.py (the loops of each role), presence.py.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from traceback import extract_tb
from typing import Any, Literal, TypeAlias

import anyio

import eventsched
from eventsched.errors import EventschedError, UnreadableRecord
from eventsched.escaping import escape_controls
from eventsched.logs import get_logger
from eventsched.store.transport import Transport

Run: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
State: TypeAlias = Literal["running", "failing"]
PAUSE_S_MIN, PAUSE_S_MAX = 1.0, 60.0
"""Pause before the first restart, which doubles up to the maximum."""
STABLE_S = 15.0
"""A loop that has run for so long without an error is running again."""
LOG_S = 60.0
"""Pauses between two log lines about the same error."""
ERROR_CHARS_MAX = 200
_PACKAGE = Path(eventsched.__file__).parent

log = get_logger("eventsched.roles.supervisor")


class LoopEnded(EventschedError):
    """Raised when a loop that runs until it is cancelled has returned."""


class Supervisor:
    """Runs one loop of a role until cancelled.

    Args:
        name: The name of the loop: the role, or a part of it.
        cell: The cell of the loop.
        run: Starts the loop anew at each call; it runs until it is cancelled.
        transport: Waits between the restarts.
    """

    def __init__(self, name: str, cell: str, run: Run, transport: Transport) -> None:
        self.name = name
        self.state: State = "running"
        self.error = ""
        """The last error as one line; empty while the loop is running."""
        self._cell = cell
        self._run = run
        self._transport = transport
        self._pause_s = PAUSE_S_MIN
        self._logged = ""
        self._silent_s = 0.0

    async def run(self) -> None:
        """Run the loop until cancelled; restart it after an error."""
        while True:
            error = await self._run_until_error()
            self.state, self.error = "failing", error_line(error)
            self._log(error)
            await self._transport.sleep(self._pause_s)
            self._silent_s += self._pause_s
            self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)

    async def _run_until_error(self) -> Exception:
        """Run the loop once and return the error that ended it. Cancellation passes through."""
        error: Exception = LoopEnded(f"the loop {self.name} has returned")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._recover)
            try:
                await self._run()
            except Exception as raised:  # noqa: BLE001 - logged by the caller
                error = raised
            tasks.cancel_scope.cancel()
        return error

    async def _recover(self) -> None:
        """Report the loop as running once it is stable."""
        if self.state == "failing":
            await self._transport.sleep(STABLE_S)
            log.warning("role recovered", role=self.name, cell=self._cell)
            self.state, self.error = "running", ""
            self._pause_s, self._logged, self._silent_s = PAUSE_S_MIN, "", 0.0

    def _log(self, error: Exception) -> None:
        """Log the error with its traceback, the same error at most once a minute.

        An unreadable record is no defect of the code, so its line has no traceback.
        """
        if self.error == self._logged and self._silent_s < LOG_S:
            return
        self._logged, self._silent_s = self.error, 0.0
        log.error(
            "role failed, starting it again",
            role=self.name,
            cell=self._cell,
            error=self.error,
            retry_s=self._pause_s,
            exc_info=None if isinstance(error, UnreadableRecord) else error,
        )


def error_line(error: BaseException) -> str:
    """Return an error as one short line without the arguments of a call.

    The line has the message of an error of eventsched or of the operating system. Any other message
    may repeat input, such as speech: the line names the place in the code instead.
    """
    if isinstance(error, BaseExceptionGroup):
        return error_line(error.exceptions[0])
    kind = type(error).__name__
    if isinstance(error, EventschedError):
        text = f"{kind}: {error}"
    elif isinstance(error, OSError):
        text = f"{kind}: {error.strerror or ''}".removesuffix(": ")
    else:
        frames = extract_tb(error.__traceback__)
        own = [frame for frame in frames if _is_of_role(Path(frame.filename))] or frames
        text = f"{kind} at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else kind
    return escape_controls(" ".join(text.split()))[:ERROR_CHARS_MAX]


def _is_of_role(path: Path) -> bool:
    """Whether a file of the package, other than this one, has the code."""
    return path.is_relative_to(_PACKAGE) and path != Path(__file__)
