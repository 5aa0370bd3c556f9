"""Running the tests on a mutant: in a copy of the tree, stopped at the first failure, bounded.

Owns: the copies, one change at a time in each, and what a run's end means.
Never does: touch the checkout. Read next: run.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutant import ROOT, Mutant

COPIED = ("eventsched", "projections", "tests", "docs", "pyproject.toml")
"""What a run needs; `pythonpath` and the folder it runs in make it run the copy."""
WHERE = "import eventsched, projections; print(eventsched.__file__, projections.__file__)"
FAILED, OUT_OF_TIME = 1, -1
"""pytest's exit code for failed tests; ours for a run that took too long."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of tests: pytest's exit code, how long it took, the test that failed."""

    code: int
    seconds: float
    failed: str
    output: str


class Bench:
    """One copy of the tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stamp = time.time()
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=ignored)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, folder / name)
        self._check_that_the_copy_runs()

    def _check_that_the_copy_runs(self) -> None:
        output = subprocess.run(
            [sys.executable, "-c", WHERE],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        assert all(path.startswith(str(self.folder)) for path in output.stdout.split()), (
            output.stdout
        )

    def try_out(self, mutant: Mutant, tests: Sequence[str], limit_s: float) -> Run:
        """How the tests fare with the mutant in place; afterwards the copy is as it was."""
        path = self.folder / mutant.file
        source = path.read_bytes()
        self._write(path, mutant.applied(source))
        try:
            return self.run(tests, limit_s)
        finally:
            self._write(path, source)

    def _write(self, path: Path, content: bytes) -> None:
        """With a time of its own, so that no compiled file is taken for that of this content."""
        path.write_bytes(content)
        self._stamp += 2
        os.utime(path, (self._stamp, self._stamp))

    def run(self, tests: Sequence[str], limit_s: float) -> Run:
        """pytest on these files until the first failure, or until the time is over."""
        arguments = ["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", *tests]
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit_s)
            code = process.returncode
        except subprocess.TimeoutExpired:
            # the servers that its tests started end by themselves: their users are gone
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            code = OUT_OF_TIME
        return Run(code, time.monotonic() - began, _failed(output), output)

    def _environment(self) -> dict[str, str]:
        return os.environ | {"EVENTSCHED_TEST_SERVERS": "embedded", "PYTHONPATH": str(self.folder)}


def _failed(output: str) -> str:
    for line in output.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return line.split()[1]
    return ""
