"""What every command takes, and how a command is run.

Owns: `--url`, `--data`, `--json`, `-v`, `-q`, before the command or after it; `@command`, which
adds them to a function and runs it in an event loop (uvloop where it is installed).
Never does: output. Read next: logs.py, store/connection.py.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints, overload

import typer

from eventsched.logs import configure_logs
from eventsched.runtime import run_async

if TYPE_CHECKING:
    from eventsched.history.source import HistorySource
    from eventsched.store.connection import Connection

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
        help="Without a URL: folder of the server [EVENTSCHED_DATA, else ./.eventsched].",
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
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
Archive = Annotated[
    Path | None,
    typer.Option(
        "--archive",
        metavar="DIR",
        envvar="EVENTSCHED_ARCHIVE",
        show_envvar=False,
        help="Also read what is sealed there, alone if no server is named [EVENTSCHED_ARCHIVE].",
    ),
]
"""For commands that read the past; not one of those that every command takes."""
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log more; -vv most.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Log errors only.")]
_COMMON: Mapping[str, Any] = {
    "url": Url,
    "data": Data,
    "json": Json,
    "verbose": Verbose,
    "quiet": Quiet,
}
_DEFAULTS: Mapping[str, Any] = {
    "url": None,
    "data": None,
    "json": False,
    "verbose": 0,
    "quiet": False,
}


@dataclass(frozen=True, slots=True)
class Options:
    """What was said about where the server is and how to talk."""

    url: str | None = field(default=None, repr=False)
    data: Path | None = None
    json: bool = False
    verbose: int = 0
    quiet: bool = False

    def over(self, outer: Options) -> Options:
        """These, completed by what was said before the command, then by the environment."""
        folder = os.environ.get("EVENTSCHED_DATA")
        return replace(
            self,
            url=self.url or outer.url,
            data=self.data or outer.data or (Path(folder) if folder else None),
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
    ) -> AbstractAsyncContextManager[Connection]:
        """The server that was named. Without `create`, one that has something to read."""
        from eventsched.store.connection import open_connection

        return open_connection(
            self.url, data=self.data, create=create, cells=cells, settings=settings
        )

    @asynccontextmanager
    async def past(self, archive: Path | None) -> AsyncIterator[HistorySource]:
        """What happened: from the server, the archive or both. An archive needs no server."""
        from eventsched.archive.layout import ArchiveFolder
        from eventsched.history.source import HistorySource

        folder = ArchiveFolder.open(archive) if archive is not None else None
        if folder is not None and not self._names_server():
            yield HistorySource(None, folder)
            return
        async with self.connect() as connection:
            yield HistorySource(connection, folder)

    def _names_server(self) -> bool:
        """One was named, or one has run in the folder where it is looked for."""
        from eventsched.server.embedded import DEFAULT_DATA
        from eventsched.server.folder import PROGRAM

        named = self.url or self.data or os.environ.get("EVENTSCHED_URL")
        return bool(named) or (DEFAULT_DATA / PROGRAM).exists()


def root(
    context: typer.Context,
    url: Url = None,
    data: Data = None,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Event-sourced scheduler on Redis Streams for real-time speech."""
    context.obj = Options(url, data, json, verbose, quiet)


Command = Callable[..., Coroutine[Any, Any, int | None]]


Made = Callable[..., int]


@overload
def command(function: Command) -> Made: ...
@overload
def command(*, is_service: bool) -> Callable[[Command], Made]: ...
def command(
    function: Command | None = None, *, is_service: bool = False
) -> Made | Callable[[Command], Made]:
    """Make a command of `async def name(options: Options, …) -> int | None`, its exit code.

    Its other parameters are typer's; one called `context` gets typer's Context. A service logs
    what it does, other commands warn only.
    """
    if function is None:
        return partial(_made, is_service=is_service)
    return _made(function, is_service=False)


def _made(function: Command, *, is_service: bool) -> Made:
    hints = get_type_hints(function, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("options", "context")
    ]
    wants_context = "context" in hints

    @wraps(function)
    def run(context: typer.Context, **given: Any) -> int:
        said = Options(**{name: given.pop(name) for name in _COMMON})
        options = said.over(context.find_root().obj or Options())
        configure_logs(options.verbose, quiet=options.quiet, is_service=is_service)
        if wants_context:
            given["context"] = context
        return run_async(partial(function, options, **given)) or 0

    run.__signature__ = inspect.Signature(_with_common(own))  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in _with_common(own)}
    return run


def _with_common(own: list[inspect.Parameter]) -> list[inspect.Parameter]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    context = inspect.Parameter("context", keyword, annotation=typer.Context)
    common = [
        inspect.Parameter(name, keyword, default=_DEFAULTS[name], annotation=annotation)
        for name, annotation in _COMMON.items()
    ]
    return [context, *(one.replace(kind=keyword) for one in own), *common]


def command_of(module: ModuleType, name: str) -> Any:
    """The command that a module holds: its `app`, or its function of that name."""
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        app.command(name)(getattr(module, name))
    made = typer.main.get_command(app)
    made.name = name
    return made
