"""The control log: what operators did, by whom and why, as it happens."""

from __future__ import annotations

import pytest

from tests.console.consoles import Console, check_axe
from tests.gateway.test_operations import add_dead_letter, post

pytestmark = [
    pytest.mark.browser,
    pytest.mark.parametrize("server", ["embedded"], indirect=True),
    pytest.mark.asyncio(loop_scope="module"),
]
TEXT = "document.body.innerText"
ROWS = "document.querySelectorAll('tbody tr').length"


async def test_an_act_appears_with_its_operator_and_its_reason(console: Console) -> None:
    page = await console.show("control-log", "viewer")
    await page.until(f"{TEXT}.includes('No act of an operator')")
    await check_axe(page)
    await page.until("document.querySelector('h1 .badge').textContent === 'live'")
    letter = await add_dead_letter(console.system, console.cell, "log", "SessionOpened")
    path = f"/v1/dead-letters/{console.cell}/{letter}/discard"
    await post(console.system, path, {"why": "the entry is known"})
    await page.until(f"{TEXT}.includes('discarded 1 dead letter')")
    text = await page.evaluate("document.querySelector('tbody tr').innerText")
    assert "the entry is known" in text
    assert f"discarded 1 dead letter {letter}" in text
    assert "test" in text
    await post(console.system, f"/v1/nodes/{console.cell}.n1/drain", {"why": "a new driver"})
    await page.until(f"{ROWS} === 2")
    first = await page.evaluate("document.querySelector('tbody tr').innerText")
    assert f"drains {console.cell}.n1" in first, "the newest first"
    await check_axe(page)
    page = await console.show("control-log?type=NodeDraining&since=hour", "auditor")
    await page.until(f"{ROWS} === 1")
    page = await console.show("control-log?by=nobody", "auditor")
    await page.until(f"{TEXT}.includes('No such act in this time')")


async def test_a_token_of_one_tenant_learns_that_acts_concern_the_whole_system(
    console: Console,
) -> None:
    page = await console.show("control-log", "viewer", "acme")
    await page.until(f"{TEXT}.includes('a token for acme sees none')")
