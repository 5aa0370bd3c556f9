"""A process of the tests that is forked from a process which has imported the program.

Each command has a process of its own, as with `python -m eventsched.cli`, but not the half second
of CPU time that the imports take.

Owns: the fork server, the standard streams of a process, its exit code; the choice of a new
interpreter instead, if coverage is measured.
Must not: run a command with variables that Python reads at its start, such as PYTHONIOENCODING.
Read next: preloaded.py, and cli/programs.py (`run`, `program`).
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any

from eventsched.cli import main as run_command
from eventsched.subprocesses import die_with_parent

IS_MEASURED = "COVERAGE_RUN" in os.environ
"""Coverage measures new interpreters, and no forked processes."""
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__, "tests.preloaded"])


class _Inherited:
    """A file descriptor that the new process inherits, with a number of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        popen: Any = get_spawning_popen()
        return _number_of, (popen.DupFd(popen.duplicate_for_child(self._descriptor)),)


def _number_of(inherited: Any) -> int:
    return int(inherited.detach())


class Forked:
    """A running process, with the methods of `subprocess.Popen` that tests use.

    Args:
        main: What the process runs; its exit code is what `main` passes to `sys.exit`, or 0.
        streams: The descriptors of its standard input, output and error.
    """

    def __init__(
        self,
        main: Callable[[], object],
        cwd: Path,
        environ: Mapping[str, str],
        streams: tuple[int, int, int],
        *,
        start_new_session: bool = False,
    ) -> None:
        self._main = main
        inherited = [_Inherited(descriptor) for descriptor in streams]
        args = (main, str(cwd), dict(environ), inherited, start_new_session)
        self._process = _CONTEXT.Process(target=_run, args=args)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; None while the process runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code; TimeoutExpired if it takes longer."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(repr(self._main), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended; the fork server collects an ended one."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def command(words: Sequence[str]) -> Callable[[], object]:
    """`eventsched WORDS…` as the `main` of a process."""
    return partial(_command, list(words))


def module(name: str, *arguments: str) -> Callable[[], object]:
    """`python -m NAME ARGUMENTS…` as the `main` of a process."""
    return partial(_module, name, list(arguments))


def start_module(
    words: Sequence[str], streams: tuple[int, int, int], environ: Mapping[str, str] = os.environ
) -> Forked | subprocess.Popen[bytes]:
    """Start `python -m WORDS…` in a process group of its own; it ends with this process."""
    if not IS_MEASURED:
        main = module(*words)
        return Forked(main, Path.cwd(), environ, streams, start_new_session=True)
    stdin, stdout, stderr = streams
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        env=environ,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one call into libc
    )


def run_forked(
    words: Sequence[str],
    cwd: Path,
    environ: Mapping[str, str],
    stdin: bytes,
    limit_s: float,
    *,
    stdout: int | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run `eventsched WORDS…` to its end; TimeoutExpired if it takes longer than `limit_s`.

    Args:
        stdout: A descriptor for the output, instead of the `stdout` of the result.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        read, write = os.pipe()
        written_to = output.fileno() if stdout is None else stdout
        process = Forked(command(words), cwd, environ, (read, written_to, errors.fileno()))
        os.close(read)
        writer = threading.Thread(target=_write, args=(write, stdin))
        writer.start()
        try:
            code = process.wait(limit_s)
        finally:
            process.kill()
            process.wait()
            writer.join()
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(list(words), code, output.read(), errors.read())


def _write(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb") as pipe, suppress(BrokenPipeError):
        pipe.write(content)


def _run(
    main: Callable[[], object],
    cwd: str,
    environ: dict[str, str],
    streams: list[int],
    new_session: bool,
) -> None:
    """Become the process that runs `main`, and end with the fork server if that ends first."""
    die_with_parent()
    if new_session:
        os.setsid()
    for number, inherited in enumerate(streams):
        os.dup2(inherited, number)
        os.close(inherited)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the whole process
    main()


def _module(name: str, arguments: list[str]) -> None:
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _command(words: list[str]) -> None:
    sys.argv = ["eventsched", *words]
    sys.exit(run_command())
