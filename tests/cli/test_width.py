"""The width of tables: that of the terminal, also if standard output is a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
import termios

import pytest

WIDTH = "from eventsched.cli.output import console; print(console().width)"
NOTHING = subprocess.DEVNULL


def width(*, stdin: int, stderr: int, columns: str = "") -> int:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-c", WIDTH],
        stdin=stdin,
        stderr=stderr,
        stdout=subprocess.PIPE,
        env=environment | ({"COLUMNS": columns} if columns else {}),
        check=True,
    )
    return int(done.stdout)


@pytest.mark.parametrize("has_stderr", [True, False], ids=["stderr", "stdin"])
def test_a_pipe_has_the_width_of_the_terminal_before_it(has_stderr: bool) -> None:
    """`eventsched status | less` has one as standard error, `… 2>FILE | less` as standard input."""
    terminal, program = os.openpty()
    try:
        termios.tcsetwinsize(program, (40, 77))
        stdin, stderr = (NOTHING, program) if has_stderr else (program, NOTHING)
        assert width(stdin=stdin, stderr=stderr) == 77
        assert width(stdin=stdin, stderr=stderr, columns="91") == 91
    finally:
        os.close(terminal)
        os.close(program)


def test_without_any_terminal_there_are_120_columns() -> None:
    assert width(stdin=NOTHING, stderr=NOTHING) == 120
