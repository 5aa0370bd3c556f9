"""The pages of the console in Chromium, on a real system: `make test-browser`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import unquote
from zoneinfo import ZoneInfo

import pytest

import eventsched
from tests.console.consoles import Console, check_axe, is_shown, press
from tests.gateway.test_lists import drain_node, retire_node
from tests.gateway.test_operations import add_dead_letter, post
from tests.gateway.test_producer import echo
from tests.js.chromium import Page
from tests.systems import SECOND, serving

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
    await page.click("main a[href*='since=day']")
    await page.until("document.querySelector('[name=since]')?.value === 'day'")


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


async def test_a_typed_time_is_read_in_the_zone_that_the_page_shows(console: Console) -> None:
    """Rule of the page: what it shows can be typed back, whatever the zone of the gateway is."""
    session = await console.speak()
    page = await console.show("", "auditor", "acme")
    await page.call("Emulation.setTimezoneOverride", timezoneId="America/New_York")
    await page.evaluate("window.isOld = true")
    await page.call("Page.reload")
    await page.until("!window.isOld && document.querySelector('.who') !== null")
    page = await console.show(f"history?about=sessions&of={session}", "auditor", "acme")
    await page.until("document.querySelector('tbody tr') !== null")
    head = await page.evaluate("document.querySelector('thead').innerText")
    assert "New York time" in head
    opened = await page.evaluate("document.querySelector('tbody td').firstChild.textContent")
    ms = int((await page.evaluate("document.querySelector('tbody td code').textContent"))[:13])
    zone = ZoneInfo("America/New_York")
    assert datetime.fromisoformat(opened).replace(tzinfo=zone).timestamp() * 1_000 == ms
    for typed in (opened, opened.partition(".")[0]):
        await _type(page, "until", typed)
        await page.until(f"document.querySelector('[name=until]').value.startsWith('{typed}')")
        await page.until(f"{TEXT}.includes('SessionOpened')")
    utc = datetime.fromtimestamp(ms / 1_000, UTC)
    assert f"{utc:%Y-%m-%dT%H}" in unquote(await page.evaluate("location.hash")), "for any zone"
    await _type(page, "until", "yesterday")
    await page.until("document.querySelector('.filter [role=alert]') !== null")
    assert await page.evaluate("document.querySelector('[name=until]').value") == "yesterday"

    await console.show(f"session/{session}", "auditor", "acme")
    await page.until("Number(document.querySelector('input[type=range]')?.max) >= 3")
    await _type(page, "at", opened.partition(".")[0].replace(" ", "T"))
    await page.until("document.querySelector('.fields dt') !== null")
    assert await page.evaluate("document.querySelector('.state [role=alert]')") is None
    await _type(page, "at", opened)
    await page.until("document.querySelector('.slider').innerText.includes('After event 1 of')")
    shown = await page.evaluate("document.querySelector('.state').innerText")
    assert opened.partition(" ")[2] in shown
    await _type(page, "at", "yesterday")
    await page.until("document.querySelector('.state [role=alert]') !== null")
    shown = await page.evaluate("document.querySelector('.state').innerText")
    assert "After event 1 of" in shown, "the slider stays"
    assert shown.count("This is no time") == 1
    field = "document.querySelector('[name=at]')"
    assert await page.evaluate(f"{field}.scrollWidth <= {field}.clientWidth")


async def test_the_end_of_a_backoff_is_in_the_zone_of_the_page(console: Console) -> None:
    node = eventsched.Node(f"{console.cell}.broken", sources=["en"], targets=["ja"], slots=1)

    @node.job
    async def _(job: eventsched.Job) -> eventsched.Result:
        if job.attempt == 1:
            raise eventsched.JobError("GPU_MEMORY", retryable=True)
        return eventsched.Result(text="done")

    async with serving(console.system.es, node):
        session = await console.speak(targets=("ja",))
    page = await console.show("", "auditor")
    await page.call("Emulation.setTimezoneOverride", timezoneId="America/New_York")
    await console.show(f"job/{session}:0:ja", "auditor")
    await page.until(f"{TEXT}.includes('backs off until')")
    token = console.system.token("auditor")
    why = await console.system.json(f"/v1/jobs/{session}:0:ja/why", token)
    (until_ms,) = [each["until_ms"] for each in why["decisions"] if each.get("until_ms")]
    until = datetime.fromtimestamp(until_ms / 1_000, ZoneInfo("America/New_York"))
    text = f"backs off until {until:%H:%M:%S}.{until_ms % 1_000:03}"
    assert await page.evaluate(f"{TEXT}.includes('{text}')")
    await page.call("Emulation.setTimezoneOverride", timezoneId="")


async def _type(page: Page, name: str, text: str) -> None:
    """Type a text into a field of a form, and send the form."""
    await page.evaluate(
        f"(field => {{field.value = {text!r}; field.form.requestSubmit()}})"
        f"(document.querySelector('[name={name}]'))"
    )


async def test_a_lost_node_is_shown_as_a_sentence(console: Console) -> None:
    store = console.system.es.stores[console.cell]

    async def register(token: str) -> None:
        await store.register_node(
            node=store.keys.full("lost"), token=token, sources=["en"], targets=["de"],
            features=[], slots=1, version="",
        )  # fmt: skip

    await register("first")
    async with console.system.es.session("acme", "en", ["de"]) as session:
        await session.append(SECOND, end_of_utterance=True)
        session.detach()
    page = await console.show(f"history?about=everything&of={session.id}", "viewer")
    await _shows(page, f"history?about=everything&of={session.id}", "JobDispatched")
    await register("second")
    await _shows(page, f"history?of={session.id}", "AttemptEnded")
    row = await page.evaluate("document.querySelector('tbody tr').innerText")
    assert session.id[: session.id.index(".") + 9] in row
    assert "of acme" in row
    assert "caused by NodeLost" in row
    await console.show(f"job/{session.id}:0:de", "viewer")
    await page.until("document.querySelector('td.wrap a')?.textContent === 'NodeLost'")
    await page.click("td.wrap a")
    await page.until(f"{TEXT}.includes('superseded, 1 job to dispatch again')")
    (loss,) = await page.evaluate(NODES_OF_ROWS)
    assert loss == store.keys.full("lost")
    lost = f"history?about=what+went+wrong&node={store.keys.full('lost')}"
    await _shows(page, lost, "superseded, 1 job to dispatch again")
    assert page.messages == []


async def test_nodes_that_are_gone_are_apart_with_when_and_why(console: Console) -> None:
    system, cell = console.system, console.cell
    for name in ("left", "retired"):
        async with serving(system.es, echo(f"{cell}.{name}")):
            await drain_node(system, f"{cell}.{name}")
    await retire_node(system, cell, "retired")
    page = await console.show("nodes", "viewer")
    await _shows(page, "nodes", "retired: it did not come back")
    rows = await page.evaluate(GONE_ROWS)
    gone = {node: (time, why) for node, time, why, *_ in rows}
    assert gone[f"{cell}.left"][1] == "drained: it left in order"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", gone[f"{cell}.left"][0])
    assert f"{cell}.n1" not in gone
    assert rows[0][0] == f"{cell}.retired", "the last to go first"
    await check_axe(page)
    await page.click(f"section[aria-label^=Gone] a[href$='{cell}.left']")
    await page.until(f"{TEXT}.includes('NodeDrained')")
    assert page.messages == []


GONE_ROWS = """[...document.querySelectorAll('section[aria-label^=Gone] tbody tr')].map(
    row => [...row.cells].map(each => each.innerText))"""
NODES_OF_ROWS = """[...document.querySelectorAll('tbody tr')].map(
    row => row.querySelector("a[href^='#/node/']")?.textContent)"""


async def _shows(page: Page, path: str, text: str) -> None:
    """Show a page again until it has the text: it does not follow the log."""
    has_text = False
    while not has_text:
        await page.evaluate(f"location.hash = '#/loading'; location.hash = '#/{path}'; 0")
        await is_shown(page)
        has_text = await page.evaluate(f"{TEXT}.includes('{text}')")


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


async def test_a_refused_retry_says_why_and_what_to_do_in_its_row(console: Console) -> None:
    page = await console.show("dead-letters")
    work = [await add_dead_letter(console.system, console.cell, "dispatch", "K") for _ in range(2)]
    event = await add_dead_letter(console.system, console.cell, "log", "K")
    await page.until("document.querySelectorAll('tbody tr').length === 3")
    button = f"button[aria-label='Retry: {console.cell}/{work[1]}']"
    await _act(page, button, "form.act")
    await page.until("document.querySelector('form.act [role=alert]') !== null")
    assert await page.evaluate("document.querySelector('form.act').closest('tr').innerText") != ""
    refused = await page.evaluate("document.querySelector('form.act [role=alert]').innerText")
    assert refused.startswith("ACT_REFUSED: ")
    assert f"{work[1]} cannot be read by this version; a later one may read it" in refused
    await check_axe(page)
    earlier = f"/v1/dead-letters/{console.cell}/{event}/discard"
    await post(console.system, earlier, {"why": "the entry is known"})
    await page.until("document.querySelectorAll('tbody tr').length === 2")
    row = await page.evaluate("document.querySelector('form.act').closest('tr').innerText")
    assert work[1] in row, "the form stays in its row"
    await _act(page, "p.acts button", "p.acts form")
    left = "2 dead letters left: this version cannot read it"
    await page.until(f"{TEXT}.includes('0 of 2 dead letters done. {left}')")
    await check_axe(page)
    store = console.system.es.stores[console.cell]
    for id_ in work:
        key = store.keys.dead_letters
        await store.transport.command("XDEL", key, id_, key=key)
    await page.until(f"{TEXT}.includes('No dead letters')")
    assert await page.evaluate(f"{TEXT}.includes('{left}')"), "the outcome stays"


async def _act(page: Page, button: str, form: str) -> None:
    """Open the form of an act, give a reason, and send it."""
    await page.click(button)
    await page.until(f"document.querySelector('{form} input') !== null")
    await page.evaluate(f"document.querySelector('{form} input').focus()")
    await page.call("Input.insertText", text="try it again")
    await press(page, "Enter")


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
