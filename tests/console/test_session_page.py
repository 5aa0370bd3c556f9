"""The page of a session: its timeline, its texts, what is selected, its state at a moment."""

from __future__ import annotations

from urllib.parse import quote, unquote

import pytest

from tests.console.consoles import Console, check_axe, press
from tests.js.chromium import Page
from tests.systems import SECOND

pytestmark = [
    pytest.mark.browser,
    pytest.mark.parametrize("server", ["embedded"], indirect=True),
    pytest.mark.asyncio(loop_scope="module"),
]
TIMES = "document.querySelector('.toolbar .dim').textContent"
TIP = "document.querySelector('.tip')?.textContent ?? ''"


async def focus(page: Page, selector: str) -> None:
    await page.evaluate(f"document.querySelector({selector!r}).focus()")


async def test_a_part_of_the_timeline_is_found_and_selected_by_keyboard(console: Console) -> None:
    session = await console.speak(2, ("es", "fr"))
    page = await console.show(f"session/{session}")
    await page.until("document.querySelectorAll('a.part.ok').length >= 4")
    await focus(page, ".frame")
    whole = await page.evaluate(TIMES)
    await press(page, "+")
    await page.until(f"{TIMES} !== {whole!r}")
    zoomed = await page.evaluate(TIMES)
    await press(page, "ArrowRight")
    await page.until(f"{TIMES} !== {zoomed!r}")
    await press(page, "0")
    await page.until(f"{TIMES} === {whole!r}")
    await press(page, "ArrowDown", "ArrowDown")
    await page.until(f"({TIP}).includes('1.00 s in')")
    await focus(page, "a.part.ok:not(:focus)")
    await page.until(f"({TIP}).includes('on {console.cell}.n1')")
    await press(page, "Enter")
    await page.until("document.querySelector('.selection .events li.selected') !== null")
    assert "job=acme" in await page.evaluate("location.hash")
    selected = "document.querySelector('.selection li.selected strong').textContent"
    assert await page.evaluate(selected) in ("JobDispatched", "ResultRecorded")
    await page.until("document.querySelector('.selection .reasons li') !== null")
    assert await page.evaluate("document.querySelectorAll('a.part.selected').length") >= 1
    assert page.messages == []


async def test_the_wheel_zooms_and_a_drag_moves_the_timeline(console: Console) -> None:
    session = await console.speak(2)
    page = await console.show(f"session/{session}")
    await page.until("document.querySelector('.frame svg') !== null")
    await page.evaluate("document.querySelector('.frame').scrollIntoView()")
    box = await page.evaluate(
        "(({x, y, width}) => [x + width / 2, y + 40])("
        "document.querySelector('.frame').getBoundingClientRect())"
    )
    place = {"x": box[0], "y": box[1]}
    whole = await page.evaluate(TIMES)
    mouse = "Input.dispatchMouseEvent"
    await page.call(mouse, type="mouseWheel", **place, deltaX=0, deltaY=-200, modifiers=2)
    await page.until(f"{TIMES} !== {whole!r}")
    zoomed = await page.evaluate(TIMES)
    await page.call(mouse, type="mousePressed", **place, button="left", clickCount=1)
    place["x"] += 60
    await page.call(mouse, type="mouseMoved", **place, button="left")
    await page.call(mouse, type="mouseReleased", **place, button="left", clickCount=1)
    await page.until(f"{TIMES} !== {zoomed!r}")
    assert "event=" not in await page.evaluate("location.hash"), "a drag selects nothing"


async def test_an_address_selects_a_job_and_a_moment(console: Console) -> None:
    session = await console.speak(2)
    query = {"session": session}
    token = console.system.token("viewer")
    events = (await console.system.json("/v1/history", token, **query))["events"]
    result = next(each for each in events if each["type"] == "ResultRecorded")
    path = f"session/{session}?job={quote(result['job'])}&event={result['id']}&at={result['id']}"
    page = await console.show(path, "viewer")
    await page.until("document.querySelector('.selection li.selected') !== null")
    text = await page.evaluate("document.querySelector('.selection li.selected').innerText")
    assert "ResultRecorded" in text
    assert "1000 ms" in text
    await page.until("document.querySelector('.fields dt') !== null")
    assert result["id"] in await page.evaluate("document.querySelector('.state').innerText")
    assert await page.evaluate("document.querySelector('line.at') !== null")
    await page.click(".selection .events li:first-child a")
    await page.until(f"!location.hash.includes('event={result['id']}')")


