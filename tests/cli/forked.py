"""One command in a process that is forked from a process which has imported the program.

Each command has a process of its own, as with `python -m eventsched.cli`, but not the half second
of CPU time that the imports take.

Owns: the fork server, the standard streams of a command, its exit code.
Must not: run a command with variables that Python reads at its start, such as PYTHONIOENCODING.
Read next: preloaded.py, and programs.py (`run`).
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any

from eventsched.cli import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__, "tests.cli.preloaded"])


class _Inherited:
    """A file descriptor that the new process inherits, with a number of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        popen: Any = get_spawning_popen()
        return _number_of, (popen.DupFd(popen.duplicate_for_child(self._descriptor)),)


def _number_of(inherited: Any) -> int:
    return int(inherited.detach())


def run_forked(
    words: Sequence[str], cwd: Path, environ: Mapping[str, str], stdin: bytes, limit_s: float
) -> subprocess.CompletedProcess[bytes]:
    """Run `eventsched WORDS…` to its end; TimeoutExpired if it takes longer than `limit_s`."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        read, write = os.pipe()
        streams = [_Inherited(number) for number in (read, stdout.fileno(), stderr.fileno())]
        process = _CONTEXT.Process(
            target=_run, args=(list(words), str(cwd), dict(environ), streams)
        )
        process.start()
        os.close(read)
        writer = threading.Thread(target=_write, args=(write, stdin))
        writer.start()
        process.join(limit_s)
        if process.exitcode is None:
            process.kill()
        process.join()
        writer.join()
        code = process.exitcode
        process.close()
        if code is None:
            raise subprocess.TimeoutExpired(list(words), limit_s)
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(list(words), code, stdout.read(), stderr.read())


def _write(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb") as pipe, suppress(BrokenPipeError):
        pipe.write(content)


def _run(words: list[str], cwd: str, environ: dict[str, str], streams: list[int]) -> None:
    """Become the command: in the new process."""
    for number, inherited in enumerate(streams):
        os.dup2(inherited, number)
        os.close(inherited)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["eventsched", *words]
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the whole program
    sys.exit(main())
