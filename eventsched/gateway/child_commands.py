"""Runs commands of eventsched as processes of their own: work that would occupy the event loop.

Owns: how such a process is started and ended, the bound of what it prints.
Never does: the work. Read next: rebuilds.py, archive_audit.py, archive_query.py (the callers).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.abc import Process

from eventsched.errors import EventschedError

ERROR_BYTES_MAX = 65_536
PROGRAM = (sys.executable, "-P", "-m", "eventsched.cli", "--quiet")
"""-P: a module is not imported from the current folder."""


class CommandFailed(EventschedError):
    """Raised when a command ends with an error; the text is the last line that it printed."""


class Command:
    """A running command."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._errors = b""

    async def read_errors(self) -> None:
        """Read the messages of the process until it ends."""
        stream: Any = self.process.stderr
        async for part in stream:
            self._errors = (self._errors + part)[-ERROR_BYTES_MAX:]

    async def write(self, text: bytes) -> None:
        """Write all that the process reads; nothing is left to do if it reads no more."""
        stream: Any = self.process.stdin
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await stream.send(text)
            await stream.aclose()

    async def lines(self, bytes_max: int) -> AsyncIterator[bytes]:
        """Yield the lines that the command prints.

        Raises:
            CommandFailed: It prints more bytes than this.
        """
        stream: Any = self.process.stdout
        rest, size = b"", 0
        async for part in stream:
            size += len(part)
            if size > bytes_max:
                raise CommandFailed(f"the result has more than {bytes_max:,} bytes")
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield line
        if rest:
            yield rest

    async def output(self, bytes_max: int) -> bytes:
        """Return all that the command prints.

        Raises:
            CommandFailed: It prints more bytes than this.
        """
        return b"\n".join([line async for line in self.lines(bytes_max)])

    async def end(self, *codes: int) -> None:
        """Wait for the end. Raises CommandFailed if the exit code is none of these."""
        code = await self.process.wait()
        if code not in codes:
            lines = self._errors.decode(errors="replace").strip().splitlines()
            last = lines[-1] if lines else f"exit code {code}"
            raise CommandFailed(last.removeprefix("eventsched: "))


@asynccontextmanager
async def running_command(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    text: bytes | None = None,
) -> AsyncIterator[Command]:
    """Run a command of eventsched while the block runs; an error in the block ends the process.

    Args:
        arguments: The words of the command. All users of the machine can read them.
        environment: Its environment; none for that of this process.
        text: What it reads as its input, which no other user can read.

    Raises:
        CommandFailed: As `Command.lines` and `Command.end`.
    """
    process = await anyio.open_process(
        [*PROGRAM, *arguments],
        stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
        env=dict(environment or os.environ),
        start_new_session=True,
    )
    failure: CommandFailed | None = None
    async with process, anyio.create_task_group() as tasks:
        command = Command(process)
        tasks.start_soon(command.read_errors)
        if text is not None:
            tasks.start_soon(command.write, text)
        try:
            yield command
        except CommandFailed as error:
            failure = error
        finally:
            if process.returncode is None:
                process.terminate()
    if failure is not None:
        raise failure
