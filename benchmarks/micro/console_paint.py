"""When a page of the console is painted in Chromium, with a cold cache.

Owns: the pages and what shows that each has its data, the times, the share of the processors.
Never does: make the system. Read next: console_reads.py, tests/js/chromium.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.micro.figures import Figures
from eventsched.gateway.service import Gateway
from tests.js.chromium import Browser, Page

LOADS = 5
SHOWN = """(() => {
    const look = () => {
        if (document.querySelector(%r)) window.shownMs ??= performance.now();
    };
    new MutationObserver(look).observe(document, {childList: true, subtree: true});
})()"""
PAINTED = """performance.getEntriesByName('first-contentful-paint')[0]?.startTime"""


def pages_of(session: str, node: str) -> dict[str, tuple[str, str]]:
    """Return the address of each page, and a selector of what shows that it has its data."""
    return {
        "overview": ("", ".tiles dd"),
        "sessions": ("sessions", "tbody tr"),
        "session": (f"session/{session}", "a.part"),
        "job": (f"job/{session}:7:es", ".bar rect"),
        "nodes": ("nodes", "tbody tr"),
        "node": (f"node/{node}", "tbody tr"),
        "waiting": ("waiting", "tbody tr"),
        "dead letters": ("dead-letters", "main .note"),
        "projections": ("projections", "tbody tr"),
        "control log": ("control-log", "main form"),  # its data come by pages of 10,000 entries
    }


async def first_paints(
    browser: Browser, gateway: Gateway, token: str, path: str, shown: str
) -> Figures:
    """Load a page five times with a cold cache; return the medians."""
    loads = []
    for _ in range(LOADS):
        page = await browser.open("about:blank", has_own_cookies=True)
        try:
            loads.append(await _load(page, gateway, gateway.codes.add(token), path, shown))
        finally:
            await page.call("Page.navigate", url="about:blank")
    return {name: median(load[name] for load in loads) for name in loads[0]}


async def _load(
    page: Page, gateway: Gateway, code: str, path: str, shown: str
) -> Mapping[str, float]:
    await page.call("Page.navigate", url=f"{gateway.url}/v1/login?code={code}")
    await page.until("document.body?.innerText.includes('role')")
    await page.call("Page.navigate", url="about:blank")
    await page.until("location.href === 'about:blank'")
    await page.call("Network.clearBrowserCache")
    await page.call("Page.enable")
    await page.call("Page.addScriptToEvaluateOnNewDocument", source=SHOWN % shown)
    before = _time_of_tree()
    await page.call("Page.navigate", url=f"{gateway.url}/console/#/{path}")
    await page.until(f"window.shownMs !== undefined && ({PAINTED}) !== undefined")
    used = _time_of_tree()
    ran_ms, waited_ms = used.ran_ms - before.ran_ms, used.waited_ms - before.waited_ms
    return {
        "first_paint_ms": await page.evaluate(PAINTED),
        "data_shown_ms": await page.evaluate("window.shownMs"),
        "cpu_ms": ran_ms,
        "cpu_share_percent": 100 * ran_ms / max(1, ran_ms + waited_ms),
    }


class _Time(NamedTuple):
    """The time of this process and all its descendants: gateway, server, browser."""

    ran_ms: float
    waited_ms: float
    """Time that they were ready to run and had no processor."""


def _time_of_tree() -> _Time:
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
    tree = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    ran_ns = waited_ns = 0
    for pid in tree:
        for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(OSError):
                ran, waited, _ = stat.read_text().split()
                ran_ns, waited_ns = ran_ns + int(ran), waited_ns + int(waited)
    return _Time(ran_ns / 1e6, waited_ns / 1e6)
