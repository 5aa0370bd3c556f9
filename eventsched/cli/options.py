"""The options of every command, and the decorator that makes a command of a function.

Owns: `--url`, `--data`, `--json`, `-v` and `-q`, before the command's name or after it; `@command`,
which adds these options to an async function and runs it in an event loop.
Never does: output. Read next: logs.py, store/connection.py.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints, overload

import typer

from eventsched.cli.plain_values import take_plain_values
from eventsched.errors import InvalidMessage, require_packages
from eventsched.logs import configure_logs
from eventsched.runtime import run_async

if TYPE_CHECKING:
    from eventsched.history.source import HistorySource
    from eventsched.store.connection import Connection
    from eventsched.store.operator_commands import Act

Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="Server: redis://, rediss:// or unix:// [EVENTSCHED_URL]."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Data folder of the embedded server [EVENTSCHED_DATA, else ./.eventsched].",
    ),
]
Keys = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="DIR",
        help="Key store of encrypted sessions [EVENTSCHED_KEYS].",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Archive = Annotated[
    Path | None,
    typer.Option(
        "--archive",
        metavar="DIR",
        envvar="EVENTSCHED_ARCHIVE",
        show_envvar=False,
        help="Read this archive too, verified; alone if no server is named [EVENTSCHED_ARCHIVE].",
    ),
]
"""For commands that read history; most commands do not take it."""
Why = Annotated[
    str, typer.Option("--why", metavar="TEXT", help="The reason, 1 to 500 bytes; it is recorded.")
]
By = Annotated[
    str, typer.Option("--by", metavar="NAME", help="Who does it, for the record [USER@HOST].")
]
"""For commands of operators that append an event; see `operator_name`."""
Request = Annotated[
    str,
    typer.Option(
        "--request",
        metavar="ID",
        help="Id of the act: with the id of an act that was done, nothing is done [random].",
    ),
]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log more; -vv most.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Log errors only.")]
_COMMON: Mapping[str, Any] = {
    "url": Url,
    "data": Data,
    "json": Json,
    "verbose": Verbose,
    "quiet": Quiet,
}
MetricsListen = Annotated[
    str,
    typer.Option(
        "--metrics-listen",
        metavar="HOST:PORT",
        envvar="EVENTSCHED_METRICS_LISTEN",
        show_envvar=False,
        help="Serve the metrics of this process to Prometheus [EVENTSCHED_METRICS_LISTEN].",
    ),
]
"""For services."""
_DEFAULTS: Mapping[str, Any] = {
    "url": None,
    "data": None,
    "json": False,
    "verbose": 0,
    "quiet": False,
}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of every command: the server, and the form of the output."""

    url: str | None = field(default=None, repr=False)
    data: Path | None = None
    json: bool = False
    verbose: int = 0
    quiet: bool = False

    def merged_with(self, outer: Options) -> Options:
        """Return these options; missing ones come from `outer`.

        Args:
            outer: the options before the command's name.
        """
        return replace(
            self,
            url=self.url or outer.url,
            data=self.data or outer.data,
            json=self.json or outer.json,
            verbose=self.verbose + outer.verbose,
            quiet=self.quiet or outer.quiet,
        )

    def connect(
        self,
        *,
        create: bool = False,
        cells: int | None = None,
        settings: Mapping[str, int] | None = None,
        wait: bool = False,
    ) -> AbstractAsyncContextManager[Connection]:
        """Connect to the named server.

        Args:
            create: create missing cells; without it, the server must have cells already.
            cells: number of cells of a new server.
            settings: settings that replace those of the cells.
            wait: wait for a server that is away.
        """
        from eventsched.store.connection import open_connection

        return open_connection(
            self.url, data=self.data, create=create, cells=cells, settings=settings, wait=wait
        )

    @asynccontextmanager
    async def history_source(self, archive: Path | None) -> AsyncIterator[HistorySource]:
        """Yield the source of history: the server, the archive, or both.

        With an archive, the server is left out unless one is named or was used in this folder.
        """
        from eventsched.archive.layout import ArchiveFolder
        from eventsched.history.source import HistorySource

        folder = ArchiveFolder.open(archive) if archive is not None else None
        if folder is not None and not self._names_server():
            yield HistorySource(None, folder)
            return
        async with self.connect() as connection:
            yield HistorySource(connection, folder)

    def _names_server(self) -> bool:
        """Whether a server is named, or the default data folder had one."""
        from eventsched.server.choice import DATA_VARIABLE, choose_server
        from eventsched.server.folder import PROGRAM

        choice = choose_server(self.url, self.data)
        is_named = choice.url or self.data or os.environ.get(DATA_VARIABLE)
        return bool(is_named) or (choice.folder / PROGRAM).exists()


