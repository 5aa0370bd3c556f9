"""The pages of the console in Chromium, on real servers: `make test-browser`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.gateway.test_events import speak
from tests.gateway.test_producer import echo
from tests.js.chromium import Browser, Page, chromium
from tests.server_kinds import Server
from tests.systems import serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.parametrize("server", ["embedded"], indirect=True),
]
BASE = "/speech"


def login_url(system: GatewaySystem, role: str = "operator", tenant: str = "*") -> str:
    code = system.gateway.codes.add(system.token(role, tenant))
    return f"{system.url}/console/#code={code}"


async def logged_in(
    browser: Browser, system: GatewaySystem, role: str = "operator", tenant: str = "*"
) -> Page:
    """A page of the console after its login, without messages of the browser."""
    assert system.gateway.console, "make console"
    page = await browser.open("about:blank")
    await page.call("Page.navigate", url=login_url(system, role, tenant))
    await page.until("document.querySelector('.who') !== null")
    assert await page.evaluate("location.href.includes('code')") is False
    return page


@asynccontextmanager
async def spoken(server: Server, cell: str) -> AsyncIterator[tuple[GatewaySystem, str]]:
    """A system with a node, in which a session has spoken."""
    async with (
        gateway_system(server.url, cell, base_path=BASE) as system,
        serving(system.es, echo()),
    ):
        yield system, await speak(system)


async def test_the_overview_is_live_after_a_login_by_a_code(server: Server, cell: str) -> None:
    async with spoken(server, cell) as (system, _), chromium() as browser:
        page = await logged_in(browser, system)
        await page.until(f"document.body.innerText.includes('Cell {cell}')")
        await page.until("document.querySelector('.badge.good')?.textContent === 'live'")
        await page.until("document.querySelector('.uplot canvas') !== null")
        assert await page.evaluate("document.title") == "Overview · eventsched"
        entries = "document.querySelector('.tiles div:last-child dd').innerText"
        before = await page.evaluate(entries)
        await speak(system)
        await page.until(f"{entries} !== {before!r}")
        assert page.messages == []


async def test_a_code_that_is_used_shows_how_to_log_in(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell, base_path=BASE) as system, chromium() as browser:
        page = await browser.open("about:blank")
        await page.call("Page.navigate", url=f"{system.url}/console/#code=used")
        await page.until("document.querySelector('[role=alert]') !== null")
        text = await page.evaluate("document.body.innerText")
        assert "You are not logged in" in text


async def test_a_token_of_one_tenant_sees_that_the_overview_is_not_allowed(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell, base_path=BASE) as system, chromium() as browser:
        page = await logged_in(browser, system, "viewer", "acme")
        await page.until("document.body.innerText.includes('Your token may not see this')")


async def test_a_page_says_that_its_gateway_is_away(server: Server, cell: str) -> None:
    async with chromium() as browser:
        async with gateway_system(server.url, cell, base_path=BASE) as system:
            page = await logged_in(browser, system)
            await page.until(f"document.body.innerText.includes('Cell {cell}')")
        await page.until("document.body.innerText.includes('The gateway does not answer')")
        assert await page.evaluate(f"document.body.innerText.includes('Cell {cell}')"), "last data"


async def test_a_session_shows_its_picture_its_texts_and_why_a_node_was_chosen(
    server: Server, cell: str
) -> None:
    async with spoken(server, cell) as (system, session), chromium() as browser:
        page = await logged_in(browser, system, "viewer")
        await page.click("nav a[href='#/sessions']")
        await page.until(f"document.querySelector('td a')?.textContent === '{session}'")
        await page.click("td a")
        await page.until("document.querySelector('.transcript td a') !== null")
        await page.until("document.querySelector('.picture img')?.naturalWidth > 0")
        text = await page.evaluate("document.querySelector('.transcript td a').textContent")
        assert text.endswith(" ms")
        await page.click(".transcript td a")
        await page.until("document.body.innerText.includes('The selected job')")
        await page.click("a[href^='#/job/']")
        await page.until("document.querySelector('.bar rect') !== null")
        await page.until("document.querySelector('td .badge')?.textContent === 'chosen'")
        assert page.messages == []


async def test_an_operator_discards_a_dead_letter_with_a_reason(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell, base_path=BASE) as system, chromium() as browser:
        store = system.es.stores[cell]
        await store.transport.command(
            "XADD", store.keys.dead_letters, "*", "from", "log", "id", "1-1", "k", "core",
            "d", "n1", "reason", "unreadable", key=store.keys.dead_letters,
        )  # fmt: skip
        viewer = await logged_in(browser, system, "viewer")
        await viewer.evaluate("location.hash = '#/dead-letters'")
        await viewer.until("document.body.innerText.includes('unreadable')")
        assert await viewer.evaluate("document.querySelectorAll('td button').length") == 0
        operator = await logged_in(browser, system)
        await operator.evaluate("location.hash = '#/dead-letters'")
        await operator.until("document.querySelectorAll('td button').length === 2")
        await operator.click("td .act:last-child button")
        await operator.until("document.querySelector('form.act input') !== null")
        await operator.evaluate("document.querySelector('form.act input').focus()")
        await operator.call("Input.insertText", text="the entry is known")
        await operator.click("form.act button[type=submit]")
        await operator.until("document.body.innerText.includes('No dead letters')")
        assert await store.transport.command(
            "XLEN", store.keys.dead_letters, key=store.keys.dead_letters
        ) == 0  # fmt: skip


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("sessions", "No session is in the log"),
        ("nodes", "No node is registered"),
        ("waiting", "No job waits"),
        ("dead-letters", "No dead letters"),
        ("projections", "Roles"),
        ("session/none", "Not found"),
        ("job/none", "Not found"),
    ],
)
async def test_a_page_without_data_says_so(server: Server, cell: str, path: str, text: str) -> None:
    async with gateway_system(server.url, cell, base_path=BASE) as system, chromium() as browser:
        page = await logged_in(browser, system)
        await page.evaluate(f"location.hash = '#/{path}'")
        await page.until(f"document.body.innerText.includes({text!r})")
