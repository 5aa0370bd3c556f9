"""Each page of the console by the rules of axe, in both themes, at the least and a usual width."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.console.test_pages import logged_in, spoken
from tests.js.chromium import Page, chromium
from tests.server_kinds import Server

pytestmark = [
    pytest.mark.browser,
    pytest.mark.parametrize("server", ["embedded"], indirect=True),
]
AXE = Path(__file__).parents[2] / "console" / "node_modules" / "axe-core" / "axe.min.js"
FINDINGS = """axe.run().then(({violations}) => violations.map(each =>
    [each.id, each.nodes.map(node => node.target.join(' ')).slice(0, 3)]))"""
PAGES = ("", "sessions", "nodes", "waiting", "dead-letters", "projections")


async def findings(page: Page, theme: str, width: int) -> Any:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    await page.call("Emulation.setEmulatedMedia", features=features)
    await page.call(
        "Emulation.setDeviceMetricsOverride",
        width=width, height=900, deviceScaleFactor=1, mobile=False,
    )  # fmt: skip
    is_wider = await page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return await page.evaluate(FINDINGS) + ([["page is wider than the screen"]] if is_wider else [])


async def test_axe_finds_nothing_on_any_page(server: Server, cell: str) -> None:
    async with spoken(server, cell) as (system, session), chromium() as browser:
        page = await logged_in(browser, system)
        await page.evaluate(f"0;{AXE.read_text()}")
        entity = quote(session)
        found = {}
        for path in (*PAGES, f"session/{entity}", f"job/{entity}:0:es", f"node/{cell}.n1"):
            await page.evaluate(f"location.hash = '#/{path}'")
            await page.until("document.querySelector('h1') !== null")
            await page.until("document.querySelector('.loading') === null")
            for theme, width in (("light", 1_280), ("dark", 360)):
                found[path, theme] = await findings(page, theme, width)
        problems = [f"{place}: {each}" for place, each in found.items() if each]
        assert not problems, "\n".join(problems)
