"""The page "Try it": a recording and a microphone become captions by the page's own login."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.console.consoles import Console, check_axe, one_console
from tests.server_kinds import Server
from tools.console import SAMPLE

pytestmark = [
    pytest.mark.browser,
    pytest.mark.parametrize("server", ["embedded"], indirect=True),
    pytest.mark.asyncio(loop_scope="module"),
]
TEXT = "document.body.innerText"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def console(server: Server) -> AsyncIterator[Console]:
    """A system, and a browser whose microphone plays the bundled recording."""
    async with one_console(server, SAMPLE) as running:
        yield running


@pytest.mark.parametrize("button", ["Play the sample", "Speak"])
async def test_speech_becomes_captions_with_a_link_to_its_session(
    console: Console, button: str
) -> None:
    page = await console.show("try-it")
    await check_axe(page)
    await page.evaluate(
        f"[...document.querySelectorAll('button')].find(each => each.textContent === {button!r})"
        ".click()"
    )
    await page.until(f"{TEXT}.includes('after the start')")
    await page.evaluate(
        "[...document.querySelectorAll('button')].find(each => each.textContent === 'Stop').click()"
    )
    await page.until("document.querySelector('.badge.good') === null")
    assert "u0" in await page.evaluate("document.querySelector('.captions').innerText")
    await check_axe(page)
    await page.click("a[href^='#/session/']")
    await page.until("document.querySelector('.transcript td a') !== null")
    assert page.messages == []


async def test_a_viewer_may_not_speak(console: Console) -> None:
    page = await console.show("try-it", "viewer")
    await page.until(f"{TEXT}.includes('Your token may not speak')")
