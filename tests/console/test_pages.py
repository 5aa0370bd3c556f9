"""The pages of the console in Chromium, on a real system: `make test-browser`."""

from __future__ import annotations

import pytest

from tests.console.consoles import Console, check_axe, press
from tests.gateway.test_operations import add_dead_letter

pytestmark = [
    pytest.mark.browser,
    pytest.mark.parametrize("server", ["embedded"], indirect=True),
    pytest.mark.asyncio(loop_scope="module"),
]
TEXT = "document.body.innerText"


async def test_the_overview_is_live(console: Console) -> None:
    page = await console.show("")
    await page.until(f"{TEXT}.includes('Cell {console.cell}')")
    await page.until("document.querySelector('.badge.good')?.textContent === 'live'")
    await page.until("document.querySelector('.uplot canvas') !== null")
    assert await page.evaluate("document.title") == "Overview · eventsched"
    entries = "document.querySelector('.tiles div:last-child dd').innerText"
    before = await page.evaluate(entries)
    await console.speak()
    await page.until(f"{entries} !== {before!r}")
    assert page.messages == []
    assert await page.evaluate("location.href.includes('code')") is False


async def test_a_session_leads_to_its_texts_and_to_why_a_node_was_chosen(console: Console) -> None:
    session = await console.speak()
    page = await console.show("sessions", "viewer")
    await page.until(f"document.querySelector('td a')?.textContent === '{session}'")
    await page.click("td a")
    await page.until("document.querySelector('.transcript td a') !== null")
    text = await page.evaluate("document.querySelector('.transcript td a').textContent")
    assert text == "1000 ms"
    await page.click(".transcript td a")
    await page.until("document.querySelector('.selection .reasons li') !== null")
    await page.click("a[href^='#/job/']")
    await page.until("document.querySelector('.bar rect') !== null")
    await page.until("document.querySelector('td .badge')?.textContent === 'chosen'")
    assert page.messages == []


async def test_the_history_leads_to_the_session_of_an_event(console: Console) -> None:
    session = await console.speak()
    page = await console.show("history?about=sessions&since=hour&tenant=acme", "viewer")
    await page.until(f"{TEXT}.includes('SessionOpened')")
    await page.click(f"td a[href^='#/session/{session}']")
    await page.until("document.querySelector('.events li.selected') !== null")
    page = await console.show(f"history?about=everything&of={session}:0:es", "viewer")
    await page.until(f"{TEXT}.includes('JobDispatched')")
    page = await console.show("history", "viewer", "other")
    await page.until(f"{TEXT}.includes('No such event in this time')")
    assert page.messages == []


async def test_an_operator_discards_a_dead_letter_with_a_reason(console: Console) -> None:
    await add_dead_letter(console.system, console.cell, "log", "SessionOpened")
    viewer = await console.show("dead-letters", "viewer")
    await viewer.until("document.querySelector('tbody tr') !== null")
    assert await viewer.evaluate("document.querySelectorAll('td button').length") == 0
    operator = await console.show("dead-letters")
    await operator.until("document.querySelectorAll('td button').length === 2")
    await operator.click("td .act:last-child button")
    await operator.until("document.querySelector('form.act input') !== null")
    await operator.evaluate("document.querySelector('form.act input').focus()")
    await operator.call("Input.insertText", text="the entry is known")
    await check_axe(operator)
    await operator.click("form.act button[type=submit]")
    await operator.until(f"{TEXT}.includes('No dead letters')")
    store = console.system.es.stores[console.cell]
    letters = store.keys.dead_letters
    assert await store.transport.command("XLEN", letters, key=letters) == 0


async def test_dead_letters_are_discarded_by_keys_and_all_at_once(console: Console) -> None:
    letters = [await add_dead_letter(console.system, console.cell, "log", "K") for _ in range(4)]
    page = await console.show("dead-letters?match=k")
    await page.until("document.querySelectorAll('tbody tr').length === 4")
    await page.evaluate("document.querySelector('tbody button').focus()")
    await press(page, "ArrowDown", "d")
    await page.until(f"document.activeElement.closest('form')?.ariaLabel?.includes('{letters[1]}')")
    await page.call("Input.insertText", text="read and done")  # no key of it acts
    await press(page, "Enter")
    await page.until("document.querySelectorAll('tbody tr').length === 3")
    await page.click("p.acts .act:last-child button")
    await page.until("document.querySelector('p.acts form input') !== null")
    await page.evaluate("document.querySelector('p.acts form input').focus()")
    await page.call("Input.insertText", text="all of them are known")
    await check_axe(page)
    await press(page, "Enter")
    await page.until(f"{TEXT}.includes('No dead letter has this text')")
    assert page.messages == []


async def test_axe_finds_nothing_on_any_page(console: Console) -> None:
    session = await console.speak()
    paths = ("", "sessions", "history", "nodes", "waiting", "projections")
    for path in (*paths, f"job/{session}:0:es", f"node/{console.cell}.n1"):
        await check_axe(await console.show(path))


FOCUSABLE = """[...document.querySelectorAll(
    'a[href], button, input, select, textarea, summary, [tabindex="0"]')]
    .filter(each => !each.disabled && each.getAttribute('tabindex') !== '-1'
        && each.checkVisibility())"""
"""Every part of a page that acts, or that scrolls."""
MISSED = f"""(reached.add(document.activeElement),
    {FOCUSABLE}.filter(each => !reached.has(each)).map(each => each.outerHTML))"""
PRESSES_MAX = 150


async def test_every_page_is_used_by_keyboard(console: Console) -> None:
    session = await console.speak()
    await console.archive.seal(console.system)
    paths = (
        "", "sessions", "history", f"session/{session}", f"job/{session}:0:es", "nodes",
        f"node/{console.cell}.n1", "waiting", "dead-letters", "projections", "audit",
        "control-log", "try-it",
    )  # fmt: skip
    for path in paths:
        page = await console.show(path)
        await page.evaluate("window.reached = new Set(); 0")
        missed = [path]
        for _ in range(PRESSES_MAX):
            await press(page, "Tab")
            missed = await page.evaluate(MISSED)
            if not missed:
                break
        assert missed == [], path
        outline = "getComputedStyle(document.querySelector('nav a')).outlineStyle"
        await page.evaluate("document.querySelector('nav a').focus()")
        assert await page.evaluate(outline) in ("solid", "auto"), "focus is visible"


@pytest.mark.parametrize("path", ["session/none", "job/none", "node/none"])
async def test_a_page_of_nothing_says_that_it_is_not_found(console: Console, path: str) -> None:
    page = await console.show(path)
    await page.until(f"{TEXT}.includes('Not found')")


async def test_a_token_of_one_tenant_sees_its_data_and_what_it_may_not_see(
    console: Console,
) -> None:
    session = await console.speak()
    page = await console.show("", "viewer", "acme")
    await page.until(f"{TEXT}.includes('Your token may not see this')")
    page = await console.show(f"job/{session}:0:es", "viewer", "acme")
    await page.until("document.querySelector('.bar rect') !== null")
    other = await console.show(f"job/{session}:0:es", "viewer", "other")
    await other.until(f"{TEXT}.includes('Not found')")
    other = await console.show(f"session/{session}", "viewer", "other")
    await other.until(f"{TEXT}.includes('Not found')")
