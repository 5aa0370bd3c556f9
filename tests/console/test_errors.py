"""What the console shows without data: nothing there yet, no login, a gateway that is away."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest

from eventsched.server.testing import LocalServer
from tests.console.consoles import BASE, check_axe, is_shown, log_in
from tests.gateway.gateways import gateway_system
from tests.js.chromium import chromium
from tests.server_kinds import Server

pytestmark = pytest.mark.browser
on_embedded = pytest.mark.parametrize("server", ["embedded"], indirect=True)
TEXT = "document.body.innerText"
EMPTY = {
    "sessions": "No session is in the log",
    "nodes": "No node is registered",
    "waiting": "No job waits",
    "dead-letters": "No dead letters",
    "projections": "Roles",
}
"""Page -> what it says in a system without work."""


@on_embedded
async def test_pages_without_data_say_so_and_stay_when_the_gateway_goes_away(
    server: Server, cell: str
) -> None:
    async with chromium() as browser:
        async with gateway_system(server.url, cell, base_path=BASE) as system:
            page = await log_in(browser, system)
            for path, text in EMPTY.items():
                await page.evaluate(f"location.hash = '#/{path}'")
                await page.until(f"{TEXT}.includes({text!r})")
                await check_axe(page)
            await page.evaluate("location.hash = '#/'")
            await page.until(f"{TEXT}.includes('Cell {cell}')")
            await is_shown(page)
        await page.until(f"{TEXT}.includes('The gateway does not answer')")
        assert await page.evaluate(f"{TEXT}.includes('Cell {cell}')"), "last data"
        await check_axe(page)


@on_embedded
async def test_a_code_that_is_used_shows_how_to_log_in(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell, roles=(), base_path=BASE) as system,
        chromium() as browser,
    ):
        page = await browser.open("about:blank")
        await page.call("Page.navigate", url=f"{system.url}/console/#code=used")
        await page.until("document.querySelector('[role=alert]') !== null")
        assert "You are not logged in" in await page.evaluate(TEXT)


async def test_a_page_says_that_the_server_is_away_and_that_its_login_has_ended(
    own_server: LocalServer,
) -> None:
    async with (
        gateway_system(own_server.url, "c0", roles=("dispatcher",), base_path=BASE) as system,
        chromium() as browser,
    ):
        page = await log_in(browser, system)
        await page.until(f"{TEXT}.includes('Cell c0')")
        await anyio.to_thread.run_sync(own_server.kill)
        await page.until(f"{TEXT}.includes('The server does not answer')")
        assert await page.evaluate(f"{TEXT}.includes('Cell c0')"), "last data"
        await anyio.to_thread.run_sync(own_server.start)
        await page.until(f"!{TEXT}.includes('The server does not answer')")
        await page.call("Network.clearBrowserCookies")
        await page.until(f"{TEXT}.includes('You are not logged in')")
        await check_axe(page)
