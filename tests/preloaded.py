"""The modules that forked processes import, for the fork server of forked.py.

Libraries load some of their parts when a program first uses them: each module that
`python -X importtime` shows for a command belongs here if it takes time. So does what a program
computes once from the sources of the functions.
Owns: the list. Must not: start a thread, a server or an event loop; all processes inherit them.
"""

from contextlib import suppress
from importlib import import_module

from eventsched.cli.app import COMMANDS, module_of
from eventsched.store.library import library
from eventsched.store.needed_commands import all_commands

LAZY = (
    "anyio._backends._asyncio",
    "email.parser",
    "eventsched.audit.service",
    "eventsched.audit.verify",
    "eventsched.history.event_text",
    "eventsched.cli.escaping_console",
    "eventsched.cli.status_view",
    "eventsched.cli.stream_sessions",
    "eventsched.history.reader",
    "eventsched.history.status",
    "eventsched.tables",
    "projections",
    "redis.asyncio.cluster",
    "rich.markdown",
    "rich.progress",
    "rich.table",
    "structlog",
    "tests.servers.processes",
    "typer._adapters",
    "typer.rich_utils",
    "uvloop",
)

for name in (*map(module_of, COMMANDS), *LAZY):
    with suppress(ModuleNotFoundError):  # releases of a library differ in their modules
        import_module(name)

library()
all_commands()
