"""Pictures of each page of the console, of a system on a bad night: `make screenshots`.

Owns: the widths, the themes, the pages, what happens in that night. A person looks at the pictures;
no test compares them. With a second folder, it takes the pictures of docs/console.md into it.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import anyio

import eventsched
from tests.console.consoles import BASE, is_shown, log_in, name_cells, show_in
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.gateway.sealing import Sealing
from tests.gateway.test_operations import add_dead_letter, post
from tests.js.chromium import Browser, Page, chromium
from tests.server_kinds import running
from tests.systems import serving, until

WIDTHS = (360, 1_024, 1_920)
THEMES = ("light", "dark")
CELL = "c0"
SETTINGS = {"queue_timeout_ms": 300_000}
"""Jobs without a node wait until their picture is taken."""
IN_DOCS = ("overview", "session", "job", "control-log")
"""Pages whose pictures docs/console.md has."""
DOCS_SIZE = 1_280, 800
SENTENCES = (
    ("good morning everyone and thank you for coming", "buenos días a todos y gracias por venir"),
    (
        "there is a small problem with the new system",
        "hay un pequeño problema con el sistema nuevo",
    ),
    ("two of the machines were restarted at night", "dos de las máquinas se reiniciaron de noche"),
    ("all calls went on without a gap", "todas las llamadas siguieron sin interrupción"),
)
FAILING = (4, "es", 1)
"""Utterance, target and attempt at which a node fails."""
WORK_S = 0.5
PAUSE_S = 0.35


async def pass_time(seconds: float) -> None:
    """Let real time pass, as between the sentences of a speaker."""
    await anyio.sleep(seconds)  # sleeps: simulated work


def captions(name: str) -> eventsched.Node:
    """A node that takes half a second, and fails at one utterance of long sessions."""
    node = eventsched.Node(name, sources=["en"], targets=["es", "fr"], slots=1, version="1.4.0")

    @node.job
    async def _(job: eventsched.Job) -> eventsched.Result:
        await pass_time(WORK_S)
        if (job.utterance, job.target, job.attempt) == FAILING:
            raise eventsched.JobError("GPU_MEMORY", retryable=True)
        spoken, spanish = SENTENCES[job.utterance % len(SENTENCES)]
        text = spanish if job.target == "es" else f"[fr] {spoken}"
        return eventsched.Result(text=text, source_text=spoken)

    return node


async def speak(system: GatewaySystem, tenant: str, utterances: int) -> str:
    """Speak sentences with pauses; return the session."""
    pcm = eventsched.read_wav(eventsched.sample_wav())
    async with system.es.session(tenant, "en", ["es", "fr"]) as session:
        for number in range(utterances):
            sentence = pcm[number * 32_000 : number * 32_000 + 24_000]
            for first in range(0, len(sentence), 3_200):
                await session.append(sentence[first : first + 3_200])
                await pass_time(0.04)
            await session.finalize()
            await pass_time(PAUSE_S)
        await session.close()
    return session.id


async def bad_night(system: GatewaySystem, archive: Sealing) -> str:
    """Sessions, a node that fails, jobs without a node, dead letters, acts; return a session."""
    await archive.seal(system)  # from now on, audio stays until it is archived
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(speak, system, "globex", 3)
        tasks.start_soon(speak, system, "initech", 2)
        session = await speak(system, "acme", 6)
    await archive.seal(system)
    async with system.es.session("globex", "de", ["pl"]) as waiting:
        for _ in range(3):
            await waiting.append(bytes(32_000), end_of_utterance=True)
        waiting.detach()
    first = await add_dead_letter(system, CELL, "log", "SessionOpened")
    await add_dead_letter(system, CELL, "log", "ResultRecorded")
    why = {"why": "the entry is of a test that wrote it by hand"}
    await post(system, f"/v1/dead-letters/{CELL}/{first}/discard", why)
    rebuild = {"why": "a doubt about the counts of groups", "read_models": ["group"]}
    await post(system, "/v1/rebuild", rebuild)
    node = (await failed_attempt(system, session))["node"]
    await post(system, f"/v1/nodes/{node}/drain", {"why": "it fails with GPU_MEMORY"})
    return session


async def take(page: Page, path: str, name: str, folder: Path) -> None:
    """Take one page at each width in each theme."""
    for theme in THEMES:
        for width in WIDTHS:
            await show_in(page, theme, width)
            await page.evaluate("location.hash = '#/loading'; 0")
            await page.evaluate(f"location.hash = {path!r}; 0")
            await is_shown(page)
            await prepare(page, name)
            shot = await page.call(
                "Page.captureScreenshot", format="png", captureBeyondViewport=True
            )
            (folder / f"{name}-{width}-{theme}.png").write_bytes(base64.b64decode(shot["data"]))


async def take_for_docs(page: Page, path: str, name: str, folder: Path) -> None:
    """Take the first screen of a page for the documentation."""
    await show_in(page, "light", *DOCS_SIZE)
    if name != "overview":  # which has seen the night
        await page.evaluate(f"location.hash = {path!r}; 0")
        await is_shown(page)
    await prepare(page, name)
    shot = await page.call("Page.captureScreenshot", format="png")
    (folder / f"console-{name}.png").write_bytes(base64.b64decode(shot["data"]))


async def prepare(page: Page, name: str) -> None:
    """Bring a page into the state that its picture shows."""
    if name == "overview":
        await page.until("document.querySelector('.badge.good') !== null")
        await page.until("document.querySelector('.note.error')?.innerText.includes('dead letter')")
    if name == "session":
        await page.until("document.querySelector('.selection .reasons li') !== null")
        await page.until("document.querySelector('.fields dt') !== null")
        await page.until("document.querySelector('a.part.lost') !== null")
        await page.evaluate("document.querySelector('a.part.lost').focus({preventScroll: true})")
    if name == "try-it" and not await page.evaluate("document.querySelector('.captions li')"):
        await page.click(".filter button:nth-of-type(2)")
        await page.until("document.querySelectorAll('.captions li').length > 1")
    if name == "control-log":
        await page.until("document.querySelectorAll('tbody tr').length >= 4")
    if name == "audit":
        await page.click("section[aria-label=Verification] button")
        await page.until("document.querySelector('.note.good') !== null")
        await page.click("section[aria-label=Query] button")
        query = "section[aria-label=Query]"
        await page.until(f"document.querySelector('{query} .note, {query} td') !== null")
    await page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))")


async def failed_attempt(system: GatewaySystem, session: str) -> dict[str, Any]:
    """The event of the failed attempt of a session."""
    query = {"session": session, "type": "AttemptEnded"}
    event: dict[str, Any]
    (event,) = (await system.json("/v1/history", system.token("viewer"), **query))["events"]
    return event


async def selected(system: GatewaySystem, session: str) -> str:
    """The address of a session with its failed attempt selected."""
    event = await failed_attempt(system, session)
    return f"session/{session}?job={quote(event['job'])}&event={event['id']}&at={event['id']}"


async def main(folder: Path, docs: Path | None, browser: Browser, url: str, data: Path) -> None:
    archive = Sealing(data / "archive")
    nodes = captions("gpu-1"), captions("gpu-2"), captions("gpu-3")
    async with (
        gateway_system(url, CELL, base_path=BASE, settings=SETTINGS) as system,
        serving(system.es, *nodes),
    ):
        await name_cells(system)
        page = await log_in(browser, system)
        await page.call("Emulation.setScrollbarsHidden", hidden=True)
        session = await bad_night(system, archive)
        token = system.token("viewer")
        job = f"{session}:{FAILING[0]}:{FAILING[1]}"

        async def is_folded() -> bool:
            return (await system.get(f"/v1/jobs/{job}/why", token)).status_code == 200

        await until("the job is in the log", is_folded)
        paths = {
            "overview": "", "sessions": "sessions", "history": "history",
            "session": await selected(system, session),
            "job": f"job/{quote(job)}", "nodes": "nodes", "node": f"node/{CELL}.gpu-2",
            "waiting": "waiting", "dead-letters": "dead-letters", "projections": "projections",
            "audit": "audit", "control-log": "control-log", "try-it": "try-it",
        }  # fmt: skip
        for name, path in paths.items():
            if docs is None:
                await take(page, f"#/{path}", name, folder)
            elif name in IN_DOCS:
                await take_for_docs(page, f"#/{path}", name, docs)


async def run(folder: Path, docs: Path | None) -> None:
    with TemporaryDirectory() as data, running("embedded", Path(data)) as server:
        async with chromium() as browser:
            await main(folder, docs, browser, server.url, Path(data))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    asyncio.run(run(target, Path(sys.argv[2]) if len(sys.argv) > 2 else None))
