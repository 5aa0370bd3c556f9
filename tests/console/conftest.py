"""`console`: one running system with a browser, for all tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.console.consoles import Console, one_console
from tests.server_kinds import Server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def console(server: Server) -> AsyncIterator[Console]:
    """A system with a node, and a page of the console for each role."""
    async with one_console(server) as running:
        yield running