def _show_version(value: bool) -> None:
    if value:
        import platform
        from importlib.metadata import version

        from eventsched.cli.output import print_line

        print_line(f"eventsched {version('eventsched')}, Python {platform.python_version()}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
    ),
]


def root(
    context: typer.Context,
    url: Url = None,
    data: Data = None,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    _version: Version = False,
) -> None:
    """Event-sourced scheduler on Redis Streams for real-time speech."""
    context.obj = Options(url, data, json, verbose, quiet)


AsyncCommand = Callable[..., Coroutine[Any, Any, int | None]]
"""`async def name(options: Options, …) -> int | None`; it returns the exit code."""
SyncCommand = Callable[..., int]
"""The function that typer calls."""


@overload
def command(function: AsyncCommand) -> SyncCommand: ...
@overload
def command(*, is_service: bool) -> Callable[[AsyncCommand], SyncCommand]: ...
def command(
    function: AsyncCommand | None = None, *, is_service: bool = False
) -> SyncCommand | Callable[[AsyncCommand], SyncCommand]:
    """Make a command of an async function.

    The function's first parameter is `options`. A parameter `context` gets typer's Context, and
    typer reads the other parameters from the command line.

    Args:
        function: the async function; it returns the exit code, or None for 0.
        is_service: True for a command that logs at level INFO instead of WARNING, and that has
            the option `--metrics-listen`.
    """
    if function is None:
        return partial(_wrap, is_service=is_service)
    return _wrap(function, is_service=False)


def _wrap(function: AsyncCommand, *, is_service: bool) -> SyncCommand:
    """Return a function that parses the common options and runs `function` in an event loop."""
    hints = get_type_hints(function, include_extras=True)
    parameters = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("options", "context")
    ]
    wants_context = "context" in hints
    if is_service:
        parameters.append(_METRICS_LISTEN)

    @wraps(function)
    def run(context: typer.Context, **arguments: Any) -> int:
        inner = Options(**{name: arguments.pop(name) for name in _COMMON})
        options = inner.merged_with(context.find_root().obj or Options())
        configure_logs(options.verbose, quiet=options.quiet, is_service=is_service)
        if wants_context:
            arguments["context"] = context
        with _metrics(arguments.pop(_METRICS_LISTEN.name, "")):
            return run_async(partial(function, options, **arguments)) or 0

    all_parameters = _with_common(parameters)
    run.__signature__ = inspect.Signature(all_parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in all_parameters}
    return run


_METRICS_LISTEN = inspect.Parameter(
    "metrics_listen", inspect.Parameter.KEYWORD_ONLY, default="", annotation=MetricsListen
)


def _metrics(address: str) -> AbstractContextManager[Any]:
    """Return a block in which the metrics of this process are served; nothing without an address.

    Raises InvalidMessage; MissingDependencyError without the extra `telemetry`.
    """
    if not address:
        return nullcontext()
    require_packages("prometheus_client", extra="telemetry")
    from eventsched.telemetry.exposition import metrics_listening

    return metrics_listening(address)


def _with_common(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """Return typer's Context, the command's own parameters, then the common options."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    context = inspect.Parameter("context", keyword, annotation=typer.Context)
    common = [
        inspect.Parameter(name, keyword, default=_DEFAULTS[name], annotation=annotation)
        for name, annotation in _COMMON.items()
    ]
    return [context, *(each.replace(kind=keyword) for each in parameters), *common]


def command_of(module: ModuleType, name: str) -> Any:
    """Return the command of a module: its `app`, or its function named `name`."""
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        app.command(name)(getattr(module, name))
    typer_command = typer.main.get_command(app)
    typer_command.name = name
    return without_types_of_flags(take_plain_values(typer_command))


def without_types_of_flags(command: Any) -> Any:
    """Return the command; its help shows no type for an option that has no value."""
    for parameter in command.get_params(typer.Context(command)):
        if getattr(parameter, "is_flag", False) or getattr(parameter, "count", False):
            parameter.metavar = ""
    for each in getattr(command, "commands", {}).values():
        without_types_of_flags(each)
    return command


def operator_name() -> str:
    """The user and the host of this process; a user without a name by its number."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # as in a container that runs under any number
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def act_of(why: str, by: str, request: str = "") -> Act:
    """Return what an operator does, for the event. Raises InvalidMessage without a reason."""
    from eventsched.store.operator_commands import Act

    if not why.strip():
        raise InvalidMessage.of("--why", "no reason is given", "say why; the log records it")
    return Act.of(by or operator_name(), why, request)
