"""The shared part of `up` and `run`: their options, and running roles until a signal.

Owns: `--cells`, `--set` and the options of the archive; the line that says that the roles are
ready; the end of the process by SIGTERM (exit code 0) or Ctrl-C (130).
Never does: the work of a role. Read next: up.py, roles/runner.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from eventsched.cli.options import Options, operator_name
from eventsched.errors import InvalidMessage, require_packages
from eventsched.interrupts import open_signals

if TYPE_CHECKING:
    from eventsched.archive.config import ArchiveSettings
    from eventsched.cli.gateway_options import MakeGateway
    from eventsched.gateway.service import Gateway
    from eventsched.roles.runner import ExportTraces
    from eventsched.store.cell import Store
    from eventsched.store.connection import Connection
    from eventsched.tokens.keys import TokenKey

Cells = Annotated[
    int | None,
    typer.Option("--cells", metavar="N", help="Number of cells of a new server (default 1)."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Set a setting, such as pause_ms=500; repeatable [EVENTSCHED_PAUSE_MS].",
    ),
]

ArchiveDir = Annotated[
    Path | None,
    typer.Option(
        "--archive",
        metavar="DIR",
        envvar="EVENTSCHED_ARCHIVE",
        show_envvar=False,
        help="Archive the log in this folder [EVENTSCHED_ARCHIVE].",
    ),
]
ArchiveKey = Annotated[
    Path | None,
    typer.Option(
        "--archive-key",
        metavar="FILE",
        envvar="EVENTSCHED_ARCHIVE_KEY",
        show_envvar=False,
        help="The archive's private key, created if missing [EVENTSCHED_ARCHIVE_KEY or DIR.key].",
    ),
]
ArchiveAudio = Annotated[
    bool,
    typer.Option(
        "--archive-audio",
        envvar="EVENTSCHED_ARCHIVE_AUDIO",
        show_envvar=False,
        help="Archive the audio of each utterance too [EVENTSCHED_ARCHIVE_AUDIO=1].",
    ),
]


Checkpoints = Annotated[
    Path | None,
    typer.Option(
        "--checkpoints",
        metavar="DIR",
        envvar="EVENTSCHED_CHECKPOINTS",
        show_envvar=False,
        help="Write each newest checkpoint of the archive into this folder too, on another disk "
        "or machine [EVENTSCHED_CHECKPOINTS].",
    ),
]


Otlp = Annotated[
    str,
    typer.Option(
        "--otlp",
        metavar="URL",
        envvar="EVENTSCHED_OTLP",
        show_envvar=False,
        help="Export traces to this collector: http://HOST:4318 or grpc://HOST:4317 "
        "[EVENTSCHED_OTLP].",
    ),
]
OTLP_PACKAGES = ("opentelemetry.sdk", "grpc")


def trace_export(roles: Sequence[str], url: str) -> ExportTraces | None:
    """Return what the role `traces` does; None if it is not one of the roles.

    Raises InvalidMessage or MissingDependencyError.
    """
    if "traces" not in roles:
        return None
    if not url:
        raise InvalidMessage.of("--otlp", "the URL of a collector is needed", "add --otlp URL")
    require_packages("opentelemetry", *OTLP_PACKAGES, extra="telemetry")
    from eventsched.telemetry.otlp import OtlpCollector, check_url
    from eventsched.telemetry.otlp_sending import Variables
    from eventsched.telemetry.trace_exporter import TraceExporter

    check_url(url)
    Variables.read()  # an invalid one is refused before the role starts

    async def export(store: Store, consumer: str) -> None:
        await TraceExporter(store, OtlpCollector(url, store.cell), consumer).run()

    return export


class ArchiveOptions(NamedTuple):
    """The options of the archive."""

    folder: Path | None
    key: Path | None
    audio: bool
    checkpoints: Path | None

    def archiver_settings(self, roles: Sequence[str]) -> ArchiveSettings | None:
        """Return the settings of the archiver; None if it is not one of the roles.

        Raises ArchiveError or InvalidMessage.
        """
        if "archiver" not in roles:
            return None
        if self.folder is None:
            raise InvalidMessage.of("--archive", "a folder is needed", "add --archive DIR")
        from eventsched.archive.config import ArchiveSettings

        return ArchiveSettings.into(
            self.folder, self.key, audio=self.audio, checkpoints=self.checkpoints
        )


def settings_of(assignments: Sequence[str]) -> dict[str, int]:
    """Return the valid settings of the environment and of `--set`. Raises InvalidMessage.

    Args:
        assignments: values of `--set`, each `NAME=VALUE`.
    """
    from eventsched.schema.settings import chosen, parse_settings

    values: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not value:
            raise InvalidMessage.of(
                "--set", f"NAME=VALUE expected, got {assignment!r}", "add a value"
            )
        values[name] = value
    return chosen() | parse_settings(values)


async def serve(
    options: Options,
    roles: Sequence[str],
    cells: int | None,
    assignments: Sequence[str],
    archive: ArchiveOptions,
    gateway: MakeGateway | None = None,
    otlp: str = "",
) -> int:
    """Run the roles until a signal and return the exit code.

    Once the roles run, print the server's URL on stdout. A signal also ends the wait for a server
    that is away.

    Args:
        options: the options of every command.
        roles: names of the roles.
        cells: number of cells of a new server.
        assignments: values of `--set`, each `NAME=VALUE`.
        archive: the options of the archive.
        gateway: makes the gateway that runs beside the roles; none without it.
        otlp: URL of the collector of the role `traces`.
    """
    settings = settings_of(assignments)
    archiver_settings = archive.archiver_settings(roles)
    export_traces = trace_export(roles, otlp)
    if "projector" in roles:
        from eventsched.projection.installed import check_names

        check_names()
    import anyio

    from eventsched.addresses import display_url
    from eventsched.cli.output import print_json, print_line
    from eventsched.roles.runner import running

    async def run() -> None:
        # A gateway without roles is a client: it creates no cells, and waits for them.
        create = bool(roles)
        also_present = ["gateway"] if gateway is not None else []
        async with (
            options.connect(create=create, cells=cells, settings=settings, wait=True) as connection,
            running(connection, roles, archiver_settings, also_present, export_traces),
            _serving(connection, gateway) as address,
        ):
            url, names = display_url(connection.url), connection.cells
            shown = [*roles, *["gateway"] * (gateway is not None)]
            if options.json:
                status = {"ready": True, "url": url, "cells": names, "roles": shown}
                if address:
                    status["gateway"] = address
                print_json(status | {"pid": os.getpid()})
            else:
                print_line(f"ready: {url}  cells: {', '.join(names)}  roles: {', '.join(shown)}")
                if address:
                    print_line(f"gateway: {address}")
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        with open_signals(signal.SIGINT, signal.SIGTERM) as signals:
            tasks.start_soon(run)
            number = await signals.get()
        tasks.cancel_scope.cancel()  # a second Ctrl-C has its usual effect
    return 130 if number == signal.SIGINT else 0


@asynccontextmanager
async def _serving(connection: Connection, gateway: MakeGateway | None) -> AsyncIterator[str]:
    """Serve while the block runs, and yield the URL to print: with a key, a login link."""
    if gateway is None:
        yield ""
        return
    from eventsched.gateway.server import serving_gateway

    config, key = gateway()
    async with serving_gateway(connection, config) as running_gateway:
        yield running_gateway.url if key is None else _login_link(running_gateway, key)


@asynccontextmanager
async def serving_console(
    connection: Connection, gateway: MakeGateway
) -> AsyncIterator[Callable[[], str]]:
    """Serve the console while the block runs, and yield what makes a link, as often as needed."""
    from eventsched.gateway.server import serving_gateway

    config, key = gateway()
    assert key is not None  # a gateway of the data folder has its key
    async with serving_gateway(connection, config) as running_gateway:
        yield lambda: _login_link(running_gateway, key)


def _login_link(gateway: Gateway, key: TokenKey) -> str:
    """Return a link that logs an operator in, once."""
    from eventsched.tokens.claims import LIFETIME_S_MAX
    from eventsched.tokens.issue import issue

    token = issue(key, role="operator", tenant="*", subject=operator_name(), seconds=LIFETIME_S_MAX)
    code = gateway.codes.add(token)
    path = "console/#code=" if gateway.console else "v1/login?code="
    return f"{gateway.url}/{path}{code}"
