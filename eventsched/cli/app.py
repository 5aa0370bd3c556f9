"""The program: which commands there are, and how it ends.

Owns: the list of commands, each imported only when it is asked for; errors as one clear line on
stderr; exit codes (0 done, 1 failed or refused, 2 a command line that cannot be read or a server
that does not have a command that is needed, 130 Ctrl-C).
Never does: anything a command does. Read next: options.py.

A new command is a module here with a function of the command's name under `@command`, or with a
`typer.Typer` called `app`, and one line in COMMANDS.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from eventsched import interrupts
from eventsched.addresses import without_secrets
from eventsched.cli.options import command_of, root
from eventsched.cli.standard_streams import OutputFailed
from eventsched.errors import CommandRefused, EventschedError
from eventsched.escaping import escape_controls

COMMANDS = {
    "up": "Run everything in one process, and a server if none is named.",
    "run": "Run one role or several in this process.",
    "node": "Serve with the node of a module.",
    "stream": "Stream speech and show the results as they come.",
    "history": "Show what happened: to a session, a job, a node, or at all.",
    "state": "Show what is, or was, known of one session, group, job or node.",
    "why": "Explain why a job went where it went; compute decisions again.",
    "status": "Show what is behind, what waits, nodes and their load.",
    "rebuild": "Replay the log into fresh views and switch to them.",
    "verify": "Check that what is stored and shown follows from the log.",
    "query": "Ask the archive by SQL.",
    "audit": "Check whether anybody has touched the archive; prove an event.",
    "erase": "Destroy the key of an encrypted session, or of all old ones.",
    "dead-letters": "List what could not be processed; put it back.",
    "loadtest": "Replay real conversations as load and judge what came of it.",
    "demo": "Watch the main job on real speech.",
}
"""Name -> what `--help` says of it. `module_of` names its module."""


def module_of(command: str) -> str:
    """The module of a command: its name, with underscores."""
    return f"eventsched.cli.{command.replace('-', '_')}"


REFUSED = 2
"""The exit code where the server refuses a command: trying again does not help."""


class Commands(TyperGroup):
    """The commands of COMMANDS. The one that is asked for is imported, and no other."""

    def __init__(self, **given: Any) -> None:
        listed = {name: TyperCommand(name, help=told) for name, told in COMMANDS.items()}
        super().__init__(**given | {"commands": listed})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, command_of(import_module(module_of(str(name))), str(name)), rest


program = typer.Typer(cls=Commands, name="eventsched", add_completion=False)
program.callback()(root)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Without arguments it prints what there is."""
    return run_program(program, "eventsched", args)


def run_program(program: typer.Typer, name: str, args: Sequence[str] | None = None) -> int:
    """Run one command of a program; the exit code. Errors are one line on standard error."""
    given = list(sys.argv[1:] if args is None else args)
    try:
        return _run(program, name, given or ["--help"])
    finally:
        with suppress(OutputFailed):  # what is left after an error; Python would print a traceback
            sys.stdout.flush()


def _run(program: typer.Typer, name: str, args: Sequence[str]) -> int:
    try:
        code = typer.main.get_command(program).main(args, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except TyperException as error:
        code = _usage_code(error)
        hint = f" (see {name} --help)" if code == 2 else ""
        return _fail(name, error.format_message() + hint, code)
    except typer.Abort:
        return interrupts.INTERRUPT_CODE
    except (EventschedError, OSError, BaseExceptionGroup) as error:
        told = _expected(error)
        if told is None:
            raise
        if isinstance(told, OutputFailed) and told.is_closed:
            return 1
        if isinstance(told, OSError):
            return _fail(name, _of_system(told), 1)
        return _fail(name, str(told), REFUSED if isinstance(told, CommandRefused) else 1)


def _usage_code(error: TyperException) -> int:
    """2 when the line cannot be read; 1 when it can, and a value in it will not do."""
    is_value = isinstance(error, typer.BadParameter) and bool(error.message)
    return 1 if is_value else error.exit_code


def _expected(error: BaseException) -> BaseException | None:
    """The error to report, when a group of tasks failed by errors of ours or the system's alone.

    The first one; but output that failed counts before what came of it.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    _, others = error.split((EventschedError, OSError))
    if others is not None:
        return None
    failed, _ = error.split(OutputFailed)
    found: BaseException = failed or error
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _of_system(error: OSError) -> str:
    """No file descriptor, no space on a disk, a file that may not be read: what, and where."""
    words = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {words}" if error.filename else words


def _fail(program_name: str, message: str, code: int) -> int:
    line = without_secrets(" ".join(escape_controls(message).split()))
    sys.stderr.write(f"{program_name}: {line}\n")
    return code
