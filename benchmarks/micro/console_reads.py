"""Benchmark `console`: what the pages of the console cost in a large system.

Owns: the requests of the pages, and the bounds: of a request, of ten viewers, of the first paint. A
figure above its bound fails the benchmark.
Never does: make the system or drive the browser. Read next: console_system.py, console_viewers.py,
console_paint.py, docs/console.md.

The server's time is its processor time, because nothing else uses the server meanwhile; so other
work of the machine does not count. The time of a paint is that of the clock: the share of the
processors that the benchmark had is beside it. Pages are painted if Chromium is on PATH and the
console is built.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import httpx
import structlog

from benchmarks.micro.console_system import Size, fill
from benchmarks.micro.console_viewers import pages_of as viewed_pages
from benchmarks.micro.console_viewers import share_of_server
from benchmarks.micro.figures import BenchFailed, BoundExceeded, Figures, Report, Round
from benchmarks.micro.measure import in_rounds
from benchmarks.micro.stage import Bench, Stage, server_cpu_s
from eventsched.gateway.config import GatewayConfig
from eventsched.gateway.server import serving_gateway
from eventsched.gateway.service import Gateway
from eventsched.tokens import TokenKey, issue
from eventsched.tokens.keys import add_public_key

SERVER_MS_MAX = 200.0
"""Processor time of the server that a request may take."""
VIEWERS_PERCENT_MAX = 1.0
"""Share of a core that ten viewers of one page may take of the server, beyond an idle server."""
PAINT_MS_MAX = 1_000.0
CPU_SHARE_MIN = 80.0
"""With less of the processors, the time of a paint is that of other work."""
VIEWED_S = 60.0
"""For how long ten viewers look at each page."""
TIMEOUT_S = 120.0
TOKEN_S = 7_200
log = structlog.get_logger("benchmarks.micro")


class ConsoleReads(Bench, frozen=True, kw_only=True):
    """Measure each page once, in a system of this size."""

    name: ClassVar = "console"
    what: ClassVar = "requests of the console, ten viewers of each page, and first paints"
    scales: ClassVar = ("waiting", "nodes", "utterances", "events")

    waiting: int = 100_000
    nodes: int = 10_000
    utterances: int = 5_000
    events: int = 1_000_000

    async def run(self, stage: Stage) -> Report:
        async def measure_round() -> Round:
            return Round(await self._measure(stage), {})

        rounds = await in_rounds(1, measure_round, stage.on_progress, warm_up=False)
        parts = {
            name: {figure: spread.median for figure, spread in figures.items()}
            for name, figures in rounds.parts.items()
        }
        report = stage.report_of(self, rounds, curves={})
        if problems := _above_bounds(parts):
            raise BoundExceeded("; ".join(problems), report)
        return report

    async def _measure(self, stage: Stage) -> dict[str, Figures]:
        async with stage.fresh() as connection:
            (store,) = connection.stores.values()
            size = Size(self.waiting, self.nodes, self.utterances, self.events)
            session, node = await fill(store, size), store.keys.full("node-0001")
            key, keys = TokenKey.generate(), Path(stage.folder) / "keys.json"
            add_public_key(keys, key)
            token = issue(key, role="operator", tenant="*", subject="bench", seconds=TOKEN_S)
            async with (
                serving_gateway(connection, GatewayConfig(token_keys=str(keys))) as gateway,
                httpx.AsyncClient(
                    headers={"authorization": f"Bearer {token}"}, trust_env=False,
                    timeout=TIMEOUT_S, base_url=gateway.url,
                ) as http,
            ):  # fmt: skip
                parts = {
                    f"request: {name}": await _cost(stage, http, path, query)
                    for name, path, query in _requests(session)
                }
                viewed = {"nobody": [], **viewed_pages(node)}
                for name, reads in viewed.items():
                    share = await share_of_server(stage, http, reads, VIEWED_S)
                    parts[f"viewers: {name}"] = share
                return parts | await _paints(gateway, token, session, node)


async def _cost(stage: Stage, http: httpx.AsyncClient, path: str, query: dict[str, str]) -> Figures:
    before_s, gateway_s = await server_cpu_s(stage), time.process_time()
    reply = await http.get(path, params=query)
    if reply.status_code != 200:
        raise BenchFailed(f"{path}: {reply.status_code} {reply.text:.200}")
    return {
        "server_ms": (await server_cpu_s(stage) - before_s) * 1e3,
        "gateway_ms": (time.process_time() - gateway_s) * 1e3,
        "kilobytes": len(reply.content) / 1e3,
    }


async def _paints(gateway: Gateway, token: str, session: str, node: str) -> dict[str, Figures]:
    """Paint each page; nothing without Chromium or a build of the console."""
    if not can_paint(gateway):
        log.warning("no first paint is measured", remedy="install chromium, and `make console`")
        return {}
    from benchmarks.micro.console_paint import first_paints, pages_of
    from tests.js.chromium import chromium

    parts = {}
    async with chromium() as browser:
        for name, (path, shown) in pages_of(session, node).items():
            parts[f"paint: {name}"] = await first_paints(browser, gateway, token, path, shown)
    return parts


def can_paint(gateway: Gateway) -> bool:
    """Return whether there is a browser and something to paint."""
    programs = map(shutil.which, ("chromium", "chromium-browser"))
    return bool(gateway.console) and any(programs)


def _above_bounds(parts: Mapping[str, Figures]) -> list[str]:
    """Return a sentence for each figure above its bound."""
    idle = parts["viewers: nobody"]["server_percent"]
    bounds = (
        ("server_ms", SERVER_MS_MAX),
        ("server_percent", idle + VIEWERS_PERCENT_MAX),
        ("first_paint_ms", PAINT_MS_MAX),
    )
    return [
        f"{name}: {figures[figure]:.3g} {figure}, above {bound:.3g}"
        for name, figures in parts.items()
        for figure, bound in bounds
        if figures.get(figure, 0.0) > bound
        and figures.get("cpu_share_percent", 100.0) >= CPU_SHARE_MIN
    ]


def _requests(session: str) -> list[tuple[str, str, dict[str, str]]]:
    """The requests of the pages: a name, the path, the query."""
    job = f"{session}:7:es"
    of_session = f"/v1/sessions/{session}"
    return [
        ("overview: status", "/v1/status", {"nodes": "0"}),
        ("overview: status again", "/v1/status", {"nodes": "0"}),
        ("nodes: status", "/v1/status", {"nodes": "50"}),
        ("status, with all nodes", "/v1/status", {}),
        ("sessions: first page", "/v1/sessions", {"count": "50"}),
        ("session: record", of_session, {}),
        ("session: timeline", f"{of_session}/scene", {}),
        ("session: events", "/v1/history", {"session": session, "count": "500"}),
        ("session: events of a job", "/v1/history", {"job": job, "count": "200"}),
        ("job: why", f"/v1/jobs/{job}/why", {}),
        ("node: events", "/v1/history", {"node": "node-0001", "count": "500"}),
        ("nodes: list", "/v1/nodes", {"count": "50"}),
        ("waiting: first page", "/v1/jobs", {"count": "50"}),
        ("dead letters: first page", "/v1/dead-letters", {"count": "50"}),
        ("projections", "/v1/projections", {}),
        ("control log: a page", "/v1/history", {"type": "RebuildPromoted", "count": "500"}),
    ]
