"""Prints how long each tenant waits for a slot while one of them floods a thousandfold.

python -m tests.fairness.run [--json] [--requirements 1500] [--flood-ms 1 --other-ms 4000]

Owns: the server of one run, the table. Read next: flood.py (the play), docs/fairness.md.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from eventsched.schema.settings import Settings
from eventsched.server.testing import LocalServer
from eventsched.store.client import open_client
from eventsched.store.transport import RedisTransport
from tests.fairness.flood import FEATURES, UTTERANCE_MS, Play, SecondFlood, Waits
from tests.fixtures_store import TimedStore

PRIORITIES = {0: "0 interactive", 1: "1 normal", 2: "2 background"}


async def played(
    url: str,
    cell: str,
    requirements: int = 1,
    flood_ms: int = UTTERANCE_MS,
    other_ms: int = UTTERANCE_MS,
    second: SecondFlood | None = None,
) -> list[Waits]:
    """The play on a fresh cell of this server; the flood has so many requirements."""
    client = await open_client(url)
    try:
        store = TimedStore(RedisTransport(client, client), cell)
        settings = msgspec.to_builtins(Settings())
        await store.configure_cell(settings, overwrite=False, manual_clock=True)
        return await Play(store, requirements, flood_ms, other_ms, second).run()
    finally:
        await client.aclose()


def table(waits: Sequence[Waits]) -> Table:
    made = Table("phase", "tenant", "priority", box=None)
    for name in ("jobs", "without a slot", "median wait (ms)", "longest wait (ms)"):
        made.add_column(name, justify="right")
    for one in waits:
        numbers = (one.jobs, one.failed, one.median_ms, one.max_ms)
        cells = [f"{number:,}" for number in numbers]
        made.add_row(one.phase, one.tenant, PRIORITIES[one.priority], *cells)
    return made


def table_text(waits: Sequence[Waits]) -> str:
    """The table as text."""
    console = Console(width=100, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table(waits))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def main(
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    requirements: Annotated[
        int, typer.Option(min=1, max=2 ** len(FEATURES), help="Requirements of the flood.")
    ] = 1,
    flood_ms: Annotated[
        int, typer.Option(min=1, max=10_000, help="Audio of an utterance of the flood.")
    ] = UTTERANCE_MS,
    other_ms: Annotated[
        int, typer.Option(min=1, max=10_000, help="Audio of an utterance of other tenants.")
    ] = UTTERANCE_MS,
) -> None:
    """Print the waiting times of each tenant, in calm and while one floods."""
    with tempfile.TemporaryDirectory() as folder, LocalServer(Path(folder)) as server:
        waits = asyncio.run(played(server.url, "fair", requirements, flood_ms, other_ms))
    typer.echo(msgspec.json.format(msgspec.json.encode(waits)) if json else table_text(waits))


if __name__ == "__main__":
    typer.run(main)