async def test_the_slider_shows_the_record_after_an_event(console: Console) -> None:
    session = await console.speak()
    page = await console.show(f"session/{session}")
    # The last event may be there before those that the page reads.
    await page.until("Number(document.querySelector('input[type=range]')?.max) >= 3")
    await focus(page, "input[type=range]")
    await press(page, "Home")
    await page.until("location.hash.includes('at=')")
    await page.until("document.querySelector('.fields dt') !== null")
    shown = await page.evaluate("document.querySelector('.state').innerText")
    assert "After event 1 of" in shown
    assert "SessionOpened" in shown
    await page.evaluate("document.querySelector('input[name=at]').value = 'yesterday'")
    await page.click(".state button[type=submit]")
    await page.until("document.querySelector('.state [role=alert]') !== null")


async def test_events_that_arrive_do_not_move_the_slider_that_a_user_moves(
    console: Console,
) -> None:
    slider = "document.querySelector('input[type=range]')"
    shown = "document.querySelector('.slider').innerText"
    async with console.system.es.session("acme", "en", ["es"]) as session:
        page = await console.show(f"session/{session.id}")
        await page.until("document.querySelector('.facts .badge.good')?.textContent === 'live'")
        await session.append(SECOND, end_of_utterance=True)
        await page.until(f"Number({slider}?.max) >= 3")
        # A pointer that moves the slider, and is not released yet.
        await page.evaluate(f"{slider}.value = 0; {slider}.dispatchEvent(new Event('input'))")
        await page.until(f"({shown}).includes('After event 1 of')")
        before = await page.evaluate(f"Number({slider}.max)")
        await session.append(SECOND, end_of_utterance=True)
        await page.until(f"Number({slider}.max) >= {before + 3}")
        assert await page.evaluate(f"{slider}.value") == "0"
        assert "After event 1 of" in await page.evaluate(shown)
        await page.evaluate(f"{slider}.dispatchEvent(new Event('change'))")
        await page.until("document.querySelector('.fields dt') !== null")
        assert "After event 1 of" in await page.evaluate(shown)
        session.detach()


async def test_the_audio_of_an_utterance_plays_from_a_blob(console: Console) -> None:
    await console.archive.seal(console.system)  # from now on, audio stays until it is archived
    session = await console.speak()
    page = await console.show(f"session/{session}")
    await page.until("document.querySelector('a.part.utterance') !== null")
    await focus(page, "a.part.utterance")
    await press(page, "Enter")
    await page.until("document.querySelector('.player button') !== null")
    assert "utterance=0" in unquote(await page.evaluate("location.hash"))
    await page.click(".player button")
    await page.until("document.querySelector('.player audio')?.readyState > 0")
    audio = "document.querySelector('.player audio')"
    assert (await page.evaluate(f"{audio}.src")).startswith("blob:")
    assert round(await page.evaluate(f"{audio}.duration"), 2) == 1.0
    assert await page.evaluate("violations") == []


async def test_an_auditor_downloads_a_report_and_a_viewer_gets_no_button(console: Console) -> None:
    session = await console.speak()
    viewer = await console.show(f"session/{session}", "viewer")
    await viewer.until("document.querySelector('.facts') !== null")
    assert await viewer.evaluate("document.querySelector('.download')") is None
    page = await console.show(f"session/{session}", "auditor")
    await page.until("document.querySelector('.download') !== null")
    await page.click(".download")
    await page.until(
        "document.querySelector('.facts [role=status]').textContent.startsWith('saved as')"
    )


async def test_a_live_session_grows_without_a_reload(console: Console) -> None:
    async with console.system.es.session("acme", "en", ["es"]) as session:
        page = await console.show(f"session/{session.id}")
        await page.until("document.querySelector('.facts .badge.good')?.textContent === 'live'")
        await session.append(bytes(32_000), end_of_utterance=True)
        await page.until("document.querySelector('.transcript td a') !== null")
        session.detach()


async def test_axe_finds_nothing_on_the_page_of_a_session(console: Console) -> None:
    session = await console.speak(2)
    page = await console.show(f"session/{session}")
    await page.until("document.querySelector('.transcript td a') !== null")
    await page.click(".transcript td a")
    await page.until("document.querySelector('.selection .reasons li') !== null")
    await focus(page, "input[type=range]")
    await press(page, "Home")
    await page.until("document.querySelector('.fields dt') !== null")
    await check_axe(page)
