"""Commands in forks of one interpreter, which was started with variables or closed descriptors.

    python -m tests.cli.interpreter FOLDER COMMANDS

Owns: the start of the interpreter; the output and the exit code of each command, as files in the
folder. COMMANDS are the words of each, as JSON.
Must not: open a descriptor that was closed.
Read next: programs.py (commands with the streams and variables of the tests).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.cli.programs import LIMIT_S, ROOT, command, environment
from tests.forked import IS_MEASURED

Done = subprocess.CompletedProcess[bytes]


def run_all(
    data: Path,
    commands: Sequence[Sequence[str]],
    *,
    env: dict[str, str] | None = None,
    redirected: str = "",
) -> list[Done]:
    """Run `eventsched WORDS…` for each of the commands, one after the other.

    Args:
        env: Variables that Python reads at its start.
        redirected: Redirections of the interpreter in the language of `sh`, such as `<&-`.
    """
    environ = environment(data) | (env or {})
    if IS_MEASURED:  # coverage measures no forks
        return [_run(command(*words), environ, redirected, LIMIT_S) for words in commands]
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "tests.cli.interpreter", folder, json.dumps(commands)]
        done = _run(words, environ, redirected, LIMIT_S * len(commands))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        return [
            Done(words, int(_content(folder, at, "code")), *(
                _content(folder, at, name) for name in ("stdout", "stderr")
            ))
            for at, words in enumerate(commands)
        ]  # fmt: skip


def _run(words: Sequence[str], environ: dict[str, str], redirected: str, limit_s: float) -> Done:
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirected}', "sh", *words],
        cwd=ROOT, env=environ, capture_output=True, timeout=limit_s, check=False,
    )  # fmt: skip


def _content(folder: str, at: int, name: str) -> bytes:
    """What a command left; nothing for a descriptor that was closed."""
    path = Path(folder) / f"{at}.{name}"
    return path.read_bytes() if path.exists() else b""


def _main(folder: str, commands: Sequence[Sequence[str]]) -> None:
    import tests.preloaded  # noqa: F401 - the forks inherit the modules
    from eventsched.cli import main as run_command

    for at, words in enumerate(commands):
        pid = os.fork()
        if pid == 0:
            _redirect(1, f"{folder}/{at}.stdout")
            _redirect(2, f"{folder}/{at}.stderr")
            sys.argv = ["eventsched", *words]
            sys.exit(run_command())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        Path(f"{folder}/{at}.code").write_text(str(code))


def _redirect(number: int, path: str) -> None:
    """Write to the file from now on, unless the descriptor is closed."""
    try:
        os.fstat(number)
    except OSError:
        return
    opened = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(opened, number)
    os.close(opened)


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(sys.argv[2]))
