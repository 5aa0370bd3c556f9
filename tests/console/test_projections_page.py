"""The page of projections: an operator rebuilds a read model with a reason."""

from __future__ import annotations

import pytest

from tests.console.consoles import Console, check_axe
from tests.gateway.test_operations import events_of

pytestmark = [
    pytest.mark.browser,
    pytest.mark.parametrize("server", ["embedded"], indirect=True),
    pytest.mark.asyncio(loop_scope="module"),
]
ROW = "[...document.querySelectorAll('tbody tr')].find(each => each.innerText.startsWith('group'))"


async def test_an_operator_rebuilds_a_read_model(console: Console) -> None:
    await console.speak()
    page = await console.show("projections", "viewer")
    await page.until(f"{ROW} !== undefined")
    assert await page.evaluate("document.querySelectorAll('td button').length") == 0
    page = await console.show("projections")
    await page.until(f"{ROW}?.querySelector('button') != null")
    before = await page.evaluate(f"{ROW}.cells[3].innerText")
    await page.evaluate(f"{ROW}.querySelector('button').click()")
    await page.until("document.querySelector('form.act input') !== null")
    await check_axe(page)
    await page.evaluate("document.querySelector('form.act input').focus()")
    await page.call("Input.insertText", text="a doubt about the views")
    await page.click("form.act button[type=submit]")
    await page.until(f"{ROW}.cells[3].innerText !== {before!r}")
    (started,) = await events_of(console.system, "RebuildStarted")
    assert (started["by"], started["why"]) == ("test", "a doubt about the views")
    page = await console.show("control-log")
    await page.until("document.body.innerText.includes('started a rebuild of group')")
