"""Pictures of each page of the console, of a system with work and problems: `make screenshots`.

Owns: the widths, the themes, the pages. A person looks at the pictures; no test compares them.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import eventsched
from tests.console.consoles import BASE, log_in
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.js.chromium import Browser, Page, chromium
from tests.server_kinds import running
from tests.systems import SECOND, serving, until

WIDTHS = (360, 1_280, 1_920)
HEIGHT = 900
THEMES = ("light", "dark")
CELL = "c0"


def captions(name: str) -> eventsched.Node:
    node = eventsched.Node(name, sources=["en"], targets=["es", "fr"], slots=4, version="1.4.0")

    @node.job
    async def _(job: eventsched.Job) -> eventsched.Result:
        text = f"Utterance {job.utterance} of this session, in {job.target}, as a node sent it."
        return eventsched.Result(text=text, source_text=f"Utterance {job.utterance} as spoken.")

    return node


async def work(system: GatewaySystem) -> str:
    """Make sessions with results, jobs that wait, and a dead letter; return a session."""
    async with system.es.session("acme", "en", ["es", "fr"]) as session:
        for _ in range(8):
            await session.append(SECOND, end_of_utterance=True)
    async with system.es.session("globex", "de", ["pl"]) as waiting:
        await waiting.append(SECOND, end_of_utterance=True)
        waiting.detach()
    store = system.es.stores[CELL]
    await store.transport.command(
        "XADD", store.keys.dead_letters, "*", "from", "log", "id", "1-1", "k", "core",
        "d", "n1", "reason", "the entry cannot be decoded", key=store.keys.dead_letters,
    )  # fmt: skip
    return session.id


async def take(page: Page, path: str, name: str, folder: Path) -> None:
    """Take one page at each width in each theme."""
    for theme in THEMES:
        features = [{"name": "prefers-color-scheme", "value": theme}]
        await page.call("Emulation.setEmulatedMedia", features=features)
        for width in WIDTHS:
            await page.call(
                "Emulation.setDeviceMetricsOverride",
                width=width, height=HEIGHT, deviceScaleFactor=1, mobile=False,
            )  # fmt: skip
            await page.evaluate(f"location.hash = {path!r}")
            await page.until("document.querySelector('h1') !== null")
            await page.until("document.querySelector('.loading') === null")
            await page.until("[...document.images].every(each => each.complete)")
            shot = await page.call(
                "Page.captureScreenshot", format="png", captureBeyondViewport=True
            )
            (folder / f"{name}-{width}-{theme}.png").write_bytes(base64.b64decode(shot["data"]))


async def main(folder: Path, browser: Browser, url: str) -> None:
    async with (
        gateway_system(url, CELL, base_path=BASE) as system,
        serving(system.es, captions("gpu-1"), captions("gpu-2")),
    ):
        session = await work(system)
        token = system.token("viewer")
        job = f"{session}:3:es"

        async def is_folded() -> bool:
            return (await system.get(f"/v1/jobs/{job}/why", token)).status_code == 200

        await until("the job is in the log", is_folded)
        page = await log_in(browser, system)
        paths = {
            "overview": "", "sessions": "sessions", "session": f"session/{quote(session)}",
            "job": f"job/{quote(job)}", "nodes": "nodes", "node": f"node/{CELL}.gpu-1",
            "waiting": "waiting", "dead-letters": "dead-letters", "projections": "projections",
        }  # fmt: skip
        for name, path in paths.items():
            await take(page, f"#/{path}", name, folder)


async def run(folder: Path) -> None:
    with TemporaryDirectory() as data, running("embedded", Path(data)) as server:
        async with chromium() as browser:
            await main(folder, browser, server.url)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    asyncio.run(run(target))
