"""The page of the archive: segments, a verification with its words, proofs, SQL."""

from __future__ import annotations

import pytest

from tests.console.consoles import Console, check_axe

pytestmark = [
    pytest.mark.browser,
    pytest.mark.parametrize("server", ["embedded"], indirect=True),
    pytest.mark.asyncio(loop_scope="module"),
]
TEXT = "document.body.innerText"


async def test_an_auditor_verifies_queries_and_proves_in_the_browser(console: Console) -> None:
    page = await console.show("audit", "auditor")
    await page.until(f"{TEXT}.includes('this gateway reads no archive')")
    session = await console.speak()
    await console.archive.seal(console.system)
    page = await console.show("audit", "auditor")
    await page.until("document.querySelector('svg.segments rect') !== null")
    await page.click("section[aria-label=Query] button")
    await page.until(f"{TEXT}.includes('The statement has no row')")
    await page.evaluate(
        "(area => {area.value = 'SELECT session FROM sessions';"
        "area.dispatchEvent(new Event('input', {bubbles: true}))})"
        "(document.querySelector('textarea'))"
    )
    await page.click("section[aria-label=Query] button")
    cell = "document.querySelector('section[aria-label=Query] td')?.textContent"
    await page.until(f"{cell} === '{session}'")
    await page.click("section[aria-label=Proofs] .download")
    saved = "document.querySelector('section[aria-label=Proofs] [role=status]').textContent"
    await page.until(f"{saved} === 'saved as checkpoint.json'")
    await page.click("section[aria-label=Proofs] .act:nth-child(2) .download")
    await page.until(f"{TEXT}.includes('saved as archive.pub')")
    (head,) = await console.system.json("/v1/archive", console.system.token("auditor"))
    proof = f"proof-{head['last']}.json"
    for event, expected in (
        ("9" * 13 + "-0", "is not archived yet"),
        (head["last"], f"saved as {proof}"),
    ):
        await page.evaluate(
            f"(field => {{field.value = '{event}';"
            "field.dispatchEvent(new Event('input', {bubbles: true}))})"
            "(document.querySelector('section[aria-label=Proofs] input'))"
        )
        await page.click("section[aria-label=Proofs] .filter .download")
        await page.until(f"{TEXT}.includes('{expected}')")
    command = f"eventsched audit check-proof {proof} --key archive.pub"
    await page.until(f"{TEXT}.includes('{command}')")
    assert f"fingerprint, {head['key']} here" in await page.evaluate(TEXT)
    await page.click("section[aria-label=Verification] button")
    await page.until(f"{TEXT}.includes('consistent, key not checked')")
    heading = "document.querySelector('.note.good strong').textContent"
    assert await page.evaluate(heading) == "No change found. Who signed it is not proven"
    assert "the zone of the gateway" in await page.evaluate(TEXT)
    await check_axe(page)
    (file,) = (console.archive.path / console.cell).glob("*.events.parquet")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    await page.click("section[aria-label=Verification] button")
    await page.until(f"{TEXT}.includes('It affects:')")
    problem = await page.evaluate("document.querySelector('.note.error').innerText")
    assert "not those that were recorded" in problem
    assert session in problem
    await check_axe(page)
    assert page.messages == []


async def test_a_viewer_may_not_see_the_archive(console: Console) -> None:
    page = await console.show("audit", "viewer")
    await page.until(f"{TEXT}.includes('Your token may not see this')")
