"""The program `eventsched`: its list of commands, its errors and its exit codes.

Owns: the list of commands, each of which is imported only when a user calls it; error messages of
one line on stderr; exit codes: 0 success, 1 failure or refusal, 2 an unreadable command line or a
server that refuses the user or that eventsched cannot use, 130 Ctrl-C.
Never does: the work of a command. Read next: options.py.

To add a command, add a module with its name to this package and a line to COMMANDS. The module has
a function with the command's name and the decorator `@command`, or a `typer.Typer` named `app`.
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
from eventsched.cli.options import command_of, root, without_types_of_flags
from eventsched.cli.plain_values import take_plain_values
from eventsched.cli.standard_streams import OutputFailed
from eventsched.errors import EventschedError, ServerRefused
from eventsched.escaping import escape_controls

COMMANDS = {
    "up": "Run all roles in one process, with a server if none is named.",
    "run": "Run one or several roles in this process.",
    "node": "Run the node that a Python module declares.",
    "stream": "Stream speech and show the results as they arrive.",
    "history": "Show the events of a session, a job, a node, or all events.",
    "state": "Show the current or an earlier state of a session, group, job or node.",
    "list": "List the records of a read model: sessions, groups, jobs, nodes or another.",
    "why": "Explain the dispatch decisions of a job, or replay all decisions.",
    "report": "Write a page about a session, with its picture, events, reasons and proofs.",
    "status": "Show consumer lag, dead letters, waiting jobs, nodes and their load.",
    "rebuild": "Rebuild read models from the log and switch readers to them.",
    "verify": "Check the invariants of the running system.",
    "repair": "Bring a cell that verify finds broken to a clean state.",
    "new": "Make a package with a read model of your own and its test.",
    "query": "Query the archive with SQL.",
    "audit": "Verify an archive, or prove that it contains an event.",
    "erase": "Erase encrypted sessions by destroying their keys.",
    "token": "Make keys that sign tokens, and issue tokens for gateways.",
    "dead-letters": "List dead letters, retry or discard some.",
    "drain": "Drain a node from outside.",
    "consumer-groups": "List the consumer groups of other programs, or drop one.",
    "loadtest": "Replay recorded conversations as load and check the outcomes.",
    "conformance": "Judge a client of the gateway's protocol by scenarios.",
    "demo": "Run a demonstration with real speech.",
}
"""Name -> description in `eventsched --help`. `module_of` returns the module of a command."""


def module_of(command: str) -> str:
    """Return the module of a command: its name with underscores."""
    return f"eventsched.cli.{command.replace('-', '_')}"


REFUSED = 2
"""Exit code if the server refuses the user or a command; a retry does not help."""


class Commands(TyperGroup):
    """The commands of COMMANDS. Only the module of the called command is imported."""

    def __init__(self, **options: Any) -> None:
        commands = {name: TyperCommand(name, help=text) for name, text in COMMANDS.items()}
        super().__init__(**options | {"commands": commands})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the module of the named command, and return the command that it defines."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, command_of(import_module(module_of(str(name))), str(name)), rest


program = typer.Typer(cls=Commands, name="eventsched", add_completion=False)
program.callback()(root)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Without arguments, print the list of commands."""
    return run_program(program, "eventsched", args)


def run_program(program: typer.Typer, name: str, args: Sequence[str] | None = None) -> int:
    """Run one command of a program and return its exit code. An error is one line on stderr."""
    words = list(sys.argv[1:] if args is None else args)
    try:
        return _run(program, name, words or ["--help"])
    finally:
        with suppress(OutputFailed):  # output after an error; Python would print a traceback
            sys.stdout.flush()


def _run(program: typer.Typer, name: str, args: Sequence[str]) -> int:
    try:
        command = without_types_of_flags(take_plain_values(typer.main.get_command(program)))
        code = command.main(args, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except TyperException as error:
        code = _usage_code(error)
        hint = f" (see {name} --help)" if code == 2 else ""
        message = error.format_message() or "a command is needed"
        return _fail(name, message + hint, code)
    except typer.Abort:
        return interrupts.INTERRUPT_CODE
    except (EventschedError, OSError, BaseExceptionGroup) as error:
        cause = _expected_error(error)
        if cause is None:
            raise
        if isinstance(cause, OutputFailed) and cause.is_closed:
            return 1
        if isinstance(cause, OSError):
            return _fail(name, _system_message(cause), 1)
        return _fail(name, str(cause), REFUSED if isinstance(cause, ServerRefused) else 1)


def _usage_code(error: TyperException) -> int:
    """Return the exit code: 1 for a bad value, 2 for any other error of the command line."""
    is_value = isinstance(error, typer.BadParameter) and bool(error.message)
    return 1 if is_value else error.exit_code


def _expected_error(error: BaseException) -> BaseException | None:
    """Return the error to report; None if a group of errors has an unexpected one.

    Expected errors are EventschedError and OSError. Of a group, this is the first error, or an
    OutputFailed error, since it may have caused the others.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    _, others = error.split((EventschedError, OSError))
    if others is not None:
        return None
    output_errors, _ = error.split(OutputFailed)
    first: BaseException = output_errors or error
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def _system_message(error: OSError) -> str:
    """Return the message of an operating system's error, with the file's name if it has one."""
    message = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {message}" if error.filename else message


def _fail(program_name: str, message: str, code: int) -> int:
    """Print the message as one line on stderr and return the exit code."""
    line = without_secrets(" ".join(escape_controls(message).split()))
    sys.stderr.write(f"{program_name}: {line}\n")
    return code
