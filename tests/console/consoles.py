"""One running system with a browser, for all tests of a module.

@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def console(server: Server) -> AsyncIterator[Console]:
    async with one_console(server) as running:
        yield running

Tests name their loop: `pytest.mark.asyncio(loop_scope="module")`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from eventsched.schema.keys import CELLS
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.gateway.sealing import Sealing
from tests.gateway.test_producer import echo
from tests.js.chromium import Browser, Page, chromium
from tests.server_kinds import Server
from tests.systems import SECOND, serving, until

BASE = "/speech"
AXE = Path(__file__).parents[2] / "console" / "node_modules" / "axe-core" / "axe.min.js"
FINDINGS = """axe.run().then(({violations}) => violations.map(each =>
    [each.id, each.nodes.map(node => node.target.join(' ')).slice(0, 3)]))"""
VIOLATIONS = """window.violations = []; addEventListener('securitypolicyviolation',
    event => violations.push(`${event.violatedDirective} ${event.blockedURI}`)); 0"""
KEYS = {"+": "Equal", "-": "Minus", "0": "Digit0", "Enter": "Enter", "Tab": "Tab", " ": "Space"}
T = TypeVar("T")


class Console:
    """A system, a browser, and a page for each role."""

    def __init__(self, system: GatewaySystem, browser: Browser, archive: Sealing) -> None:
        self.system = system
        self.cell = next(iter(system.es.stores))
        self.archive = archive
        self._browser = browser
        self._pages: dict[tuple[str, str], Page] = {}

    async def show(self, path: str, role: str = "operator", tenant: str = "*") -> Page:
        """Show a page of the console to this role, and wait until it has its data."""
        place = role, tenant
        if place not in self._pages:
            self._pages[place] = await log_in(self._browser, self.system, role, tenant)
        page = self._pages[place]
        await page.call("Page.bringToFront")  # a hidden page does not read
        await page.evaluate(f"location.hash = '#/loading'; location.hash = '#/{path}'; 0")
        await is_shown(page)
        return page

    async def speak(self, utterances: int = 1, targets: tuple[str, ...] = ("es",)) -> str:
        """Speak; return the session, of which every result is in the log."""
        async with self.system.es.session("acme", "en", list(targets)) as session:
            for _ in range(utterances):
                await session.append(SECOND, end_of_utterance=True)
            session.detach()
        query = {"session": session.id, "type": "ResultRecorded"}

        async def is_done() -> bool:
            page = await self.system.json("/v1/history", self.system.token("viewer"), **query)
            return len(page["events"]) == utterances * len(targets)

        await until("all results are in the log", is_done)
        return session.id


async def is_shown(page: Page) -> None:
    """Wait until a page has its data."""
    await page.until(
        "document.querySelector('h1') !== null && document.querySelector('.loading') === null"
    )


async def log_in(
    browser: Browser, system: GatewaySystem, role: str = "operator", tenant: str = "*"
) -> Page:
    """A page of the console after its login by a code."""
    assert system.gateway.console, "make console"
    page = await browser.open("about:blank", has_own_cookies=True)
    code = system.gateway.codes.add(system.token(role, tenant))
    await page.call("Page.navigate", url=f"{system.url}/console/#code={code}")
    await page.until("document.querySelector('.who') !== null")
    await page.evaluate(VIOLATIONS)
    return page


async def press(page: Page, *names: str) -> None:
    """Press keys, one after the other."""
    for name in names:
        key: dict[str, Any] = {"key": name, "code": KEYS.get(name, name)}
        if name == "Enter":
            key |= {"text": "\r", "windowsVirtualKeyCode": 13}
        elif name == "Tab":
            key["windowsVirtualKeyCode"] = 9
        elif len(name) == 1:
            key["text"] = name
        await page.call("Input.dispatchKeyEvent", type="keyDown", **key)
        await page.call("Input.dispatchKeyEvent", type="keyUp", **key)


async def show_in(page: Page, theme: str, width: int, height: int = 900) -> None:
    """Show the page in a theme at a width."""
    features = [{"name": "prefers-color-scheme", "value": theme}]
    await page.call("Emulation.setEmulatedMedia", features=features)
    await page.call(
        "Emulation.setDeviceMetricsOverride",
        width=width, height=height, deviceScaleFactor=1, mobile=False,
    )  # fmt: skip


async def check_axe(page: Page) -> None:
    """The page has no finding of axe in either theme, and is not wider than a small screen."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(f"0;{AXE.read_text()}")
    found: list[Any] = []
    for theme, width in (("light", 1_280), ("dark", 360)):
        await show_in(page, theme, width)
        if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"{theme}: wider than the screen")
        found += [(theme, each) for each in await page.evaluate(FINDINGS)]
    await page.call("Emulation.clearDeviceMetricsOverride")
    place = await page.evaluate("location.hash")
    assert not found, "\n".join(f"{place} {each}" for each in found)
    assert await page.evaluate("violations") == []


async def name_cells(system: GatewaySystem) -> None:
    """Let the commands that a gateway runs find the cells of the server."""
    (store, *_) = system.es.stores.values()
    await store.transport.command("SET", CELLS, ",".join(system.es.stores), key=store.keys.log)


@asynccontextmanager
async def in_one_task(context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a context in one task, whatever task the fixture begins and ends in."""
    value: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    end = asyncio.Event()

    async def run() -> None:
        try:
            async with context as entered:
                value.set_result(entered)
                await end.wait()
        except BaseException as error:
            if value.done():
                raise
            value.set_exception(error)

    task = asyncio.create_task(run())
    try:
        yield await value
    finally:
        end.set()
        await task


@asynccontextmanager
async def _running(server: Server, microphone: Path | None) -> AsyncIterator[Console]:
    cell = f"t{token_hex(7)}"
    with TemporaryDirectory() as folder:
        archive = Sealing(Path(folder) / "archive")
        async with (
            gateway_system(server.url, cell, base_path=BASE) as system,
            serving(system.es, echo()),
            chromium(microphone) as browser,
        ):
            await name_cells(system)
            yield Console(system, browser, archive)


def one_console(
    server: Server, microphone: Path | None = None
) -> AbstractAsyncContextManager[Console]:
    """A system with a node, all roles, a gateway, and a browser whose microphone plays a file."""
    return in_one_task(_running(server, microphone))
